"""What a search among many says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from siamese_verify.gallery.person import counted

if TYPE_CHECKING:
    from siamese_verify.verification import SeenFace


class Candidate(NamedTuple):
    """Somebody who might be meant."""

    name: str
    score: float  # best cosine of the person's templates, in [-1, 1]


@dataclass(frozen=True)
class Identification:
    """Who is on a photo, if it is anybody known.

    Attributes:
        name: the best candidate, if the score reaches the threshold; None for nobody that is enrolled.
        score: of the best candidate, a cosine in [-1, 1].
        threshold: accept at this score and above; raised for the number of templates that were compared.
        far: rate at which a search with a stranger's photo may name somebody; None for a threshold of the caller's own.
        candidates: the people who are most alike, best first, whether they reach the threshold or not.
        searched: templates that were compared.
        people: whose they are.
        insufficient: the impostors that were measured cannot vouch for `far` in a gallery of this size.
        warnings: what to know besides, sentences.
        face: that was looked for; None if an embedding was given.
        model: name of the model.
        milliseconds: spent on each stage.
    """

    name: str | None
    score: float
    threshold: float
    far: float | None
    candidates: tuple[Candidate, ...]
    searched: int
    people: int
    insufficient: bool
    warnings: tuple[str, ...] = ()
    face: SeenFace | None = None
    model: str = ""
    milliseconds: dict[str, float] = field(default_factory=dict, compare=False)

    def sentence(self) -> str:
        """The decision in plain words."""
        among = f"{counted(self.people, 'person')} searched"
        if self.name is None:
            return f"Nobody who is enrolled: best score {self.score:.3f}, threshold {self.threshold:.3f}, {among}."
        return f"{self.name}: score {self.score:.3f}, threshold {self.threshold:.3f}, {among}."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types: an infinite threshold is None, and the face comes without its pixels."""
        return {
            "name": self.name,
            "score": self.score,
            "threshold": self.threshold if math.isfinite(self.threshold) else None,
            "far": self.far,
            "candidates": [candidate._asdict() for candidate in self.candidates],
            "searched": self.searched,
            "people": self.people,
            "insufficient": self.insufficient,
            "warnings": list(self.warnings),
            "face": self.face.to_dict() if self.face else None,
            "model": self.model,
            "milliseconds": self.milliseconds,
        }
