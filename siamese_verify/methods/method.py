"""What the methods of learning without labels share: a training step from the views of a batch to a scalar loss."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.pairwise.ranks import gather_rows, shared_totals, sizes_of_ranks
from siamese_verify.samplers import ImageSampler
from siamese_verify.samplers.epoch import EpochSampler
from siamese_verify.structures import FaceBatch


class Learner(Protocol):
    """What a method may use of the LightningModule that trains it."""

    @property
    def encoder(self) -> Any:
        """The encoder that is trained, validated and bundled."""

    @property
    def loss(self) -> Any:
        """The loss that is configured, or None."""

    @property
    def logs_figures(self) -> bool:
        """Whether this step logs figures that take time."""

    def embed(self, images: Tensor) -> Tensor:
        """(N,D) embeddings of N images before they are normalized, with gradients that cost the memory of a chunk."""

    def compare(self, embeddings: Tensor, labels: Tensor, *, loss: nn.Module | None = None) -> Tensor:
        """The configured loss over the (N,D) rows of all ranks with (N,) labels, after the configured miner.

        Another loss, if given, compares everything.
        """

    def generator(self) -> torch.Generator:
        """Random numbers of this step: on all ranks the same, and in a resumed run those of the uninterrupted one."""

    def log(self, name: str, value: Any) -> None:
        """Log a figure of this step."""


class Method(nn.Module):
    """Base class of methods that learn from several views of each image. Heads and banks belong to the method.

    A subclass defines `step`. What it keeps in parameters, buffers or extra state is in every checkpoint, and never in
    a bundle: that has the encoder alone.

    Attributes:
        views: fewest and most views of an image that it takes.
        sampler: what chooses its batches.
        instead: which loss to set where the configured one cannot be used.
        takes_miner: whether a miner may choose what is compared.
        scheduled: whether it changes with the share of the training's steps that are done.
    """

    views: tuple[int, float] = (2, 2)
    sampler: type[EpochSampler[Any]] = ImageSampler
    instead = "leave loss out (add ~loss where an experiment sets one), it has an objective of its own"
    takes_miner = False
    scheduled = False

    @classmethod
    def accepts(cls, loss: type[nn.Module] | None) -> bool:
        """Whether the method can use a loss; None stands for no loss."""
        return loss is None

    @classmethod
    def check(cls, loss: type[nn.Module] | None, miner: object = None) -> None:
        """Check loss and miner.

        Raises:
            InputError: the method cannot use one of them.
        """
        if not cls.accepts(loss):
            given = loss.__name__ if loss else "no loss"
            raise InputError(f"{cls.__name__} cannot use {given}: {cls.instead}.")
        if miner is not None and not cls.takes_miner:
            raise InputError(f"{cls.__name__} compares everything, but {type(miner).__name__} chooses: set miner=none.")

    @classmethod
    def check_views(cls, views: int) -> None:
        """Raise InputError for a number of views that the method does not take."""
        fewest, most = cls.views
        if not fewest <= views <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} or more"
            raise InputError(
                f"{cls.__name__} takes {wanted} views of an image, got {views}: set datamodule.multi_view."
            )

    def step(self, batch: FaceBatch, learner: Learner) -> Tensor:
        """Scalar loss of one training step, of all ranks' images together.

        Args:
            batch: images in blocks, one for each view, and the rows of one block.
            learner: what trains the method.

        Raises:
            InputError: another number of views.
        """
        raise NotImplementedError

    def after_step(self, encoder: nn.Module, progress: float) -> None:
        """Follow the encoder, after each step of the optimizer.

        Args:
            encoder: with its new weights.
            progress: share of the training's steps that are done, in [0, 1]; 0 for a training without an end.
        """

    def split(self, batch: FaceBatch) -> list[Tensor]:
        """The views of a batch, a list of (N,3,S,S) blocks.

        Raises:
            InputError: a number of views that the method does not take, or a batch without the numbers of its rows.
        """
        if batch.rows is None:
            raise InputError(f"{type(self).__name__} needs the rows of a batch: take batches of a FaceDataset.")
        views = len(batch.images) // max(1, len(batch.rows))
        self.check_views(views)
        return list(batch.images.tensor_split(views))


def check_momentum(momentum: float) -> None:
    """Raise InputError for a momentum outside [0, 1]."""
    if not 0 <= momentum <= 1:
        raise InputError(f"momentum is {momentum}, but is a share that is kept in a step, in 0 ... 1.")


def mean_over_ranks(losses: Tensor) -> Tensor:
    """Mean of the (N,) losses of all ranks; the gradient is that which one process with all rows would have."""
    total, count = shared_totals(losses.sum(), len(losses))
    return total / count.clamp(min=1).to(total)


def unit_rows(rows: Tensor) -> Tensor:
    """(N,D) rows divided by their lengths, in float32 at least."""
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)))


def products(rows: Tensor, others: Tensor) -> Tensor:
    """(N,K) products of (N,D) and (K,D) rows in the type of the first, under autocast too: logits need the digits."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ others.to(rows).T


def gather_without_gradient(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of N rows each, of all ranks in their order, without gradients."""
    sizes = sizes_of_ranks(len(tensors[0]), tensors[0].device)
    return tuple(gather_rows(tensor.detach(), sizes) for tensor in tensors)
