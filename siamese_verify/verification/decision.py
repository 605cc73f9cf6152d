"""Score -> Verification: pure, on numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreMeaning
from siamese_verify.faces import Quality
from siamese_verify.verification.record import Limit, ModelRecord, Range
from siamese_verify.verification.result import SeenFace, Verification

COMPLAINTS = {
    "sharpness": ("blurred", "sharp"),
    "size": ("small", "large"),
    "turn": ("straight", "turned away from the camera"),
    "light": ("dark", "bright"),
    "contrast": ("flat", "harshly lit"),
    "noise": ("smooth", "grainy"),
    "roll": ("level", "tilted"),
}


def decide(
    record: ModelRecord,
    score: float,
    faces: Sequence[SeenFace] = (),
    *,
    far: float | None = None,
    threshold: float | None = None,
    forced: bool = False,
    comparisons: int = 1,
    milliseconds: Mapping[str, float] | None = None,
) -> Verification:
    """Say what a score means.

    Args:
        record: of the model that gave it.
        score: a cosine.
        faces: that were compared.
        far: false accept rate to work at, see `ModelRecord.limit`.
        threshold: one of the caller's own instead, in [-1, 1].
        forced: decide where it would be inconclusive; the reasons are warnings then.
        comparisons: of which this is the best score.
        milliseconds: spent so far, by stage.

    Raises:
        InputError: no threshold was measured for this rate, the threshold is no cosine, both are given, or the score is
            NaN.
    """
    limit = limit_of(record, far, threshold, comparisons)
    if math.isnan(score):
        raise InputError("The score is NaN: the model's weights are damaged or its training diverged.")
    score = min(max(score, -1.0), 1.0)
    reasons = []
    if limit.interval and limit.interval[0] <= score < limit.interval[1]:
        reasons.append(
            f"The score {score:.3f} lies where the threshold is not known better: {limit.interval[0]:.3f} to "
            f"{limit.interval[1]:.3f} is its 95 % interval."
        )
    for face in faces:
        reasons += [f"{face.name}: {complaint}" for complaint in complaints(face.quality, record.quality)]
    warnings = [
        f"{face.name} shows {face.faces} faces, that {_place(face)} was compared." for face in faces if face.faces > 1
    ]
    warnings += [f"{face.name} was turned by {face.turned:.0f} degrees for its face." for face in faces if face.turned]
    if comparisons > 1:
        raised = "the threshold was raised for it" if threshold is None else "your threshold does not allow for that"
        warnings.append(f"The best of {comparisons} pairs of faces was taken: {raised}.")
    if limit.insufficient:
        warnings.append("Fewer than ten impostors decided the threshold: its false accept rate is a rough guess.")
    meaning = record.meaning
    strangers = meaning.strangers if meaning else None
    evidence = float(meaning.calibration.log_likelihood_ratio(score)) if meaning else None
    return Verification(
        same=score >= limit.threshold if forced or not reasons else None,
        score=score,
        threshold=limit.threshold,
        threshold_interval=limit.interval,
        far=limit.far,
        one_in=max(1, strangers.impostors // (max(1, strangers.accepts(score)) * comparisons)) if strangers else None,
        probability=probability_of(meaning, score, limit.threshold) if meaning else None,
        evidence=evidence,
        impostors=limit.impostors,
        insufficient=limit.insufficient,
        measured_on=record.measured_on if limit.far is not None else "",
        model=record.name,
        strangers=strangers.sentence(score) if strangers and comparisons == 1 else "",
        faces=tuple(faces),
        reasons=() if forced else tuple(reasons),
        warnings=(*reasons, *warnings) if forced else tuple(warnings),
        milliseconds=dict(milliseconds or {}),
    )


def _place(face: SeenFace) -> str:
    left, top, right, bottom = face.box or (0, 0, 0, 0)
    return f"from {left:.0f}, {top:.0f} to {right:.0f}, {bottom:.0f}"


def best_pair(left: NDArray[np.float32], right: NDArray[np.float32]) -> tuple[int, int, float]:
    """Find the two most alike of the faces of two photos.

    Args:
        left: (A,D) of unit length, one or more.
        right: (B,D) likewise.

    Returns:
        Row of the left and of the right one, and their cosine, in [-1, 1]: the best of A x B.
    """
    scores = left @ right.T  # (A,B)
    first, second = divmod(int(scores.argmax()), scores.shape[1])
    return first, second, float(np.clip(scores[first, second], -1, 1))


def limit_of(record: ModelRecord, far: float | None, threshold: float | None, comparisons: int = 1) -> Limit:
    """The threshold that was asked for, see `decide`."""
    if threshold is None:
        return record.limit(far, comparisons)
    if far is not None:
        raise InputError(f"Give a threshold ({threshold}) or a false accept rate ({far}), not both.")
    if not -1 <= threshold <= 1:
        raise InputError(f"A threshold is a cosine between -1 and 1, got {threshold}.")
    return Limit(float(threshold), None, None, 0, False)


def probability_of(meaning: ScoreMeaning, score: float, threshold: float) -> float:
    """Probability of one person, where both are equally probable at the threshold; see `Verification.probability`."""
    ratio = meaning.calibration.log_likelihood_ratio([score, min(max(threshold, -1.0), 1.0)])
    return 0.5 * (1 + math.tanh(float(ratio[0] - ratio[1]) / 2))


def complaints(quality: Quality, ranges: Mapping[str, Range]) -> list[str]:
    """In what a face lies outside of the faces that the scores were measured on."""
    found = []
    for name, (low, high) in ranges.items():
        value = getattr(quality, name)
        if value is None:
            continue
        below = low is not None and value < low
        if not below and (high is None or value <= high):
            continue
        word = COMPLAINTS[name][0 if below else 1]
        bound = f"below {low:.3g}" if below else f"above {high:.3g}"
        found.append(f"the face is {word} ({name} {value:.3g}, {bound}), more than those that were measured.")
    return found
