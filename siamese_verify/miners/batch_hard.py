"""The hardest triplet of every anchor."""

from __future__ import annotations

from torch import Tensor

from siamese_verify.miners.miner import Miner
from siamese_verify.pairwise import Identities
from siamese_verify.pairwise.nearest import Sets, exact_distance, first_best, nearest_impostor
from siamese_verify.structures import Triplets


def batch_hard(
    embeddings: Tensor, labels: Tensor, references: Tensor | None = None, reference_labels: Tensor | None = None
) -> Triplets:
    """Take for each anchor its farthest positive and its nearest negative.

    Args:
        embeddings: (B, D) floating point; distances are Euclidean.
        labels: (B,) identities, of any integer type.
        references: (R, D) among which to seek; None seeks among the embeddings.
        reference_labels: (R,) their identities.

    Returns:
        At most B triplets, anchors ascending. Anchors without a positive or without a negative are left out; ties take
        the lowest row.

    Raises:
        InputError: a batch that is none, see `siamese_verify.pairwise.check_batch`.

    Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, eq. 5.
    """
    return BatchHard()(embeddings, labels, references, reference_labels)


class BatchHard(Miner[Triplets]):
    """`batch_hard` as a miner."""

    gives = Triplets

    def choose(self, sets: Sets) -> Triplets:
        """See `batch_hard`."""
        row, column = Identities(sets.column_labels).pairs(sets.labels, itself=sets.itself)
        positive = first_best(row, column, -exact_distance(sets, row, column), len(sets.labels))  # (B,)
        anchor = (positive >= 0).nonzero().flatten()
        negative = nearest_impostor(sets, anchor)
        complete = negative >= 0
        return Triplets(anchor[complete], positive[anchor][complete], negative[complete])
