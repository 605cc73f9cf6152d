"""Distinct scores and how often each is there: few of them where embeddings collapse, however many pairs there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ScoreCounts(NamedTuple):
    """Distinct scores, ascending."""

    values: NDArray[np.floating]  # (V,)
    counts: NDArray[np.int64]  # (V,) how many pairs have each

    def joined(self, other: ScoreCounts) -> ScoreCounts:
        """Return the scores of both."""
        if not (len(self.values) and len(other.values)):
            return self if len(self.values) else other
        values, counts = (np.concatenate(both) for both in zip(self, other, strict=True))
        order = np.argsort(values, kind="stable")  # merges what is sorted already
        return _run_lengths(values[order], counts[order])

    def chosen(self, mask: NDArray[np.bool_]) -> ScoreCounts:
        """Return those that a (V,) mask names."""
        return ScoreCounts(self.values[mask], self.counts[mask])


NO_SCORES = ScoreCounts(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64))


def score_counts(values: NDArray[np.floating]) -> ScoreCounts:
    """Return the distinct ones of (K,) scores."""
    return _run_lengths(np.sort(values), None)


def _run_lengths(values: NDArray[np.floating], counts: NDArray[np.int64] | None) -> ScoreCounts:
    """Count equal neighbours once; (K,) `counts` are one each by default."""
    first = np.append(True, values[1:] != values[:-1])[: len(values)].nonzero()[0]
    if counts is None:
        return ScoreCounts(values[first], np.diff(first, append=len(values)))
    return ScoreCounts(values[first], np.add.reduceat(counts, first) if len(first) else counts)


class ScoreCounter:
    """Takes in scores, and holds no more numbers than some, or than twice as many as there are distinct scores.

    Args:
        most: scores that are held before equal ones are counted together.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._known = NO_SCORES
        self._waiting: list[NDArray[np.floating]] = []
        self._held = 0

    def add(self, values: NDArray[np.floating]) -> bool:
        """Take in (K,) scores; returns whether most of those that may be held are distinct."""
        self._waiting.append(values)
        self._held += len(values)
        if self._held < self.most:
            return False
        return 2 * len(self.counts().values) >= self.most

    def counts(self) -> ScoreCounts:
        """Return all so far."""
        if self._waiting:
            waiting, self._waiting = np.concatenate(self._waiting), []
            self._known = self._known.joined(score_counts(waiting))
            self._held = len(self._known.values)
        return self._known
