"""Negatives that are farther than the positive, but not by the margin."""

from __future__ import annotations

from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.miners.miner import Miner
from siamese_verify.pairwise import Identities
from siamese_verify.pairwise.nearest import Sets, exact_distance, nearest_impostor
from siamese_verify.structures import Triplets


def semi_hard(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    margin: float = 0.2,
    squared: bool = False,
) -> Triplets:
    """Take for each ordered genuine pair (a, p) the nearest n with d_ap < d_an < d_ap + margin.

    Args:
        embeddings: (B, D) floating point.
        labels: (B,) identities, of any integer type.
        references: (R, D) among which to seek; None seeks among the embeddings.
        reference_labels: (R,) their identities.
        margin: width of the band, > 0, in the unit of the distance.
        squared: compare squared Euclidean distances in place of plain ones, as the loss that follows does.

    Returns:
        Triplets ordered by anchor, then positive. Pairs without such a negative are left out; ties take the lowest row.

    Raises:
        InputError: a margin that is not above 0; a batch that is none, see `siamese_verify.pairwise.check_batch`.

    Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, section 3.2.
    """
    return SemiHard(margin, squared)(embeddings, labels, references, reference_labels)


class SemiHard(Miner[Triplets]):
    """`semi_hard` as a miner.

    Args:
        margin: width of the band, > 0, in the unit of the distance: the margin of the loss that follows.
        squared: compare squared Euclidean distances in place of plain ones.

    Raises:
        InputError: a margin that is not above 0.
    """

    gives = Triplets

    def __init__(self, margin: float = 0.2, squared: bool = False) -> None:
        check_margin(margin)
        self.margin = margin
        self.squared = squared

    def choose(self, sets: Sets) -> Triplets:
        """See `semi_hard`."""
        anchor, positive = Identities(sets.column_labels).pairs(sets.labels, itself=sets.itself)
        inner = exact_distance(sets, anchor, positive, self.squared)  # (M,)
        negative = nearest_impostor(sets, anchor, inner, inner + self.margin, self.squared)
        chosen = negative >= 0
        return Triplets(anchor[chosen], positive[chosen], negative[chosen])


def check_margin(margin: float) -> None:
    """Refuse a band without width: it would choose nothing, silently."""
    if not margin > 0:
        raise InputError(f"margin is {margin}, but semi-hard negatives lie in a band of a width above 0.")
