"""Every pair of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.mining.batch import checked_labels
from siamese_verify.types import Pairs


def all_pairs(labels: Tensor) -> Pairs:
    """Pair every row i with every row j > i.

    Args:
        labels: (B,) identities, of any integer type.

    Returns:
        B * (B - 1) / 2 pairs in the order (0, 1), (0, 2), ..., (1, 2), ...
    """
    anchor, other = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    return Pairs(anchor, other, labels[anchor] == labels[other])


class AllPairs:
    """`all_pairs` as a miner; the embeddings only have to fit the labels.

    Raises:
        InputError: when called with a batch that is none, see `checked_labels`.
    """

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Pairs:
        """Pair the rows of (B, D) embeddings with (B,) labels."""
        return all_pairs(checked_labels(embeddings, labels))
