"""Distinct scores and how often each is there: few of them where embeddings collapse, however many pairs there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ScoreCounts(NamedTuple):
    """Distinct scores, ascending."""

    values: NDArray[np.floating]  # (V,)
    counts: NDArray[np.int64]  # (V,) how many pairs have each

    def chosen(self, mask: NDArray[np.bool_]) -> ScoreCounts:
        """Return those that a (V,) mask names."""
        return ScoreCounts(self.values[mask], self.counts[mask])


NO_SCORES = ScoreCounts(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64))


def score_counts(scores: NDArray[np.floating]) -> ScoreCounts:
    """Return the distinct ones of (K,) scores."""
    values = np.sort(scores)
    first = _first(values)
    return ScoreCounts(values[first], np.diff(first, append=len(values)))


def joined(parts: Sequence[ScoreCounts]) -> ScoreCounts:
    """Return the scores of all parts."""
    filled = [part for part in parts if len(part.values)] or [NO_SCORES]
    if len(filled) == 1:
        return filled[0]
    values, counts = (np.concatenate(column) for column in zip(*filled, strict=True))
    order = np.argsort(values, kind="stable")  # merges runs that ascend already
    values, counts = values[order], counts[order]
    first = _first(values)
    return ScoreCounts(values[first], np.add.reduceat(counts, first))


def _first(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return where a run of equal ones among (K,) ascending scores starts."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
