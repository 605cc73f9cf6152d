"""How far apart the two kinds of scores lie, in standard deviations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor


class Sums(NamedTuple):
    """Sums over scores that are not listed, relative to a score near them: what they share is not rounded."""

    pairs: int
    centre: float
    total: float  # of score - centre
    squares: float  # of its square

    def moments(self) -> tuple[float, float]:
        """Return mean and variance (ddof 0); a variance that rounding could have made is 0."""
        mean, square = self.total / self.pairs, self.squares / self.pairs
        variance = square - mean**2
        return self.centre + mean, variance if variance > 1e-13 * square else 0.0


SCALE = 2.0**20  # of the scores that are counted: a power of two rounds nothing, and fine cells are whole numbers
FINE = 5  # log2 of the fine cells in a cell
MARGIN = 64  # fine cells beyond [-1, 1], for rounding
ZERO = int(SCALE) + MARGIN  # fine cell of the score 0; it is twice as wide, as whole numbers are cut towards zero
CELLS = (2 * ZERO) // 2**FINE + 1  # 65,541


def fine_cells(scaled: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the fine cell of (K,) scaled scores, int32; a higher score is never in a lower cell."""
    whole = scaled.to(torch.int32) if out is None else out.copy_(scaled)
    return whole.add_(ZERO)


def cells_of(scaled: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the cell of (K,) scaled scores, whole ones of `fine_cells`."""
    return (scaled.astype(np.int64) + ZERO) >> FINE


def floors_of(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for (K,) cells a score, not scaled, that parts their scores from those of lower cells."""
    first = ((cells << FINE) - ZERO).astype(np.float64)  # of the fine cells in a cell
    return np.where(first > 0, first, np.nextafter(first - 1, np.inf)) / SCALE


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


ROWS, COLUMNS = 512, 1024  # of a block of impostors: product and cells stay in the processor's cache
BAND = 256  # rows of a block of genuine pairs, which lie along the diagonal


class Block(NamedTuple):
    """A range of rows with a range of columns."""

    top: int
    bottom: int
    left: int
    right: int


class Sorted(NamedTuple):
    """Embeddings in the order of their identities."""

    rows: Tensor  # (N,D)
    people: NDArray[np.int64]  # (N,) ascending
    order: NDArray[np.int64]  # (N,) where the row stood before


class PairBlocks:
    """Scores of all pairs i < j of one set, or of all pairs of a probe with a gallery row, block by block.

    Rows are sorted by identity: genuine pairs lie along the diagonal and all other blocks hold impostors only. The
    blocks depend on the set alone, so that whoever computes one finds the same bits.

    Args:
        rows: (N,D) of unit length.
        people: (N,) numbers of their identities.
        gallery: (M,D) of unit length, or None for the set with itself.
        gallery_people: (M,) numbers of their identities.
    """

    def __init__(
        self,
        rows: NDArray[np.floating],
        people: NDArray[np.int64],
        gallery: NDArray[np.floating] | None = None,
        gallery_people: NDArray[np.int64] | None = None,
    ) -> None:
        self.probes = _sorted(rows, people)
        self.alone = gallery is None or gallery_people is None
        self.gallery = self.probes if gallery is None or gallery_people is None else _sorted(gallery, gallery_people)
        height, width = len(self.probes.rows), len(self.gallery.rows)
        self.blocks = [
            Block(top, min(top + ROWS, height), left, min(left + COLUMNS, width))
            for top in range(0, height, ROWS)
            for left in range(top if self.alone else 0, width, COLUMNS)
        ]

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        height, width = len(self.probes.rows), len(self.gallery.rows)
        return height * (height - 1) // 2 if self.alone else height * width

    def sample(self, share: int, seed: int = 0) -> PairBlocks:
        """One of `share` rows, drawn at random, as a set of its own."""
        rng = np.random.default_rng(seed)

        def some(of: Sorted) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
            rows = rng.choice(len(of.rows), -(-len(of.rows) // share), replace=False)
            return of.rows.numpy()[rows], of.people[rows]

        return PairBlocks(*some(self.probes)) if self.alone else PairBlocks(*some(self.probes), *some(self.gallery))

    def product(self, block: Block, out: Tensor | None = None) -> Tensor:
        """Return the scores of a block times `SCALE`, (bottom - top, right - left); `out` is memory for it."""
        top, bottom, left, right = block
        shape = (bottom - top, right - left)
        rows, columns = self.probes.rows[top:bottom], self.gallery.rows[left:right]
        memory = rows.new_empty(shape) if out is None else out[: shape[0] * shape[1]].view(shape)
        return torch.addmm(memory, rows, columns.T, beta=0, alpha=SCALE, out=memory)  # a power of two rounds nothing

    def impostors(self, block: Block) -> Tensor | None:
        """Return a mask of the pairs of two people in a block, or None where all are."""
        top, bottom, left, right = block
        rows, columns = self.probes.people[top:bottom], self.gallery.people[left:right]
        later = self.alone and left < bottom  # the block meets the diagonal
        if not later and (rows[-1] < columns[0] or rows[0] > columns[-1]):
            return None
        mask = torch.from_numpy(rows[:, None] != columns)
        return mask.triu_(top - left + 1) if later else mask

    def genuine(self) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Give the genuine pairs: (K,) scores times `SCALE` and the pairs' numbers."""
        height = len(self.probes.rows)
        for top in range(0, height, BAND):
            bottom = min(top + BAND, height)
            people = self.probes.people[top:bottom]
            first = top if self.alone else int(np.searchsorted(self.gallery.people, people[0]))
            last = int(np.searchsorted(self.gallery.people, people[-1], side="right"))
            starts = np.searchsorted(self.gallery.people, people) if not self.alone else np.arange(top, bottom) + 1
            ends = np.searchsorted(self.gallery.people, people, side="right")
            for left in range(first, last, COLUMNS):
                right = min(left + COLUMNS, last)
                begin = np.clip(starts, left, right)
                counts = np.maximum(np.clip(ends, left, right) - begin, 0)  # of columns of the same person in a row
                rows = np.repeat(np.arange(bottom - top), counts)
                columns = np.arange(len(rows)) + np.repeat(begin - left - (np.cumsum(counts) - counts), counts)
                if len(rows):
                    scores = self.product(Block(top, bottom, left, right)).numpy()[rows, columns]
                    yield torch.from_numpy(scores), self.number(top + rows, left + columns)

    def number(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return i * M + j for pairs of sorted rows, by where they stood before; within one set i < j."""
        first, second = self.probes.order[rows], self.gallery.order[columns]
        if self.alone:
            first, second = np.minimum(first, second), np.maximum(first, second)
        return first * len(self.gallery.rows) + second

    def early(self, block: Block, number: int) -> Tensor:
        """Return a mask of the pairs in a block that may have a number up to `number`: by the rows of the first."""
        last = number // len(self.gallery.rows)
        rows, columns = self.probes.order[block.top : block.bottom], self.gallery.order[block.left : block.right]
        return torch.from_numpy((rows <= last)[:, None] | (self.alone & (columns <= last)))


def _sorted(rows: NDArray[np.floating], people: NDArray[np.int64]) -> Sorted:
    order = np.argsort(people, kind="stable")
    return Sorted(torch.from_numpy(np.ascontiguousarray(rows[order])), people[order], order)


HARDEST = 20  # of each kind that are remembered


class Extremes(NamedTuple):
    """The hardest pairs of one kind among pairs that are not listed, the worst first; among ties the first pairs."""

    scores: NDArray[np.floating]  # (K,)
    pairs: NDArray[np.int64]  # (K,) their numbers

    def joined(self, other: Extremes, lowest: bool, count: int = HARDEST) -> Extremes:
        """Return the hardest of both: those with the lowest scores, or with the highest."""
        scores, pairs = (np.concatenate(both) for both in zip(self, other, strict=True))
        hardness = scores if lowest else -scores
        if len(scores) > count:
            limit = np.partition(hardness, count - 1)[count - 1]
            worst, ties = np.flatnonzero(hardness < limit), np.flatnonzero(hardness == limit)
            first = np.argpartition(pairs[ties], count - len(worst) - 1)[: count - len(worst)]
            worst = np.append(worst, ties[first])
            scores, pairs, hardness = scores[worst], pairs[worst], hardness[worst]
        order = np.lexsort((pairs, hardness))[:count]
        return Extremes(scores[order], pairs[order])


NONE = Extremes(np.empty(0), np.empty(0, dtype=np.int64))


if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


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


if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor


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


if TYPE_CHECKING:
    pass


def spread(
    blocks: PairBlocks,
    look: Look,
    processes: int,
    place: tuple[int, int],
    title: str,
) -> ImpostorTally:
    """Look at the blocks of one rank, in the threads of this process or of others.

    Args:
        blocks: of all pairs.
        look: what to count.
        processes: how many.
        place: rank, and the number of ranks.
        title: of a progress bar; empty for none.
    """
    rank, world_size = place
    mine = blocks.blocks[rank::world_size]
    if processes == 1:
        return _in_threads(look, blocks, _shown(mine, title))
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        shares = [
            pool.submit(_look_alone, look, blocks, mine[number::processes], processes) for number in range(processes)
        ]
        first, *others = [share.result() for share in shares]
    for other in others:
        first.add(other)
    return first


def _look_alone(look: Look, blocks: PairBlocks, which: list[Block], processes: int) -> ImpostorTally:
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    return _in_threads(look, blocks, which)


class _Turns:
    """Blocks that threads take in turn."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.blocks = iter(blocks)
        self.lock = Lock()

    def __iter__(self) -> _Turns:
        return self

    def __next__(self) -> Block:
        with self.lock:
            return next(self.blocks)

    def stop(self) -> None:
        with self.lock:
            self.blocks = iter(())


def _in_threads(look: Look, blocks: PairBlocks, which: Iterable[Block]) -> ImpostorTally:
    """Look at each block in one of as many threads as torch has: a fifth faster than each step of a block in all."""
    turns = _Turns(which)
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:  # theirs alone
            shares = [pool.submit(look.at, blocks, turns) for _ in range(threads)]
            try:
                first, *others = [share.result() for share in shares]
            finally:
                turns.stop()  # if one fails or is interrupted, no other goes on
    finally:
        torch.set_num_threads(threads)  # what threads to come begin with
    for other in others:
        first.add(other)
    return first


def _shown(blocks: list[Block], title: str) -> Iterable[Block]:
    if not title:
        return blocks
    from rich.progress import track

    return track(blocks, title)
