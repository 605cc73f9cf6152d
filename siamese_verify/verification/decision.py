"""What a verifier says: the faces it saw, and its decision about two of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreCalibration
from siamese_verify.evaluation.calibration import check_share
from siamese_verify.evaluation.report import plain
from siamese_verify.faces import Quality
from siamese_verify.models.metadata import Limit, ModelMetadata, Range

Reason = Literal["unreadable_photo", "no_face", "multiple_faces", "refused"]
INCONCLUSIVE = "inconclusive"


class NoDecision(InputError):
    """The photos do not allow a decision.

    Attributes:
        reason: `unreadable_photo`, `no_face`, `multiple_faces`, or `refused` by the liveness hook: the codes that the
            server answers with, too.
    """

    def __init__(self, sentence: str, reason: Reason) -> None:
        super().__init__(sentence)
        self.reason: Reason = reason


@dataclass(frozen=True)
class DetectedFace:
    """A face of a photo, cut as the encoder takes it.

    Attributes:
        name: of the photo.
        crop: (S,S,3) uint8 RGB.
        quality: what decides whether it can be compared.
        box: left, top, right, bottom in pixels of the photo once it is rotated; None where no detector looked, as with
            models that take the photo as the face.
        landmarks: left eye, right eye, nose, left and right corner of the mouth, likewise.
        probability: of being a face, likewise.
        rotated_by: degrees counter-clockwise by which the photo was rotated for an upright face: 0 to below
            360, about its centre and with all of it shown.
        faces: how many faces the photo shows.
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
        """Return it as JSON types, without its pixels."""
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
        same: the score reaches the threshold; None if that is inconclusive, for `reasons`.
        score: cosine similarity of the two faces, in [-1, 1].
        threshold: accept at this score and above.
        threshold_interval: 95 % interval of it over people: other people to measure on would have given another one. A
            score inside is inconclusive. None where it is not known.
        far: share of impostor pairs that reach the threshold; None for a threshold of the caller's own.
        one_in: a stranger scores this high at most once in so many (upper end of the 95 % interval over people), and
            where the best of several pairs of faces counted, any of them; None where the data do not bound it.
        log_likelihood_ratio: natural logarithm of how many times as frequent the score is among genuine pairs as among
            impostors, no more and no less than the data can show; it does not depend on the threshold. None where the
            model was not calibrated or the best of several pairs of faces counted.
        probability: that it is one person, for the prior that the caller stated; None without one.
        prior: share of genuine pairs among those that the caller asks about, as stated; None without one.
        impostors: number of impostor pairs that the rate was measured on.
        insufficient: fewer than ten of them decided it: take `far` as a rough guess.
        measured_on: the data they came from.
        model: what the model was loaded by.
        impostor_tail: how many impostors would score this high, in words; empty where it was not measured or several
            pairs of faces were compared.
        likelihood: the likelihood ratio in words; empty without one.
        faces: of the first photo and of the second.
        reasons: why it is inconclusive, sentences.
        warnings: what to know besides, sentences.
        milliseconds: spent on each stage; both photos are looked at together, and the slower one counts.
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
        """The decision in plain words."""
        scored = f"score {self.score:.3f}, threshold {self.threshold:.3f}"
        if self.same is None:
            return f"Inconclusive: {scored}."
        return f"{'The same person' if self.same else 'Different people'}: {scored}."

    def stated_probability(self) -> str:
        """The probability of one person in words, with the prior that it rests on; empty without one."""
        if self.probability is None or self.prior is None:
            return ""
        shown = min(max(self.probability, 0.001), 0.999)
        bound = "" if shown == self.probability else "under " if shown > self.probability else "over "
        return f"The probability of one person is {bound}{shown:.1%}, for your prior of {self.prior:g}."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types: what is infinite is None, and faces come without their pixels.

        `reason` and `detail` say why there is no decision, in a word and in a sentence, as in `undecided`; both are
        None where there is one.
        """

        return {
            "same": self.same,
            "reason": INCONCLUSIVE if self.same is None else None,
            "detail": " ".join(self.reasons) if self.same is None else None,
            "score": self.score,
            "threshold": plain(self.threshold),
            "threshold_interval": plain(self.threshold_interval and [*self.threshold_interval]),
            "far": self.far,
            "one_in": self.one_in,
            "log_likelihood_ratio": self.log_likelihood_ratio,
            "probability": self.probability,
            "prior": self.prior,
            "impostors": self.impostors,
            "insufficient": self.insufficient,
            "measured_on": self.measured_on,
            "model": self.model,
            "impostor_tail": self.impostor_tail,
            "likelihood": self.likelihood,
            "faces": [face.to_dict() for face in self.faces],
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "milliseconds": self.milliseconds,
        }


def undecided(error: NoDecision, keys: Iterable[str]) -> dict[str, Any]:
    """Return what stands in place of an answer as JSON types, so that programs find every key.

    Args:
        error: why there is none.
        keys: of the answer.
    """
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
UNLIKE = "How frequent a score is was measured on faces within these limits: of others it says little."
EVEN = 1.05  # times as frequent: below it is as frequent


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
    limit_of(metadata, far, threshold)
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
        InputError: no threshold was measured for this rate, the threshold is no cosine, both are given, the prior is
            invalid or the model was not calibrated for it, or the score is NaN.
    """
    limit = limit_of(metadata, far, threshold, comparisons)
    check_prior(metadata, prior)
    if math.isnan(score):
        raise InputError("The score is NaN: the model's weights are damaged or its training diverged.")
    score = min(max(score, -1.0), 1.0)
    doubt = doubt_of(score, limit.interval)
    unlike = [f"{face.name}: {complaint}" for face in faces for complaint in complaints(face.quality, metadata.quality)]
    reasons = [*([f"The score {score:.3f} {doubt}"] if doubt else []), *unlike]
    warnings = [
        f"{face.name} shows {face.faces} faces, that {_place(face)} was compared." for face in faces if face.faces > 1
    ]
    warnings += [
        f"{face.name} was rotated by {face.rotated_by:.0f} degrees for its face." for face in faces if face.rotated_by
    ]
    if comparisons > 1:
        raised = "the threshold was raised for it" if threshold is None else "your threshold does not allow for that"
        warnings.append(f"The best of {comparisons} pairs of faces was taken: {raised}.")
    if limit.insufficient:
        warnings.append("Fewer than ten impostors decided the threshold: its false accept rate is a rough guess.")
    score_calibration = metadata.score_calibration
    impostor_tail = score_calibration.impostor_tail if score_calibration else None
    share = impostor_tail.at_most(score) if impostor_tail else None
    ratio = likelihood_of(score_calibration, score) if score_calibration and comparisons == 1 else None
    if ratio and unlike:
        warnings.append(UNLIKE)
    return Verification(
        same=score >= limit.threshold if decide or not reasons else None,
        score=score,
        threshold=limit.threshold,
        threshold_interval=limit.interval,
        far=limit.far,
        one_in=max(1, int(1 / (share * comparisons))) if share else None,
        log_likelihood_ratio=ratio.log if ratio else None,
        probability=float(score_calibration.calibration.probability(score, prior))
        if score_calibration and ratio and prior is not None
        else None,
        prior=prior,
        impostors=limit.impostors,
        insufficient=limit.insufficient,
        measured_on=metadata.measured_on if limit.far is not None else "",
        model=metadata.name,
        impostor_tail=impostor_tail.sentence(score) if impostor_tail and comparisons == 1 else "",
        likelihood=ratio.sentence() if ratio else "",
        faces=tuple(faces),
        reasons=() if decide else tuple(reasons),
        warnings=(*reasons, *warnings) if decide else tuple(warnings),
        milliseconds=dict(milliseconds or {}),
    )


def _place(face: DetectedFace) -> str:
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


def limit_of(metadata: ModelMetadata, far: float | None, threshold: float | None, comparisons: int = 1) -> Limit:
    """The threshold that was asked for, see `decide`."""
    for name, value in (("false accept rate", far), ("threshold", threshold)):
        check_number(name, value)
    if threshold is None:
        return metadata.limit(far, comparisons)
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


def check_prior(metadata: ModelMetadata, prior: float | None) -> None:
    """Refuse what is no prior probability, and one for a model that cannot make anything of it.

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


def likelihood_of(score_calibration: ScoreCalibration, score: float) -> Likelihood:
    """Return the likelihood ratio of a score, which a calibration bounds where too few people were measured."""
    calibration = score_calibration.calibration
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
