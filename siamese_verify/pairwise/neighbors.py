"""The rows most alike to each of many rows: half a matrix product for a set with itself, decided by exact cosines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.pairwise.distances import identical

SIDE = 2048  # rows of a tile: small enough for a cache, large enough for threads to be worth while
WAITING = 1 << 19  # candidates that are not worth sorting yet
GATHERED = 1 << 20  # numbers of gathered rows held at once
CUT = {"highest": 0.0, "high": 2.0**-11, "medium": 2.0**-8}  # what float32 factors may lose before they are multiplied


@torch.no_grad()
def nearest_directions(queries: Tensor, keys: Tensor, count: int, own: Tensor | None = None) -> Tensor:
    """Find the rows most alike by cosine, whatever matrix products round to.

    Inner products are compared in float64, each summed in the same order, so that neither threads nor tiles change the
    result; equals come in the order of `keys`. Where `queries` is `keys`, and `own` is None or everyone himself, each
    two rows are multiplied once. Memory is some five times that of the result, and that of a float32 copy of other
    types. Rows that lie too close together for float32 are searched a second time, in float64.

    Args:
        queries: (Q, D) finite unit rows of any floating-point type; half and bfloat16 are multiplied in float32.
        keys: (K, D) finite unit rows on the same device.
        count: how many for each query; no more than there are keys are returned.
        own: (Q,) int64 in [0, K), for each query the key that is the query itself and is left out; None = there is
            none.

    Returns:
        (Q, min(count, K)) int64 rows of `keys`, the most alike first; at most K - 1 where `own` is given.

    Raises:
        InputError: NaN or infinity.
    """
    count = max(0, min(count, len(keys) - (own is not None)))
    if not count or not len(queries):
        return torch.empty(len(queries), count, dtype=torch.int64, device=keys.device)
    itself = queries is keys and (own is None or torch.equal(own, torch.arange(len(keys), device=own.device)))
    precise = torch.float64 if torch.float64 in (queries.dtype, keys.dtype) else torch.float32
    keys = keys.to(precise)
    queries = keys if itself else queries.to(precise)
    stand_in = stand_ins(keys, count + 1)
    if stand_in is None:
        return search(queries, keys, count, own, itself)
    # Nobody needs more of identical keys than the first; left-out queries are answered as the last one kept.
    kept = (stand_in == torch.arange(len(keys), device=keys.device)).nonzero().flatten()
    place = torch.full_like(stand_in, -1).index_put((kept,), torch.arange(len(kept), device=keys.device))
    keys = keys[kept]
    if itself:
        return kept[search(keys, keys, count, None if own is None else place[kept], True)][place[stand_in]]
    return kept[search(queries, keys, count, None if own is None else place[own], False)]


def stand_ins(rows: Tensor, most: int) -> Tensor | None:
    """Find rows that have at least `most` identical ones before them.

    Args:
        rows: (N, D) finite.
        most: at least 1.

    Returns:
        (N,) int64: for such a row the last of the first `most` that are identical to it, for any other row itself; None
        if there is no such row.
    """
    number = identical(rows)
    size = number.bincount(minlength=len(rows))
    if int(size.amax()) <= most:
        return None
    first = size.cumsum(dim=0) - size
    order = number.argsort(stable=True)
    index = torch.arange(len(rows), device=rows.device)
    surplus = order[index - first[number[order]] >= most]
    return index.index_put((surplus,), order[first[number[surplus]] + most - 1])


class Tile(NamedTuple):
    """Rows that are compared with columns."""

    rows: slice
    columns: slice
    first: bool  # these rows were in no tile before


def tiles(rows: int, columns: int, itself: bool) -> Iterator[Tile]:
    """Compare all rows with all columns, all at the same pace; a set with itself in unordered pairs of pieces."""
    left, right = pieces(rows), pieces(columns)
    for offset in range(len(right) // 2 + 1 if itself else len(right)):
        opposite = itself and 0 < 2 * offset == len(right)  # the second half would meet the first again
        for number, piece in enumerate(left[:offset] if opposite else left):
            yield Tile(piece, right[(number + offset) % len(right)], offset == 0)


def pieces(count: int) -> list[slice]:
    """Cut rows evenly."""
    size = -(-count // -(-count // SIDE))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def search(queries: Tensor, keys: Tensor, count: int, own: Tensor | None, itself: bool) -> Tensor:
    """As `nearest_directions`, of float32 or float64 rows.

    Args:
        own: -1 leaves out nobody.
        itself: the queries are the keys, and each is his own if `own` is given.
    """
    found = _Search(queries, keys, count).run(own, itself)
    if found is None:
        precise = keys.double()
        found = _Search(precise if queries is keys else queries.double(), precise, count).run(own, itself)
        assert found is not None
    return found


class _Search:
    """What may be among the nearest while the tiles pass by."""

    def __init__(self, queries: Tensor, keys: Tensor, count: int) -> None:
        self.queries, self.keys, self.count = queries, keys, count
        longest = [float(torch.linalg.vector_norm(rows, dim=1).max()) for rows in (queries, keys)]
        if not torch.tensor(longest).isfinite().all():
            raise InputError("rows to find the nearest directions of hold NaN or infinity: lower the learning rate.")
        # After Higham & Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 2019.
        rounding = 8 * keys.shape[1] ** 0.5 * torch.finfo(keys.dtype).eps / 2
        if keys.dtype == torch.float32:
            rounding += 3 * CUT[torch.get_float32_matmul_precision()]
        self.slack = 2 * rounding * longest[0] * longest[1]  # two products further apart are in the right order
        self.least = keys.new_full((len(queries),), torch.finfo(keys.dtype).min)  # of a product worth a look
        none = torch.empty(0, dtype=torch.int64, device=keys.device)
        self.waiting = [(none, none, keys.new_empty(0))]  # queries, keys and products of candidates
        self.kept = self.pending = 0  # how many of them were sorted and not
        side = min(SIDE, len(queries)), min(SIDE, len(keys))
        self.memory = keys.new_empty(2, side[0] * side[1])
        self.words = torch.empty(-(-side[0] * side[1] // 8), dtype=torch.int64, device=keys.device)

    def run(self, own: Tensor | None, itself: bool) -> Tensor | None:
        """(Q, count) keys; None if float32 can't tell too many apart."""
        for rows, columns, first in tiles(len(self.queries), len(self.keys), itself):
            shape = rows.stop - rows.start, columns.stop - columns.start
            product, least = (memory[: shape[0] * shape[1]].view(shape) for memory in self.memory)
            torch.mm(self.queries[rows], self.keys[columns].T, out=product)
            if own is not None and (first or not itself):
                column = own[rows] - columns.start
                within = ((column >= 0) & (column < shape[1])).nonzero().flatten()
                product[within, column[within]] = -torch.inf
            if first and self.count < shape[1]:
                best = product.topk(self.count, dim=1, sorted=False).values
                self.least[rows] = best.amin(dim=1).sub_(self.slack)
            mirrored = itself and not first
            limit = self.least[rows, None]
            torch.minimum(limit, self.least[columns] if mirrored else limit.expand(shape), out=least)
            for row, column, value in self.reaching(product, least):
                row, column = row + rows.start, column + columns.start
                if mirrored:
                    self.look(column, row, value)
                self.look(row, column, value)
                if self.pending > max(self.kept, WAITING):
                    self.sort()
                    if self.kept > 2 * self.count * len(self.queries) + WAITING:
                        if self.keys.dtype == torch.float32:
                            return None
                        self.decide()
        self.decide()
        return self.waiting[0][1].view(len(self.queries), self.count)

    def reaching(self, product: Tensor, least: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows, columns and values of what in a tile is at least so large, some at a time."""
        words = self.words[: -(-product.numel() // 8)]
        words[-1] = 0
        hit = words.view(torch.bool)
        torch.ge(product, least, out=hit[: product.numel()].view(product.shape))
        # Few are: eight are looked through at once.
        for part in torch.split(words.nonzero().flatten(), max(1, WAITING // 32)):
            word, place = hit.view(-1, 8)[part].nonzero().unbind(dim=1)
            place = part[word] * 8 + place
            row = place.div(product.shape[1], rounding_mode="floor")
            yield row, place - row * product.shape[1], product.view(-1)[place]

    def look(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Let those wait that may be among the nearest."""
        close = (value >= self.least[query]).nonzero().flatten()
        self.waiting.append((query[close], key[close], value[close]))
        self.pending += len(close)

    def sort(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keep what may still be among the nearest: queries ascending, and of each the largest product first."""
        query, key, value = (torch.cat(part) for part in zip(*self.waiting, strict=True))
        self.waiting = []
        order = descending(query, value)
        query, key, value = query[order], key[order], value[order]
        size = query.bincount(minlength=len(self.least))
        last = (size.cumsum(dim=0) - size + self.count - 1).clamp_(max=len(query) - 1)
        self.least = torch.where(size < self.count, self.least, torch.maximum(self.least, value[last] - self.slack))
        close = (value >= self.least[query]).nonzero().flatten()
        self.waiting = [(query[close], key[close], value[close])]
        self.kept, self.pending = len(close), 0
        return self.waiting[0]

    def decide(self) -> None:
        """Keep the nearest of the keys seen so far only, the nearest first."""
        query, key, value = self.sort()
        apart = (query[1:] != query[:-1]) | (value[:-1] - value[1:] > self.slack)
        edge = apart.new_ones(1)
        doubtful = (~(torch.cat([edge, apart]) & torch.cat([apart, edge]))).nonzero().flatten()
        # Runs of products that rounding may have put in another order are ordered anew, where they are.
        run = torch.cat([~edge, apart]).cumsum(dim=0)[doubtful]
        order = key[doubtful].argsort()
        exact = self.measured(query[doubtful], key[doubtful])
        order = order[exact[order].argsort(stable=True, descending=True)]
        order = doubtful[order[run[order].argsort(stable=True)]]
        key[doubtful], value[doubtful] = key[order], value[order]
        size = query.bincount(minlength=len(self.least))
        rank = torch.arange(len(query), device=query.device) - (size.cumsum(dim=0) - size)[query]
        best = (rank < self.count).nonzero().flatten()
        self.waiting = [(query[best], key[best], value[best])]
        self.kept = len(best)

    def measured(self, query: Tensor, key: Tensor) -> Tensor:
        """(M,) inner products in float64, each summed in the same order."""
        size = max(1, GATHERED // max(self.keys.shape[1], 1))
        pairs = zip(torch.split(query, size), torch.split(key, size), strict=True)
        return torch.cat([(self.queries[q].double() * self.keys[k].double()).sum(dim=1) for q, k in pairs])


def descending(query: Tensor, value: Tensor) -> Tensor:
    """Find the order by query, and then from the largest value on."""
    if value.dtype != torch.float32:
        order = value.argsort(descending=True)
        return order[query[order].argsort(stable=True)]
    bits = value.view(torch.int32)  # in the order of the values; of negative ones the reverse
    return ((query << 32) - (bits ^ ((bits >> 31) & 0x7FFFFFFF))).argsort()  # of integers the sort is faster
