"""What a verifier says: the faces it saw, and its decision about two of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.evaluation.report import plain
from siamese_verify.faces import Quality

Reason = Literal["unreadable_photo", "no_face", "several_faces", "refused"]
INCONCLUSIVE = "inconclusive"


class NoDecision(InputError):
    """The photos do not allow a decision.

    Attributes:
        reason: `unreadable_photo`, `no_face`, `several_faces`, or `refused` by the liveness hook: the codes that the
            server answers with, too.
    """

    def __init__(self, sentence: str, reason: Reason) -> None:
        super().__init__(sentence)
        self.reason: Reason = reason


@dataclass(frozen=True)
class SeenFace:
    """A face of a photo, cut as the encoder takes it.

    Attributes:
        name: of the photo.
        crop: (S,S,3) uint8 RGB.
        quality: what decides whether it can be compared.
        box: left, top, right, bottom in pixels of the photo once it is turned; None where no detector looked, as with
            models that take the photo as the face.
        landmarks: left eye, right eye, nose, left and right corner of the mouth, likewise.
        probability: of being a face, likewise.
        turned: degrees counter-clockwise by which the photo was turned first, so that the face is upright: 0 to below
            360, about its centre and with all of it shown.
        faces: how many faces the photo shows.
    """

    name: str
    crop: NDArray[np.uint8] = field(repr=False, compare=False)
    quality: Quality
    box: tuple[float, float, float, float] | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None
    probability: float | None = None
    turned: float = 0
    faces: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types, without its pixels."""
        return {
            "name": self.name,
            "box": list(self.box) if self.box else None,
            "landmarks": [list(point) for point in self.landmarks] if self.landmarks else None,
            "probability": self.probability,
            "turned": self.turned,
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
        strangers: how many strangers would score this high, in words; empty where it was not measured or several pairs
            of faces were compared.
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
    strangers: str = ""
    likelihood: str = ""
    faces: tuple[SeenFace, ...] = ()
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
            "strangers": self.strangers,
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
