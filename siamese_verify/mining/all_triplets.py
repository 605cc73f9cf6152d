"""Every triplet."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.geometry import every_triplet
from siamese_verify.mining.search import check_sets
from siamese_verify.types import Triplets


@torch.no_grad()
def all_triplets(labels: Tensor, reference_labels: Tensor | None = None) -> Triplets:
    """Put every genuine pair (a, p) beside every row of another identity.

    Args:
        labels: (B,) identities, of any integer type.
        reference_labels: (R,) identities of the references among which positives and negatives are sought; None
            seeks among the rows, and nobody is his own positive.

    Returns:
        Triplets ordered by anchor, positive, negative.
    """
    itself = reference_labels is None
    columns = labels if reference_labels is None else reference_labels.to(labels.device)
    return every_triplet(labels.long(), columns.long(), itself)


class AllTriplets:
    """`all_triplets` as a miner; the embeddings only have to fit the labels.

    Raises:
        InputError: when called with a batch that is none, see `siamese_verify.geometry.check_batch`.
    """

    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Triplets:
        """Choose triplets among (B, D) embeddings with (B,) labels; see `all_triplets`."""
        sets = check_sets(embeddings, labels, references, reference_labels)
        return all_triplets(sets.labels, None if sets.itself else sets.column_labels)
