"""Triton kernels that reduce a tile of a product, and those that walk the genuine pairs of each row.

A program of a tile's kernel takes `HEIGHT` rows and a strip of `WIDTH` x `STRIP` columns. It leaves the part of its
strip of each row, and the part of its rows of each column; the launchers add these up.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

HEIGHT, WIDTH, STRIP = 64, 128, 8


def _grid(tile: Tensor, blocks: tuple[int, int, int]) -> tuple[int, int]:
    return triton.cdiv(tile.shape[0], blocks[0]), triton.cdiv(tile.shape[1], blocks[1] * blocks[2])


def _constants(blocks: tuple[int, int, int]) -> dict[str, Any]:
    return dict(zip(("HEIGHT", "WIDTH", "STRIP"), blocks, strict=True))


def exponential_sums(
    tile: Tensor,
    scale: Tensor,
    diagonal: bool,
    mirrored: bool,
    blocks: tuple[int, int, int] = (HEIGHT, WIDTH, STRIP),
) -> tuple[Tensor, Tensor | None]:
    """Sums of exp((cosine - 1) * scale) over each row and column of a tile.

    Args:
        tile: (n, m) float32 cosines.
        scale: (1,) float32 or float64, the type of the sums.
        diagonal: leave out the pairs of a row with the column of its number.
        mirrored: sum over columns too.
        blocks: rows and columns of a block, and blocks of a strip.

    Returns:
        (n,) and (m,) or None.
    """
    n, m = tile.shape
    grid = _grid(tile, blocks)
    by_row = scale.new_empty(grid[1], n)
    by_column = scale.new_empty(grid[0], m) if mirrored else by_row
    _exponential_sums[grid](tile, scale, by_row, by_column, n, m, diagonal, mirrored, **_constants(blocks))
    return by_row.sum(dim=0), by_column.sum(dim=0) if mirrored else None


@triton.jit
def _exponential_sums(
    tile,
    scale,
    by_row,
    by_column,
    n,
    m,
    DIAGONAL: tl.constexpr,
    MIRRORED: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIP: tl.constexpr,
):
    top, strip = tl.program_id(0), tl.program_id(1)
    i = top * HEIGHT + tl.arange(0, HEIGHT)
    factor = tl.load(scale)
    total = tl.zeros((HEIGHT,), by_row.dtype.element_ty)
    for k in range(STRIP):
        j = (strip * STRIP + k) * WIDTH + tl.arange(0, WIDTH)
        inside = (i[:, None] < n) & (j[None, :] < m)
        cosine = tl.load(tile + i[:, None].to(tl.int64) * m + j[None, :], mask=inside, other=0.0)
        value = tl.exp((cosine.to(by_row.dtype.element_ty) - 1) * factor)
        if DIAGONAL:
            inside = inside & (i[:, None] != j[None, :])
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
    blocks: tuple[int, int, int] = (HEIGHT, WIDTH, STRIP),
) -> Tensor:
    """Weights exp((cosine - 1) * scale) * (of_rows + of_columns) of a tile.

    Args:
        tile: (n, m) float32 cosines.
        weights: (n, m) memory for the result; that of the tile is fine.
        scale: (1,) float32 or float64.
        of_rows: (n,) of the type of the scale.
        of_columns: (m,) likewise, or None for zeros.
        diagonal: 0 for a row with the column of its number.
        blocks: as in `exponential_sums`.

    Returns:
        The weights.
    """
    n, m = tile.shape
    others = of_columns.contiguous() if of_columns is not None else of_rows
    arguments = tile, weights, scale, of_rows.contiguous(), others, n, m, diagonal, of_columns is not None
    _exponential_weights[_grid(tile, blocks)](*arguments, **_constants(blocks))
    return weights


@triton.jit
def _exponential_weights(
    tile,
    weights,
    scale,
    of_rows,
    of_columns,
    n,
    m,
    DIAGONAL: tl.constexpr,
    MIRRORED: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIP: tl.constexpr,
):
    top, strip = tl.program_id(0), tl.program_id(1)
    i = top * HEIGHT + tl.arange(0, HEIGHT)
    factor = tl.load(scale)
    of_row = tl.load(of_rows + i, mask=i < n, other=0.0)
    for k in range(STRIP):
        j = (strip * STRIP + k) * WIDTH + tl.arange(0, WIDTH)
        inside = (i[:, None] < n) & (j[None, :] < m)
        place = i[:, None].to(tl.int64) * m + j[None, :]
        cosine = tl.load(tile + place, mask=inside, other=0.0)
        weight = tl.exp((cosine.to(of_rows.dtype.element_ty) - 1) * factor)
        if MIRRORED:
            weight = weight * (of_row[:, None] + tl.load(of_columns + j, mask=j < m, other=0.0)[None, :])
        else:
            weight = weight * of_row[:, None]
        if DIAGONAL:
            weight = tl.where(i[:, None] != j[None, :], weight, 0.0)
        tl.store(weights + place, weight.to(weights.dtype.element_ty), mask=inside)
