"""The hardest triplet of every anchor."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.mining.batch import checked_labels, distance_blocks
from siamese_verify.types import Triplets


@torch.no_grad()
def batch_hard(embeddings: Tensor, labels: Tensor) -> Triplets:
    """Take for each anchor its farthest positive and its nearest negative.

    Args:
        embeddings: (B, D) floating point; distances are Euclidean.
        labels: (B,) identities, of any integer type.

    Returns:
        At most B triplets, anchors ascending. Anchors without a positive or without a negative are left out; ties take
        the lowest row.

    Raises:
        InputError: a batch that is none, see `checked_labels`.

    Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, eq. 5.
    """
    labels = checked_labels(embeddings, labels)
    nothing = labels.new_empty(0)
    blocks = [Triplets(nothing, nothing, nothing)]
    for rows, distance in distance_blocks(embeddings):
        same = labels[rows, None] == labels  # (b,B)
        genuine = same.clone()
        genuine[torch.arange(len(rows), device=rows.device), rows] = False  # nobody is his own positive
        farthest = distance.masked_fill(~genuine, -1).argmax(dim=1)  # (b,) argmax and argmin take the first of equals
        nearest = distance.masked_fill(same, torch.inf).argmin(dim=1)  # (b,)
        complete = genuine.any(dim=1) & ~same.all(dim=1)
        blocks.append(Triplets(rows[complete], farthest[complete], nearest[complete]))
    return Triplets(*(torch.cat(column) for column in zip(*blocks, strict=True)))


class BatchHard:
    """`batch_hard` as a miner."""

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """Choose triplets among (B, D) embeddings with (B,) labels."""
        return batch_hard(embeddings, labels)
