"""What one look at the impostors counts: cells of the scale, ranks among genuine scores, a few single scores."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from siamese_verify.evaluation.hardest_pairs import HARDEST, NONE, Extremes
from siamese_verify.evaluation.pair_blocks import COLUMNS, ROWS
from siamese_verify.evaluation.score_cells import CELLS, FINE, SCALE, cells_of, fine_cells
from siamese_verify.evaluation.score_counts import NO_SCORES, ScoreCounts, joined, score_counts
from siamese_verify.evaluation.separation import Sums

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from siamese_verify.evaluation.pair_blocks import Block, PairBlocks

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
        self.single = joined([self.single, other.single])
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
    or it is wanted, are scores looked at one by one: sorted, and equal ones once.

    Args:
        genuine: scaled scores.
        wanted: (CELLS,) bool, where single scores are to be kept.
        centre: scaled score that sums are relative to.
    """

    def __init__(self, genuine: ScoreCounts, wanted: NDArray[np.bool_], centre: float) -> None:
        self.genuine = genuine.values
        self.wanted = wanted
        self.centre = centre
        self.lower = np.append(0, genuine.counts.cumsum())  # (V+1,) pairs that score lower than each, and all
        self.pairs = int(self.lower[-1])
        within = torch.bincount(fine_cells(torch.from_numpy(genuine.values)), minlength=CELLS << FINE)
        first = within.cumsum(0).sub_(within)  # of the distinct genuine scores in a cell or above
        kind = torch.int32 if self.pairs < 2**31 else torch.int64
        self.below = torch.from_numpy(self.lower).to(kind)[first]
        self.below[within.view(CELLS, -1).ne(0).logical_or_(torch.from_numpy(wanted)[:, None]).view(-1)] = -1

    def at(self, blocks: PairBlocks, which: Iterable[Block]) -> ImpostorTally:
        """Count the impostors of some blocks."""
        tally, single, held, most = ImpostorTally(), [NO_SCORES], 0, TOGETHER
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
            close = np.flatnonzero(below.numpy() < 0)
            lower = int(below.numpy().sum(dtype=np.int64)) + len(close)
            fine >>= FINE
            cells += torch.bincount(fine, minlength=CELLS)
            found = score_counts(values.numpy()[close])
            tally.doubled_rank += 2 * (len(values) * self.pairs - lower) - self._doubled_below(found)
            kept = found.chosen(self.wanted[cells_of(found.values)])
            single.append(kept)
            held += len(kept.values)
            if held > most:
                single = [joined(single)]
                held = len(single[0].values)
                most = max(TOGETHER, 2 * held)
            tally.hardest = self._hardest(tally.hardest, blocks, block, values, mask)
            offset = offsets[: len(values)].copy_(values).sub_(self.centre)
            tally.sums.append((len(values), float(offset.sum()), float(offset.square_().sum())))
        tally.cells, tally.single = cells.numpy(), joined(single)
        return tally

    def _doubled_below(self, found: ScoreCounts) -> int:
        """Sum over impostors the genuine scores below and those not above."""
        place = np.searchsorted(self.genuine, found.values)
        after = np.minimum(place + 1, len(self.genuine))
        tied = self.genuine[np.minimum(place, len(self.genuine) - 1)] == found.values if len(self.genuine) else False
        return int(found.counts @ (self.lower[place] + self.lower[np.where(tied, after, place)]))

    @staticmethod
    def _hardest(known: Extremes, blocks: PairBlocks, block: Block, values: Tensor, mask: Tensor | None) -> Extremes:
        if len(known.scores) < HARDEST:
            hard = torch.ones_like(values, dtype=torch.bool)
        else:
            bound = float(known.scores[-1])
            if float(values.max()) < bound:
                return known
            early = blocks.early(block, int(known.pairs.max()))  # of ties, the first pairs
            hard = (values > bound) | ((values == bound) & (early.view(-1) if mask is None else chosen(early, mask)))
        places = hard.nonzero().view(-1)
        high = values[places].numpy()
        if mask is not None:
            places = mask.view(-1).nonzero().view(-1)[places]
        rows, columns = np.divmod(places.numpy(), block.right - block.left)
        return known.joined(Extremes(high, blocks.number(block.top + rows, block.left + columns)), lowest=False)
