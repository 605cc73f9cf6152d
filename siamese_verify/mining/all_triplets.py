"""Every triplet."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.geometry import Identities, every_triplet
from siamese_verify.mining.miner import Miner, check_length
from siamese_verify.mining.search import Sets
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

    Raises:
        InputError: more than 2^28 triplets.
    """
    columns = labels if reference_labels is None else reference_labels.to(labels.device)
    return _listed(labels.long(), columns.long(), reference_labels is None)


def _listed(labels: Tensor, columns: Tensor, itself: bool) -> Triplets:
    first, last = Identities(columns).span(labels)
    size = last - first
    check_length(int(((size - int(itself)) * (len(columns) - size)).sum()), "triplets")
    return every_triplet(labels, columns, itself)


class AllTriplets(Miner[Triplets]):
    """`all_triplets` as a miner; the embeddings only have to fit the labels.

    Raises:
        InputError: when called with a batch that is none, see `siamese_verify.geometry.check_batch`, or with too many
            triplets to list.
    """

    gives = Triplets

    def choose(self, sets: Sets) -> Triplets:
        """See `all_triplets`."""
        return _listed(sets.labels, sets.column_labels, sets.itself)
