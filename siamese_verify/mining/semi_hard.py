"""Negatives that are farther than the positive, but not by the margin."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.mining.batch import checked_labels, distance_blocks
from siamese_verify.types import Triplets


@torch.no_grad()
def semi_hard(embeddings: Tensor, labels: Tensor, margin: float = 0.2, squared: bool = False) -> Triplets:
    """Take for each ordered genuine pair (a, p) the nearest n with d_ap < d_an < d_ap + margin.

    Args:
        embeddings: (B, D) floating point.
        labels: (B,) identities, of any integer type.
        margin: width of the band, > 0, in the unit of the distance.
        squared: compare squared Euclidean distances in place of plain ones, as the loss that follows does.

    Returns:
        Triplets ordered by anchor, then positive. Pairs without such a negative are left out; ties take the lowest row.

    Raises:
        InputError: a margin that is not above 0; a batch that is none, see `checked_labels`.

    Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, section 3.2.
    """
    check_margin(margin)
    labels = checked_labels(embeddings, labels)
    nothing = labels.new_empty(0)
    blocks = [Triplets(nothing, nothing, nothing)]
    for rows, plain in distance_blocks(embeddings):
        distance = plain.square() if squared else plain  # (b,B)
        same = labels[rows, None] == labels  # (b,B)
        # Sorted once for each anchor, the first negative beyond every positive is one search away: no (b,B,B) mask. The
        # sort is stable and the search goes past equals, so that ties take the lowest row.
        ranked, order = distance.masked_fill(same, torch.inf).sort(dim=1, stable=True)
        beyond = torch.searchsorted(ranked, distance, right=True).clamp(max=len(labels) - 1)  # (b,B) for each p
        nearest = ranked.gather(1, beyond)
        chosen = same & (nearest > distance) & (nearest < distance + margin)
        chosen[torch.arange(len(rows), device=rows.device), rows] = False  # nobody is his own positive
        anchor, positive = chosen.nonzero(as_tuple=True)
        blocks.append(Triplets(rows[anchor], positive, order.gather(1, beyond)[chosen]))
    return Triplets(*(torch.cat(column) for column in zip(*blocks, strict=True)))


class SemiHard:
    """`semi_hard` as a miner.

    Args:
        margin: width of the band, > 0, in the unit of the distance: the margin of the loss that follows.
        squared: compare squared Euclidean distances in place of plain ones.

    Raises:
        InputError: a margin that is not above 0.
    """

    def __init__(self, margin: float = 0.2, squared: bool = False) -> None:
        check_margin(margin)
        self.margin = margin
        self.squared = squared

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """Choose triplets among (B, D) embeddings with (B,) labels."""
        return semi_hard(embeddings, labels, self.margin, self.squared)


def check_margin(margin: float) -> None:
    """Refuse a band without width: it would choose nothing, silently."""
    if not margin > 0:
        raise InputError(f"margin is {margin}, but semi-hard negatives lie in a band of a width above 0.")
