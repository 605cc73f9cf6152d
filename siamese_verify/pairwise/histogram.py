"""Counts of the scores of all pairs: integer bins, ranks among the genuine scores, extremes, moments.

Scores are computed block by block and forgotten. They are cosine similarities times `SCALE`, which as a power of two
rounds nothing and makes fine bins whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese_verify.pairwise.blocks import blocks

SCALE = 2.0**20
FINE = 5  # log2 of the fine bins in a bin
MARGIN = 64  # fine bins beyond [-1, 1], for rounding
ZERO = int(SCALE) + MARGIN  # fine bin of the score 0; it is twice as wide, as whole numbers are cut towards zero
BINS = (2 * ZERO) // 2**FINE + 1  # 65,541

SIZE = 768  # rows of a block of impostors: product and bins stay in the processor's cache
GENUINE_SIZE = 256  # rows of a block of genuine pairs, which lie along the diagonal
HARDEST = 20  # pairs of each kind that are listed
TOGETHER = 2**22  # single scores, before equal ones are counted together
PART = 8  # blocks that a thread counts at once

Ranges = tuple[slice, slice]
T = TypeVar("T")
R = TypeVar("R")


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


class _Side(NamedTuple):
    """Rows in the order of their identities."""

    rows: Tensor  # (N,D)
    identities: NDArray[np.int64]  # (N,) ascending
    order: NDArray[np.int64]  # (N,) place of each row as given

    @classmethod
    def of(cls, rows: NDArray[np.floating], identities: NDArray[np.int64]) -> _Side:
        order = np.argsort(identities, kind="stable")
        return cls(torch.from_numpy(np.ascontiguousarray(rows[order])), identities[order], order)


class PairScores:
    """Scores of all pairs i < j of one set, or of all pairs of a probe with a gallery row, block by block.

    Rows are sorted by identity: genuine pairs lie along the diagonal and all other blocks hold impostors only. The
    blocks depend on the set alone, so that whoever computes one finds the same bits. A pair has the number i * M + j,
    by the order in which rows were given; M is the size of the gallery, or of the set.

    Args:
        rows: (N,D) of unit length.
        identities: (N,) numbers.
        gallery: (M,D) of unit length, or None for the set with itself.
        gallery_identities: (M,) numbers.
    """

    def __init__(
        self,
        rows: NDArray[np.floating],
        identities: NDArray[np.int64],
        gallery: NDArray[np.floating] | None = None,
        gallery_identities: NDArray[np.int64] | None = None,
    ) -> None:
        self.probes = self.gallery = _Side.of(rows, identities)
        self.itself = gallery is None or gallery_identities is None
        if gallery is not None and gallery_identities is not None:
            self.gallery = _Side.of(gallery, gallery_identities)

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        height, width = len(self.probes.rows), len(self.gallery.rows)
        return height * (height - 1) // 2 if self.itself else height * width

    def walk(self, size: int = SIZE) -> list[Ranges]:
        """Row and column ranges of all blocks."""
        return list(blocks(len(self.probes.rows), None if self.itself else len(self.gallery.rows), size))

    def sample(self, share: int, seed: int = 0) -> PairScores:
        """One of `share` rows, drawn at random, as a set of its own."""
        rng = np.random.default_rng(seed)

        def draw(side: _Side) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
            rows = rng.choice(len(side.rows), -(-len(side.rows) // share), replace=False)
            return side.rows.numpy()[rows], side.identities[rows]

        return PairScores(*draw(self.probes)) if self.itself else PairScores(*draw(self.probes), *draw(self.gallery))

    def product(self, block: Ranges, out: Tensor | None = None) -> Tensor:
        """(n, m) scaled scores of a block; `out` is memory for them."""
        rows, columns = self.probes.rows[block[0]], self.gallery.rows[block[1]]
        shape = len(rows), len(columns)
        memory = rows.new_empty(shape) if out is None else out[: shape[0] * shape[1]].view(shape)
        return torch.addmm(memory, rows, columns.T, beta=0, alpha=SCALE, out=memory)

    def mask(self, block: Ranges, same: bool) -> NDArray[np.bool_] | None:
        """(n, m) mask of the genuine pairs or of the impostors in a block; None where all are impostors."""
        rows, columns = self.probes.identities[block[0]], self.gallery.identities[block[1]]
        if rows[-1] < columns[0] or rows[0] > columns[-1]:
            return None
        mask: NDArray[np.bool_] = (rows[:, None] == columns) == same
        return np.triu(mask, 1) if self.itself and block[0] == block[1] else mask

    def impostors(self, block: Ranges, out: Tensor | None = None) -> tuple[Tensor, NDArray[np.bool_] | None]:
        """(K,) scaled scores of the impostors of a block, and their mask unless all are."""
        scores, mask = self.product(block, out), self.mask(block, same=False)
        # numpy takes a twentieth of torch's time for this
        return scores.view(-1) if mask is None else torch.from_numpy(scores.numpy()[mask]), mask

    def genuine(self) -> Iterator[tuple[NDArray[np.floating], NDArray[np.int64]]]:
        """Genuine pairs, some at a time: (K,) scaled scores and numbers."""
        for block in self.walk(GENUINE_SIZE):
            mask = self.mask(block, same=True)
            if mask is not None and mask.any():
                yield self.product(block).numpy()[mask], self.numbers(block, np.flatnonzero(mask))

    def numbers(self, block: Ranges, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the pairs at (K,) flat places of a block."""
        rows, columns = np.divmod(places, block[1].stop - block[1].start)
        first, second = self.probes.order[rows + block[0].start], self.gallery.order[columns + block[1].start]
        if self.itself:
            first, second = np.minimum(first, second), np.maximum(first, second)
        return first * len(self.gallery.rows) + second


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
        for counts in parallel(self.count, [mine[start : start + PART] for start in range(0, len(mine), PART)], title):
            total.add(counts)
        return total

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
    bins = torch.zeros(BINS, dtype=torch.int64)
    for block in scores.walk():
        values, _ = scores.impostors(block)
        bins += torch.bincount(_fine_bins(values).bitwise_right_shift_(FINE), minlength=BINS)
    return bins.numpy()


def parallel(work: Callable[[T], R], parts: Sequence[T], title: str = "") -> Iterator[R]:
    """Results of parts in order, each computed by one of as many threads as torch has.

    That is a fifth faster than to divide each step of a part among all threads.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        results = pool.map(work, parts)
        if title:
            from rich.progress import track

            yield from track(results, title, len(parts))
        else:
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)  # if one fails or is interrupted, no other begins
        torch.set_num_threads(threads)  # what threads to come begin with
