"""Magnet loss: to one's own cluster, away from those of others."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses.base import BatchObjective, Reduction
from siamese_verify.losses.info_nce import in_bands, log_sum_exp
from siamese_verify.pairwise import Batch, Identities
from siamese_verify.pairwise.blocks import Items
from siamese_verify.structures import Pairs, Triplets

ROUNDS = 5  # of Lloyd's algorithm: few rows of an identity settle in fewer


def magnet_loss(own: Tensor, others: Tensor, margin: float = 1.0) -> Tensor:
    """Prefer the own cluster to those of other identities, by a margin.

    Args:
        own: (N,) squared distances from the centre of the own cluster over twice the variance, >= 0.
        others: (N, K) the same from the centres of other identities; infinity is a cluster that is absent.
        margin: >= 0, in nats.

    Returns:
        (N,) losses: max(0, own + margin + log sum_k e^-others_k); 0 without other clusters.

    Rippel et al., "Metric Learning with Adaptive Density Discrimination", ICLR 2016, eq. 5.
    """
    return (own + margin + log_sum_exp(-others)).clamp(min=0)


class MagnetLoss(BatchObjective):
    """`magnet_loss` of every row, with clusters and variance of the batch: (B,) items, in its order.

    The rows of each identity are split into clusters by k-means within the batch: started from the row farthest from
    the identity's mean and then, one by one, from the row farthest from all starts (ties take the lowest row). The
    split itself has no gradient; centres and variance do. The variance is that of all rows around their centres,
    sum |r - mu|^2 / (B - 1). Nothing waits for a GPU. Distances from the centres of others are held a band of rows at
    a time and computed again in the backward pass: O(B D) memory.

    Args:
        clusters: into which the rows of an identity are split, >= 1; fewer if it has fewer different rows. 1 needs two
            photos of each identity in a batch, k need more than k.
        variance_floor: > 0, least variance to divide by, in the square of the embeddings' unit. Where every identity
            has collapsed to a point, it keeps the gradient finite; 1e-4 is a hundredth of the length of a unit
            embedding, well above what float32 rounds.
        margin: >= 0, the paper's alpha: how many nats the own cluster must be ahead of all others together.
        reduction: `mean`, `mean_active`, `sum` or `none`.

    Raises:
        InputError: an argument out of its range; when called with tuples pairs or triplets, or with references.

    Rippel et al. 2016, eq. 5, the batch's approximation of eq. 4.
    """

    takes = ()
    takes_references = False

    def __init__(
        self, clusters: int = 1, variance_floor: float = 1e-4, margin: float = 1.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        if not isinstance(clusters, int) or clusters < 1:
            raise InputError(f"clusters is {clusters}, but an identity has a whole number of clusters, 1 or more.")
        if not variance_floor > 0:
            raise InputError(f"variance_floor is {variance_floor}, but must be above 0: distances are divided by it.")
        if not margin >= 0:
            raise InputError(f"margin is {margin}, but a magnet loss needs a margin of 0 or more.")
        self.clusters = clusters
        self.variance_floor = variance_floor
        self.margin = margin

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Compute the items of rows; see `BatchObjective.items`."""
        if tuples is not None:
            raise InputError(
                f"MagnetLoss compares with cluster centres, not with rows, but was given {len(tuples.anchor)} tuples "
                f"{type(tuples).__name__.lower()}: set miner=none."
            )
        if len(batch.references):
            raise InputError(
                f"MagnetLoss has no use for a memory, but was given {len(batch.references)} references: its clusters "
                f"are those of the batch."
            )
        rows, labels = batch.embeddings, batch.labels
        rows = rows - rows.detach().sum(dim=0) / max(len(rows), 1)  # squared lengths cancel less around the middle
        identities = Identities(labels)
        first, last = identities.span(labels)
        cluster = first + split(rows.detach(), first, last, self.clusters)  # (B,) in [first, last): no two share one
        centres, sizes = centres_of(rows, cluster)
        spread = (rows - centres[cluster]).square().sum(dim=1)  # (B,)
        variance = (spread.sum() / max(len(rows) - 1, 1)).clamp(min=self.variance_floor)

        def losses(rows: Tensor, spread: Tensor, labels: Tensor, centres: Tensor, variance: Tensor) -> Tensor:
            squared = rows.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)  # (n,B)
            squared = torch.addmm(squared, rows, centres.T, alpha=-2)
            absent = labels[:, None] == identities.sorted  # a cluster lies where rows of its identity are sorted to
            others = (squared / (2 * variance)).masked_fill(absent | (sizes == 0), torch.inf)
            return magnet_loss(spread / (2 * variance), others, self.margin)

        return Items.of(in_bands(losses, len(centres), (rows, spread, labels), (centres, variance)))

    def extra_repr(self) -> str:
        """Name the parameters where the module is printed."""
        return (
            f"clusters={self.clusters}, variance_floor={self.variance_floor}, margin={self.margin}, "
            f"reduction={self.reduction!r}"
        )


def split(rows: Tensor, first: Tensor, last: Tensor, clusters: int) -> Tensor:
    """Split the rows of each identity by k-means, all identities at once.

    Args:
        rows: (B, D).
        first: (B,) int64, the number of each row's identity.
        last: (B,) int64, `first` plus how many rows the identity has.
        clusters: at most this many for each identity.

    Returns:
        (B,) int64 cluster within the identity, in [0, min(clusters, different rows of the identity)).
    """
    cluster = torch.zeros_like(first)
    if clusters == 1:
        return cluster
    middle, _ = centres_of(rows, first)
    start = farthest((rows - middle[first]).square().sum(dim=1), first)
    nearest = (rows - rows[start]).square().sum(dim=1)
    for number in range(1, clusters):
        start = farthest(nearest, first)
        distance = (rows - rows[start]).square().sum(dim=1)  # nobody is nearer to a start that is one already
        cluster = torch.where(distance < nearest, number, cluster)
        nearest = torch.minimum(distance, nearest)
    for _ in range(ROUNDS):
        centres, sizes = centres_of(rows, first + cluster)
        nearest = torch.full_like(nearest, torch.inf)
        for number in range(clusters):
            slot = torch.minimum(first + number, last - 1)
            there = (first + number < last) & (sizes[slot] > 0)
            distance = (rows - centres[slot]).square().sum(dim=1).masked_fill(~there, torch.inf)
            cluster = torch.where(distance < nearest, number, cluster)
            nearest = torch.minimum(distance, nearest)
    return cluster


def farthest(distance: Tensor, identity: Tensor) -> Tensor:
    """For each row, the row of its identity that lies farthest: the lowest of several.

    Args:
        distance: (B,) >= 0.
        identity: (B,) int64 in [0, B).

    Returns:
        (B,) int64.
    """
    count = len(distance)
    highest = distance.new_zeros(count).scatter_reduce(0, identity, distance, "amax")[identity]
    row = torch.where(distance == highest, torch.arange(count, device=distance.device), count)
    return torch.full_like(identity, count).scatter_reduce(0, identity, row, "amin")[identity]


def centres_of(rows: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor]:
    """Means of rows by cluster.

    Args:
        rows: (B, D).
        cluster: (B,) int64 in [0, B).

    Returns:
        (B, D) centres, 0 where a cluster has no rows, and (B,) how many rows there are, in the type of the rows.
    """
    sizes = rows.new_zeros(len(rows)).index_add(0, cluster, rows.new_ones(len(rows)))
    centres = torch.zeros_like(rows).index_add(0, cluster, rows)
    return centres / sizes.clamp(min=1)[:, None], sizes
