"""The pairs that a verifier got most wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HARDEST = 20  # of each kind that are remembered


class HardPair(NamedTuple):
    """One of the hardest pairs of its kind; a good verifier may still decide it right."""

    row: int  # which pair
    score: float
    same: bool

    def wrong(self, threshold: float) -> bool:
        """Whether a threshold decides it wrong."""
        return (self.score >= threshold) != self.same


class HardPairs(NamedTuple):
    """The hardest pairs of both kinds, the worst first."""

    impostors: tuple[HardPair, ...]  # strangers that look most alike
    genuine: tuple[HardPair, ...]  # photos of one person that look least alike


class Extremes(NamedTuple):
    """The hardest pairs of one kind among pairs that are not listed, the worst first; among ties the first pairs."""

    scores: NDArray[np.floating]  # (K,)
    pairs: NDArray[np.int64]  # (K,) their numbers

    def joined(self, other: Extremes, lowest: bool, count: int = HARDEST) -> Extremes:
        """Return the hardest of both: those with the lowest scores, or with the highest."""
        scores, pairs = (np.concatenate(both) for both in zip(self, other, strict=True))
        hardness = scores if lowest else -scores
        if len(scores) > count:
            limit = np.partition(hardness, count - 1)[count - 1]
            worst, ties = np.flatnonzero(hardness < limit), np.flatnonzero(hardness == limit)
            first = np.argpartition(pairs[ties], count - len(worst) - 1)[: count - len(worst)]
            worst = np.append(worst, ties[first])
            scores, pairs, hardness = scores[worst], pairs[worst], hardness[worst]
        order = np.lexsort((pairs, hardness))[:count]
        return Extremes(scores[order], pairs[order])

    def listed(self, same: bool, scale: float = 1.0) -> tuple[HardPair, ...]:
        """Return them one by one; `scale` is what the scores were multiplied by."""
        rows = zip(self.pairs.tolist(), self.scores.tolist(), strict=True)
        return tuple(HardPair(pair, score / scale, same) for pair, score in rows)


NONE = Extremes(np.empty(0), np.empty(0, dtype=np.int64))


def hardest_pairs(scores: NDArray[np.float64], same: NDArray[np.bool_], count: int = HARDEST) -> HardPairs:
    """Return the highest scoring impostors and the lowest scoring genuine pairs.

    Args:
        scores: (N,) checked similarities.
        same: (N,) bool, True for a genuine pair.
        count: how many of each kind at most, >= 1.
    """
    found = []
    for kind, lowest in ((~same, False), (same, True)):
        rows = np.flatnonzero(kind)
        found.append(NONE.joined(Extremes(scores[rows], rows), lowest, count).listed(same=lowest))
    return HardPairs(*found)
