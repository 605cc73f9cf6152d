"""Negatives drawn evenly over all distances."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.errors import InputError, check_numbers
from siamese_verify.miners.miner import Miner
from siamese_verify.pairwise import Identities, bands, unit
from siamese_verify.pairwise.nearest import ComparedRows, bisect_rows
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


class DistanceWeighted(Miner[Triplets]):
    """A random negative for each ordered genuine pair, with probability inverse to the density of its distance.

    In high dimensions nearly all pairs are sqrt(2) apart; drawn evenly over all distances, near ones get their share.
    Distances are those of the unit vectors. Gives triplets ordered by anchor, then positive; anchors without a negative
    are left out. A draw takes one random number for each genuine pair, from a CPU generator on every device.

    Args:
        cutoff: in (0, 2); nearer negatives weigh as much as one at this distance: the closest are noise, or photos with
            a wrong label.
        farthest: > cutoff; negatives from here on are not drawn, as they give a triplet loss no gradient. An anchor
            that has no nearer ones draws any, evenly.
        generator: of a CPU; None is torch's own.

    Raises:
        InputError: a cutoff out of its range; when called, embeddings of one dimension.

    Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, eq. 3, and `farthest` of the authors' code.
    """

    gives = Triplets

    def __init__(self, cutoff: float = 0.5, farthest: float = 1.4, generator: torch.Generator | None = None) -> None:
        check_numbers(finite=False, cutoff=cutoff, farthest=farthest)
        if not 0 < cutoff < 2:
            raise InputError(f"cutoff is {cutoff}, but must lie between 0 and 2, as the distances of unit vectors do.")
        if not farthest > cutoff:
            raise InputError(f"farthest is {farthest}, but must be above the cutoff of {cutoff}.")
        self.cutoff, self.farthest, self.generator = cutoff, farthest, generator

    def choose(self, compared: ComparedRows) -> Triplets:
        """See the class."""
        size = compared.rows.shape[1]
        if size < 2:
            raise InputError(f"embeddings have {size} dimension, but distances on a sphere need two or more.")
        nothing = compared.labels.new_empty(0)
        found = [Triplets(nothing, nothing, nothing)]
        if not len(compared.columns):
            return found[0]
        rows, columns = unit(compared.rows), unit(compared.columns)
        identities = Identities(compared.column_labels)
        own = compared.anchors
        self._skip(compared, identities, slice(0, own.start))  # the draws of other ranks
        for band in bands(own.stop, len(columns), self.numbers, own.start):
            anchor, positive = identities.pairs(compared.labels[band], band.start, compared.itself)
            negatives = compared.labels[band, None] != compared.column_labels  # (b,C)
            cumulative = self._weights(rows[band], columns, negatives).double().cumsum_(dim=1)
            draw = torch.rand(len(anchor), dtype=torch.float64, generator=self.generator).to(cumulative.device)
            row = anchor - band.start
            negative = bisect_rows(cumulative, row, draw * cumulative[row, -1])
            chosen = cumulative[row, -1] > 0
            found.append(Triplets(anchor[chosen], positive[chosen], negative[chosen]))
        self._skip(compared, identities, slice(own.stop, len(rows)))
        return Triplets(*(torch.cat(column) for column in zip(*found, strict=True)))

    def _skip(self, compared: ComparedRows, identities: Identities, rows: slice) -> None:
        if rows.start < rows.stop:
            first, last = identities.span(compared.labels[rows])
            pairs = int((last - first - int(compared.itself)).sum())
            torch.rand(pairs, dtype=torch.float64, generator=self.generator)

    def _weights(self, rows: Tensor, columns: Tensor, negatives: Tensor) -> Tensor:
        """(b, C) weights of unit columns as negatives of unit rows, the largest of a row 1; 0 where it has none."""
        distance = (2 - 2 * rows @ columns.T).clamp_(min=0).sqrt_()
        eligible = negatives & (distance < self.farthest)
        none_near = ~eligible.any(dim=1, keepdim=True)
        level = -log_density(distance.clamp_(self.cutoff, min(self.farthest, 2 - 1e-3)), rows.shape[1])
        level.masked_fill_(~eligible, -torch.inf).masked_fill_(none_near & negatives, 0)
        return (level - level.amax(dim=1, keepdim=True)).exp_().nan_to_num_(0)  # -inf + inf without negatives
