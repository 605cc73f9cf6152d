"""Nearest rows of another identity: searched by matrix products, decided by exact distances."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import GenuinePairs, Identities, check_batch
from siamese_verify.pairwise.blocks import BAND, bands, blocks, ranges, rectangles
from siamese_verify.pairwise.distances import Centered, centered, chunks, has_exact_products, identical, places
from siamese_verify.pairwise.ranks import gather_rows, sizes_of_ranks
from siamese_verify.pairwise.tiles import QUERIES, TILE, WALKED, Tiles, fused, kernels, rounded, squared_lengths

SORTED = 8  # queries of a row beyond which its distances are sorted once, not compared for each
CROWDED = 1 / 64  # share of candidates beyond which all distances of a band are computed exactly


class ComparedRows(NamedTuple):
    """Rows and the columns that they are compared with."""

    rows: Tensor  # (N, D) float32 or float64
    labels: Tensor  # (N,) int64
    columns: Tensor  # (C, D)
    column_labels: Tensor  # (C,) int64
    itself: bool  # the first N columns are the rows, and no row is its own positive
    own: slice | None = None  # rows of this rank; None if no other process shares them
    factors: torch.dtype = torch.float32  # of products where kernels reduce them, see `pairwise.tiles`

    @property
    def anchors(self) -> slice:
        """Rows that are anchors here: this rank's, or all."""
        return slice(0, len(self.labels)) if self.own is None else self.own

    def genuine_pairs(self) -> GenuinePairs:
        """Genuine pairs of an anchor and a column, ordered by anchor, then column."""
        own = self.anchors
        return Identities(self.column_labels).pairs(self.labels[own], own.start, self.itself)

    def shares(self) -> Iterator[tuple[range, range]]:
        """Rows and columns whose pairs are this rank's share of all, each once; see `rectangles`."""
        own, rows, columns = range(self.anchors.start, self.anchors.stop), len(self.labels), len(self.column_labels)
        yield own, own if self.itself else range(columns)
        if self.itself:
            yield from rectangles(self.anchors, rows)
            yield own, range(rows, columns)

    def part(self, rows: range, columns: range) -> ComparedRows:
        """Some rows with some columns; with themselves if both are the same."""
        row, column = (slice(some.start, some.stop, some.step) for some in (rows, columns))
        return ComparedRows(
            self.rows[row].contiguous(),
            self.labels[row].contiguous(),
            self.columns[column].contiguous(),
            self.column_labels[column].contiguous(),
            self.itself and rows == columns,
        )


def check_compared(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None,
    reference_labels: Tensor | None,
    together: bool = False,
    own: slice | None = None,
) -> ComparedRows:
    """Compare embeddings with references, or with themselves; arguments and errors as in `check_batch`.

    Args:
        embeddings: the rows.
        labels: of the rows.
        references: the columns; None compares the rows with themselves.
        reference_labels: of the references.
        together: compare with the rows and, after them, the references.
        own: rows of this rank, if ranks share them.
    """
    batch = check_batch(embeddings, labels, references, reference_labels, own)
    if references is None or together:
        columns, itself = (batch.candidates, batch.candidate_labels), True
    else:
        columns, itself = (batch.references, batch.reference_labels), False
    return ComparedRows(batch.embeddings, batch.labels, *columns, itself, own, batch.factors)


def exact_distance(compared: ComparedRows, row: Tensor, column: Tensor, squared: bool = False) -> Tensor:
    """(M,) Euclidean distances from differences in float64, rounded to the type of the rows: ties are exact."""
    result = compared.rows.new_empty(len(row), dtype=torch.float64)
    for part in chunks(len(row), compared.rows):
        left, right = compared.rows.index_select(0, row[part]), compared.columns.index_select(0, column[part])
        difference = left.double().sub_(right)  # (m,D)
        torch.linalg.vecdot(difference, difference, out=result[part])
    return _rounded(result, compared.rows.dtype, squared)


def _rounded(between: Tensor, dtype: torch.dtype, squared: bool) -> Tensor:
    return (between if squared else between.sqrt()).to(dtype)


class Distances:
    """Euclidean distances of all rows from all columns, some rows at a time.

    They come from products of centered rows in float32, with a bound of their rounding. Where that cannot decide, exact
    ones are computed: by products in float64 where these determine what a difference would round to, else by
    differences.
    """

    def __init__(self, compared: ComparedRows) -> None:
        self.compared = compared
        self.left, self.right = centered(compared.rows, compared.columns, compared.itself)
        self.identities = Identities(compared.column_labels)

    @cached_property
    def precise(self) -> tuple[Centered, Centered]:
        """Rows and columns in float64."""
        return centered(self.compared.rows.double(), self.compared.columns.double(), self.compared.itself)

    @cached_property
    def number(self) -> tuple[Tensor, Tensor]:
        """(N,) and (C,) int64: rows and columns of one number are identical."""
        rows, columns = self.compared.rows, self.compared.columns
        row, column = identical(torch.cat([rows, columns])).tensor_split([len(rows)])
        return row, column

    def bands(self, numbers: int, upper: bool = False) -> Iterator[Band]:
        """Anchors with all columns, about `numbers` distances at a time; `upper` skips columns before the first row."""
        own, columns = self.compared.anchors, len(self.compared.columns)
        for part in bands(own.stop, columns, numbers, own.start) if columns else ():
            yield Band(self, part, slice(part.start if upper else 0, columns))


class Band:
    """Distances of some rows from columns.

    Attributes:
        squared: (n, m) approximate squared distances; inf where the two have one identity.
        slack: how far a squared distance may be from the exact one.
    """

    def __init__(self, distances: Distances, rows: slice, columns: slice) -> None:
        self.distances, self.rows, self.columns = distances, rows, columns
        compared = distances.compared
        left, right = distances.left.part(rows), distances.right.part(columns)
        self.slack = rounding(left, right)
        if has_exact_products(left.rows):
            self.squared = expanded(left, right)
        else:
            precise, others = distances.precise
            self.squared = expanded(precise.part(rows), others.part(columns)).to(left.rows.dtype)
        row, column = distances.identities.pairs(compared.labels[rows])  # faster than to compare all labels
        if columns.start:
            row, column = row[column >= columns.start], column[column >= columns.start] - columns.start
        self.squared[row, column] = torch.inf

    def exact(self, squared: bool) -> Tensor:
        """(n, m) distances, each the one that `exact_distance` gives; inf where the two have one identity."""
        compared, (rows, columns) = self.distances.compared, self.distances.precise
        left, right = rows.part(self.rows), columns.part(self.columns)
        number, other = self.distances.number
        negative = self.squared < torch.inf
        apart = (number[self.rows, None] != other[self.columns]).logical_and_(negative)
        between, slack, kind = expanded(left, right), rounding(left, right), compared.rows.dtype
        low = _rounded((between - slack).clamp_(min=0), kind, squared)
        high = _rounded((between + slack).clamp_(min=0), kind, squared)
        row, column = (low != high).logical_and_(apart).nonzero(as_tuple=True)
        low[row, column] = exact_distance(compared, row + self.rows.start, column + self.columns.start, squared)
        return low.masked_fill_(~apart, 0).masked_fill_(~negative, torch.inf)

    def crowded(self, candidates: Tensor) -> bool:
        """Whether a mask holds too many pairs to compute their distances one by one."""
        return int(candidates.count_nonzero()) > 2 * len(candidates) + CROWDED * self.squared.numel()


def expanded(left: Centered, right: Centered) -> Tensor:
    """(n, m) squared distances by products."""
    return (left.squares[:, None] + right.squares).addmm_(left.rows, right.rows.T, alpha=-2)


def rounding(left: Centered, right: Centered) -> float:
    """How far squared distances by inner products may be off: 8 sqrt(D) u (|a|^2 + |b|^2).

    After Higham & Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 2019.
    """
    longest = float(left.squares.max() + right.squares.max())
    return 8 * math.sqrt(left.rows.shape[1]) * torch.finfo(left.rows.dtype).eps / 2 * longest


class Query(NamedTuple):
    """Rows of a band that search beyond one distance and within another; a row may occur several times."""

    row: Tensor  # (q,) int64, ascending, from the first of the band
    inner: Tensor  # (q,)
    outer: Tensor  # (q,)

    def part(self, some: slice) -> Query:
        """Some of them."""
        return Query(*(field[some] for field in self))


def nearest_negatives(
    compared: ComparedRows,
    anchor: Tensor,
    inner: Tensor | None = None,
    outer: Tensor | None = None,
    squared: bool = False,
    numbers: int = BAND,
) -> Tensor:
    """Nearest column of another identity for each anchor, with `inner < distance < outer`.

    Args:
        compared: rows and columns.
        anchor: (M,) int64 rows, ascending; a row may occur several times.
        inner: (M,) distances, or None for no bound.
        outer: (M,) distances, or None for no bound.
        squared: whether `inner` and `outer` are squared distances.
        numbers: distances held at once.

    Returns:
        (M,) int64 columns, -1 where there is none; ties take the lowest. Where kernels reduce the products, distances
        compare as `pairwise.pair_sum` has those of impostors: of two that differ by less either is the nearest, and
        one may lie that much outside its bounds. This waits for a GPU once if there are bounds.
    """
    if not len(anchor) or not len(compared.columns):
        return torch.full_like(anchor, -1)
    found = _fused_nearest(compared, anchor, inner, outer, squared) if fused(compared.rows) else None
    if found is not None:
        return found
    bounds = [
        compared.rows.new_full((len(anchor),), default) if given is None else given
        for given, default in ((inner, -torch.inf), (outer, torch.inf))
    ]
    last = anchor.bincount(minlength=len(compared.rows)).cumsum(0).tolist()  # number of queries up to each row
    columns = []
    for band in Distances(compared).bands(numbers):
        some = slice(last[band.rows.start - 1] if band.rows.start else 0, last[band.rows.stop - 1])
        query, size = Query(anchor[some] - band.rows.start, *(bound[some] for bound in bounds)), len(band.squared)
        if len(query.row) > SORTED * size:
            columns.append(_nearest_by_sorting(band, query, squared))
        else:
            columns += [_nearest(band, query.part(part), squared) for part in ranges(len(query.row), size)]
    return torch.cat(columns)


def _fused_nearest(
    compared: ComparedRows, anchor: Tensor, inner: Tensor | None, outer: Tensor | None, squared: bool
) -> Tensor | None:
    """As `nearest_negatives` by kernels; None where rows have too many searches."""
    if inner is None and outer is None:
        return nearest_by_kernel(compared)[:, 0].index_select(0, anchor)
    number = torch.arange(len(compared.rows), device=anchor.device)
    place = torch.arange(len(anchor), device=anchor.device) - torch.searchsorted(anchor, number)[anchor]
    shape = len(compared.rows), int(place.max()) + 1
    if shape[1] > QUERIES:
        return None
    bounds = []
    for given, default, closed in ((inner, -torch.inf, torch.inf), (outer, torch.inf, -torch.inf)):
        bound = compared.rows.new_full(anchor.shape, default) if given is None else given.to(compared.rows.dtype)
        bound = bound if squared else bound.square().copysign_(bound)
        bounds.append(bound.new_full(shape, closed).index_put_((anchor, place), bound))
    return nearest_by_kernel(compared, (bounds[0], bounds[1]))[anchor, place]


def nearest_by_kernel(compared: ComparedRows, bounds: tuple[Tensor, Tensor] | None = None, size: int = TILE) -> Tensor:
    """(N, Q) int64: nearest columns of another identity of this rank's rows, -1 for none; nothing waits for a GPU.

    Args:
        compared: rows and columns.
        bounds: (N, Q) squared distances that each of a row's searches is beyond, and within; None searches once.
        size: rows of a tile.
    """
    columns, labels, count = compared.columns, compared.column_labels, len(compared.rows)
    if not compared.itself:  # rows are numbered after the columns
        columns, labels = torch.cat([columns, compared.rows]), torch.cat([labels, compared.labels])
    factors = rounded(columns - columns.mean(dim=0), compared.factors)
    squares = squared_lengths(factors)
    shift, own = (0 if compared.itself else len(compared.columns)), compared.anchors
    best = labels.new_full((count, 1 if bounds is None else bounds[0].shape[1]), torch.iinfo(torch.int64).max)
    tiles = Tiles(factors, (min(size, count), min(size, len(columns))))

    def search(i: slice, j: slice, mirrored: bool) -> None:
        """Compare some rows with some columns, and with the rows of the same numbers if mirrored."""
        row = slice(i.start + shift, i.stop + shift)
        of = j if mirrored else i
        product = tiles.product(factors[row], factors[j])
        for some in ranges(best.shape[1], SORTED):  # their partial results take memory
            near = None if bounds is None else [(bounds[0][part, some], bounds[1][part, some]) for part in (i, of)]
            by_row, by_column = kernels().nearest_impostors(
                *(product, labels[row], labels[j], (squares[row], squares[j])),
                *(near and near[0], near and near[1], (i.start, j.start), mirrored),
            )
            best[i, some] = torch.minimum(best[i, some], by_row)
            if by_column is not None:
                best[j, some] = torch.minimum(best[j, some], by_column)

    if compared.itself and compared.own is None:
        for i, j in blocks(count, size=size):
            search(i, j, i != j)
    rest = slice(count if compared.itself and compared.own is None else 0, len(compared.columns))
    for i, j in blocks(own.stop - own.start, rest.stop - rest.start, size):
        search(slice(i.start + own.start, i.stop + own.start), slice(j.start + rest.start, j.stop + rest.start), False)
    found: Tensor = kernels().unpacked(best)
    return found


def farthest_positives(compared: ComparedRows) -> Tensor | None:
    """(N,) int64: the farthest column of each row's identity by a kernel; ties the lowest; -1 for none.

    None where an identity has so many columns that a walk over them takes longer than PyTorch. Waits for a GPU.
    """
    identities = Identities(compared.column_labels)
    first, last = identities.span(compared.labels)
    if int((last - first).max()) > WALKED:
        return None
    rows, columns = compared.rows.contiguous(), compared.columns.contiguous()
    found: Tensor = kernels().farthest_genuine(rows, columns, identities.order, first, last, compared.itself)
    return found


def _nearest(band: Band, query: Query, squared: bool) -> Tensor:
    """(q,) columns; -1 for none."""
    once = len(query.row) == len(band.squared) and bool((query.row[1:] > query.row[:-1]).all())
    distance = band.squared if once else band.squared[query.row]  # (q,m)
    near, far = query.inner, query.outer
    if not squared:
        near, far = near.square().copysign_(near), far.square()
    bounded = bool(((near > -torch.inf) | (far < torch.inf)).any())
    beyond = distance.masked_fill(distance <= (near + band.slack)[:, None], torch.inf) if bounded else distance
    limit = torch.minimum(beyond.amin(dim=1) + 2 * band.slack, far + band.slack)
    candidates = distance <= limit.clamp_(max=torch.finfo(distance.dtype).max)[:, None]  # inf is of one identity
    if bounded:
        candidates.logical_and_(distance > (near - band.slack)[:, None])
    if band.crowded(candidates):
        exact = band.exact(squared)
        exact = exact if once else exact[query.row]
        if bounded:
            outside = (exact <= query.inner[:, None]).logical_or_(exact >= query.outer[:, None])
            exact = exact.masked_fill(outside, torch.inf)
        value, column = exact.min(dim=1)  # of equals the first
        return torch.where(value < torch.inf, column, -1)
    number, column = candidates.nonzero(as_tuple=True)
    if not bounded and torch.equal(number, torch.arange(len(query.row), device=number.device)):
        return column  # one candidate each
    value = exact_distance(band.distances.compared, query.row[number] + band.rows.start, column, squared)
    within = ((value > query.inner[number]) & (value < query.outer[number])).nonzero().flatten()
    return first_best(number[within], column[within], value[within], len(query.row))


def _nearest_by_sorting(band: Band, query: Query, squared: bool) -> Tensor:
    """As `_nearest`, where a row occurs so often that sorting its distances pays."""
    ascending, order = band.exact(squared).sort(dim=1, stable=True)
    place = bisect_rows(ascending, query.row, query.inner).clamp_(max=ascending.shape[1] - 1)
    value = ascending[query.row, place]
    return torch.where((value > query.inner) & (value < query.outer), order[query.row, place], -1)


def nearest_negative_pairs(compared: ComparedRows, count: int, numbers: int = BAND) -> tuple[Tensor, Tensor]:
    """(K,) rows and columns of the `count` nearest pairs of two identities, nearest first; ties by row, then column.

    Two rows of one set are one pair, with the lower row first. Ranks that share the rows search a share each, and
    gather what they found: 24 bytes for each of at most `count` pairs of each rank.
    """
    if compared.own is None:
        found = _nearest_pairs(compared, count, numbers)
        return found.row, found.column
    found, last = NearPairs(compared.labels[:0], compared.labels[:0], compared.rows.new_empty(0)), torch.inf
    for rows, columns in compared.shares():
        row, column, value = _nearest_pairs(compared.part(rows, columns), count, numbers, last)
        row, column = row * rows.step + rows.start, column * columns.step + columns.start
        if compared.itself:
            row, column = torch.minimum(row, column), torch.maximum(row, column)
        further = NearPairs(row, column, value)
        found = NearPairs(*(torch.cat(fields) for fields in zip(found, further, strict=True))).nearest(count)
        if len(found.row) == count > 0:  # one as far as the last may come before it
            last = float(torch.nextafter(found.squared[-1], torch.full_like(found.squared[-1], torch.inf)))
    sizes = sizes_of_ranks(len(found.row), found.row.device)
    found = NearPairs(*(gather_rows(field, sizes) for field in found)).nearest(count)
    return found.row, found.column


class NearPairs(NamedTuple):
    """Pairs of a row and a column."""

    row: Tensor  # (K,) int64
    column: Tensor  # (K,) int64
    squared: Tensor  # (K,) exact squared distances

    def nearest(self, count: int) -> NearPairs:
        """The nearest of pairs in any order, nearest first; ties by row, then column."""
        order = self.column.argsort()
        for field in (self.row, self.squared):
            order = order[field[order].argsort(stable=True)]
        return NearPairs(*(field[order[:count]] for field in self))


def _nearest_pairs(compared: ComparedRows, count: int, numbers: int, last: float = torch.inf) -> NearPairs:
    """The `count` nearest of all rows, in the order of `nearest_negative_pairs`; not all of those from `last` on."""
    row = column = compared.labels.new_empty(0)
    value = compared.rows.new_empty(0)  # squared distances
    # `last` is the squared distance that a further pair must be below: of equals the earlier ones count
    for band in Distances(compared).bands(numbers, upper=compared.itself) if count else ():
        candidates = band.squared <= min(last + band.slack, torch.finfo(value.dtype).max)
        if compared.itself:
            candidates.triu_(1)
        close = band.squared[candidates] if last == torch.inf else value[:0]
        if len(close) > count:
            candidates &= band.squared <= close.kthvalue(count).values + 2 * band.slack
        exact = band.exact(squared=True) if band.crowded(candidates) else None
        if exact is not None:
            candidates &= exact < last
        first, second = candidates.nonzero(as_tuple=True)
        row, column = torch.cat([row, first + band.rows.start]), torch.cat([column, second + band.columns.start])
        new = slice(len(value), None)
        distance = exact_distance(compared, row[new], column[new], True) if exact is None else exact[first, second]
        value = torch.cat([value, distance])
        if len(value) > 2 * count:  # seldom, as sorting takes time
            kept = value.sort(stable=True).indices[:count].sort().values
            row, column, value = row[kept], column[kept], value[kept]
            last = float(value.max())
    order = value.sort(stable=True).indices[:count]
    return NearPairs(row[order], column[order], value[order])


def bisect_rows(ascending: Tensor, row: Tensor, value: Tensor) -> Tensor:
    """First entry above a value in chosen rows.

    Args:
        ascending: (n, m), each row sorted.
        row: (q,) int64 rows, ascending.
        value: (q,).

    Returns:
        (q,) int64 in [0, m]; m where no entry is above the value.
    """
    counts = row.bincount(minlength=len(ascending))
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    values = ascending.new_zeros(len(ascending), int(counts.max()))  # padded to the row with most
    values[row, place] = value
    return torch.searchsorted(ascending.contiguous(), values, right=True)[row, place]


def first_best(group: Tensor, column: Tensor, value: Tensor, groups: int) -> Tensor:
    """(groups,) int64 columns: the one with the smallest value in each group, of ties the lowest; -1 without any.

    Args:
        group: (K,) int64 in [0, groups).
        column: (K,) int64.
        value: (K,).
        groups: their number.
    """
    best = value.new_full((groups,), torch.inf).scatter_reduce(0, group, value, "amin")
    winners = places(value == best.index_select(0, group))
    group, column = group.index_select(0, winners), column.index_select(0, winners)
    none = torch.iinfo(torch.int64).max
    chosen = column.new_full((groups,), none).scatter_reduce(0, group, column, "amin")
    return torch.where(chosen == none, -1, chosen)
