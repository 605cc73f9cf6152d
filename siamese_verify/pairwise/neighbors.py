"""Nearest neighbors by cosine: half a matrix product for a set with itself, decided by exact inner products."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.pairwise.blocks import blocks, ranges
from siamese_verify.pairwise.distances import chunks, identical, matmul_precision, places
from siamese_verify.pairwise.tiles import TILE, fused

SIZE = 2048  # rows of a block: small enough for a cache, large enough for threads to pay
CUT = {"highest": 0.0, "high": 2.0**-11, "medium": 2.0**-8}  # what float32 factors may lose before they are multiplied


def nearest_neighbors(queries: Tensor, keys: Tensor | None, count: int, size: int = SIZE) -> Tensor:
    """The `count` keys with the largest inner product with each query, largest first; ties in the order of the keys.

    Inner products are compared in float64, each summed in the same order, so that neither threads nor blocks change
    the result. Memory is some fifteen times that of the result, and that of a float32 copy of other types.

    Args:
        queries: (Q, D) finite unit rows of any floating-point type; half and bfloat16 are multiplied in float32.
        keys: (K, D) finite unit rows on the same device; None searches among the queries, each without itself.
        count: neighbors of each query; fewer are returned if there are fewer keys.
        size: rows of a block.

    Returns:
        (Q, min(count, K)) int64 rows of `keys`, or (Q, min(count, Q - 1)).

    Raises:
        InputError: NaN or infinity.
    """
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):  # which would round the products
        return _nearest_neighbors(queries, keys, count, size)


def _nearest_neighbors(queries: Tensor, keys: Tensor | None, count: int, size: int) -> Tensor:
    itself = keys is None
    keys = queries if keys is None else keys
    count = max(0, min(count, len(keys) - itself))
    if not count or not len(queries):
        return torch.empty(len(queries), count, dtype=torch.int64, device=keys.device)
    precise = torch.float64 if torch.float64 in (queries.dtype, keys.dtype) else torch.float32
    for rows in (queries, keys):
        if not rows.sum(dtype=torch.float64).isfinite():
            raise InputError("Rows to find the neighbors of hold NaN or infinity: lower the learning rate.")
    queries, keys = queries.to(precise), keys.to(precise)
    replacement = _replacements(keys, count + 1)
    kept = (replacement == torch.arange(len(keys), device=keys.device)).nonzero().flatten()
    if len(kept) < len(keys):  # of many identical keys no query needs more than the first
        keys = keys[kept]
    queries = keys if itself else queries
    found = _by_tiles(queries, keys, count, itself) if fused(keys) else None
    if found is None:
        found = _TopK(queries, keys, count).search(itself, size)
    if found is None:
        doubled = keys.double()
        found = _TopK(doubled if itself else queries.double(), doubled, count).search(itself, size)
        assert found is not None
    found = kept[found]
    return found[torch.searchsorted(kept, replacement)] if itself else found


def _by_tiles(queries: Tensor, keys: Tensor, count: int, itself: bool, size: int = TILE) -> Tensor | None:
    """(Q, count) keys by torch's top-k of each tile; None if float32 cannot tell too many apart.

    A few more than `count` are kept and compared in float64; all others must be further than rounding reaches. A GPU is
    waited for once, at the end.
    """
    others = len(keys) - itself
    kept = min(others, count + max(8, count // 4))
    decision = _TopK(queries, keys, count)
    found, last = [], []
    for rows in ranges(len(queries), size):
        value = queries.new_empty(rows.stop - rows.start, 0)
        key = torch.empty(value.shape, dtype=torch.int64, device=keys.device)
        for columns in ranges(len(keys), size):
            product = queries[rows] @ keys[columns].T
            if itself and rows == columns:
                product.fill_diagonal_(-torch.inf)
            best = product.topk(min(kept, product.shape[1]), dim=1)
            value = torch.cat([value, best.values], dim=1)
            key = torch.cat([key, best.indices + columns.start], dim=1)
            value, place = value.topk(min(kept, value.shape[1]), dim=1)
            key = key.gather(1, place)
        found.append(key.sort(dim=1).values)
        last.append(value[:, -1])
    key = torch.cat(found)
    query = torch.arange(len(key), device=key.device).repeat_interleave(kept, output_size=key.numel())
    exact, place = decision.exact(query, key.flatten()).view(key.shape).sort(dim=1, descending=True, stable=True)
    if kept < others and not (exact[:, count - 1] > torch.cat(last) + decision.slack).all():
        return None
    return key.gather(1, place)[:, :count]


def _replacements(rows: Tensor, most: int) -> Tensor:
    """(N,) int64: each row itself, but after `most` identical rows the last of these, whose neighbors are the same."""
    number = identical(rows)
    size = number.bincount(minlength=len(rows))
    first = size.cumsum(dim=0) - size
    order = number.argsort(stable=True)
    index = torch.arange(len(rows), device=rows.device)
    surplus = order[index - first[number[order]] >= most]
    return index.index_put((surplus,), order[first[number[surplus]] + most - 1])


class _TopK:
    """Candidates for the largest inner products, while blocks of them are computed."""

    def __init__(self, queries: Tensor, keys: Tensor, count: int) -> None:
        self.queries, self.keys, self.count = queries, keys, count
        longest = [float(torch.linalg.vector_norm(rows, dim=1).max()) for rows in (queries, keys)]
        # After Higham & Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 2019.
        rounding = 8 * keys.shape[1] ** 0.5 * torch.finfo(keys.dtype).eps / 2
        if keys.dtype == torch.float32:
            rounding += 3 * CUT[matmul_precision()]
        self.slack = 2 * rounding * longest[0] * longest[1]  # two products further apart are in the right order
        self.least = keys.new_full((len(queries),), torch.finfo(keys.dtype).min)  # that a candidate must reach
        none = torch.empty(0, dtype=torch.int64, device=keys.device)
        self.candidates = [(none, none, keys.new_empty(0))]  # queries, keys and approximate products
        self.sorted = self.unsorted = 0  # number of candidates

    def search(self, itself: bool, size: int) -> Tensor | None:
        """(Q, count) keys; None if float32 cannot tell too many apart."""
        few = size * size // 8  # candidates that are not worth sorting
        # The diagonal first: it gives every row a bound, before other blocks are searched for both of their sides.
        walk = sorted(
            blocks(len(self.queries), None if itself else len(self.keys), size),
            key=lambda block: itself and block[0] != block[1],
        )
        memory = self.keys.new_empty(min(size, len(self.queries)) * min(size, len(self.keys)))
        for rows, columns in walk:
            shape = rows.stop - rows.start, columns.stop - columns.start
            product = memory[: shape[0] * shape[1]].view(shape)
            torch.mm(self.queries[rows], self.keys[columns].T, out=product)
            mirrored = itself and rows != columns
            if itself and not mirrored:
                product.fill_diagonal_(-torch.inf)
            if (rows == columns if itself else columns.start == 0) and self.count < shape[1]:
                best = product.topk(self.count, dim=1, sorted=False).values
                self.least[rows] = best.amin(dim=1).sub_(self.slack)
            hit = product >= self.least[rows, None]
            if mirrored:
                hit |= product >= self.least[columns]
            place = places(hit)
            row, column, value = (
                place // shape[1] + rows.start,
                place % shape[1] + columns.start,
                product.view(-1)[place],
            )
            self.add(row, column, value)
            if mirrored:
                self.add(column, row, value)
            if self.unsorted > max(self.sorted, few):
                self.sort()
                if self.sorted > 2 * self.count * len(self.queries) + few:
                    if self.keys.dtype == torch.float32:
                        return None
                    self.decide()
        self.decide()
        return self.candidates[0][1].view(len(self.queries), self.count)

    def add(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Keep those that may be among the nearest."""
        close = (value >= self.least[query]).nonzero().flatten()
        self.candidates.append((query[close], key[close], value[close]))
        self.unsorted += len(close)

    def sort(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keep what may still be among the nearest: queries ascending, and of each the largest product first."""
        query, key, value = (torch.cat(part) for part in zip(*self.candidates, strict=True))
        self.candidates = []
        order = _descending(query, value)
        query, key, value = query[order], key[order], value[order]
        size = query.bincount(minlength=len(self.least))
        last = (size.cumsum(dim=0) - size + self.count - 1).clamp_(max=len(query) - 1)
        self.least = torch.where(size < self.count, self.least, torch.maximum(self.least, value[last] - self.slack))
        close = (value >= self.least[query]).nonzero().flatten()
        self.candidates = [(query[close], key[close], value[close])]
        self.sorted, self.unsorted = len(close), 0
        return self.candidates[0]

    def decide(self) -> None:
        """Keep the nearest of the keys seen so far only, nearest first."""
        query, key, value = self.sort()
        apart = (query[1:] != query[:-1]) | (value[:-1] - value[1:] > self.slack)
        edge = apart.new_ones(1)
        doubtful = (~(torch.cat([edge, apart]) & torch.cat([apart, edge]))).nonzero().flatten()
        # Runs of products that rounding may have put in another order are ordered anew, where they are.
        run = torch.cat([~edge, apart]).cumsum(dim=0)[doubtful]
        order = key[doubtful].argsort()
        exact = self.exact(query[doubtful], key[doubtful])
        order = order[exact[order].argsort(stable=True, descending=True)]
        order = doubtful[order[run[order].argsort(stable=True)]]
        key[doubtful], value[doubtful] = key[order], value[order]
        size = query.bincount(minlength=len(self.least))
        rank = torch.arange(len(query), device=query.device) - (size.cumsum(dim=0) - size)[query]
        best = (rank < self.count).nonzero().flatten()
        self.candidates = [(query[best], key[best], value[best])]
        self.sorted = len(best)

    def exact(self, query: Tensor, key: Tensor) -> Tensor:
        """(M,) inner products in float64, each summed in the same order."""
        result = torch.empty(len(query), dtype=torch.float64, device=query.device)
        for part in chunks(len(query), self.keys):
            product = self.queries[query[part]].double() * self.keys[key[part]].double()
            torch.sum(product, dim=1, out=result[part])
        return result


def _descending(query: Tensor, value: Tensor) -> Tensor:
    """Order by query, and then by descending value."""
    if value.dtype != torch.float32:
        order = value.argsort(descending=True)
        return order[query[order].argsort(stable=True)]
    bits = value.view(torch.int32)  # in the order of the values; of negative ones the reverse
    return ((query << 32) - (bits ^ ((bits >> 31) & 0x7FFFFFFF))).argsort()  # of integers the sort is faster
