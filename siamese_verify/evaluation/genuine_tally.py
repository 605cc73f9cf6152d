"""What is kept of the genuine pairs of a set, of which there are few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.evaluation.hardest_pairs import HARDEST, NONE, Extremes
from siamese_verify.evaluation.score_cells import CELLS, SCALE, cells_of
from siamese_verify.evaluation.score_counts import ScoreCounter, ScoreCounts, joined, score_counts
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
        counter: ScoreCounter | None = ScoreCounter(AT_ONCE)
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
            if counter and counter.add(score_counts(values)):
                counter = None
        self.sums = Sums(self.count, self.centre / SCALE, total / SCALE, squares / SCALE**2)
        self._all = counter and counter.counts()

    def chunks(self) -> Iterator[ScoreCounts]:
        """Give all scaled scores, some AT_ONCE at a time."""
        if self._all is not None:
            yield self._all
            return
        counter = ScoreCounter(AT_ONCE)
        for scores, _ in self.blocks.genuine():
            if counter.add(score_counts(scores.numpy())):
                yield counter.counts()
                counter = ScoreCounter(AT_ONCE)
        if len((rest := counter.counts()).values):
            yield rest

    def single(self, wanted: NDArray[np.bool_]) -> ScoreCounts:
        """Return the scaled scores in the cells that a (CELLS,) mask names."""
        return joined([chunk.chosen(wanted[cells_of(chunk.values)]) for chunk in self.chunks()])
