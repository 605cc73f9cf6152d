"""Margin softmax losses over all identities of the training set: ArcFace and CosFace, and what all of them share."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from siamese_verify.errors import InputError, check_numbers
from siamese_verify.losses.base import BatchLoss, Items, Reduction
from siamese_verify.pairwise import Batch, unit
from siamese_verify.pairwise.blocks import ranges
from siamese_verify.pairwise.ranks import add_ranks_, rank, world_size
from siamese_verify.structures import Pairs, Triplets

OPTIONS = {"subcenters": 1, "label_smoothing": 0.0, "sample_rate": 1.0, "sharded": False}
UNIT = 1e-4  # deviation from length 1 of embeddings that an encoder normalized
LOGITS = 1 << 26  # cosines that are held at once, 256 MB; of more, a block at a time is computed again going back


def arc_face_cosine(cosine: Tensor, margin: float | Tensor = 0.5) -> Tensor:
    """cos(theta + margin) for cosines of angles theta.

    Args:
        cosine: of any shape; rounding may leave it just outside of [-1, 1].
        margin: radians, in [0, pi); one, or one for each cosine.

    Returns:
        cos(theta + margin) up to theta + margin = pi; beyond, where the cosine would rise again, InsightFace's
        cos(theta) - margin * sin(margin). Where that takes over is a step down for margins below 2.33.

        The derivative by the cosine, sin(theta + margin) / sin(theta), grows without bound towards theta = 0; where the
        sine is 0 its own derivative counts as 0, which leaves cos(margin).

    Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, eq. 3.
    """
    margin = torch.as_tensor(margin, dtype=cosine.dtype)  # a number stays on the CPU, which then waits for nothing
    continued = cosine - margin * margin.sin()
    return torch.where(cosine >= -margin.cos(), add_angle(cosine, margin), continued)


def add_angle(cosine: Tensor, angle: Tensor) -> Tensor:
    """cos(theta + angle) for cosines of angles theta; where sin(theta) is 0, its own derivative counts as 0."""
    square = (1 - cosine) * (1 + cosine)  # of the sine; exact near 1, where 1 - cosine^2 cancels
    positive = square > 0
    sine = torch.where(positive, square, 1).sqrt().masked_fill(~positive, 0)  # no square root of 0 to differentiate
    return cosine * angle.cos() - sine * angle.sin()


def cos_face_cosine(cosine: Tensor, margin: float = 0.35) -> Tensor:
    """Cosines of any shape minus a margin.

    Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018, eq. 4.
    """
    return cosine - margin


class MarginSoftmax(BatchLoss):
    """Base class of softmax losses over identities with a margin on the cosine of the own one: (B,) items.

    A subclass defines `with_margin`. The loss has weights to train: give its parameters to the optimizer, and labels
    that number the identities from 0.

    With millions of identities, their weights and logits are what fills the memory. A `sample_rate` below 1 compares
    a batch in training with its own identities and a random sample of the others, so many that both are that share of
    all; the weights of the others then get no gradient (a sparse one, see `siamese_verify.training.RowSteps`). With
    `sharded`, each of several processes has the weights of a share of the identities, and compares the rows of all
    with them: processes exchange a few numbers a row instead of logits. Beyond 256 MB cosines are computed a block at a
    time, once more in the backward pass.

    Args:
        num_identities: identities of the training set, >= 1.
        scale: > 0, multiplies the cosines: the inverse of a temperature.
        margin: >= 0, in the unit of the subclass.
        embedding_size: >= 1.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.
        subcenters: weights of each identity, >= 1; the nearest counts. 3 let wrong labels gather at one of their own.
        label_smoothing: share of the target that is spread evenly over all compared identities, in [0, 1).
        sample_rate: share of the identities that a batch is compared with in training, in (0, 1].
        sharded: whether processes share the weights, once `shard` was called.

    Attributes:
        weights: (num_identities, subcenters * embedding_size) parameter, or this process's rows of it; only the
            directions of the subcenters count.
        first: identity of its first row.
        needs_norms: whether the length of embeddings says something; then they must not be of unit length.

    Raises:
        InputError: an argument out of its range; when called with tuples, with references, with embeddings of another
            size, and on a CPU with labels outside of [0, num_identities), or with unit embeddings if it needs norms.

    Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces", ECCV 2020, section 3;
    Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, section 7; An et al., "Partial FC: Training 10
    Million Identities on a Single Machine", ICCVW 2021, and "Killing Two Birds with One Stone: Efficient and Robust
    Training of Face Recognition CNNs by Partial FC", CVPR 2022, section 3.
    """

    takes = ()
    takes_references = False
    compares_rows = False
    needs_norms = False

    def __init__(
        self,
        num_identities: int,
        scale: float,
        margin: float,
        embedding_size: int = 512,
        reduction: Reduction = "mean",
        subcenters: int = 1,
        label_smoothing: float = 0.0,
        sample_rate: float = 1.0,
        sharded: bool = False,
    ) -> None:
        super().__init__(reduction)
        check_counts(num_identities=num_identities, embedding_size=embedding_size, subcenters=subcenters)
        check_numbers(scale=scale, margin=margin, label_smoothing=label_smoothing, sample_rate=sample_rate)
        if not scale > 0:
            raise InputError(f"scale is {scale}, but must be above 0: 64 is usual.")
        if not margin >= 0:
            raise InputError(f"margin is {margin}, but a margin softmax needs a margin of 0 or more.")
        check_smoothing(label_smoothing)
        if not 0 < sample_rate <= 1:
            raise InputError(f"sample_rate is {sample_rate}, but must be above 0 and at most 1: 0.1 is usual.")
        self.num_identities = num_identities
        self.scale = scale
        self.margin = margin
        self.embedding_size = embedding_size
        self.subcenters = subcenters
        self.label_smoothing = label_smoothing
        self.sample_rate = sample_rate
        self.sharded = sharded
        self.first = 0
        self.compares_rows = sharded  # rows of all ranks, with this rank's identities
        # normal: every direction is as likely
        self.weights = nn.Parameter(torch.randn(num_identities, subcenters * embedding_size))

    def with_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """(B,) cosines with the own identity as they stand in the softmax, of the cosines and lengths of embeddings."""
        raise NotImplementedError

    def penalty(self, norms: Tensor) -> Tensor | None:
        """(B,) terms that are added to the losses, of the lengths of embeddings."""

    def shard(self) -> None:
        """Keep this process's rows of the weights, if they are sharded; all processes must hold the same weights.

        Raises:
            InputError: fewer identities than processes, or a sample of identities that processes do not share.
        """
        if self.sample_rate < 1 and not self.sharded and world_size() > 1:
            raise InputError(f"sample_rate is {self.sample_rate} in {world_size()} processes: set sharded to true.")
        if not self.sharded or len(self.weights) < self.num_identities:
            return
        if self.num_identities < world_size():
            raise InputError(
                f"{self.num_identities} identities cannot be shared by {world_size()} processes: set sharded to false."
            )
        own = shard_range(self.num_identities, rank(), world_size())
        self.first = own.start
        self.weights.data = self.weights.data[own.start : own.stop].clone()

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of rows; see `BatchLoss.items`."""
        norms = torch.linalg.vector_norm(batch.embeddings, dim=1)
        check_identities(self, batch)
        compared = self._compare(unit(batch.embeddings), batch.labels)
        own = self.scale * self.with_margin(compared.own, norms)
        losses = functional.softplus(compared.log_sum - own, threshold=50)  # linear beyond: exp(-50) less
        if self.label_smoothing:
            losses = losses + self.label_smoothing * (own - (own + self.scale * compared.total) / compared.identities)
        penalty = self.penalty(norms)
        if penalty is not None:
            losses = losses + penalty
        nonzero = torch.full_like(batch.labels, self.num_identities > 1 or penalty is not None, dtype=torch.bool)
        return Items(losses[batch.anchors], nonzero[batch.anchors])

    def _compare(self, rows: Tensor, labels: Tensor) -> Compared:
        """Compare (B,D) unit rows with the identities of all processes, or a sample of them."""
        divided = len(self.weights) < self.num_identities
        centers, column = self._sample(labels - self.first)
        if divided and centers.requires_grad:
            # A loss passes on `world_size` times its gradient, see `BatchLoss.forward`.
            centers.register_hook(lambda gradient: gradient / world_size())  # type: ignore[no-untyped-call]
        parts = list(ranges(len(centers), LOGITS // max(1, len(rows) * self.subcenters)))
        block = partial(compare_rows, scale=self.scale, subcenters=self.subcenters)
        if len(parts) > 1:
            block = partial(checkpoint, block, use_reentrant=False, preserve_rng_state=False)
        pieces = zip(parts, torch.split(centers, [part.stop - part.start for part in parts]), strict=True)
        found = zip(*(block(rows, piece, column - part.start) for part, piece in pieces), strict=True)
        log_sums, owns, totals = map(torch.stack, found)
        shards = range(world_size()) if divided else range(1)
        sizes = (len(shard_range(self.num_identities, shard, len(shards))) for shard in shards)
        identities = sum(self._compared_of(size, len(rows)) for size in sizes)
        compared = Compared(torch.logsumexp(log_sums, dim=0), owns.sum(dim=0), totals.sum(dim=0), identities)
        return compared.over_ranks() if divided else compared

    def _compared_of(self, identities: int, rows: int) -> int:
        """How many of the identities of a process are compared with a batch: its own ones are among them."""
        share = self.sample_rate if self.training else 1.0
        return min(identities, max(round(share * identities), rows, 1))

    def _sample(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Weights to compare with, and which of them is each row's own.

        Args:
            places: (B,) rows of the weights; those of other processes lie outside.

        Returns:
            (S, subcenters * D) weights and (B,) rows of these, outside of [0, S) where no process but another has it.
        """
        count = len(self.weights)
        wanted = self._compared_of(count, len(places))
        if wanted == count:
            return self.weights.view_as(self.weights), places
        seed = int(torch.randint(2**62, ())) + self.first  # of torch's generator on the CPU: nothing waits for a GPU
        generator = torch.Generator(self.weights.device).manual_seed(seed)
        priority = torch.rand(count + 1, generator=generator, device=self.weights.device)
        priority.index_fill_(0, places.where((places >= 0) & (places < count), count), 2)
        chosen = priority[:count].topk(wanted).indices.sort().values
        column = torch.searchsorted(chosen, places).clamp(max=wanted - 1)
        return functional.embedding(chosen, self.weights, sparse=True), column.where(chosen[column] == places, -1)

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return (
            f"num_identities={self.num_identities}, scale={self.scale}, margin={self.margin}, "
            f"embedding_size={self.embedding_size}, reduction={self.reduction!r}"
            + "".join(
                f", {name}={getattr(self, name)}" for name, usual in OPTIONS.items() if getattr(self, name) != usual
            )
        )


def check_counts(**counts: int) -> None:
    """Raise InputError unless all are whole numbers, 1 or more."""
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise InputError(f"{name} is {count!r}, but must be a whole number, 1 or more.")


def check_smoothing(label_smoothing: float) -> None:
    """Raise InputError for a label smoothing outside of [0, 1)."""
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing is {label_smoothing}, but must be 0 or more and below 1: 0.1 is usual.")


def check_identities(loss: Any, batch: Batch) -> None:
    """Raise InputError for rows of a batch that a softmax over identities cannot use; see `MarginSoftmax`."""
    if batch.embeddings.shape[1] != loss.embedding_size:
        raise InputError(
            f"{type(loss).__name__} has weights of embedding_size {loss.embedding_size}, but was given embeddings "
            f"of {batch.embeddings.shape[1]}: set embedding_size to the encoder's."
        )
    if batch.labels.device.type != "cpu":
        return
    invalid = batch.labels[(batch.labels < 0) | (batch.labels >= loss.num_identities)]
    if len(invalid):
        raise InputError(
            f"label {int(invalid[0])} is none of the {loss.num_identities} identities, 0 to "
            f"{loss.num_identities - 1}: number the training identities from 0, and set num_identities to how "
            f"many they are."
        )
    norms = torch.linalg.vector_norm(batch.embeddings.detach(), dim=1)
    if loss.needs_norms and len(norms) > 1 and ((norms - 1).abs() < UNIT).all():
        raise InputError(
            f"{type(loss).__name__} reads the length of embeddings, but all have length 1: set normalize=False "
            "of the encoder."
        )


class Compared(NamedTuple):
    """What a softmax needs of the cosines of (B,) rows with identities."""

    log_sum: Tensor  # (B,) log-sum-exp of the logits of all identities but the own one
    own: Tensor  # (B,) cosines with the own identity
    total: Tensor  # (B,) sum of the cosines of all identities but the own one
    identities: int

    def over_ranks(self) -> Compared:
        """The same of the identities of all processes: four numbers a row, and three going back."""
        highest = self.log_sum.detach().clone()
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        sums = torch.stack([(self.log_sum - highest).exp(), self.own, self.total])
        exponentials, own, total = _SumOverRanks.apply(sums)
        return Compared(highest + exponentials.log(), own, total, self.identities)


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        return add_ranks_(sums.clone())

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return add_ranks_(slopes[0].contiguous().clone())  # the losses of each rank's rows pull at the weights of all


def compare_rows(
    rows: Tensor, centers: Tensor, column: Tensor, scale: float, subcenters: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare rows with identities; see `Compared`.

    Args:
        rows: (B, D) of unit length, or zero.
        centers: (S, subcenters * D) of any length.
        column: (B,) the own identity's row of the centers; outside of [0, S) if it is not there, and its cosine is 0.
        scale: of the logits.
        subcenters: of an identity; the nearest counts.

    Returns:
        (B,) log-sum-exp, own cosine, and sum.
    """
    count = len(centers)
    cosine = rows @ unit(centers.to(rows.dtype).reshape(count * subcenters, -1)).T  # (B,S*subcenters)
    if subcenters > 1:
        cosine = cosine.view(len(rows), count, subcenters).amax(dim=2)
    there = ((column >= 0) & (column < count))[:, None]
    place = column.clamp(0, count - 1)[:, None]
    at_place = cosine.gather(1, place)
    own = at_place.where(there, 0)
    lowest = torch.finfo(rows.dtype).min / 2  # not infinity: without negatives there would be nothing to differentiate
    negative = (scale * cosine).scatter(1, place, (scale * at_place).masked_fill(there, lowest))
    return negative.logsumexp(dim=1), own[:, 0], cosine.sum(dim=1) - own[:, 0]


def shard_range(rows: int, shard: int, shards: int) -> range:
    """Rows of one of several shards, of even length but for one row."""
    return range(rows * shard // shards, rows * (shard + 1) // shards)


class ArcFaceLoss(MarginSoftmax):
    """Cross-entropy of scaled cosines with the weights of all identities, the own one by `arc_face_cosine`.

    Args:
        num_identities: identities of the training set, >= 1; labels number them from 0.
        scale: > 0; 64 is the paper's.
        margin: radians, in [0, pi); 0.5 is the paper's.
        embedding_size: >= 1.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.
        subcenters: see `MarginSoftmax`, as for all that follow.
        label_smoothing: share of the target for all identities, in [0, 1).
        sample_rate: share of the identities that are compared in training, in (0, 1].
        sharded: whether processes share the weights.

    Raises:
        InputError: see `MarginSoftmax`.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin: float = 0.5,
        embedding_size: int = 512,
        reduction: Reduction = "mean",
        subcenters: int = 1,
        label_smoothing: float = 0.0,
        sample_rate: float = 1.0,
        sharded: bool = False,
    ) -> None:
        options = (subcenters, label_smoothing, sample_rate, sharded)
        super().__init__(num_identities, scale, margin, embedding_size, reduction, *options)
        if not margin < math.pi:
            raise InputError(f"margin is {margin}, but is an angle in radians below pi: 0.5 is usual.")

    def with_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """See `arc_face_cosine`."""
        return arc_face_cosine(cosine, self.margin)


class CosFaceLoss(MarginSoftmax):
    """Cross-entropy of scaled cosines with the weights of all identities, the own one by `cos_face_cosine`.

    Args:
        num_identities: identities of the training set, >= 1; labels number them from 0.
        scale: > 0; 64 is usual.
        margin: >= 0, of the cosine; 0.35 is the paper's.
        embedding_size: >= 1.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.
        subcenters: see `MarginSoftmax`, as for all that follow.
        label_smoothing: share of the target for all identities, in [0, 1).
        sample_rate: share of the identities that are compared in training, in (0, 1].
        sharded: whether processes share the weights.

    Raises:
        InputError: see `MarginSoftmax`.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin: float = 0.35,
        embedding_size: int = 512,
        reduction: Reduction = "mean",
        subcenters: int = 1,
        label_smoothing: float = 0.0,
        sample_rate: float = 1.0,
        sharded: bool = False,
    ) -> None:
        options = (subcenters, label_smoothing, sample_rate, sharded)
        super().__init__(num_identities, scale, margin, embedding_size, reduction, *options)

    def with_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """See `cos_face_cosine`."""
        return cos_face_cosine(cosine, self.margin)
