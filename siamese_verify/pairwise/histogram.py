"""Counts of the scores of all pairs: integer bins, ranks among the genuine scores, extremes, moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese_verify.pairwise.pair_scores import SCALE, SIZE, PairScores, Ranges, full_precision, parallel

FINE = 5  # log2 of the fine bins in a bin
MARGIN = 64  # fine bins beyond [-1, 1], for rounding
ZERO = int(SCALE) + MARGIN  # fine bin of the score 0; it is twice as wide, as whole numbers are cut towards zero
BINS = (2 * ZERO) // 2**FINE + 1  # 65,541

HARDEST = 20  # pairs of each kind that are listed
TOGETHER = 2**22  # single scores, before equal ones are counted together
PART = 8  # blocks that a thread counts at once


def bin_numbers(scaled: NDArray[np.floating]) -> NDArray[np.int64]:
    """Bin of each of (K,) scaled scores; a higher score is never in a lower bin."""
    return (scaled.astype(np.int64) + ZERO) >> FINE


def bin_floors(bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """For (K,) bins a score, not scaled, that parts their scores from those of lower bins."""
    first = ((bins << FINE) - ZERO).astype(np.float64)  # of the fine bins in a bin
    return np.where(first > 0, first, np.nextafter(first - 1, np.inf)) / SCALE


def _fine_bins(scaled: Tensor, out: Tensor | None = None) -> Tensor:
    return (scaled.to(torch.int32) if out is None else out.copy_(scaled)).add_(ZERO)


class ScoreCounts(NamedTuple):
    """Distinct scores, ascending."""

    values: NDArray[np.floating]  # (V,)
    counts: NDArray[np.int64]  # (V,) number of pairs with each

    def chosen(self, mask: NDArray[np.bool_]) -> ScoreCounts:
        """Those of a (V,) mask."""
        return ScoreCounts(self.values[mask], self.counts[mask])

    def in_bins(self, mask: NDArray[np.bool_]) -> ScoreCounts:
        """Those in the bins of a (BINS,) mask."""
        return self.chosen(mask[bin_numbers(self.values)])


NO_SCORES = ScoreCounts(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64))


def count_scores(scores: NDArray[np.floating]) -> ScoreCounts:
    """Distinct ones of (K,) scores."""
    return ScoreCounts(*np.unique(scores, return_counts=True))


def merge_counts(parts: Sequence[ScoreCounts]) -> ScoreCounts:
    """Scores of all parts."""
    filled = [part for part in parts if len(part.values)]
    if len(filled) < 2:
        return filled[0] if filled else NO_SCORES
    values, counts = (np.concatenate(column) for column in zip(*filled, strict=True))
    order = np.argsort(values, kind="stable")  # merges runs that ascend already
    values, counts = values[order], counts[order]
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    return ScoreCounts(values[first], np.add.reduceat(counts, first))


class Extremes(NamedTuple):
    """The pairs with the highest or lowest scores, the most extreme first; among ties the first pairs."""

    scores: NDArray[np.floating]  # (K,)
    pairs: NDArray[np.int64]  # (K,) their numbers

    def merged(self, other: Extremes, lowest: bool, count: int = HARDEST) -> Extremes:
        """The most extreme of both: those with the lowest scores, or with the highest."""
        scores, pairs = (np.concatenate(both) for both in zip(self, other, strict=True))
        hardness = scores if lowest else -scores
        if len(scores) > count:
            limit = np.partition(hardness, count - 1)[count - 1]
            clear, ties = np.flatnonzero(hardness < limit), np.flatnonzero(hardness == limit)
            missing = count - len(clear)
            chosen = np.append(clear, ties[np.argpartition(pairs[ties], missing - 1)[:missing]])
            scores, pairs, hardness = scores[chosen], pairs[chosen], hardness[chosen]
        order = np.lexsort((pairs, hardness))
        return Extremes(scores[order], pairs[order])


NO_EXTREMES = Extremes(np.empty(0), np.empty(0, dtype=np.int64))


class GenuineCounts(NamedTuple):
    """Genuine pairs of a set."""

    scores: ScoreCounts  # scaled
    hardest: Extremes  # the lowest scores, scaled

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return int(self.scores.counts.sum())

    @property
    def bins(self) -> NDArray[np.int64]:
        """(BINS,) int64 pairs by score."""
        weights = self.scores.counts.astype(np.float64)
        return np.bincount(bin_numbers(self.scores.values), weights, BINS).astype(np.int64)

    @property
    def center(self) -> float:
        """A scaled score, about which sums are taken: what scores share is not rounded."""
        return float(self.scores.values[0])

    def moments(self) -> tuple[float, float]:
        """Mean and variance (ddof 0), not scaled."""
        offsets = self.scores.values.astype(np.float64) - self.center
        counts = self.scores.counts
        return _moments(self.pairs, self.center, float(counts @ offsets), float(counts @ np.square(offsets)))


def count_genuine(scores: PairScores) -> GenuineCounts:
    """Count the genuine pairs of a set; their distinct scores are held in memory."""
    parts, hardest = _Merging(), NO_EXTREMES
    for values, pairs in scores.genuine():
        hard = values <= (hardest.scores[-1] if len(hardest.scores) == HARDEST else np.inf)
        hardest = hardest.merged(Extremes(values[hard], pairs[hard]), lowest=True)
        parts.add(count_scores(values))
    return GenuineCounts(parts.merged(), hardest)


def _moments(pairs: int, center: float, total: float, squares: float) -> tuple[float, float]:
    mean, square = total / pairs, squares / pairs
    variance = square - mean**2
    variance = variance if variance > 1e-13 * square else 0.0  # that rounding could have made
    return (center + mean) / SCALE, variance / SCALE**2


class _Merging:
    """Counts that are merged whenever twice as many have come together."""

    def __init__(self) -> None:
        self.parts: list[ScoreCounts] = []
        self.held, self.most = 0, TOGETHER

    def add(self, part: ScoreCounts) -> None:
        self.parts.append(part)
        self.held += len(part.values)
        if self.held > self.most:
            self.held = len(self.merged().values)
            self.most = max(TOGETHER, 2 * self.held)

    def merged(self) -> ScoreCounts:
        self.parts = [merge_counts(self.parts)]
        return self.parts[0]


@dataclass
class ImpostorCounts:
    """Counts of impostors; those of two shares of the blocks add up.

    Attributes:
        bins: (BINS,) int64 pairs by score.
        doubled_rank: over all impostors, the genuine scores above plus those not below: twice the Mann-Whitney count.
        hardest: the highest scores, scaled.
        sums: of each block, pairs, scaled scores less the center, and their squares.
        single: scaled scores in the wanted bins.
    """

    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    doubled_rank: int = 0
    hardest: Extremes = NO_EXTREMES
    sums: list[tuple[int, float, float]] = field(default_factory=list)
    single: _Merging = field(default_factory=_Merging)

    def add(self, other: ImpostorCounts) -> None:
        """Add the counts of another share."""
        self.bins += other.bins
        self.doubled_rank += other.doubled_rank
        self.hardest = self.hardest.merged(other.hardest, lowest=False)
        self.sums += other.sums
        self.single.add(other.single.merged())

    def moments(self, center: float) -> tuple[float, float]:
        """Mean and variance (ddof 0), not scaled and the same in any order of the blocks."""
        pairs, totals, squares = zip(*self.sums, strict=True)
        return _moments(sum(pairs), center, math.fsum(totals), math.fsum(squares))


class _Tables(NamedTuple):
    below: Tensor  # see `ImpostorPass`
    genuine: Tensor
    lower: Tensor
    wanted: Tensor


class ImpostorPass:
    """One pass over the impostors of a set.

    A table says for each fine bin how many genuine scores lie below it. Only where genuine scores lie within the bin,
    or it is wanted, are scores compared one by one: sorted, and equal ones once.

    Args:
        scores: of all pairs.
        genuine: scaled scores to rank the impostors among.
        wanted: (BINS,) bool, where single scores are kept.
        center: scaled score that sums are relative to.
    """

    def __init__(self, scores: PairScores, genuine: ScoreCounts, wanted: NDArray[np.bool_], center: float) -> None:
        self.scores, self.wanted, self.center = scores, wanted, center
        self.genuine = genuine.values
        self.lower = np.append(0, genuine.counts.cumsum())  # (V+1,) pairs that score lower than each, and all
        self.pairs = int(self.lower[-1])
        within = torch.bincount(_fine_bins(torch.from_numpy(genuine.values)), minlength=BINS << FINE)
        first = within.cumsum(0).sub_(within)  # of the distinct genuine scores in a fine bin or above
        kind = torch.int32 if self.pairs < 2**31 else torch.int64
        self.below = torch.from_numpy(self.lower).to(kind)[first]
        self.below[within.view(BINS, -1).ne(0).logical_or_(torch.from_numpy(wanted)[:, None]).view(-1)] = -1
        self.known = NO_EXTREMES  # of all threads: a lower score than these have is not among the hardest

    def run(self, rank: int = 0, world_size: int = 1, title: str = "") -> ImpostorCounts:
        """Count the blocks of one rank in parallel; a title draws a progress bar."""
        mine, total = self.scores.walk()[rank::world_size], ImpostorCounts()
        parts = [mine[start : start + PART] for start in range(0, len(mine), PART)]
        with full_precision():
            if self.scores.there:
                from tqdm import tqdm

                for part in tqdm(parts, title, delay=2, leave=False, disable=None if title else True):
                    total.add(self.count_there(part))
            else:
                for counts in parallel(self.count, parts, title):
                    total.add(counts)
        return total

    def count_there(self, part: Sequence[Ranges]) -> ImpostorCounts:
        """Count the impostors of some blocks where they are compared, as `count` does.

        The host waits for the single scores and the hardest pairs of a block, which are few.
        """
        total = ImpostorCounts()
        bins = torch.zeros(BINS + 1, dtype=torch.int64, device=self.scores.device)  # the last: no impostors
        for block in part:
            values, others = self.scores.masked(block)
            fine = _fine_bins(values)
            if others is not None:
                fine.masked_fill_(others, BINS << FINE)
                values.masked_fill_(others, -torch.inf)
            below = self.tables.below.index_select(0, fine)
            found, doubled_below = self._single_there(values[below < 0])
            lower = below.clamp_(min=0).sum(dtype=torch.int64)
            hit = torch.bincount(fine.bitwise_right_shift_(FINE), minlength=BINS + 1)
            bins += hit
            total.single.add(found)
            total.hardest = total.hardest.merged(self._hardest_there(block, values), lowest=False)
            offset = values.double().sub_(self.center)
            if others is not None:
                offset.masked_fill_(others, 0)
            sums = torch.stack([offset.sum(), offset.square_().sum()]).tolist()
            pairs, below_all = len(values) - int(hit[BINS]), int(lower)
            total.doubled_rank += 2 * (pairs * self.pairs - below_all) - doubled_below
            if pairs:
                total.sums.append((pairs, *sums))
        total.bins = bins[:BINS].cpu().numpy()
        return total

    @cached_property
    def tables(self) -> _Tables:
        """What the impostors are looked up in, on their device."""
        arrays = (self.genuine, self.lower, self.wanted)
        genuine, lower, wanted = (torch.from_numpy(one).to(self.scores.device) for one in arrays)
        below = torch.cat([self.below, self.below.new_zeros(1)])  # the last: no impostors
        return _Tables(below.to(self.scores.device), genuine, lower, wanted)

    def _single_there(self, close: Tensor) -> tuple[ScoreCounts, int]:
        """Of (K,) single scores those in wanted bins, and `_doubled_below` of all."""
        values, counts = torch.unique(close, return_counts=True)
        _, genuine, lower, wanted = self.tables
        below = sum(lower[torch.searchsorted(genuine, values, right=right)] for right in (False, True))
        kept = wanted[(values.to(torch.int64) + ZERO) >> FINE]
        found = ScoreCounts(values[kept].cpu().numpy(), counts[kept].cpu().numpy())
        return found, int((counts * below).sum())

    def _hardest_there(self, block: Ranges, values: Tensor) -> Extremes:
        bound = self.known.scores[-1] if len(self.known.scores) == HARDEST else -np.inf
        if np.isinf(bound):
            bound = float(values.topk(min(HARDEST, len(values))).values[-1])
        places = ((values >= bound) & (values > -torch.inf)).nonzero().flatten()
        if not len(places):
            return NO_EXTREMES
        numbers = self.scores.numbers(block, places.cpu().numpy())
        found = NO_EXTREMES.merged(Extremes(values[places].cpu().numpy(), numbers), lowest=False)
        self.known = self.known.merged(found, lowest=False)
        return found

    def count(self, part: Sequence[Ranges]) -> ImpostorCounts:
        """Count the impostors of some blocks."""
        total, bins = ImpostorCounts(), torch.zeros(BINS, dtype=torch.int64)
        # Memory that is taken from the system for each block anew would cost a fifth of the time.
        product, whole, ranks, offsets = (
            torch.empty(SIZE * SIZE, dtype=kind)
            for kind in (self.scores.probes.rows.dtype, torch.int32, self.below.dtype, torch.float64)
        )
        for block in part:
            values, mask = self.scores.impostors(block, product)
            if not len(values):
                continue
            fine = _fine_bins(values, whole[: len(values)])
            below = torch.index_select(self.below, 0, fine, out=ranks[: len(values)]).numpy()
            close = np.flatnonzero(below < 0)
            found = count_scores(values.numpy()[close])
            lower = int(below.sum(dtype=np.int64)) + len(close)
            total.doubled_rank += 2 * (len(values) * self.pairs - lower) - self._doubled_below(found)
            total.single.add(found.in_bins(self.wanted))
            bins += torch.bincount(fine.bitwise_right_shift_(FINE), minlength=BINS)
            total.hardest = total.hardest.merged(self._hardest(block, values.numpy(), mask), lowest=False)
            offset = offsets[: len(values)].copy_(values).sub_(self.center)
            total.sums.append((len(values), float(offset.sum()), float(offset.square_().sum())))
        total.bins = bins.numpy()
        return total

    def _doubled_below(self, found: ScoreCounts) -> int:
        """Sum over impostors the genuine scores below and those not above."""
        place = (np.searchsorted(self.genuine, found.values, side) for side in ("left", "right"))
        return sum(int(found.counts @ self.lower[each]) for each in place)

    def _hardest(self, block: Ranges, values: NDArray[np.floating], mask: NDArray[np.bool_] | None) -> Extremes:
        bound = -np.inf
        if len(self.known.scores) == HARDEST:
            bound = self.known.scores[-1]
        elif len(values) > HARDEST:
            bound = np.partition(values, -HARDEST)[-HARDEST]
        places = np.flatnonzero(values >= bound)
        if not len(places):
            return NO_EXTREMES
        numbers = self.scores.numbers(block, places if mask is None else np.flatnonzero(mask)[places])
        found = NO_EXTREMES.merged(Extremes(values[places], numbers), lowest=False)
        self.known = self.known.merged(found, lowest=False)
        return found


def count_impostor_bins(scores: PairScores) -> NDArray[np.int64]:
    """(BINS,) int64 impostors by score, and nothing else."""
    bins = torch.zeros(BINS + 1, dtype=torch.int64, device=scores.device)  # the last: no impostors
    with full_precision():
        for block in scores.walk():
            values, others = scores.masked(block) if scores.there else (scores.impostors(block)[0], None)
            fine = _fine_bins(values)
            if others is not None:
                fine.masked_fill_(others, BINS << FINE)
            bins += torch.bincount(fine.bitwise_right_shift_(FINE), minlength=BINS + 1)
    return bins[:BINS].cpu().numpy()
