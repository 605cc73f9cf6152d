"""Score -> Verification: pure, on numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreMeaning
from siamese_verify.evaluation.calibration import check_share
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
UNLIKE = "How frequent a score is was measured on faces within these limits: of others it says little."
EVEN = 1.05  # times as frequent: below it is as frequent


def decide(
    record: ModelRecord,
    score: float,
    faces: Sequence[SeenFace] = (),
    *,
    far: float | None = None,
    threshold: float | None = None,
    prior: float | None = None,
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
        prior: share of genuine pairs among those that are asked about, for a probability; None for none.
        forced: decide where it would be inconclusive; the reasons are warnings then.
        comparisons: of which this is the best score.
        milliseconds: spent so far, by stage.

    Raises:
        InputError: no threshold was measured for this rate, the threshold is no cosine, both are given, the prior is
            none or the model was not calibrated for it, or the score is NaN.
    """
    limit = limit_of(record, far, threshold, comparisons)
    check_prior(record, prior)
    if math.isnan(score):
        raise InputError("The score is NaN: the model's weights are damaged or its training diverged.")
    score = min(max(score, -1.0), 1.0)
    doubt = doubt_of(score, limit.interval)
    unlike = [f"{face.name}: {complaint}" for face in faces for complaint in complaints(face.quality, record.quality)]
    reasons = [*([f"The score {score:.3f} {doubt}"] if doubt else []), *unlike]
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
    share = strangers.at_most(score) if strangers else None
    ratio = likelihood_of(meaning, score) if meaning and comparisons == 1 else None
    if ratio and unlike:
        warnings.append(UNLIKE)
    return Verification(
        same=score >= limit.threshold if forced or not reasons else None,
        score=score,
        threshold=limit.threshold,
        threshold_interval=limit.interval,
        far=limit.far,
        one_in=max(1, int(1 / (share * comparisons))) if share else None,
        log_likelihood_ratio=ratio.log if ratio else None,
        probability=float(meaning.calibration.probability(score, prior))
        if meaning and ratio and prior is not None
        else None,
        prior=prior,
        impostors=limit.impostors,
        insufficient=limit.insufficient,
        measured_on=record.measured_on if limit.far is not None else "",
        model=record.name,
        strangers=strangers.sentence(score) if strangers and comparisons == 1 else "",
        likelihood=ratio.sentence() if ratio else "",
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
    for name, value in (("false accept rate", far), ("threshold", threshold)):
        check_number(name, value)
    if threshold is None:
        return record.limit(far, comparisons)
    if far is not None:
        raise InputError(f"Give a threshold ({threshold}) or a false accept rate ({far}), not both.")
    if not -1 <= threshold <= 1:
        raise InputError(f"A threshold is a cosine between -1 and 1, got {threshold}.")
    return Limit(float(threshold), None, None, 0, False)


def check_number(name: str, value: object) -> None:
    """Refuse what is neither a number nor None.

    Raises:
        InputError: a text, for instance.
    """
    if isinstance(value, bool) or not isinstance(value, Real | None):
        raise InputError(f"The {name} is a number such as 0.001, got {value!r} ({type(value).__name__}).")


def check_prior(record: ModelRecord, prior: float | None) -> None:
    """Refuse what is no prior probability, and one for a model that cannot make anything of it.

    Raises:
        InputError: see `decide`.
    """
    check_number("prior", prior)
    if prior is None:
        return
    check_share(prior)
    if record.meaning is None:
        raise InputError(
            f"The model {record.name} was never calibrated, so no prior leads to a probability: leave it out, or "
            "recalibrate the model on photos of yours."
        )


def doubt_of(score: float, interval: tuple[float, float] | None) -> str:
    """Say why a score decides nothing, as the end of a sentence about it; empty where it decides.

    Args:
        score: a cosine.
        interval: 95 % interval of the threshold; an end is infinite where the data set none.
    """
    if interval is None or not interval[0] <= score < interval[1]:
        return ""
    low, high = interval
    if math.isinf(high):
        start = f": it may be anything from {low:.3f} on" if math.isfinite(low) else ""
        return f"decides nothing: too few impostors were measured to know the threshold for this rate{start}."
    start = f"{low:.3f} to {high:.3f}" if math.isfinite(low) else f"all below {high:.3f}"
    return f"lies where the threshold is not known better: {start} is its 95 % interval."


class Likelihood(NamedTuple):
    """How many times as frequent a score is among genuine pairs as among impostors."""

    log: float  # natural logarithm of it
    bounded: bool  # the data can show no more

    def sentence(self) -> str:
        """Say it in words."""
        times = math.exp(abs(self.log))
        if self.bounded and times < EVEN:
            return "Too few pairs were measured to say how frequent a score like this is among those of one person."
        kinds = ("pairs of one person", "pairs of two people")
        often, rare = kinds if self.log >= 0 else kinds[::-1]
        if times < EVEN:
            return f"A score like this is about as frequent among {often} as among {rare}."
        said = f"{times:.2g}" if times < 10 else f"{round(times, 1 - math.floor(math.log10(times))):,.0f}"
        least = "at least" if self.bounded else "about"
        most = ": the data can show no more" if self.bounded else ""
        return f"A score like this is {least} {said} times as frequent among {often} as among {rare}{most}."


def likelihood_of(meaning: ScoreMeaning, score: float) -> Likelihood:
    """Return the likelihood ratio of a score, which a calibration bounds where too few people were measured."""
    calibration = meaning.calibration
    return Likelihood(float(calibration.log_likelihood_ratio(score)), bool(calibration.bounded(score)))


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
