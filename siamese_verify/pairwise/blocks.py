"""Walks over all pairs of rows, block by block, and what the autograd functions that use them share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from siamese_verify.errors import InputError

BLOCK = 512  # rows of a block: its product of 1 MiB fits a CPU's cache
ACCELERATOR_BLOCK = 2048
BAND = 1 << 20  # numbers of a band: rows that are compared with all columns at once
# Rows up to which the whole matrix of pairs takes less time than what spares it; on a GPU as many as its start hides.
SMALL, SMALL_ON_GPU = 320, 1024

P = ParamSpec("P")
R = TypeVar("R")


def copied_ahead(numbers: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, or one that is there; the CPU goes on while it is copied."""
    ahead = numbers.device.type == "cpu" and device.type not in ("cpu", "mps")  # Apple's may read what was freed since
    return (numbers.pin_memory() if ahead and device.type == "cuda" else numbers).to(device, non_blocking=ahead)


def number_on(device: torch.device, number: Tensor | float, dtype: torch.dtype | None = None) -> Tensor:
    """A number as a tensor of no dimension, for which the CPU does not wait as it would for `torch.tensor`."""
    if isinstance(number, Tensor):
        return number.to(device, dtype)
    return torch.full((), number, dtype=dtype, device=device)


def block_size(device: torch.device) -> int:
    """Rows of a block on a device."""
    return BLOCK if device.type == "cpu" else ACCELERATOR_BLOCK


def is_small(candidates: Tensor) -> bool:
    """Whether the plain formula, over the matrix of all pairs, is fastest for so many candidates on their device."""
    return len(candidates) <= (SMALL if candidates.device.type == "cpu" else SMALL_ON_GPU)


def ranges(count: int, size: int = BLOCK, start: int = 0) -> Iterator[slice]:
    """Consecutive slices of at most `size` rows, evenly long, that cover rows `start` to `count`."""
    size = -(-count // max(1, -(-count // max(size, 1))))  # 513 rows are cut into 257 + 256, not 512 + 1
    return (slice(first, min(first + size, count)) for first in range(start, count, max(size, 1)))


def blocks(rows: int, columns: int | None = None, size: int = BLOCK) -> Iterator[tuple[slice, slice]]:
    """Row and column ranges of the blocks that cover all pairs of rows and columns.

    Args:
        rows: number of rows.
        columns: number of columns; None compares the rows with themselves and covers the upper triangle: a block whose
            two ranges are equal lies on the diagonal and holds its pairs twice, any other one holds each pair once.
        size: at most this many rows and columns in a block.

    Yields:
        Row ranges in ascending order, and for each the column ranges in ascending order.
    """
    for top in ranges(rows, size):
        for left in ranges(rows, size, start=top.start) if columns is None else ranges(columns, size):
            yield top, left


def rectangles(own: slice, count: int) -> Iterator[tuple[range, range]]:
    """This rank's share of the pairs of its own rows with rows of other ranks, as rows and columns.

    With rows before its own it takes those pairs whose numbers are both even or both odd, with rows after them the
    others. So each pair is some rank's and no other's, and a rank has half of its rows' pairs with others.

    Args:
        own: rows of this rank.
        count: rows of all ranks.
    """
    for first in (own.start, own.start + 1):
        rows = range(first, own.stop, 2)
        yield rows, range(first % 2, own.start, 2)
        yield rows, range(own.stop + (own.stop - first + 1) % 2, count, 2)


def share_blocks(own: slice, count: int, references: int = 0, size: int = BLOCK) -> Iterator[tuple[slice, slice, bool]]:
    """Blocks of a rank's share: of all pairs of two rows, and of those of its own rows with references.

    Args:
        own: rows of this rank.
        count: rows of all ranks. Where all are its own, the blocks are those of `blocks(count)`.
        references: their number.
        size: at most this many rows and columns in a block.

    Yields:
        Row and column ranges, and whether the columns are rows of the batch; if so and both ranges are equal, the block
        lies on the diagonal and holds its pairs twice.
    """
    rows = range(own.start, own.stop)
    for top, left in blocks(len(rows), size=size):
        yield _within(rows, top), _within(rows, left), True
    for some, others in rectangles(own, count) if len(rows) < count else ():
        for top, left in blocks(len(some), len(others), size):
            yield _within(some, top), _within(others, left), True
    for top, left in blocks(len(rows), references, size) if references else ():
        yield _within(rows, top), left, False


def _within(numbers: range, part: slice) -> slice:
    piece = numbers[part]
    return slice(piece.start, piece.stop, piece.step)


def bands(rows: int, width: int, numbers: int = BAND, start: int = 0) -> Iterator[slice]:
    """Consecutive slices of the rows from `start`, so many that `width` numbers for each are about `numbers`."""
    size = max(1, numbers // max(width, 1))
    return (slice(first, min(first + size, rows)) for first in range(start, rows, size))


def in_bands(
    losses: Callable[..., Tensor],
    width: int,
    rows: tuple[Tensor, ...],
    shared: tuple[Tensor, ...] = (),
    numbers: int = BAND,
) -> Tensor:
    """Losses of rows, computed band by band and again in the backward pass, so that one band is held at a time.

    `torch.utils.checkpoint` per band would fragment the memory: the little that it keeps lies between what it frees.

    Args:
        losses: called with a band of each of `rows`, then all of `shared`; returns one loss for each row. It must have
            no gradient by anything else.
        width: numbers held for each row.
        rows: tensors of one length M.
        shared: tensors that every band needs whole; the last tensor of all has the type of the losses.
        numbers: numbers of a band.

    Returns:
        (M,) losses. What fits one band is computed once.
    """
    pieces = tuple(bands(len(rows[0]), width, numbers))
    if len(pieces) < 2:
        return losses(*rows, *shared)
    result: Tensor = _InBands.apply(losses, pieces, len(rows), *rows, *shared)
    return result


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device; `meta` has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Context manager: autocast, which would round products, is off."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()


def first_order(backward: Callable[P, R]) -> Callable[P, R]:
    """Decorate a backward pass that must not be differentiated again; `once_differentiable` lets constants through.

    Raises:
        InputError: when called to create a graph.
    """

    @functools.wraps(backward)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.is_grad_enabled():
            raise InputError(
                "A gradient of a gradient was asked for, but losses have first derivatives only: leave out "
                "create_graph=True."
            )
        return backward(*args, **kwargs)

    return once


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that `torch.compile` leaves as it is."""
    return cast("Callable[P, R]", torch.compiler.disable(function))  # type: ignore[no-untyped-call]


class _InBands(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, losses: Callable[..., Tensor], pieces: tuple[slice, ...], divided: int, *tensors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.losses, ctx.pieces, ctx.divided = losses, pieces, divided
        result = tensors[-1].new_empty(len(tensors[0]))
        for piece in pieces:
            result[piece] = losses(*(tensor[piece] for tensor in tensors[:divided]), *tensors[divided:])
        return result

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        gradients = [torch.zeros_like(tensor) if need else None for tensor, need in zip(tensors, needed, strict=True)]
        for piece in ctx.pieces:
            places = [piece] * ctx.divided + [...] * (len(tensors) - ctx.divided)
            leaves = [tensor[place].detach() for tensor, place in zip(tensors, places, strict=True)]
            wanted = [leaf.requires_grad_() for leaf, need in zip(leaves, needed, strict=True) if need]
            with torch.enable_grad(), without_autocast(slope.device):
                losses = ctx.losses(*leaves)
            found = iter(torch.autograd.grad(losses, wanted, slope[piece]))
            for gradient, place in zip(gradients, places, strict=True):
                if gradient is not None:
                    gradient[place] += next(found)
        return None, None, None, *gradients
