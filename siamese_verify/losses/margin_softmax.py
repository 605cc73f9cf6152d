"""Margin softmax losses over all identities of the training set: ArcFace and CosFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from siamese_verify.errors import InputError
from siamese_verify.losses.base import BatchLoss, Items, Reduction
from siamese_verify.pairwise import Batch, unit
from siamese_verify.structures import Pairs, Triplets


def arc_face_cosine(cosine: Tensor, margin: float = 0.5) -> Tensor:
    """cos(theta + margin) for cosines of angles theta.

    Args:
        cosine: of any shape; rounding may leave it just outside of [-1, 1].
        margin: radians, in [0, pi).

    Returns:
        cos(theta + margin) up to theta + margin = pi; beyond, where the cosine would rise again, InsightFace's
        cos(theta) - margin * sin(margin). Where that takes over is a step down for margins below 2.33.

        The derivative by the cosine, sin(theta + margin) / sin(theta), grows without bound towards theta = 0; where the
        sine is 0 its own derivative counts as 0, which leaves cos(margin).

    Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, eq. 3.
    """
    square = (1 - cosine) * (1 + cosine)  # of the sine; exact near 1, where 1 - cosine^2 cancels
    positive = square > 0
    sine = torch.where(positive, square, 1).sqrt().masked_fill(~positive, 0)  # no square root of 0 to differentiate
    widened = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine >= -math.cos(margin), widened, cosine - margin * math.sin(margin))


def cos_face_cosine(cosine: Tensor, margin: float = 0.35) -> Tensor:
    """Cosines of any shape minus a margin.

    Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018, eq. 4.
    """
    return cosine - margin


class MarginSoftmax(BatchLoss):
    """Base class of softmax losses over identities with a margin on the cosine of the own one: (B,) items.

    A subclass defines `with_margin`. The loss has a weight to train: give its parameters to the optimizer, and labels
    that number the identities from 0.

    Args:
        num_identities: identities of the training set, >= 1.
        scale: > 0, multiplies the cosines: the inverse of a temperature.
        margin: >= 0, in the unit of the subclass.
        embedding_size: >= 1.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.

    Attributes:
        weights: (num_identities, embedding_size) parameter; only the direction of a row counts.

    Raises:
        InputError: an argument out of its range; when called with tuples, with references, with embeddings of another
            size, and on a CPU with labels outside of [0, num_identities).
    """

    takes = ()
    takes_references = False
    compares_rows = False

    def __init__(
        self, num_identities: int, scale: float, margin: float, embedding_size: int = 512, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        for name, count in (("num_identities", num_identities), ("embedding_size", embedding_size)):
            if not isinstance(count, int) or count < 1:
                raise InputError(f"{name} is {count}, but must be a whole number, 1 or more.")
        if not scale > 0:
            raise InputError(f"scale is {scale}, but must be above 0: 64 is usual.")
        if not margin >= 0:
            raise InputError(f"margin is {margin}, but a margin softmax needs a margin of 0 or more.")
        self.num_identities = num_identities
        self.scale = scale
        self.margin = margin
        self.embedding_size = embedding_size
        self.weights = nn.Parameter(torch.randn(num_identities, embedding_size))  # normal: every direction is as likely

    def with_margin(self, cosine: Tensor) -> Tensor:
        """Cosines with the own identity as they stand in the softmax, of the same shape."""
        raise NotImplementedError

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of rows; see `BatchLoss.items`."""
        rows, labels = batch.embeddings, batch.labels[:, None]
        self._check_rows(batch)
        cosine = unit(rows) @ unit(self.weights.to(rows.dtype)).T  # (B,num_identities)
        logits = self.scale * cosine.scatter(1, labels, self.with_margin(cosine.gather(1, labels)))
        losses = functional.cross_entropy(logits, batch.labels, reduction="none")
        return Items(losses, torch.full_like(batch.labels, self.num_identities > 1, dtype=torch.bool))

    def _check_rows(self, batch: Batch) -> None:
        if batch.embeddings.shape[1] != self.embedding_size:
            raise InputError(
                f"{type(self).__name__} has weights of embedding_size {self.embedding_size}, but was given embeddings "
                f"of {batch.embeddings.shape[1]}: set embedding_size to the encoder's."
            )
        if batch.labels.device.type == "cpu":
            invalid = batch.labels[(batch.labels < 0) | (batch.labels >= self.num_identities)]
            if len(invalid):
                raise InputError(
                    f"label {int(invalid[0])} is none of the {self.num_identities} identities, 0 to "
                    f"{self.num_identities - 1}: number the training identities from 0, and set num_identities to how "
                    f"many they are."
                )

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return (
            f"num_identities={self.num_identities}, scale={self.scale}, margin={self.margin}, "
            f"embedding_size={self.embedding_size}, reduction={self.reduction!r}"
        )


class ArcFaceLoss(MarginSoftmax):
    """Cross-entropy of scaled cosines with the weights of all identities, the own one by `arc_face_cosine`.

    Args:
        num_identities: identities of the training set, >= 1; labels number them from 0.
        scale: > 0; 64 is the paper's.
        margin: radians, in [0, pi); 0.5 is the paper's.
        embedding_size: >= 1.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.

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
    ) -> None:
        super().__init__(num_identities, scale, margin, embedding_size, reduction)
        if not margin < math.pi:
            raise InputError(f"margin is {margin}, but is an angle in radians below pi: 0.5 is usual.")

    def with_margin(self, cosine: Tensor) -> Tensor:
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
    ) -> None:
        super().__init__(num_identities, scale, margin, embedding_size, reduction)

    def with_margin(self, cosine: Tensor) -> Tensor:
        """See `cos_face_cosine`."""
        return cos_face_cosine(cosine, self.margin)
