"""What is kept of the genuine pairs of a set, of which there are few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from siamese_verify.evaluation.hardest_pairs import NONE, Extremes
from siamese_verify.evaluation.score_cells import CELLS, SCALE, cells_of
from siamese_verify.evaluation.separation import Sums

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from siamese_verify.evaluation.pair_blocks import PairBlocks

AT_ONCE = 2**24  # scores that are ranked in one look: 64 MB


class GenuineTally:
    """The genuine scores of all pairs: kept if they are few, computed again in chunks if they are many.

    Attributes:
        count: of the pairs.
        cells: (CELLS,) int64 pairs by score.
        sums: of the scores.
        hardest: the lowest scores.
    """

    def __init__(self, blocks: PairBlocks) -> None:
        self.blocks = blocks
        self.cells: NDArray[np.int64] = np.zeros(CELLS, dtype=np.int64)
        self.hardest = NONE
        self.count = 0
        total = squares = 0.0
        kept: list[Tensor] = []
        for scores, pairs in blocks.genuine():
            values = scores.numpy()
            self.cells += np.bincount(cells_of(values), minlength=CELLS)
            unscaled = values.astype(np.float64) / SCALE
            total, squares = total + float(unscaled.sum()), squares + float(unscaled @ unscaled)
            self.hardest = self.hardest.joined(Extremes(values, pairs), lowest=True)
            self.count += len(values)
            if self.count <= AT_ONCE:
                kept.append(scores)
        self.sums = Sums(self.count, total, squares)
        self._all = torch.cat(kept).sort().values if kept and self.count <= AT_ONCE else None

    def chunks(self) -> Iterator[Tensor]:
        """Give all scaled scores, in ascending chunks of some AT_ONCE."""
        if self._all is not None:
            yield self._all
            return
        waiting: list[Tensor] = []
        for scores, _ in self.blocks.genuine():
            waiting.append(scores)
            if sum(map(len, waiting)) >= AT_ONCE:
                yield torch.cat(waiting).sort().values
                waiting = []
        if waiting:
            yield torch.cat(waiting).sort().values

    def values_in(self, wanted: NDArray[np.bool_]) -> NDArray[np.floating]:
        """Return the scaled scores in the cells that a (CELLS,) mask names."""
        return np.concatenate([values[wanted[cells_of(values)]] for values in map(torch.Tensor.numpy, self.chunks())])
