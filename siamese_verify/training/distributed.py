"""Gathering of batches and objects from all ranks, with the gradients of a single process."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist
from torch import Tensor

from siamese_verify.pairwise.ranks import gather_rows, rank, sizes_of_ranks, world_size
from siamese_verify.structures import Pairs, Triplets

T = TypeVar("T")


class GatheredBatch(NamedTuple):
    """Rows of all ranks, in the order of the ranks."""

    embeddings: Tensor  # (B,D)
    labels: Tensor  # (B,)
    own: slice  # rows of this rank


def gather_batch(embeddings: Tensor, labels: Tensor) -> GatheredBatch:
    """Gather the embeddings and labels of all ranks on each rank.

    Each rank then computes its share of the loss: `loss(*gathered[:2], own=gathered.own)`. The gradient of the
    gathering is a sum over ranks. A parameter gets the gradient that one process with all rows would give it, as
    DistributedDataParallel averages over ranks and the loss passes `world_size` times its gradient.

    A rank with n of B rows receives B - n embeddings in their own type, and sends as many gradients in the backward
    pass: no rank can do with less. Besides it receives a label for each row, 8 bytes, and the number of rows of each
    rank.

    Args:
        embeddings: (n,D); n may differ from rank to rank, and be 0.
        labels: (n,) int64.

    Returns:
        Embeddings with gradients, labels, and which of the rows are this rank's; in a single process the arguments
        themselves and all of them.
    """
    sizes = sizes_of_ranks(len(labels), labels.device)
    start = sum(sizes[: rank()])
    own = slice(start, start + len(labels))
    return GatheredBatch(gather_rows(embeddings, sizes), gather_rows(labels, sizes), own)


def gather_tuples(tuples: Pairs | Triplets, own: slice) -> Pairs | Triplets:
    """Gather the tuples of all ranks on each rank, with the numbers that `gather_batch` gives their rows.

    Args:
        tuples: of the rows that this rank had before.
        own: rows of this rank.
    """
    moved = tuples._replace(anchor=tuples.anchor + own.start).with_offset(own.start)
    sizes = sizes_of_ranks(len(tuples.anchor), tuples.anchor.device)
    return type(tuples)(*(gather_rows(field, sizes) for field in moved))


def gather_objects(mine: T) -> list[T]:
    """List the objects of all ranks, in their order."""
    if world_size() == 1:
        return [mine]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
