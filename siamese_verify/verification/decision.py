"""Decisions: a score, thresholds and calibration of a model -> same person, different people or inconclusive."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreCalibration
from siamese_verify.evaluation.calibration import check_share
from siamese_verify.faces import Quality
from siamese_verify.models.metadata import DecisionThreshold, ModelMetadata, Range

Reason = Literal["unreadable_photo", "no_face", "multiple_faces", "refused"]
INCONCLUSIVE = "inconclusive"


class NoDecision(InputError):
    """Failure to acquire: the photos do not allow a decision.

    Attributes:
        reason: `unreadable_photo`, `no_face`, `multiple_faces`, or `refused` by the liveness hook; also the error codes
            of the server.
    """

    def __init__(self, sentence: str, reason: Reason) -> None:
        super().__init__(sentence)
        self.reason: Reason = reason


@dataclass(frozen=True)
class DetectedFace:
    """A face of a photo, aligned for the encoder.

    Attributes:
        name: of the photo.
        crop: (S,S,3) uint8 RGB.
        quality: of the face.
        box: left, top, right, bottom in pixels of the rotated photo; None for models without a detector.
        landmarks: left eye, right eye, nose, left and right corner of the mouth, likewise.
        probability: of being a face, likewise.
        rotated_by: degrees counter-clockwise by which the photo was rotated so that the face is upright, in [0, 360);
            about its center, and enlarged so that all of it is shown.
        faces: number of faces on the photo.
    """

    name: str
    crop: NDArray[np.uint8] = field(repr=False, compare=False)
    quality: Quality
    box: tuple[float, float, float, float] | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None
    probability: float | None = None
    rotated_by: float = 0
    faces: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the face as JSON types, without its pixels."""
        return {
            "name": self.name,
            "box": list(self.box) if self.box else None,
            "landmarks": [list(point) for point in self.landmarks] if self.landmarks else None,
            "probability": self.probability,
            "rotated_by": self.rotated_by,
            "faces": self.faces,
            "quality": self.quality._asdict(),
        }


@dataclass(frozen=True)
class Verification:
    """A decision about two photos.

    Attributes:
        same: whether the score reaches the threshold; None if inconclusive, for `reasons`.
        score: cosine similarity of the two faces, in [-1, 1].
        threshold: accept at this score and above.
        threshold_interval: its 95 % interval over people; a score inside is inconclusive. None where not known.
        far: share of impostor pairs that reach the threshold; None for a threshold of your own.
        one_in: at most one in so many impostors scores this high (upper end of the 95 % interval over people; with
            multiple pairs of faces, in any of them); None where the data do not bound it.
        log_likelihood_ratio: natural logarithm of how many times as frequent the score is among genuine pairs as among
            impostor pairs, bounded by what the data can show; it does not depend on the threshold. None if the model
            was not calibrated, or the best of multiple pairs of faces counted.
        probability: that it is one person, for the stated prior; None without one.
        prior: share of genuine pairs among those asked about, as stated; None without one.
        impostors: number of impostor pairs that `far` was measured on.
        insufficient: fewer than ten of them decided it, so that `far` is a rough estimate.
        measured_on: data of the measurement.
        model: name that the model was loaded by.
        impostor_tail: `one_in` in words; empty where it was not measured.
        likelihood: the likelihood ratio in words; empty without one.
        faces: of the first and the second photo.
        reasons: sentences that say why it is inconclusive.
        warnings: further sentences.
        milliseconds: time by stage; both photos are processed in parallel, and the slower one counts.
    """

    same: bool | None
    score: float
    threshold: float
    threshold_interval: tuple[float, float] | None
    far: float | None
    one_in: int | None
    log_likelihood_ratio: float | None
    probability: float | None
    prior: float | None
    impostors: int
    insufficient: bool
    measured_on: str
    model: str
    impostor_tail: str = ""
    likelihood: str = ""
    faces: tuple[DetectedFace, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict, compare=False)

    def sentence(self) -> str:
        """Return the decision in words."""
        words = {True: "The same person", False: "Different people", None: "Inconclusive"}[self.same]
        return f"{words}: score {self.score:.3f}, threshold {self.threshold:.3f}."

    def stated_probability(self) -> str:
        """Return the probability of one person in words, with its prior; empty without one."""
        if self.probability is None or self.prior is None:
            return ""
        shown = min(max(self.probability, 0.001), 0.999)
        bound = "" if shown == self.probability else "under " if shown > self.probability else "over "
        return f"The probability of one person is {bound}{shown:.1%}, for your prior of {self.prior:g}."

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as JSON types: infinite numbers are None, and faces have no pixels.

        `reason` and `detail` say why there is no decision, in a word and in a sentence, as in `undecided`; both are
        None where there is one.
        """
        from siamese_verify.evaluation.base_report import to_json_types

        undecided = self.same is None
        return {
            **{one.name: getattr(self, one.name) for one in fields(self)},
            "threshold": to_json_types(self.threshold),
            "threshold_interval": to_json_types(self.threshold_interval and [*self.threshold_interval]),
            "faces": [face.to_dict() for face in self.faces],
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "reason": INCONCLUSIVE if undecided else None,
            "detail": " ".join(self.reasons) if undecided else None,
        }


def undecided(error: NoDecision, keys: Iterable[str]) -> dict[str, Any]:
    """Return an answer without a decision as JSON types, with all keys of an answer."""
    empty: dict[str, Any] = {"reasons": [str(error)], "warnings": [], "faces": [], "candidates": [], "milliseconds": {}}
    return {**{key: empty.get(key) for key in keys}, "reason": error.reason, "detail": str(error)}


COMPLAINTS = {
    "sharpness": ("blurred", "sharp"),
    "size": ("small", "large"),
    "turn": ("straight", "turned away from the camera"),
    "light": ("dark", "bright"),
    "contrast": ("flat", "harshly lit"),
    "noise": ("smooth", "grainy"),
    "roll": ("level", "tilted"),
}
UNLIKE = "The score's frequencies were measured on faces within these limits, and may not hold for this one."
EQUAL = 1.05  # ratios below count as equal


class DecisionOptions(TypedDict, total=False):
    """Keyword arguments of every decision.

    Attributes:
        far: false accept rate to operate at, see `ModelMetadata.decision_threshold`.
        threshold: used instead of a measured one, in [-1, 1].
        prior: share of genuine pairs among those that are asked about, in (0, 1), for a probability; None for none.
        decide: answer yes or no where the result would be inconclusive; its reasons become warnings.
    """

    far: float | None
    threshold: float | None
    prior: float | None
    decide: bool


def check_options(
    metadata: ModelMetadata,
    *,
    far: float | None = None,
    threshold: float | None = None,
    prior: float | None = None,
    decide: bool = False,
) -> None:
    """Check that decisions can be made with these `DecisionOptions`.

    Raises:
        InputError: see `decide`.
    """
    _threshold(metadata, far, threshold)
    check_prior(metadata, prior)


def decide(
    metadata: ModelMetadata,
    score: float,
    faces: Sequence[DetectedFace] = (),
    *,
    far: float | None = None,
    threshold: float | None = None,
    prior: float | None = None,
    decide: bool = False,
    comparisons: int = 1,
    milliseconds: Mapping[str, float] | None = None,
) -> Verification:
    """Decide by a score; `far`, `threshold`, `prior` and `decide` are `DecisionOptions`.

    Args:
        metadata: of the model that gave the score.
        score: cosine similarity of two embeddings.
        faces: that were compared.
        comparisons: number of face pairs of which this is the best score.
        milliseconds: spent so far, by stage.

    Raises:
        InputError: no threshold was measured for this rate, the threshold is not a cosine, both are given, the prior is
            invalid or the model was not calibrated for it, or the score is NaN.
    """
    limit = _threshold(metadata, far, threshold, comparisons)
    check_prior(metadata, prior)
    if math.isnan(score):
        raise InputError("The score is NaN: the model's weights are damaged or its training diverged.")
    score = min(max(score, -1.0), 1.0)
    doubt = threshold_doubt(score, limit.interval)
    unlike = [
        f"{face.name}: {complaint}"
        for face in faces
        for complaint in quality_complaints(face.quality, metadata.quality)
    ]
    reasons = [*([f"The score {score:.3f} {doubt}"] if doubt else []), *unlike]
    warnings = _warnings(faces, limit, comparisons, raised=threshold is None)
    calibration, ratio, probability = metadata.score_calibration, None, None
    tail = calibration.impostor_tail if calibration else None
    if calibration and comparisons == 1:
        ratio = likelihood_ratio(calibration, score)
        if unlike:
            warnings.append(UNLIKE)
        if prior is not None:
            probability = float(calibration.calibration.probability(score, prior))
    return Verification(
        same=score >= limit.threshold if decide or not reasons else None,
        score=score,
        threshold=limit.threshold,
        threshold_interval=limit.interval,
        far=limit.far,
        one_in=tail.one_in(score, comparisons) if tail else None,
        log_likelihood_ratio=ratio.log if ratio else None,
        probability=probability,
        prior=prior,
        impostors=limit.impostors,
        insufficient=limit.insufficient,
        measured_on=metadata.measured_on if limit.far is not None else "",
        model=metadata.name,
        impostor_tail=tail.sentence(score, comparisons) if tail else "",
        likelihood=ratio.sentence() if ratio else "",
        faces=tuple(faces),
        reasons=() if decide else tuple(reasons),
        warnings=(*reasons, *warnings) if decide else tuple(warnings),
        milliseconds=dict(milliseconds or {}),
    )


def _warnings(faces: Sequence[DetectedFace], limit: DecisionThreshold, comparisons: int, raised: bool) -> list[str]:
    """What may surprise about the faces compared and the threshold; `raised` says whether it allows for comparisons."""
    found = [f"{face.name} shows {face.faces} faces, {_place(face)} was compared." for face in faces if face.faces > 1]
    found += [
        f"{face.name} was rotated by {face.rotated_by:.0f} degrees for its face." for face in faces if face.rotated_by
    ]
    if comparisons > 1:
        allowed = "the threshold was raised for it" if raised else "your threshold does not allow for that"
        found.append(
            f"The best of {comparisons} pairs of faces was taken: {allowed}, and there is no likelihood ratio, which "
            "is known of single pairs only."
        )
    if limit.insufficient:
        found.append("Fewer than ten impostors decided the threshold: its false accept rate is a rough guess.")
    return found


def _place(face: DetectedFace) -> str:
    left, top, right, bottom = face.box or (0, 0, 0, 0)
    return f"that from {left:.0f}, {top:.0f} to {right:.0f}, {bottom:.0f}"


def best_pair(left: NDArray[np.float32], right: NDArray[np.float32]) -> tuple[int, int, float]:
    """Find the most similar pair of (A,D) and (B,D) unit rows: both rows, and their cosine in [-1, 1]."""
    scores = left @ right.T  # (A,B)
    first, second = divmod(int(scores.argmax()), scores.shape[1])
    return first, second, float(np.clip(scores[first, second], -1, 1))


def _threshold(
    metadata: ModelMetadata, far: float | None, threshold: float | None, comparisons: int = 1
) -> DecisionThreshold:
    """The threshold that was asked for, see `decide`."""
    check_threshold(far, threshold)
    if threshold is None:
        return metadata.decision_threshold(far, comparisons)
    return DecisionThreshold(float(threshold), None, None, 0, False)


def check_threshold(far: float | None, threshold: float | None) -> None:
    """Check that a threshold is a cosine, and that no false accept rate is given beside it.

    Raises:
        InputError: see `decide`.
    """
    for name, value in (("false accept rate", far), ("threshold", threshold)):
        check_number(name, value)
    if threshold is None:
        return
    if far is not None:
        raise InputError(f"Give a threshold ({threshold}) or a false accept rate ({far}), not both.")
    if not -1 <= threshold <= 1:
        raise InputError(f"A threshold must be a cosine between -1 and 1, got {threshold}.")


def check_number(name: str, value: object) -> None:
    """Check that a value is a number or None.

    Raises:
        InputError: it is not, such as a text.
    """
    if isinstance(value, bool) or not isinstance(value, Real | None):
        raise InputError(f"The {name} must be a number such as 0.001, got {value!r} ({type(value).__name__}).")


def check_prior(metadata: ModelMetadata, prior: float | None) -> None:
    """Check that a prior is a probability, and that the model is calibrated for it.

    Raises:
        InputError: see `decide`.
    """
    check_number("prior", prior)
    if prior is None:
        return
    check_share(prior)
    if metadata.score_calibration is None:
        raise InputError(
            f"The model {metadata.name} was never calibrated, so no prior leads to a probability: leave it out, or "
            "recalibrate the model on photos of yours."
        )


def threshold_doubt(score: float, interval: tuple[float, float] | None) -> str:
    """Return why a score is inconclusive, as the end of a sentence; empty where it is conclusive.

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
    return f"lies within the 95 % interval of the threshold, {start}."


class LikelihoodRatio(NamedTuple):
    """How many times as frequent a score is among genuine pairs as among impostor pairs."""

    log: float  # natural logarithm
    bounded: bool  # the data can show no more

    def sentence(self) -> str:
        """Return the ratio in words."""
        times = math.exp(abs(self.log))
        if self.bounded and times < EQUAL:
            return "Too few pairs were measured to say how frequent a score like this is among those of one person."
        kinds = ("pairs of one person", "pairs of two people")
        often, rare = kinds if self.log >= 0 else kinds[::-1]
        if times < EQUAL:
            return f"A score like this is about as frequent among {often} as among {rare}."
        rounded = f"{times:.2g}" if times < 10 else f"{round(times, 1 - math.floor(math.log10(times))):,.0f}"
        least = "at least" if self.bounded else "about"
        most = ": the data can show no more" if self.bounded else ""
        return f"A score like this is {least} {rounded} times as frequent among {often} as among {rare}{most}."


def likelihood_ratio(calibration: ScoreCalibration, score: float) -> LikelihoodRatio:
    """Return the likelihood ratio of a score, bounded where too few people were measured."""
    known = calibration.calibration
    return LikelihoodRatio(float(known.log_likelihood_ratio(score)), bool(known.bounded(score)))


def quality_complaints(quality: Quality, ranges: Mapping[str, Range]) -> list[str]:
    """Return in what a face differs from the faces that the scores were measured on, in sentences."""
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
