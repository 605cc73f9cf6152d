"""Negatives drawn evenly over all distances."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.miners.miner import Miner
from siamese_verify.pairwise import Identities, bands, unit
from siamese_verify.pairwise.nearest import Sets, bisect_rows
from siamese_verify.structures import Triplets


def log_density(distance: Tensor, dimensions: int) -> Tensor:
    """Log-density, up to a constant, of the distance between two random points of the unit sphere in D dimensions.

    Args:
        distance: in (0, 2).
        dimensions: D >= 2.

    Returns:
        (D - 2) log d + (D - 3) / 2 log(1 - d^2 / 4), of the shape of `distance`.

    Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, section 4.2.
    """
    return (dimensions - 2) * distance.log() + (dimensions - 3) / 2 * torch.log1p(-distance.square() / 4)


def distance_weighted(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    cutoff: float = 0.5,
    farthest: float = 1.4,
    generator: torch.Generator | None = None,
) -> Triplets:
    """Draw for each ordered genuine pair (a, p) a negative, with probability inverse to the density of its distance.

    In high dimensions nearly all pairs are sqrt(2) apart; drawn evenly over all distances, the near ones get their
    share.

    Args:
        embeddings: (B, D) floating point, D >= 2; distances are those of the unit vectors.
        labels: (B,) identities, of any integer type.
        references: (R, D) among which to seek; None seeks among the embeddings.
        reference_labels: (R,) their identities.
        cutoff: in (0, 2); nearer negatives weigh as much as one at this distance: the closest are noise, or photos
            with a wrong label.
        farthest: > cutoff; negatives from here on are not drawn: they give a triplet loss no gradient. An anchor that
            has no nearer ones draws any, evenly.
        generator: of a CPU; None is torch's own.

    Returns:
        Triplets ordered by anchor, then positive; anchors without a negative are left out. A draw takes one random
        number for each genuine pair, from the CPU's generator on every device.

    Raises:
        InputError: a cutoff out of its range; embeddings of one dimension; a batch that is none, see
            `siamese_verify.pairwise.check_batch`.

    Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, eq. 3, and `farthest` of the authors' code.
    """
    miner = DistanceWeighted(cutoff, farthest, generator)
    return miner(embeddings, labels, references, reference_labels)


class DistanceWeighted(Miner[Triplets]):
    """`distance_weighted` as a miner.

    Args:
        cutoff: in (0, 2); nearer negatives weigh as much as one at this distance.
        farthest: > cutoff; negatives from here on are not drawn.
        generator: of a CPU; None is torch's own.

    Raises:
        InputError: a cutoff out of its range.
    """

    gives = Triplets

    def __init__(self, cutoff: float = 0.5, farthest: float = 1.4, generator: torch.Generator | None = None) -> None:
        check_cutoff(cutoff, farthest)
        self.cutoff = cutoff
        self.farthest = farthest
        self.generator = generator

    def choose(self, sets: Sets) -> Triplets:
        """See `distance_weighted`."""
        dimensions = sets.rows.shape[1]
        if dimensions < 2:
            raise InputError(f"embeddings have {dimensions} dimension, but distances on a sphere need two or more.")
        rows, columns = unit(sets.rows), unit(sets.columns)
        nothing = sets.labels.new_empty(0)
        found = [Triplets(nothing, nothing, nothing)]
        if not len(columns):  # rows of no length have no largest entry
            return found[0]
        identities = Identities(sets.column_labels)
        for band in bands(len(rows), len(columns)):
            anchor, positive = identities.pairs(sets.labels[band], band.start, sets.itself)
            distance = (2 - 2 * rows[band] @ columns.T).clamp_(min=0).sqrt_()  # (b,C)
            impostor = sets.labels[band, None] != sets.column_labels
            eligible = impostor & (distance < self.farthest)
            desperate = ~eligible.any(dim=1, keepdim=True)
            level = -log_density(distance.clamp_(self.cutoff, min(self.farthest, 2 - 1e-3)), dimensions)
            level.masked_fill_(~eligible, -torch.inf).masked_fill_(desperate & impostor, 0)
            weight = (
                (level - level.amax(dim=1, keepdim=True)).exp_().nan_to_num_(0)
            )  # a row without negatives: -inf + inf
            reach = weight.double().cumsum_(dim=1)  # (b,C)
            draw = torch.rand(len(anchor), dtype=torch.float64, generator=self.generator).to(reach.device)
            local = anchor - band.start
            negative = bisect_rows(reach, local, draw * reach[local, -1])
            chosen = reach[local, -1] > 0
            found.append(Triplets(anchor[chosen], positive[chosen], negative[chosen]))
        return Triplets(*(torch.cat(column) for column in zip(*found, strict=True)))


def check_cutoff(cutoff: float, farthest: float) -> None:
    """Refuse distances that no two unit vectors have, and a band without width."""
    if not 0 < cutoff < 2:
        raise InputError(f"cutoff is {cutoff}, but must lie between 0 and 2, as the distances of unit vectors do.")
    if not farthest > cutoff:
        raise InputError(f"farthest is {farthest}, but must be above the cutoff of {cutoff}.")
