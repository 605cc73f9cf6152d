"""How much worse a verifier gets when photos are damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from siamese_verify.evaluation.crossing import crossing_of
from siamese_verify.evaluation.operating_point import point_of
from siamese_verify.evaluation.roc import roc_curve
from siamese_verify.evaluation.threshold import rates_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class DamagedRates(NamedTuple):
    """Rates when one photo of each pair is damaged."""

    kind: str  # of damage
    corruption: str  # and how much of it, for people
    eer: float  # in [0, 1]
    tar: float  # true accept rate at a false accept rate of 1 %, in [0, 1]
    far: float  # at the threshold for photos as they are, in [0, 1]
    frr: float  # likewise


def damaged_rates(kind: str, corruption: str, scores: ArrayLike, same: ArrayLike, threshold: float) -> DamagedRates:
    """Measure the scores of damaged photos.

    Args:
        kind: of damage.
        corruption: how much of it, for people.
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        threshold: chosen on photos as they are.

    Raises:
        InputError: see `checked_pairs`.
    """
    curve = roc_curve(scores, same)
    rates = rates_of(curve, threshold)
    return DamagedRates(kind, corruption, crossing_of(curve).rate, point_of(curve, 0.01).tar, rates.far, rates.frr)
