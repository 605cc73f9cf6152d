"""Magnet loss: a softmax over the cluster centers of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.errors import InputError, check_numbers
from siamese_verify.losses.base import BatchLoss, Items, Reduction
from siamese_verify.losses.info_nce import log_sum_exp
from siamese_verify.pairwise import Batch, Identities, in_bands
from siamese_verify.structures import Pairs, Triplets

LLOYD_STEPS = 5  # few rows of an identity settle in fewer


def magnet_loss(own: Tensor, others: Tensor, margin: float = 1.0) -> Tensor:
    """Magnet loss of each row.

    Args:
        own: (N,) squared distances from the center of the own cluster over twice the variance, >= 0.
        others: (N, K) the same from the centers of other identities; infinity is an absent cluster.
        margin: >= 0, in nats.

    Returns:
        (N,) losses: max(0, own + margin + log sum_k e^-others_k); 0 without other clusters.

    Rippel et al., "Metric Learning with Adaptive Density Discrimination", ICLR 2016, eq. 5.
    """
    return (own + margin + log_sum_exp(-others)).clamp(min=0)


class MagnetLoss(BatchLoss):
    """`magnet_loss` of every row, with clusters and variance of the batch: (B,) items, in its order.

    The rows of each identity are split into clusters by k-means within the batch, without a gradient; centers and
    variance have one. The variance is that of all rows around their centers, sum |r - mu|^2 / (B - 1). Distances from
    centers are held a band of rows at a time: O(B D) memory. Nothing waits for a GPU. Ranks that share a batch each
    split all of it, and compare their own rows with the centers.

    Args:
        clusters: of each identity, >= 1; fewer if it has fewer different rows. 1 needs two photos of each identity in
            a batch, k need more than k.
        variance_floor: > 0, least variance to divide by: it keeps the gradient finite where every identity has
            collapsed to a point. 1e-4 is well above what float32 rounds for unit embeddings.
        margin: >= 0, the paper's alpha: how many nats the own cluster must be ahead of all others together.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.

    Raises:
        InputError: an argument out of its range; when called with tuples or references.

    Rippel et al. 2016, eq. 5, the batch's approximation of eq. 4.
    """

    takes = ()
    takes_references = False

    def __init__(
        self, clusters: int = 1, variance_floor: float = 1e-4, margin: float = 1.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        if not isinstance(clusters, int) or clusters < 1:
            raise InputError(f"clusters is {clusters!r}, but an identity has a whole number of clusters, 1 or more.")
        check_numbers(variance_floor=variance_floor, margin=margin)
        if not variance_floor > 0:
            raise InputError(f"variance_floor is {variance_floor}, but must be above 0: distances are divided by it.")
        if not margin >= 0:
            raise InputError(f"margin is {margin}, but a magnet loss needs a margin of 0 or more.")
        self.clusters = clusters
        self.variance_floor = variance_floor
        self.margin = margin

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of rows; see `BatchLoss.items`."""
        rows, labels = batch.embeddings, batch.labels
        rows = rows - rows.detach().sum(dim=0) / max(len(rows), 1)  # squared lengths cancel less around the middle
        identities = Identities(labels)
        first, last = identities.span(labels)
        cluster = first + split(rows.detach(), first, last, self.clusters)  # (B,) in [first, last): no two share one
        centers, sizes = cluster_centers(rows, cluster)
        own = (rows - centers[cluster]).square().sum(dim=1)  # (B,)
        variance = (own.sum() / max(len(rows) - 1, 1)).clamp(min=self.variance_floor)

        def losses(rows: Tensor, own: Tensor, labels: Tensor, centers: Tensor, variance: Tensor) -> Tensor:
            squared = rows.square().sum(dim=1, keepdim=True) + centers.square().sum(dim=1)  # (n,B)
            squared = torch.addmm(squared, rows, centers.T, alpha=-2)
            absent = labels[:, None] == identities.sorted  # a cluster lies where rows of its identity are sorted to
            others = (squared / (2 * variance)).masked_fill(absent | (sizes == 0), torch.inf)
            return magnet_loss(own / (2 * variance), others, self.margin)

        anchors = tuple(rows[batch.anchors] for rows in (rows, own, labels))
        return Items.from_losses(in_bands(losses, len(centers), anchors, (centers, variance)))

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return (
            f"clusters={self.clusters}, variance_floor={self.variance_floor}, margin={self.margin}, "
            f"reduction={self.reduction!r}"
        )


def split(rows: Tensor, first: Tensor, last: Tensor, clusters: int) -> Tensor:
    """Split the rows of each identity by k-means, all identities at once.

    It starts from the row farthest from the identity's mean and then, one by one, from the row farthest from all
    starts; ties take the lowest row.

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
    middle, _ = cluster_centers(rows, first)
    start = farthest((rows - middle[first]).square().sum(dim=1), first)
    nearest = (rows - rows[start]).square().sum(dim=1)
    for number in range(1, clusters):
        start = farthest(nearest, first)
        distance = (rows - rows[start]).square().sum(dim=1)  # not below `nearest` if it is a start already
        cluster = torch.where(distance < nearest, number, cluster)
        nearest = torch.minimum(distance, nearest)
    for _ in range(LLOYD_STEPS):
        centers, sizes = cluster_centers(rows, first + cluster)
        nearest = torch.full_like(nearest, torch.inf)
        for number in range(clusters):
            slot = torch.minimum(first + number, last - 1)
            exists = (first + number < last) & (sizes[slot] > 0)
            distance = (rows - centers[slot]).square().sum(dim=1).masked_fill(~exists, torch.inf)
            cluster = torch.where(distance < nearest, number, cluster)
            nearest = torch.minimum(distance, nearest)
    return cluster


def farthest(distance: Tensor, identity: Tensor) -> Tensor:
    """(B,) int64: for each row, the row of its identity with the largest of (B,) distances, the lowest of several."""
    count = len(distance)
    highest = distance.new_zeros(count).scatter_reduce(0, identity, distance, "amax")[identity]
    row = torch.where(distance == highest, torch.arange(count, device=distance.device), count)
    return torch.full_like(identity, count).scatter_reduce(0, identity, row, "amin")[identity]


def cluster_centers(rows: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) means of the (B, D) rows of each cluster in [0, B), 0 for an empty one, and (B,) numbers of its rows."""
    sizes = rows.new_zeros(len(rows)).index_add(0, cluster, rows.new_ones(len(rows)))
    centers = torch.zeros_like(rows).index_add(0, cluster, rows)
    return centers / sizes.clamp(min=1)[:, None], sizes
