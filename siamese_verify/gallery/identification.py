"""Result of a search among many people, and its threshold: the more templates, the stricter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from siamese_verify.errors import InputError
from siamese_verify.evaluation.operating_points import DECISIVE_IMPOSTORS

if TYPE_CHECKING:
    from siamese_verify.evaluation import ImpostorTail
    from siamese_verify.verification import DetectedFace


RATES = (1e-3, 1e-2)  # false accept rates of a search; the default is the first that the data show


class SearchThreshold(NamedTuple):
    """Threshold of a search.

    With n templates, a person who is not enrolled is identified with a probability of at most n f, where f is the false
    accept rate of one comparison (union bound). This holds however the comparisons depend on each other.
    """

    threshold: float  # cosine; above 1 no one can be found
    interval: tuple[float, float] | None  # 95 % interval over people; an end is infinite where the data show none
    far: float | None  # of one search; None if the caller gave the threshold
    impostors: int  # pairs that it was measured on; 0 if the caller gave the threshold
    insufficient: bool  # the data do not show the rate
    reason: str  # a sentence if insufficient, else empty


def search_threshold(impostor_tail: ImpostorTail, far: float | None, templates: int) -> SearchThreshold:
    """Threshold for a false accept rate of one search.

    Args:
        impostor_tail: of the model.
        far: share of the searches for people who are not enrolled that may find one, in (0, 0.5]; None for the
            first of `RATES` that the data show, else the last.
        templates: number compared in one search, >= 1.

    Raises:
        InputError: an invalid rate, or no templates.
    """
    if templates < 1:
        raise InputError(f"A search among {templates} templates has no threshold: enroll a person first.")
    if far is None:
        shares = [(rate, rate / templates) for rate in RATES]
        far = next(
            (rate for rate, share in shares if impostor_tail.shows(share, impostor_tail.threshold(share)[1])), RATES[-1]
        )
    if not 0 < far <= 0.5:
        raise InputError(f"The false accept rate of a search must lie in (0, 0.5], got {far}.")
    share = far / templates
    threshold, known = impostor_tail.threshold(share)
    interval = (min(known.low, threshold), max(known.high, threshold)) if known else None
    insufficient = not impostor_tail.shows(share, known)
    reason = ""
    if not impostor_tail.decisive(share):
        least = DECISIVE_IMPOSTORS * templates / impostor_tail.impostors
        way = f"nothing stricter than {least:.2g} is" if least <= 0.5 else "no rate is for so many templates"
        reason = (
            f"A false accept rate of {far:g} for each search among {templates:,} templates asks for "
            f"{share:.2g} for each comparison, which {impostor_tail.impostors:,} impostor pairs cannot "
            f"show: {way}."
        )
    elif insufficient:
        reason = (
            f"A false accept rate of {far:g} for each search among {templates:,} templates asks for "
            f"{share:.2g} for each comparison, which the people measured cannot show: give a higher rate."
        )
    return SearchThreshold(threshold, interval, far, impostor_tail.impostors, insufficient, reason)


class Candidate(NamedTuple):
    """A person found by a search."""

    name: str
    score: float  # best cosine of the person's templates, in [-1, 1]


@dataclass(frozen=True)
class Identification:
    """Result of a search: the enrolled person on a photo, if any.

    Names and scores below the threshold are returned only on request: whoever can send many photos could climb along
    the scores towards a face that is accepted.

    Attributes:
        found: whether a person was identified; None if inconclusive, for `reasons`.
        name: of the best candidate; None unless found.
        score: of the best candidate, a cosine in [-1, 1]; None unless found or with `scores`.
        threshold: accept at this score and above; it rises with the number of templates.
        threshold_interval: 95 % interval of it over people, see `Verification`.
        far: false accept rate of the search; None if the caller gave the threshold.
        candidates: people found, best first; with `scores`, the nearest people.
        searched: number of templates compared.
        people: number of people.
        insufficient: the measured impostors do not show `far` for so many templates.
        reasons: why it is inconclusive, sentences.
        warnings: further sentences.
        face: that was searched for; None if an embedding was given.
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
        """The result in words, in one sentence."""
        known_facts = [] if self.score is None else [f"{'' if self.found else 'best '}score {self.score:.3f}"]
        known_facts += [f"threshold {self.threshold:.3f}"] if math.isfinite(self.threshold) else []
        who = "Inconclusive" if self.found is None else self.name if self.found else "Nobody who is enrolled"
        return f"{who}: {', '.join([*known_facts, count_of(self.people, 'person')])} searched."

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types: infinite numbers are None, and the face is without its pixels.

        `reason` and `detail` say why there is no decision, see `Verification.to_dict`.
        """

        from siamese_verify.evaluation.base_report import to_json_types
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


def count_of(number: int, noun: str) -> str:
    """`1 person`, `2 templates`."""
    plural = "people" if noun == "person" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
