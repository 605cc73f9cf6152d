"""The search among all partners of each row: as fast as a matrix product, decided by exact distances."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import check_batch
from siamese_verify.pairwise.blocks import Spread, expands, steps
from siamese_verify.pairwise.distances import chunks, identical

PENDING = 1 << 20  # candidates that wait for their exact distance at once
OFTEN = 8  # queries of a row, beyond which its columns are sorted
CROWDED = 1 / 64  # share of a tile that are candidates, beyond which the whole of it is measured at once


class Sets(NamedTuple):
    """Rows, and the columns among which partners are sought."""

    rows: Tensor  # (N, D) float32 or float64
    labels: Tensor  # (N,) int64
    columns: Tensor  # (C, D)
    column_labels: Tensor  # (C,) int64
    itself: bool  # the first of the columns are the rows, and nobody is his own partner


@dataclass(frozen=True)
class Tile:
    """Squared distances of some rows from some columns, not yet exact."""

    rows: slice
    columns: slice
    squared: Tensor  # (n, m); inf where the two have one identity
    slack: float  # how far a squared distance may be from the one that `exact_distance` gives
    mirrored: bool = False  # rows and columns are different ones of one set: this is all that is seen of the two

    def flipped(self) -> Tile:
        """The same from the columns' side."""
        return replace(self, rows=self.columns, columns=self.rows, squared=self.squared.T)

    def exact(self, sets: Sets, squared: bool = False) -> Tensor:
        """(n, m) distances, each the one that `exact_distance` gives; inf where the two have one identity.

        They come from products in float64, wherever these tell what a difference would round to.
        """
        left, right = sets.rows[self.rows], sets.columns[self.columns]
        number, other = identical(torch.cat([left, right])).tensor_split([len(left)])
        impostor = self.squared < torch.inf
        apart = (number[:, None] != other).logical_and_(impostor)
        if not apart.any():
            return torch.zeros_like(self.squared).masked_fill_(~impostor, torch.inf)
        centre = right.double().mean(dim=0)
        rows, columns = (Spread.around(side.double(), centre) for side in (left, right))
        between = (rows.squares[:, None] + columns.squares).addmm_(rows.rows, columns.rows.T, alpha=-2)
        slack = rounding(rows, columns)
        low, high = (rounded((between + move).clamp_(min=0), left.dtype, squared) for move in (-slack, slack))
        row, column = (low != high).logical_and_(apart).nonzero(as_tuple=True)
        low[row, column] = exact_distance(sets, row + self.rows.start, column + self.columns.start, squared)
        return low.masked_fill_(~apart, 0).masked_fill_(~impostor, torch.inf)


class Candidates(NamedTuple):
    """Columns that may be the nearest."""

    query: Tensor  # (K,) int64
    column: Tensor  # (K,) int64
    squared: Tensor  # (K,) not yet exact


def check_sets(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None,
    reference_labels: Tensor | None,
    together: bool = False,
) -> Sets:
    """Check what a miner is given; arguments and errors as in `siamese_verify.pairwise.check_batch`.

    Args:
        embeddings: the rows.
        labels: theirs.
        references: the columns; None seeks among the rows.
        reference_labels: theirs.
        together: seek among the rows and the references; these come after the rows.
    """
    batch = check_batch(embeddings, labels, references, reference_labels)
    if references is None or together:
        return Sets(batch.embeddings, batch.labels, batch.candidates, batch.candidate_labels, True)
    return Sets(batch.embeddings, batch.labels, batch.references, batch.reference_labels, False)


def exact_distance(sets: Sets, row: Tensor, column: Tensor, squared: bool = False) -> Tensor:
    """(M,) Euclidean distances from differences in float64, rounded to the type of the rows: ties are exact."""
    between = sets.rows.new_empty(len(row), dtype=torch.float64)
    for part in chunks(len(row), sets.rows.shape[1]):
        left, right = sets.rows.index_select(0, row[part]), sets.columns.index_select(0, column[part])
        difference = left.double().sub_(right)  # (m,D)
        torch.linalg.vecdot(difference, difference, out=between[part])
    return rounded(between, sets.rows.dtype, squared)


def rounded(between: Tensor, dtype: torch.dtype, squared: bool) -> Tensor:
    """Squared distances in float64 -> distances, or squared ones, of a type."""
    return (between if squared else between.sqrt()).to(dtype)


def rounding(left: Spread, right: Spread) -> float:
    """How far squared distances by inner products may be off: 8 sqrt(D) u (|a|^2 + |b|^2).

    After Higham & Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 2019.
    """
    longest = float(left.squares.max() + right.squares.max())
    return 8 * math.sqrt(left.rows.shape[1]) * torch.finfo(left.rows.dtype).eps / 2 * longest


def impostor_tiles(sets: Sets) -> Iterator[Tile]:
    """Walk through the squared Euclidean distances of all impostors; two rows of one set are seen once, in one order.

    They come from inner products of centred rows, with a bound of their rounding.
    """
    count, device = len(sets.rows), sets.rows.device
    if not count or not len(sets.columns):
        return
    right = Spread.around(sets.columns, sets.columns.mean(dim=0))
    left = right.part(slice(count)) if sets.itself else Spread.around(sets.rows, sets.columns.mean(dim=0))
    slack = rounding(left, right)
    beside = count if sets.itself else 0  # where the columns begin that are no rows
    for rows in steps(count, device):
        within = steps(count, device, rows.start) if sets.itself else ()
        across = (slice(s.start + beside, s.stop + beside) for s in steps(len(sets.columns) - beside, device))
        for columns in (*within, *across):
            squared = squared_distance(left.part(rows), right.part(columns))
            squared.masked_fill_(sets.labels[rows, None] == sets.column_labels[columns], torch.inf)
            yield Tile(rows, columns, squared, slack, columns.stop <= beside and rows != columns)


def squared_distance(left: Spread, right: Spread) -> Tensor:
    """(n, m) squared distances by the fastest way whose rounding is known."""
    if expands(left.rows):
        return (left.squares[:, None] + right.squares).addmm_(left.rows, right.rows.T, alpha=-2)
    return torch.cdist(left.origin, right.origin, compute_mode="donot_use_mm_for_euclid_dist").square_()


def nearest_impostor(
    sets: Sets, anchor: Tensor, inner: Tensor | None = None, outer: Tensor | None = None, squared: bool = False
) -> Tensor:
    """Find for each query the nearest column of another identity, `inner < distance < outer`.

    Args:
        sets: where to seek.
        anchor: (M,) int64 rows, ascending; a row may ask several times.
        inner: (M,) distances, or None for no bound.
        outer: (M,) distances, or None for no bound.
        squared: whether `inner` and `outer` are squared distances.

    Returns:
        (M,) int64 columns, -1 where there is none; ties take the lowest.
    """
    search = _Search(sets, anchor, inner, outer, squared)
    for tile in impostor_tiles(sets):
        exact = search.look(tile)
        if tile.mirrored:
            search.look(tile.flipped(), None if exact is None else exact.T)
    return search.decide()


class _Search:
    """What is known of the nearest columns while the tiles pass by."""

    def __init__(self, sets: Sets, anchor: Tensor, inner: Tensor | None, outer: Tensor | None, squared: bool) -> None:
        none, most = torch.finfo(sets.rows.dtype).min, torch.finfo(sets.rows.dtype).max  # inf stands for genuine pairs
        self.sets, self.anchor, self.squared = sets, anchor, squared
        self.bounded = inner is not None
        self.everyone = torch.equal(anchor, torch.arange(len(sets.rows), device=anchor.device))  # asks once
        self.inner = sets.rows.new_full((len(anchor),), none) if inner is None else inner
        self.outer = sets.rows.new_full((len(anchor),), most) if outer is None else outer
        self.near, self.far = self.inner, self.outer  # squared
        if not squared:
            self.near = self.near if inner is None else inner.square()
            self.far = self.far if outer is None else outer.square()
        self.best = torch.full_like(self.far, most)  # squared distance of the nearest that is surely within
        self.slack = 0.0
        self.waiting: list[Candidates] = []
        self.pending = 0  # how many they are
        # Queries of one row lie together: where those of each piece of rows begin, waited for once.
        self.pieces = list(steps(len(sets.rows), anchor.device))
        starts = [0, len(anchor)]
        if len(self.pieces) > 1:
            edges = torch.tensor([*(rows.start for rows in self.pieces), len(sets.rows)], device=anchor.device)
            starts = torch.searchsorted(anchor, edges).tolist()
        self.queries = {r.start: slice(*ends) for r, *ends in zip(self.pieces, starts, starts[1:], strict=False)}

    def look(self, tile: Tile, exact: Tensor | None = None) -> Tensor | None:
        """Compare the queries of some rows with some columns.

        Args:
            tile: approximate distances.
            exact: what `tile.exact` gives, if it is known.

        Returns:
            What `tile.exact` gives, if it had to be known.
        """
        self.slack = tile.slack
        queries = self.queries[tile.rows.start]
        if self.bounded and queries.stop - queries.start > OFTEN * len(tile.squared):
            exact = tile.exact(self.sets, self.squared) if exact is None else exact
            self._wait(self._beyond(exact, self.anchor[queries] - tile.rows.start, queries), queries, tile)
        else:
            exact = self._compare(tile, queries, exact)
        if self.pending > PENDING:
            self.decide()
            self.pending = sum(len(candidates.query) for candidates in self.waiting)
        return exact

    def _compare(self, tile: Tile, asking: slice, exact: Tensor | None) -> Tensor | None:
        local, slack = self.anchor[asking] - tile.rows.start, tile.slack  # (q,)
        distance = tile.squared if self.everyone else tile.squared[local]  # (q,m)
        near, far, best = self.near[asking], self.far[asking], self.best[asking]
        if self.bounded:
            distance = distance.masked_fill(distance <= (near - slack)[:, None], torch.inf)
        nearest = distance.amin(dim=1)
        unsure = local[:0]
        if self.bounded:  # the nearest may be too near by rounding
            unsure = (nearest <= near + slack).nonzero().flatten()
            row = distance[unsure]
            row.masked_fill_(row <= (near + slack)[unsure, None], torch.inf)
            nearest = nearest.index_put((unsure,), row.amin(dim=1))
        torch.minimum(best, nearest, out=best)
        limit = torch.minimum(best + 2 * slack, far + slack).clamp_(max=torch.finfo(best.dtype).max)
        # Whatever may be the nearest, within rounding, waits to be measured exactly.
        hit = (nearest <= limit).index_fill_(0, unsure, True).nonzero().flatten()
        close = distance if len(hit) == len(distance) else distance[hit]
        among = close <= limit[hit, None]
        if int(among.count_nonzero()) > 2 * len(local) + CROWDED * tile.squared.numel():  # to measure one by one
            exact = tile.exact(self.sets, self.squared) if exact is None else exact
            found = self._nearest(exact if self.everyone else exact[local], asking)
        else:
            query, column = among.nonzero(as_tuple=True)
            found = Candidates(hit[query], column, close[query, column])
        self._wait(found, asking, tile)
        return exact

    def _wait(self, found: Candidates, asking: slice, tile: Tile) -> None:
        query, column = found.query + asking.start, found.column + tile.columns.start
        self.waiting.append(Candidates(query, column, found.squared))
        self.pending += len(query)

    def _nearest(self, exact: Tensor, asking: slice) -> Candidates:
        """Of (q, m) exact distances, find the nearest within bounds: one column at most for each query."""
        nearest = exact
        if self.bounded:
            within = (exact > self.inner[asking, None]) & (exact < self.outer[asking, None])
            nearest = exact.masked_fill(~within, torch.inf)
        column = nearest.argmin(dim=1)  # the first of equals
        return self._better(column, nearest.gather(1, column[:, None]).squeeze(1), asking)

    def _beyond(self, exact: Tensor, local: Tensor, asking: slice) -> Candidates:
        """As `_nearest`, of (n, m) distances of all rows, where a row asks so often that sorting its columns pays."""
        ascending, order = exact.sort(dim=1, stable=True)
        place = bisect_rows(ascending, local, self.inner[asking]).clamp_(max=exact.shape[1] - 1)
        value = ascending[local, place]
        within = (value > self.inner[asking]) & (value < self.outer[asking])
        return self._better(order[local, place], value.masked_fill_(~within, torch.inf), asking)

    def _better(self, column: Tensor, value: Tensor, asking: slice) -> Candidates:
        query = value.isfinite().nonzero().flatten()
        value = value[query] if self.squared else value[query].square()
        self.best[asking][query] = torch.minimum(self.best[asking][query], value)
        return Candidates(query, column[query], value)

    def decide(self) -> Tensor:
        """Measure the candidates and keep the nearest of each query: (M,) columns, -1 for none."""
        if not self.waiting:
            return torch.full_like(self.anchor, -1)
        query, column, approximate = self.waiting[0]
        if len(self.waiting) > 1:  # what was close to the best so far may have been left behind
            query, column, approximate = (torch.cat(part) for part in zip(*self.waiting, strict=True))
            close = approximate <= self.best[query] + 2 * self.slack
            query, column, approximate = query[close], column[close], approximate[close]
        doubtful = query.bincount(minlength=len(self.anchor)).index_select(0, query) > 1  # not alone
        if self.bounded:
            low, high = approximate - self.slack, approximate + self.slack
            doubtful |= (low <= self.near[query]) | (high >= self.far[query])
        open_to_doubt = doubtful.nonzero().flatten()
        if not len(open_to_doubt):
            self.waiting = [Candidates(query, column, approximate)]
            return column.new_full((len(self.anchor),), -1).index_put((query,), column)
        distance = (self.inner[query] + self.outer[query]) / 2  # of those that need no measuring: any that is within
        measured = exact_distance(self.sets, self.anchor[query[open_to_doubt]], column[open_to_doubt], self.squared)
        distance[open_to_doubt] = measured
        within = (distance > self.inner[query]) & (distance < self.outer[query])
        query, column, approximate, distance = (part[within] for part in (query, column, approximate, distance))
        chosen = first_best(query, column, distance, len(self.anchor))
        winners = column == chosen[query]
        self.waiting = [Candidates(query[winners], column[winners], approximate[winners])]
        return chosen


def bisect_rows(ascending: Tensor, row: Tensor, value: Tensor) -> Tensor:
    """Find the first entry above a value in chosen rows.

    Args:
        ascending: (n, m), each row sorted.
        row: (q,) int64 rows, ascending.
        value: (q,).

    Returns:
        (q,) int64 in [0, m]; m where no entry is above the value.
    """
    counts = row.bincount(minlength=len(ascending))
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    values = ascending.new_zeros(len(ascending), int(counts.max()))  # of each row as many as any has
    values[row, place] = value
    return torch.searchsorted(ascending.contiguous(), values, right=True)[row, place]


def first_best(group: Tensor, column: Tensor, value: Tensor, groups: int) -> Tensor:
    """Choose the column with the smallest value in each group; ties take the lowest column.

    Args:
        group: (K,) int64 in [0, groups).
        column: (K,) int64.
        value: (K,).
        groups: how many there are.

    Returns:
        (groups,) int64 columns; -1 for a group without any.
    """
    best = value.new_full((groups,), torch.inf).scatter_reduce(0, group, value, "amin")
    winners = value == best[group]
    none = torch.iinfo(torch.int64).max
    chosen = column.new_full((groups,), none).scatter_reduce(0, group[winners], column[winners], "amin")
    return torch.where(chosen == none, -1, chosen)
