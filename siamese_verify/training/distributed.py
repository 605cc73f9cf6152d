"""Gathering of batches and objects from all ranks, with the gradients of a single process."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

T = TypeVar("T")


class GatherRows(torch.autograd.Function):
    """All ranks' rows on every rank; its gradient is the sum of all ranks' gradients for this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """(B,D) of equal B on every rank -> (world_size, B, D)."""
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows)
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """(world_size, B, D) -> (B,D)."""
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]


def gather_batch(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the embeddings and labels of all ranks on each rank.

    Every rank then computes the same loss over the whole batch. The gradient of the gathering is a sum over ranks, and
    DistributedDataParallel averages over ranks, so that a parameter gets the gradient that one process with all rows
    would give it.

    Args:
        embeddings: (B,D); B may differ from rank to rank.
        labels: (B,) int64.

    Returns:
        (sum of B, D) embeddings with gradients, and their labels, in the order of the ranks; in a single process the
        arguments themselves.
    """
    if not _is_distributed():
        return embeddings, labels
    count = torch.tensor(len(labels), device=labels.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    padding = max(sizes) - len(labels)
    padded_labels = [labels.new_empty(max(sizes)) for _ in sizes]
    dist.all_gather(padded_labels, F.pad(labels, (0, padding)))
    padded: Tensor = GatherRows.apply(F.pad(embeddings, (0, 0, 0, padding)).contiguous())  # (world_size, max B, D)
    return (
        torch.cat([rows[:size] for rows, size in zip(padded, sizes, strict=True)]),
        torch.cat([rows[:size] for rows, size in zip(padded_labels, sizes, strict=True)]),
    )


def gather_objects(mine: T) -> list[T]:
    """List the objects of all ranks, in their order."""
    if not _is_distributed():
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
