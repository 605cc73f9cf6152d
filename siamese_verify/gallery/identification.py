"""What a search among many says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from siamese_verify.gallery.enrolled_people import counted

if TYPE_CHECKING:
    from siamese_verify.verification import DetectedFace


class Candidate(NamedTuple):
    """Somebody who might be meant."""

    name: str
    score: float  # best cosine of the person's templates, in [-1, 1]


@dataclass(frozen=True)
class Identification:
    """Who is on a photo, if it is anybody known.

    Of people who were not found neither name nor score is told unless the caller asks for scores: who may send many
    photos could climb by them towards a face that is taken for somebody's.

    Attributes:
        found: somebody was; None if that is inconclusive, for `reasons`.
        name: of the best candidate, if somebody was found.
        score: of the best candidate, a cosine in [-1, 1]; None where it is not told.
        threshold: accept at this score and above; raised for the number of templates that were compared.
        threshold_interval: 95 % interval of it over people, see `Verification`.
        far: rate at which a search with a stranger's photo may name somebody; None for a threshold of the caller's own.
        candidates: the people who were found, best first; if scores were asked for, all who are most alike.
        searched: templates that were compared.
        people: whose they are.
        insufficient: the impostors that were measured cannot vouch for `far` in a gallery of this size.
        reasons: why it is inconclusive, sentences.
        warnings: what to know besides, sentences.
        face: that was looked for; None if an embedding was given.
        model: name of the model.
        milliseconds: spent on each stage.
    """

    found: bool | None
    name: str | None
    score: float | None
    threshold: float
    threshold_interval: tuple[float, float] | None
    far: float | None
    candidates: tuple[Candidate, ...]
    searched: int
    people: int
    insufficient: bool
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    face: DetectedFace | None = None
    model: str = ""
    milliseconds: dict[str, float] = field(default_factory=dict, compare=False)

    def sentence(self) -> str:
        """The decision in plain words."""
        told = [] if self.score is None else [f"{'' if self.found else 'best '}score {self.score:.3f}"]
        told += [f"threshold {self.threshold:.3f}"] if math.isfinite(self.threshold) else []
        who = "Inconclusive" if self.found is None else self.name if self.found else "Nobody who is enrolled"
        return f"{who}: {', '.join([*told, counted(self.people, 'person')])} searched."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types: what is infinite is None, and the face comes without its pixels.

        `reason` and `detail` say why there is no decision, see `Verification.to_dict`.
        """

        from siamese_verify.evaluation.report import to_json_types
        from siamese_verify.verification.decision import INCONCLUSIVE  # late: it loads Pillow

        return {
            "found": self.found,
            "reason": INCONCLUSIVE if self.found is None else None,
            "detail": " ".join(self.reasons) if self.found is None else None,
            "name": self.name,
            "score": self.score,
            "threshold": to_json_types(self.threshold),
            "threshold_interval": to_json_types(self.threshold_interval and [*self.threshold_interval]),
            "far": self.far,
            "candidates": [candidate._asdict() for candidate in self.candidates],
            "searched": self.searched,
            "people": self.people,
            "insufficient": self.insufficient,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "face": self.face.to_dict() if self.face else None,
            "model": self.model,
            "milliseconds": self.milliseconds,
        }
