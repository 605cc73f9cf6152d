"""What is kept of the genuine pairs of a set, of which there are few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.evaluation.hardest_pairs import HARDEST, NONE, Extremes
from siamese_verify.evaluation.score_cells import CELLS, SCALE, cells_of
from siamese_verify.evaluation.score_counts import NO_SCORES, ScoreCounts, joined, score_counts
from siamese_verify.evaluation.separation import Sums

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from siamese_verify.evaluation.pair_blocks import PairBlocks

AT_ONCE = 2**24  # scores that are ranked in one look: 64 MB


class GenuineTally:
    """The genuine scores of all pairs: kept if few differ, computed again in chunks if many do.

    Attributes:
        count: of the pairs.
        cells: (CELLS,) int64 pairs by score.
        centre: one of the scaled scores.
        sums: of the scores.
        hardest: the lowest scores.
    """

    def __init__(self, blocks: PairBlocks) -> None:
        self.blocks = blocks
        self.cells: NDArray[np.int64] = np.zeros(CELLS, dtype=np.int64)
        self.hardest = NONE
        self.count, self.centre = 0, 0.0
        total = squares = 0.0
        chunk: _Chunk | None = _Chunk()
        for scores, pairs in blocks.genuine():
            values = scores.numpy()
            if not self.count:
                self.centre = float(values[0])
            self.cells += np.bincount(cells_of(values), minlength=CELLS)
            offsets = values.astype(np.float64) - self.centre
            total, squares = total + float(offsets.sum()), squares + float(np.square(offsets).sum())
            hard = values <= (self.hardest.scores[-1] if len(self.hardest.scores) == HARDEST else np.inf)
            self.hardest = self.hardest.joined(Extremes(values[hard], pairs[hard]), lowest=True)
            self.count += len(values)
            if chunk and chunk.full(values):
                chunk = None
        self.sums = Sums(self.count, self.centre / SCALE, total / SCALE, squares / SCALE**2)
        self._all = None if chunk is None else chunk.counts()

    def chunks(self) -> Iterator[ScoreCounts]:
        """Give all scaled scores, some AT_ONCE at a time."""
        if self._all is not None:
            yield self._all
            return
        waiting = _Chunk()
        for scores, _ in self.blocks.genuine():
            if waiting.full(scores.numpy()):
                yield waiting.counts()
                waiting = _Chunk()
        if len((rest := waiting.counts()).values):
            yield rest

    def single(self, wanted: NDArray[np.bool_]) -> ScoreCounts:
        """Return the scaled scores in the cells that a (CELLS,) mask names."""
        if self._all is not None:
            return self._all.chosen(wanted[cells_of(self._all.values)])
        parts = (scores.numpy() for scores, _ in self.blocks.genuine())
        return joined([score_counts(values[wanted[cells_of(values)]]) for values in parts])


class _Chunk:
    """Scores for one look, equal ones counted together when there are many."""

    def __init__(self) -> None:
        self._known = NO_SCORES
        self._waiting: list[NDArray[np.floating]] = []
        self._held = 0

    def full(self, values: NDArray[np.floating]) -> bool:
        """Take in (K,) scores; returns whether so many differ that this is all for one look."""
        self._waiting.append(values)
        self._held += len(values)
        return self._held >= AT_ONCE and 2 * len(self.counts().values) >= AT_ONCE

    def counts(self) -> ScoreCounts:
        """Return all so far."""
        if self._waiting:
            self._known = joined([self._known, score_counts(np.concatenate(self._waiting))])
            self._waiting, self._held = [], len(self._known.values)
        return self._known
