"""Triton kernels that reduce a tile of a product, and those that walk the genuine pairs of each row.

A program of a tile's kernel takes `HEIGHT` rows and a strip of `WIDTH` x `STRIP` columns. It leaves the part of its
strip of each row, and the part of its rows of each column; the launchers add these up.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

HEIGHT, WIDTH, STRIP = 64, 128, 8
WARPS = 8  # of a program of a tile: 32 numbers of a block for each thread


def _grid(tile: Tensor, blocks: tuple[int, int, int]) -> tuple[int, int]:
    return triton.cdiv(tile.shape[0], blocks[0]), triton.cdiv(tile.shape[1], blocks[1] * blocks[2])


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the GPU of its first argument, which need not be the current one."""
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        kernel[grid](*arguments, **constants)


def _constants(blocks: tuple[int, int, int]) -> dict[str, Any]:
    return dict(zip(("HEIGHT", "WIDTH", "STRIP"), blocks, strict=True)) | {"num_warps": WARPS}


def _contiguous(parts: tuple[Tensor, Tensor] | None, instead: Tensor) -> tuple[Tensor, Tensor]:
    """Tensors of a launch; a kernel does not read what is there instead of None."""
    return (instead, instead) if parts is None else (parts[0].contiguous(), parts[1].contiguous())


def exponential_sums(
    tile: Tensor,
    scale: Tensor,
    diagonal: bool,
    mirrored: bool,
    labels: tuple[Tensor, Tensor] | None = None,
    blocks: tuple[int, int, int] = (HEIGHT, WIDTH, STRIP),
) -> tuple[Tensor, Tensor | None]:
    """Sums of exp((cosine - 1) * scale) over each row and column of a tile.

    Args:
        tile: (n, m) float32 cosines; the memory between the end of a row and the next one is loaded too.
        scale: (1,) float32 or float64, the type of the sums.
        diagonal: leave out the pairs of a row with the column of its number.
        mirrored: sum over columns too.
        labels: (n,) and (m,) int64; pairs of one label are left out. None leaves out none.
        blocks: rows and columns of a block, and blocks of a strip.

    Returns:
        (n,) and (m,) or None.
    """
    n, m = tile.shape
    grid = _grid(tile, blocks)
    by_row = scale.new_empty(grid[1], n)
    by_column = scale.new_empty(grid[0], m) if mirrored else by_row
    of_rows, of_columns = _contiguous(labels, tile)
    _launch(
        *(_exponential_sums, grid, tile, scale, by_row, by_column, of_rows, of_columns, n, m),
        *(tile.stride(0), diagonal, mirrored, labels is not None),
        **_constants(blocks),
    )
    return by_row.sum(dim=0), by_column.sum(dim=0) if mirrored else None


@triton.jit
def _exponential_sums(
    tile,
    scale,
    by_row,
    by_column,
    row_labels,
    column_labels,
    n,
    m,
    stride,
    DIAGONAL: tl.constexpr,
    MIRRORED: tl.constexpr,
    LABELED: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIP,
):
    top, strip = tl.program_id(0), tl.program_id(1)
    i = top * HEIGHT + tl.arange(0, HEIGHT)
    rows = tile + i.to(tl.int64) * stride
    factor = tl.load(scale)
    total = tl.zeros((HEIGHT,), by_row.dtype.element_ty)
    for k in range(STRIP):
        j = (strip * STRIP + k) * WIDTH + tl.arange(0, WIDTH)
        there = (i[:, None] < n) & (j[None, :] < stride)
        inside = there & (j[None, :] < m)
        cosine = tl.load(rows[:, None] + j[None, :], mask=there, other=0.0)
        value = tl.exp((cosine.to(by_row.dtype.element_ty) - 1) * factor)
        if DIAGONAL:
            inside = inside & (i[:, None] != j[None, :])
        if LABELED:
            inside = inside & _differ(row_labels, i, n, column_labels, j, m)
        value = tl.where(inside, value, 0.0)
        total += tl.sum(value, 1)
        if MIRRORED:
            tl.store(by_column + top.to(tl.int64) * m + j, tl.sum(value, 0), mask=j < m)
    tl.store(by_row + strip.to(tl.int64) * n + i, total, mask=i < n)


def exponential_weights(
    tile: Tensor,
    weights: Tensor,
    scale: Tensor,
    of_rows: Tensor,
    of_columns: Tensor | None,
    diagonal: bool,
    labels: tuple[Tensor, Tensor] | None = None,
    pulls: tuple[Tensor, Tensor | None] | None = None,
    blocks: tuple[int, int, int] = (HEIGHT, WIDTH, STRIP),
) -> Tensor:
    """Weights exp((cosine - 1) * scale) * (of_rows + of_columns) of a tile.

    Args:
        tile: (n, m) float32 cosines.
        weights: (n, m) memory for the result, in rows as far apart as the tile's, or the tile itself; the memory
            between rows is overwritten.
        scale: (1,) float32 or float64.
        of_rows: (n,) of the type of the scale.
        of_columns: (m,) likewise, or None for zeros.
        diagonal: 0 for a row with the column of its number.
        labels: as in `exponential_sums`; with `pulls`, pairs of one label are not left out.
        pulls: (n,) and (m,) of the type of the scale, or None for the columns if `of_columns` is: their sum is added to
            the weight of a pair of one label.
        blocks: as in `exponential_sums`.

    Returns:
        The weights.
    """
    n, m = tile.shape
    others = of_columns.contiguous() if of_columns is not None else of_rows
    pull, pull_of_columns = pulls or (of_rows, None)
    pull_of_others = pull_of_columns.contiguous() if pull_of_columns is not None else pull
    _launch(
        *(_exponential_weights, _grid(tile, blocks), tile, weights, scale, of_rows.contiguous(), others),
        *(pull.contiguous(), pull_of_others, *_contiguous(labels, tile), n, m),
        *(tile.stride(0), diagonal, of_columns is not None, labels is not None, pulls is not None),
        **_constants(blocks),
    )
    return weights


@triton.jit
def _exponential_weights(
    tile,
    weights,
    scale,
    of_rows,
    of_columns,
    pull_of_rows,
    pull_of_columns,
    row_labels,
    column_labels,
    n,
    m,
    stride,
    DIAGONAL: tl.constexpr,
    MIRRORED: tl.constexpr,
    LABELED: tl.constexpr,
    PULLING: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIP,
):
    top, strip = tl.program_id(0), tl.program_id(1)
    i = top * HEIGHT + tl.arange(0, HEIGHT)
    start = i.to(tl.int64) * stride
    factor = tl.load(scale)
    of_row = tl.load(of_rows + i, mask=i < n, other=0.0)
    for k in range(STRIP):
        j = (strip * STRIP + k) * WIDTH + tl.arange(0, WIDTH)
        there = (i[:, None] < n) & (j[None, :] < stride)
        place = start[:, None] + j[None, :]
        cosine = tl.load(tile + place, mask=there, other=0.0)
        weight = tl.exp((cosine.to(of_rows.dtype.element_ty) - 1) * factor)
        if MIRRORED:
            weight = weight * (of_row[:, None] + tl.load(of_columns + j, mask=j < m, other=0.0)[None, :])
        else:
            weight = weight * of_row[:, None]
        if LABELED:
            pull = tl.zeros_like(weight)
            if PULLING:
                pull += weight + tl.load(pull_of_rows + i, mask=i < n, other=0.0)[:, None]
                if MIRRORED:
                    pull += tl.load(pull_of_columns + j, mask=j < m, other=0.0)[None, :]
            weight = tl.where(_differ(row_labels, i, n, column_labels, j, m), weight, pull)
        if DIAGONAL:
            weight = tl.where(i[:, None] != j[None, :], weight, 0.0)
        tl.store(weights + place, weight.to(weights.dtype.element_ty), mask=there)


@triton.jit
def _differ(row_labels, i, n, column_labels, j, m):
    """Whether rows and columns have two labels."""
    label = tl.load(row_labels + i, mask=i < n, other=0)
    return label[:, None] != tl.load(column_labels + j, mask=j < m, other=0)[None, :]


def hinge_losses(
    tile: Tensor,
    weights: Tensor | None,
    row_labels: Tensor,
    column_labels: Tensor,
    squares: tuple[Tensor, Tensor] | None,
    margin: float,
    scale: float,
    power: int,
    diagonal: bool,
    blocks: tuple[int, int, int] = (HEIGHT // 2, WIDTH, STRIP),
) -> tuple[Tensor, Tensor]:
    """Losses scale * max(0, margin - distance)^power of the impostors of a tile, and how they pull.

    Genuine pairs of labels below 0 count too, by scale * distance^power; a row with itself does not.

    Args:
        tile: (n, m) float32 products; of unit rows, if there are no squares.
        weights: (n, m) memory for what each pair pulls with, as in `exponential_weights`, or None. A row's gradient is
            the sum of these weights times the columns; for Euclidean distances, times the difference column - row.
        row_labels: (n,) int64; genuine pairs of labels from 0 on are left to `genuine_losses`.
        column_labels: (m,) int64.
        squares: (n,) and (m,) squared lengths of the rows that were multiplied: the distance is Euclidean; None
            takes 1 - cosine.
        margin: of the loss.
        scale: of the loss.
        power: 1 or 2.
        diagonal: rows and columns are the same; count each pair once; weights are for both of its directions.
        blocks: as in `exponential_sums`.

    Returns:
        Sum of the losses, float32, and int64 number of those above zero.
    """
    n, m = tile.shape
    grid = _grid(tile, blocks)
    totals, counts = tile.new_empty(grid), row_labels.new_empty(grid, dtype=torch.int32)
    euclidean, learning = squares is not None, weights is not None
    of_rows, of_columns = _contiguous(squares, tile)
    memory = weights if weights is not None else tile
    _launch(
        *(
            _hinge_losses,
            grid,
            tile,
            memory,
            totals,
            counts,
            row_labels.contiguous(),
            column_labels.contiguous(),
            of_rows,
            of_columns,
            n,
            m,
            tile.stride(0),
        ),
        *(float(margin), float(scale), euclidean, power == 2, diagonal, learning),
        **_constants(blocks),
    )
    return totals.sum(), counts.sum()


@triton.jit
def _hinge_losses(
    tile,
    weights,
    totals,
    counts,
    row_labels,
    column_labels,
    row_squares,
    column_squares,
    n,
    m,
    stride,
    margin,
    scale,
    EUCLIDEAN: tl.constexpr,
    SQUARED: tl.constexpr,
    DIAGONAL: tl.constexpr,
    LEARNING: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIP,
):
    top, strip = tl.program_id(0), tl.program_id(1)
    i = top * HEIGHT + tl.arange(0, HEIGHT)
    start = i.to(tl.int64) * stride
    label = tl.load(row_labels + i, mask=i < n, other=0)
    total = tl.zeros((HEIGHT,), tl.float32)
    count = tl.zeros((HEIGHT,), tl.int32)
    for k in range(STRIP):
        j = (strip * STRIP + k) * WIDTH + tl.arange(0, WIDTH)
        there = (i[:, None] < n) & (j[None, :] < stride)
        inside = there & (j[None, :] < m)
        place = start[:, None] + j[None, :]
        product = tl.load(tile + place, mask=there, other=0.0)
        same = label[:, None] == tl.load(column_labels + j, mask=j < m, other=0)[None, :]
        genuine = inside & same & (label[:, None] < 0)
        if DIAGONAL:
            genuine = genuine & (i[:, None] != j[None, :])
        if EUCLIDEAN:
            lengths = tl.load(row_squares + i, mask=i < n, other=0.0)[:, None]
            lengths = lengths + tl.load(column_squares + j, mask=j < m, other=0.0)[None, :]
            distance = tl.sqrt(_at_least(lengths - 2 * product, 0.0))
        else:
            distance = _at_least(1 - product, 0.0)
        inner = tl.where(same, distance, _at_least(margin - distance, 0.0))
        inner = tl.where(inside & ((same == 0) | genuine), inner, 0.0)
        if SQUARED:
            loss, slope = scale * inner * inner, 2 * scale * inner
        else:
            loss, slope = scale * inner, tl.where(inner > 0, scale, 0.0)
        slope = tl.where(same, -slope, slope)
        if LEARNING:
            if EUCLIDEAN:
                # Below this a distance is rounding of float32, and its inverse anything.
                slope = slope / tl.maximum(distance, 1e-3 * tl.sqrt(lengths) + 1e-30)
            tl.store(weights + place, slope.to(weights.dtype.element_ty), mask=there)
        if DIAGONAL:
            loss = tl.where(i[:, None] < j[None, :], loss, 0.0)
        total += tl.sum(loss, 1)
        count += tl.sum((loss > 0).to(tl.int32), 1)
    cell = top * tl.num_programs(1) + strip
    tl.store(totals + cell, tl.sum(total, 0))
    tl.store(counts + cell, tl.sum(count, 0))


@triton.jit
def _at_least(value, least):
    """The larger of both; unlike `tl.maximum`, NaN stays."""
    return tl.where(value < least, least, value)


def genuine_losses(
    candidates: Tensor,
    order: Tensor,
    first: Tensor,
    last: Tensor,
    gradient: Tensor | None,
    batch: int,
    own: slice,
    scale: float,
    power: int,
    cosine: bool,
) -> tuple[Tensor, Tensor]:
    """Losses scale * distance^power of the genuine pairs of a rank, each counted once, and their gradient.

    Nothing waits for the number of pairs: a program walks those of one row.

    Args:
        candidates: (C, D) contiguous float32 rows, then references.
        order: (C,) int64 rows, grouped by identity.
        first: (C,) int64, where the group of each row begins in `order`.
        last: (C,) int64, one past where it ends; the first itself to leave out the pairs of the row.
        gradient: (C, D) memory that the gradient is added to, or None.
        batch: number of rows; references follow.
        own: rows of this rank, which has its share of the pairs, see `pairwise.blocks.rectangles`.
        scale: of the loss.
        power: 1 or 2; of Euclidean distances 2.
        cosine: whether distances are 1 - cosine of unit rows, else Euclidean.

    Returns:
        Sum of the losses, float32, and int64 number of those above zero.
    """
    count, size = candidates.shape
    totals, counts = candidates.new_empty(count), order.new_empty(count)
    _launch(
        *(
            _genuine_losses,
            (count,),
            candidates,
            order,
            first,
            last,
            candidates if gradient is None else gradient,
            totals,
            counts,
        ),
        *(size, batch, own.start, own.stop, float(scale), cosine, power == 2, gradient is not None),
        SIZE=triton.next_power_of_2(size),
    )
    return totals.sum(), counts.sum()


@triton.jit
def _genuine_losses(
    candidates,
    order,
    first,
    last,
    gradient,
    totals,
    counts,
    size,
    batch,
    own,
    end,
    scale,
    COSINE: tl.constexpr,
    SQUARED: tl.constexpr,
    LEARNING: tl.constexpr,
    SIZE: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, SIZE)
    row = tl.load(candidates + i * size + k, mask=k < size, other=0.0)
    mine = (i >= own) & (i < end)
    pull = tl.zeros((SIZE,), tl.float32)
    total = tl.zeros((1,), tl.float32)
    count = tl.zeros((1,), tl.int64)
    for place in range(tl.load(first + i), tl.load(last + i)):
        j = tl.load(order + place)
        yours = (j >= own) & (j < end)
        # Of a pair of two ranks, the rank of the later row takes it if both numbers are even or odd, else the other.
        alike = (i + j) % 2 == 0
        shared = (mine & (j < batch) & ((j < own) & alike | (j >= end) & (alike == 0))) | (
            yours & (i < batch) & ((i < own) & alike | (i >= end) & (alike == 0))
        )
        references = mine & (j >= batch) | yours & (i >= batch)
        taken = (mine & yours & (i != j)) | shared | references
        if taken:
            other = tl.load(candidates + j * size + k, mask=k < size, other=0.0)
            if COSINE:
                distance = 1 - tl.sum(row * other, 0)
                inside = tl.where(distance < 0, 0.0, 1.0)  # rounding may leave -1e-7
                distance = distance * inside
                if SQUARED:
                    loss, slope = scale * distance * distance, 2 * scale * distance * inside
                else:
                    loss, slope = scale * distance, scale * inside
                pull -= slope * other
            else:
                difference = row - other
                loss = scale * tl.sum(difference * difference, 0)
                pull += 2 * scale * difference
            once = (i < j).to(tl.float32)
            total += loss * once
            count += (loss * once > 0).to(tl.int64)
    if LEARNING:
        here = gradient + i * size + k
        tl.store(here, tl.load(here, mask=k < size, other=0.0) + pull, mask=k < size)
    tl.store(totals + i, tl.sum(total, 0))
    tl.store(counts + i, tl.sum(count, 0))


def nearest_impostors(
    tile: Tensor,
    row_labels: Tensor,
    column_labels: Tensor,
    squares: tuple[Tensor, Tensor],
    bounds: tuple[Tensor, Tensor] | None,
    column_bounds: tuple[Tensor, Tensor] | None,
    starts: tuple[int, int],
    mirrored: bool,
    blocks: tuple[int, int, int] = (HEIGHT // 4, WIDTH, STRIP),
) -> tuple[Tensor, Tensor | None]:
    """The nearest impostor of each row of a tile, and of each column if mirrored; ties take the lowest.

    Args:
        tile: (n, m) float32 products.
        row_labels: (n,) int64.
        column_labels: (m,) int64; a pair of one label is no impostor.
        squares: (n,) and (m,) squared lengths of the rows that were multiplied.
        bounds: (n, Q) squared distances that each of a row's searches is beyond, and those that it is within; None
            searches once, without bounds.
        column_bounds: (m, Q) likewise of the columns; used if mirrored.
        starts: numbers of the first row and column, below 2^32.
        mirrored: search for each column among the rows too.
        blocks: as in `exponential_sums`.

    Returns:
        (n, Q) and (m, Q) or None: numbers that compare as the squared distance, then the found one; see `unpacked`.
    """
    n, m = tile.shape
    grid = _grid(tile, blocks)
    queries = 1 if bounds is None else bounds[0].shape[1]
    by_row = row_labels.new_empty(grid[1], n, queries)
    by_column = row_labels.new_empty(grid[0], m, queries) if mirrored else by_row
    _launch(
        *(_nearest_impostors, grid, tile, by_row, by_column, row_labels.contiguous(), column_labels.contiguous()),
        *(*_contiguous(squares, tile), *_contiguous(bounds, tile), *_contiguous(column_bounds, tile)),
        *(n, m, tile.stride(0), queries, *starts, bounds is not None, mirrored),
        **_constants(blocks),
    )
    return by_row.amin(dim=0), by_column.amin(dim=0) if mirrored else None


def unpacked(packed: Tensor) -> Tensor:
    """Numbers of what `nearest_impostors` found, -1 for nothing."""
    return torch.where(packed >> 32 < 0x7F800000, packed & 0xFFFFFFFF, -1)  # the bits of infinity


@triton.jit
def _nearest_impostors(
    tile,
    by_row,
    by_column,
    row_labels,
    column_labels,
    row_squares,
    column_squares,
    row_near,
    row_far,
    column_near,
    column_far,
    n,
    m,
    stride,
    queries,
    row_start,
    column_start,
    BOUNDED: tl.constexpr,
    MIRRORED: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIP,
):
    top, strip = tl.program_id(0), tl.program_id(1)
    i = top * HEIGHT + tl.arange(0, HEIGHT)
    label = tl.load(row_labels + i, mask=i < n, other=0)
    square = tl.load(row_squares + i, mask=i < n, other=0.0)
    rows = tile + i.to(tl.int64) * stride
    row_number = (i + row_start).to(tl.int64)
    for query in range(queries):
        nearest = tl.full((HEIGHT,), 0x7FFFFFFFFFFFFFFF, tl.int64)
        for k in range(STRIP):
            j = (strip * STRIP + k) * WIDTH + tl.arange(0, WIDTH)
            there = (i[:, None] < n) & (j[None, :] < stride)
            inside = there & (j[None, :] < m)
            product = tl.load(rows[:, None] + j[None, :], mask=there, other=0.0)
            squared = square[:, None] + tl.load(column_squares + j, mask=j < m, other=0.0)[None, :] - 2 * product
            squared = _at_least(squared, 0.0)
            impostor = label[:, None] != tl.load(column_labels + j, mask=j < m, other=0)[None, :]
            impostor = inside & impostor & (squared < float("inf"))  # nor NaN, whose bits may be those of less
            column_number = (j + column_start).to(tl.int64)
            for_row = impostor
            if BOUNDED:
                near = tl.load(row_near + i.to(tl.int64) * queries + query, mask=i < n, other=0.0)
                far = tl.load(row_far + i.to(tl.int64) * queries + query, mask=i < n, other=0.0)
                for_row = impostor & (squared > near[:, None]) & (squared < far[:, None])
            nearest = tl.minimum(nearest, tl.min(_packed(squared, for_row, column_number[None, :]), 1))
            if MIRRORED:
                place = j.to(tl.int64) * queries + query
                for_column = impostor
                if BOUNDED:
                    near = tl.load(column_near + place, mask=j < m, other=0.0)
                    far = tl.load(column_far + place, mask=j < m, other=0.0)
                    for_column = impostor & (squared > near[None, :]) & (squared < far[None, :])
                least = tl.min(_packed(squared, for_column, row_number[:, None]), 0)
                tl.store(by_column + top.to(tl.int64) * m * queries + place, least, mask=j < m)
        tl.store(by_row + (strip.to(tl.int64) * n + i) * queries + query, nearest, mask=i < n)


@triton.jit
def _packed(squared, chosen, number):
    """Bits of squared distances above numbers; those of infinity where a pair is not chosen."""
    squared = tl.where(chosen, squared, float("inf"))
    return (squared.to(tl.int32, bitcast=True).to(tl.int64) << 32) | number


def farthest_genuine(rows: Tensor, columns: Tensor, order: Tensor, first: Tensor, last: Tensor, itself: bool) -> Tensor:
    """(N,) int64: the farthest column of a row's identity, from differences in float32; ties the lowest; -1 for none.

    Args:
        rows: (N, D) contiguous float32.
        columns: (C, D) likewise.
        order: (C,) int64 columns, grouped by identity, ascending.
        first: (N,) int64, where the columns of each row's identity begin in `order`.
        last: (N,) int64, one past where they end.
        itself: the column of a row's number is the row itself, and left out.
    """
    found = order.new_empty(len(rows))
    if len(rows):
        arguments = rows, columns, order, first, last, found, rows.shape[1], itself
        _launch(_farthest_genuine, (len(rows),), *arguments, SIZE=triton.next_power_of_2(rows.shape[1]))
    return found


@triton.jit
def _farthest_genuine(rows, columns, order, first, last, found, size, ITSELF: tl.constexpr, SIZE: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, SIZE)
    row = tl.load(rows + i * size + k, mask=k < size, other=0.0)
    farthest = tl.full((1,), -1.0, tl.float32)
    number = tl.full((1,), -1, tl.int64)
    for place in range(tl.load(first + i), tl.load(last + i)):
        j = tl.load(order + place)
        difference = row - tl.load(columns + j * size + k, mask=k < size, other=0.0)
        squared = tl.sum(difference * difference, 0)
        further = squared > farthest
        if ITSELF:
            further = further & (i != j)
        farthest = tl.where(further, squared, farthest)
        number = tl.where(further, j, number)
    tl.store(found + i, tl.sum(number, 0))
