"""What a miner may ask of a batch: a check of it, and its distances in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from siamese_verify.errors import InputError

BLOCK = 1024  # rows of distances held at once: 32 MB in float32 for a batch of 8,192


def checked_labels(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Check a batch, and return its labels as int64 on the device of the embeddings.

    Args:
        embeddings: (B, D) floating point.
        labels: (B,) identities, of any integer type.

    Raises:
        InputError: other shapes or types, lengths that differ; on a CPU also NaN or infinite embeddings (a GPU would
            have to be waited for).
    """
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise InputError(
            f"a miner needs embeddings of shape (batch, dimensions) in floating point, but got shape "
            f"{tuple(embeddings.shape)} and type {embeddings.dtype}."
        )
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"a miner needs one integer label for each embedding, but got shape {tuple(labels.shape)} and type "
            f"{labels.dtype}."
        )
    if len(embeddings) != len(labels):
        raise InputError(f"{len(embeddings)} embeddings came with {len(labels)} labels: give one label for each.")
    if embeddings.device.type == "cpu" and not bool(embeddings.isfinite().all()):
        raise InputError("embeddings to mine hold NaN or infinity: lower the learning rate or look at the photos.")
    return labels.to(embeddings.device, torch.int64)


def distance_blocks(embeddings: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk through the Euclidean distances of all rows from all rows.

    They come from differences, not from a matrix product: identical rows are exactly 0 apart and ties are exact.

    Args:
        embeddings: (B, D) floating point; half and bfloat16 are measured in float32.

    Yields:
        (b,) the rows of the block, ascending, b <= BLOCK; and their (b, B) distances. Nothing for an empty batch.
    """
    precise = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    for start in range(0, len(precise), BLOCK):
        rows = torch.arange(start, min(start + BLOCK, len(precise)), device=precise.device)
        yield rows, torch.cdist(precise[rows], precise, compute_mode="donot_use_mm_for_euclid_dist")
