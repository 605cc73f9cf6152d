"""Every pair."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.miners.miner import Miner, check_length
from siamese_verify.pairwise import Identities, every_triplet
from siamese_verify.pairwise.nearest import Sets
from siamese_verify.structures import Pairs, Triplets


@torch.no_grad()
def all_pairs(labels: Tensor, reference_labels: Tensor | None = None) -> Pairs:
    """Pair every row i with every row j > i, or with every reference.

    Args:
        labels: (B,) identities, of any integer type.
        reference_labels: (R,) identities of the references.

    Returns:
        B (B - 1) / 2 pairs in the order (0, 1), (0, 2), ..., (1, 2), ..., or B R in the order (0, 0), (0, 1), ...

    Raises:
        InputError: more than 2^28 pairs.
    """
    columns = labels if reference_labels is None else reference_labels
    return _listed(labels, columns, 1 if reference_labels is None else 1 - len(labels))


def _listed(labels: Tensor, columns: Tensor, offset: int) -> Pairs:
    """All pairs of a row i with a column i + offset or beyond."""
    check_length(len(labels) * len(columns) - (offset > 0) * len(labels) * (len(labels) + 1) // 2, "pairs")
    anchor, other = torch.triu_indices(len(labels), len(columns), offset=offset, device=labels.device)
    return Pairs(anchor, other, labels[anchor] == columns[other])


class AllPairs(Miner[Pairs]):
    """`all_pairs` as a miner; the embeddings only have to fit the labels.

    Raises:
        InputError: when called with a batch that is none, see `siamese_verify.pairwise.check_batch`, or with too many
            pairs to list.
    """

    gives = Pairs

    def choose(self, sets: Sets) -> Pairs:
        """See `all_pairs`; with references beside the rows, each row is paired with those too."""
        return _listed(sets.labels, sets.column_labels, 1 if sets.itself else 1 - len(sets.labels))


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
    return _listed_all_triplets(labels.long(), columns.long(), reference_labels is None)


def _listed_all_triplets(labels: Tensor, columns: Tensor, itself: bool) -> Triplets:
    first, last = Identities(columns).span(labels)
    size = last - first
    check_length(int(((size - int(itself)) * (len(columns) - size)).sum()), "triplets")
    return every_triplet(labels, columns, itself)


class AllTriplets(Miner[Triplets]):
    """`all_triplets` as a miner; the embeddings only have to fit the labels.

    Raises:
        InputError: when called with a batch that is none, see `siamese_verify.pairwise.check_batch`, or with too many
            triplets to list.
    """

    gives = Triplets

    def choose(self, sets: Sets) -> Triplets:
        """See `all_triplets`."""
        return _listed_all_triplets(sets.labels, sets.column_labels, sets.itself)
