"""Every pair."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.mining.search import check_sets
from siamese_verify.types import Pairs


@torch.no_grad()
def all_pairs(labels: Tensor, reference_labels: Tensor | None = None) -> Pairs:
    """Pair every row i with every row j > i, or with every reference.

    Args:
        labels: (B,) identities, of any integer type.
        reference_labels: (R,) identities of the references.

    Returns:
        B (B - 1) / 2 pairs in the order (0, 1), (0, 2), ..., (1, 2), ..., or B R in the order (0, 0), (0, 1), ...
    """
    if reference_labels is None:
        anchor, other = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
        return Pairs(anchor, other, labels[anchor] == labels[other])
    number = torch.arange(len(labels) * len(reference_labels), device=labels.device)
    anchor, other = number // max(len(reference_labels), 1), number % max(len(reference_labels), 1)
    return Pairs(anchor, other, labels[anchor] == reference_labels[other])


class AllPairs:
    """`all_pairs` as a miner; the embeddings only have to fit the labels.

    Raises:
        InputError: when called with a batch that is none, see `siamese_verify.geometry.check_batch`.
    """

    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Pairs:
        """Pair the rows of (B, D) embeddings with (B,) labels, or with (R, D) references with (R,) labels."""
        sets = check_sets(embeddings, labels, references, reference_labels)
        return all_pairs(sets.labels, None if sets.itself else sets.column_labels)
