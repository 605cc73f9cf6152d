"""What one look at the impostors counts: cells of the scale, ranks among genuine scores, a few single scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from siamese_verify.evaluation.hardest_pairs import HARDEST, NONE, Extremes
from siamese_verify.evaluation.pair_blocks import COLUMNS, ROWS
from siamese_verify.evaluation.score_cells import CELLS, FINE, fine_cells

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from siamese_verify.evaluation.pair_blocks import Block, PairBlocks


@dataclass
class ImpostorTally:
    """Counts of impostors; those of two shares add up.

    Attributes:
        cells: (CELLS,) int64 pairs by score.
        doubled_rank: over all impostors, the genuine scores above plus those not below: twice the Mann-Whitney count.
        values: scaled scores in the wanted cells, in no order.
        hardest: the highest scores.
    """

    cells: NDArray[np.int64] = field(default_factory=lambda: np.zeros(CELLS, dtype=np.int64))
    doubled_rank: int = 0
    values: list[NDArray[np.floating]] = field(default_factory=list)
    hardest: Extremes = NONE

    def add(self, other: ImpostorTally) -> None:
        """Take in another share's counts."""
        self.cells += other.cells
        self.doubled_rank += other.doubled_rank
        self.values += other.values
        self.hardest = self.hardest.joined(other.hardest, lowest=False)


def count_cells(blocks: PairBlocks) -> NDArray[np.int64]:
    """(CELLS,) int64 impostors by score, and nothing else."""
    cells = torch.zeros(CELLS, dtype=torch.int64)
    for block in blocks.blocks:
        scores, mask = blocks.product(block), blocks.impostors(block)
        values = scores.view(-1) if mask is None else chosen(scores, mask)
        cells += torch.bincount(fine_cells(values).bitwise_right_shift_(FINE), minlength=CELLS)
    return cells.numpy()


def chosen(scores: Tensor, mask: Tensor) -> Tensor:
    """Return `scores[mask]`, by numpy in a twentieth of the time."""
    return torch.from_numpy(scores.numpy()[mask.numpy()])


class Look:
    """One look at impostors.

    A table says for each fine cell how many genuine scores lie below it. Only where genuine scores lie within the cell,
    or it is wanted, are scores compared one by one.

    Args:
        genuine: (G,) scaled scores, ascending; G < 2**31.
        wanted: (CELLS,) bool, where single scores are to be kept.
    """

    def __init__(self, genuine: Tensor, wanted: NDArray[np.bool_]) -> None:
        self.genuine = genuine
        self.wanted = torch.from_numpy(wanted)
        self.ended = torch.cat([genuine, genuine.new_full((1,), torch.inf)])
        within = torch.bincount(fine_cells(genuine), minlength=CELLS << FINE).int()
        self.below = within.cumsum(0, dtype=torch.int32).sub_(within)
        # Where single scores matter the complement is kept, which is negative.
        close = within.view(CELLS, -1).ne(0).logical_or_(self.wanted[:, None]).view(-1)
        self.below[close] = self.below[close].bitwise_not_()

    def at(self, blocks: PairBlocks, which: Iterable[Block]) -> ImpostorTally:
        """Count the impostors of some blocks."""
        tally = ImpostorTally()
        memory = torch.empty(ROWS * COLUMNS, dtype=blocks.scaled.dtype)
        whole, ranks = torch.empty((2, ROWS * COLUMNS), dtype=torch.int32)
        cells = torch.zeros(CELLS, dtype=torch.int64)
        for block in which:
            scores, mask = blocks.product(block, memory), blocks.impostors(block)
            values = scores.view(-1) if mask is None else chosen(scores, mask)
            if not len(values):
                continue
            fine = fine_cells(values, whole[: len(values)])
            below = torch.index_select(self.below, 0, fine, out=ranks[: len(values)])
            close = torch.from_numpy(np.flatnonzero(below.numpy() < 0))
            exact = values[close]
            tally.doubled_rank += 2 * len(values) * len(self.genuine) - self._doubled_below(below, close, exact)
            fine >>= FINE
            cells += torch.bincount(fine, minlength=CELLS)
            kept = exact[self.wanted[fine[close]]]
            if len(kept):
                tally.values.append(kept.numpy())
            tally.hardest = self._hardest(tally.hardest, blocks, block, values, mask)
        tally.cells = cells.numpy()
        return tally

    def _doubled_below(self, below: Tensor, close: Tensor, exact: Tensor) -> int:
        """Sum over impostors the genuine scores below and those not above."""
        place = below[close].bitwise_not_()  # of the first genuine score in the cell
        # ~x is -x - 1, so that adding x twice and 1 leaves x.
        total = 2 * (int(below.numpy().sum(dtype=np.int64)) + 2 * int(place.sum(dtype=torch.int64)) + len(close))
        while len(place):  # climb through the genuine scores that are not above
            genuine = self.ended[place]
            climbs = (genuine <= exact).nonzero().view(-1)
            total += len(climbs) + int((genuine < exact).sum())
            place, exact = place[climbs] + 1, exact[climbs]
        return total

    @staticmethod
    def _hardest(known: Extremes, blocks: PairBlocks, block: Block, values: Tensor, mask: Tensor | None) -> Extremes:
        bound = float(known.scores[-1]) if len(known.scores) == HARDEST else -np.inf
        if float(values.max()) < bound:
            return known
        places = (values >= bound).nonzero().view(-1)
        high = values[places].numpy()
        if mask is not None:
            places = mask.view(-1).nonzero().view(-1)[places]
        rows, columns = np.divmod(places.numpy(), block.right - block.left)
        return known.joined(Extremes(high, blocks.number(block.top + rows, block.left + columns)), lowest=False)
