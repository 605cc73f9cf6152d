"""What one look at the impostors counts: cells of the scale, ranks among genuine scores, a few single scores."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from siamese_verify.evaluation.hardest_pairs import HARDEST, NONE, Extremes
from siamese_verify.evaluation.pair_blocks import COLUMNS, ROWS
from siamese_verify.evaluation.score_cells import CELLS, FINE, SCALE, fine_cells
from siamese_verify.evaluation.score_counts import NO_SCORES, ScoreCounter, ScoreCounts
from siamese_verify.evaluation.separation import Sums

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from siamese_verify.evaluation.pair_blocks import Block, PairBlocks

STEPS = 3  # from one genuine score to the next, before a bisection is worth it
TOGETHER = 2**22  # single scores, before equal ones are counted together


@dataclass
class ImpostorTally:
    """Counts of impostors; those of two shares add up.

    Attributes:
        cells: (CELLS,) int64 pairs by score.
        doubled_rank: over all impostors, the genuine scores above plus those not below: twice the Mann-Whitney count.
        single: scaled scores in the wanted cells.
        hardest: the highest scores.
        sums: of each block, pairs, scaled scores less the centre of the look, and their squares.
    """

    cells: NDArray[np.int64] = field(default_factory=lambda: np.zeros(CELLS, dtype=np.int64))
    doubled_rank: int = 0
    single: ScoreCounts = NO_SCORES
    hardest: Extremes = NONE
    sums: list[tuple[int, float, float]] = field(default_factory=list)

    def add(self, other: ImpostorTally) -> None:
        """Take in another share's counts."""
        self.cells += other.cells
        self.doubled_rank += other.doubled_rank
        self.single = self.single.joined(other.single)
        self.hardest = self.hardest.joined(other.hardest, lowest=False)
        self.sums += other.sums

    def sums_about(self, centre: float) -> Sums:
        """Return the sums of all scores about the scaled centre of the look, the same in any order of the blocks."""
        pairs, totals, squares = zip(*self.sums, strict=True)
        return Sums(sum(pairs), centre / SCALE, math.fsum(totals) / SCALE, math.fsum(squares) / SCALE**2)


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
        genuine: scaled scores.
        wanted: (CELLS,) bool, where single scores are to be kept.
        centre: scaled score that sums are relative to.
    """

    def __init__(self, genuine: ScoreCounts, wanted: NDArray[np.bool_], centre: float) -> None:
        self.wanted = torch.from_numpy(wanted)
        self.centre = centre
        self.genuine = torch.from_numpy(genuine.values)
        self.ended = torch.cat([self.genuine, self.genuine.new_full((1,), torch.inf)])
        counts = torch.from_numpy(np.append(genuine.counts, 0))
        self.pairs = int(counts.sum())
        kind = torch.int32 if self.pairs < 2**31 else torch.int64
        self.counts = counts.to(kind)
        self.before = counts.cumsum(0).sub_(counts).to(kind)  # (V+1,) genuine pairs that score lower
        within = torch.bincount(fine_cells(self.genuine), minlength=CELLS << FINE)
        first = within.cumsum(0).sub_(within)  # of the distinct genuine scores in a cell or above
        # Where single scores matter the complement of that score's place is kept, which is negative.
        close = within.view(CELLS, -1).ne(0).logical_or_(self.wanted[:, None]).view(-1)
        self.below = torch.where(close, first.bitwise_not().to(kind), self.before[first])

    def at(self, blocks: PairBlocks, which: Iterable[Block]) -> ImpostorTally:
        """Count the impostors of some blocks."""
        tally, single = ImpostorTally(), ScoreCounter(TOGETHER)
        memory = blocks.probes.rows.new_empty(ROWS * COLUMNS)
        offsets = torch.empty(ROWS * COLUMNS, dtype=torch.float64)
        whole, ranks = torch.empty(ROWS * COLUMNS, dtype=torch.int32), self.below.new_empty(ROWS * COLUMNS)
        cells = torch.zeros(CELLS, dtype=torch.int64)
        for block in which:
            mask = blocks.impostors(block)
            if mask is not None and not mask.any():
                continue
            scores = blocks.product(block, memory)
            values = scores.view(-1) if mask is None else chosen(scores, mask)
            fine = fine_cells(values, whole[: len(values)])
            below = torch.index_select(self.below, 0, fine, out=ranks[: len(values)])
            close = torch.from_numpy(np.flatnonzero(below.numpy() < 0))
            exact = values[close]
            tally.doubled_rank += 2 * len(values) * self.pairs - self._doubled_below(below, close, exact)
            fine >>= FINE
            cells += torch.bincount(fine, minlength=CELLS)
            kept = exact[self.wanted[fine[close]]]
            if len(kept):
                single.add(kept.numpy())
            tally.hardest = self._hardest(tally.hardest, blocks, block, values, mask)
            offset = offsets[: len(values)].copy_(values).sub_(self.centre)
            tally.sums.append((len(values), float(offset.sum()), float(offset.square_().sum())))
        tally.cells, tally.single = cells.numpy(), single.counts()
        return tally

    def _doubled_below(self, below: Tensor, close: Tensor, exact: Tensor) -> int:
        """Sum over impostors the genuine scores below and those not above."""
        place = below[close].bitwise_not_()
        # ~x is -x - 1, so that adding x and 1 leaves nothing of those that are close.
        total = 2 * (int(below.numpy().sum(dtype=np.int64)) + int(place.sum(dtype=torch.int64)) + len(close))
        lower = (self.ended[place] < exact).nonzero().view(-1)
        for _ in range(STEPS):
            place[lower] += 1
            lower = lower[self.ended[place[lower]] < exact[lower]]
        if len(lower):
            place[lower] = torch.searchsorted(self.genuine, exact[lower]).to(place.dtype)
        equal = self.counts[place[self.ended[place] == exact]]
        return total + 2 * int(self.before[place].sum(dtype=torch.int64)) + int(equal.sum(dtype=torch.int64))

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
