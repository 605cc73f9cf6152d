"""What ranks of a distributed training exchange: rows with their gradients, and sums over ranks.

DistributedDataParallel averages gradients over ranks, so a gradient of a rank has to be `world_size` times its part of
the gradient that one process would have: `shared_totals` brings this factor in, for embeddings and parameters alike.
All is computed alike without a process group, and in a group of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from siamese_verify.pairwise.blocks import number_on


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this rank, 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def add_ranks_(tensor: Tensor) -> Tensor:
    """Add up a contiguous tensor of one shape over ranks, in place, outside of autograd; returns it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def sizes_of_ranks(rows: int, device: torch.device) -> list[int]:
    """How many rows each rank has; on a GPU this waits for it."""
    if world_size() == 1:
        return [rows]
    sizes = torch.empty(world_size(), dtype=torch.int64, device=device)
    dist.all_gather(list(sizes.unbind()), torch.tensor(rows, device=device))
    return [int(size) for size in sizes.tolist()]


def gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows of all ranks in their order, with gradients.

    Forward a rank receives each row of the others once, in its own type; backward it sends each of them its gradient
    once, and the sum is taken in float32 at least: (B - n) rows each way, for n of B rows, also of uneven batches.

    Args:
        rows: (n, ...) of this rank.
        sizes: rows of each rank, see `sizes_of_ranks`.

    Returns:
        (B, ...); in a single process the argument itself.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, tuple(sizes))
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        gathered = rows.new_empty(sum(sizes), *rows.shape[1:])
        if len(set(sizes)) == 1:
            dist.all_gather(list(gathered.tensor_split(len(sizes))), rows.contiguous())
        else:  # backends have no all-gather of unequal parts, and padding would be sent too
            repeated = torch.cat([rows] * len(sizes))
            dist.all_to_all_single(gathered, repeated, list(sizes), [len(rows)] * len(sizes))
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Reduce-scatter by all-to-all: gloo's own sends twice as much, and would add half precision in its type."""
        (gradient,) = gradients
        rows = ctx.sizes[rank()]
        received = gradient.new_empty(len(ctx.sizes) * rows, *gradient.shape[1:])
        dist.all_to_all_single(received, gradient.contiguous(), [rows] * len(ctx.sizes), list(ctx.sizes))
        precise = torch.promote_types(gradient.dtype, torch.float32)
        parts = received.view(len(ctx.sizes), rows, *gradient.shape[1:])
        return parts.sum(dim=0, dtype=precise).to(gradient.dtype), None


def shared_totals(total: Tensor, *counts: Tensor | int) -> tuple[Tensor, ...]:
    """A scalar with a gradient and numbers without, each the sum over ranks.

    Args:
        total: scalar, this rank's part. Its gradient is `world_size` times that of the sum.
        counts: numbers of this rank.

    Returns:
        The sums: the total in its type, the numbers in float64.
    """
    if world_size() == 1:
        return total, *(number_on(total.device, count) for count in counts)
    numbers = [number_on(total.device, count, torch.float64) for count in counts]
    result: tuple[Tensor, ...] = _SharedTotals.apply(total, torch.stack(numbers) if numbers else total.new_empty(0))
    return (result[0], *result[1].unbind())


class _SharedTotals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, total: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        sums = add_ranks_(torch.cat([total[None].double(), counts.double()]))
        shared = sums[1:].clone()
        ctx.mark_non_differentiable(shared)
        return sums[0].to(total.dtype), shared

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return slopes[0] * world_size(), None
