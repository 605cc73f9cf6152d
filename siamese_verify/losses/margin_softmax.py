"""What the margin softmaxes share: a weight vector for each identity, and cross-entropy of angles with them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from siamese_verify.errors import InputError
from siamese_verify.losses.base import BatchObjective, Reduction
from siamese_verify.pairwise import Batch, unit
from siamese_verify.pairwise.blocks import Items
from siamese_verify.structures import Pairs, Triplets


class MarginSoftmax(BatchObjective):
    """Classify every row among all identities of the training set, its own cosine lowered by a margin: (B,) items.

    A subclass defines `lower`. The objective has parameters of its own: give them to the optimizer, and labels that
    count the identities from 0.

    Args:
        identities: how many there are, >= 1.
        scale: > 0, multiplies the cosines: the inverse of a temperature.
        margin: >= 0; its unit is the subclass's.
        dimensions: of the embeddings, >= 1.
        reduction: `mean`, `mean_active`, `sum` or `none`.

    Attributes:
        weights: (identities, dimensions) parameter; only its directions count.

    Raises:
        InputError: an argument out of its range; when called with tuples pairs or triplets, with references, with
            embeddings of other dimensions, and on a CPU with labels that are not in [0, identities).
    """

    takes = ()
    takes_references = False

    def __init__(
        self, identities: int, scale: float, margin: float, dimensions: int = 512, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        for name, count in (("identities", identities), ("dimensions", dimensions)):
            if not isinstance(count, int) or count < 1:
                raise InputError(f"{name} is {count}, but must be a whole number, 1 or more.")
        if not scale > 0:
            raise InputError(f"scale is {scale}, but must be above 0: 64 is usual.")
        if not margin >= 0:
            raise InputError(f"margin is {margin}, but a margin softmax needs a margin of 0 or more.")
        self.identities = identities
        self.scale = scale
        self.margin = margin
        self.dimensions = dimensions
        self.weights = nn.Parameter(torch.randn(identities, dimensions))  # normal: every direction is as likely

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Compute the items of rows; see `BatchObjective.items`."""
        self._check(batch, tuples)
        rows, labels = batch.embeddings, batch.labels[:, None]
        cosine = unit(rows) @ unit(self.weights.to(rows.dtype)).T  # (B,identities)
        logits = self.scale * cosine.scatter(1, labels, self.lower(cosine.gather(1, labels)))
        losses = functional.cross_entropy(logits, batch.labels, reduction="none")
        return Items(losses, torch.full_like(batch.labels, self.identities > 1, dtype=torch.bool))

    def lower(self, cosine: Tensor) -> Tensor:
        """Cosines with the own identity -> what stands in the softmax for them, of the same shape."""
        raise NotImplementedError

    def _check(self, batch: Batch, tuples: Pairs | Triplets | None) -> None:
        name = type(self).__name__
        if tuples is not None:
            raise InputError(
                f"{name} compares with class weights, not with rows, but was given {len(tuples.anchor)} tuples "
                f"{type(tuples).__name__.lower()}: set miner=none."
            )
        if len(batch.references):
            raise InputError(
                f"{name} has no use for a memory, but was given {len(batch.references)} references: it compares with "
                f"class weights."
            )
        if batch.embeddings.shape[1] != self.dimensions:
            raise InputError(
                f"{name} holds weights of {self.dimensions} dimensions, but was given embeddings of "
                f"{batch.embeddings.shape[1]}: set dimensions to the encoder's."
            )
        labels = batch.labels
        if labels.device.type == "cpu" and len(labels):
            strange = (labels < 0) | (labels >= self.identities)
            if strange.any():
                raise InputError(
                    f"label {int(labels[strange][0])} is none of the {self.identities} identities, 0 to "
                    f"{self.identities - 1}: number the training identities from 0, and set identities to how many "
                    f"they are."
                )

    def extra_repr(self) -> str:
        """Name the parameters where the module is printed."""
        return (
            f"identities={self.identities}, scale={self.scale}, margin={self.margin}, dimensions={self.dimensions}, "
            f"reduction={self.reduction!r}"
        )


def arc_face_cosine(cosine: Tensor, margin: float = 0.5) -> Tensor:
    """Add a margin to the angle whose cosine is given.

    Args:
        cosine: cosines of angles theta, of any shape; rounding may leave them just outside of [-1, 1].
        margin: radians, in [0, pi).

    Returns:
        cos(theta + margin) up to theta + margin = pi; beyond, where the cosine would rise again, InsightFace's
        cos(theta) - margin * sin(margin), which falls on. Where it takes over it is a step down for margins below 2.33,
        so that the whole falls with theta; wider margins, which nobody uses, step up.

        The derivative by the cosine is sin(theta + margin) / sin(theta), which grows without bound towards theta = 0;
        where the sine is 0 its own derivative counts as 0, which leaves cos(margin).

    Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, eq. 3.
    """
    square = (1 - cosine) * (1 + cosine)  # of the sine; exact near 1, where 1 - cosine^2 cancels
    slanted = square > 0
    sine = torch.where(slanted, square, 1).sqrt().masked_fill(~slanted, 0)  # no square root of 0 to differentiate
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine >= -math.cos(margin), turned, cosine - margin * math.sin(margin))


class ArcFaceLoss(MarginSoftmax):
    """Cross-entropy of scaled cosines with the weights of all identities, the own one by `arc_face_cosine`.

    Args:
        identities: how many there are in the training set, >= 1; labels count them from 0.
        scale: > 0; 64 is the paper's.
        margin: radians, in [0, pi); 0.5 is the paper's.
        dimensions: of the embeddings, >= 1.
        reduction: `mean`, `mean_active`, `sum` or `none`.

    Raises:
        InputError: see `MarginSoftmax`.

    Deng et al. 2019, eq. 3.
    """

    def __init__(
        self,
        identities: int,
        scale: float = 64.0,
        margin: float = 0.5,
        dimensions: int = 512,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(identities, scale, margin, dimensions, reduction)
        if not margin < math.pi:
            raise InputError(f"margin is {margin}, but is an angle in radians below pi: 0.5 is usual.")

    def lower(self, cosine: Tensor) -> Tensor:
        """Widen the angle by the margin."""
        return arc_face_cosine(cosine, self.margin)


def cos_face_cosine(cosine: Tensor, margin: float = 0.35) -> Tensor:
    """Take a margin off cosines of any shape.

    Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018, eq. 4.
    """
    return cosine - margin


class CosFaceLoss(MarginSoftmax):
    """Cross-entropy of scaled cosines with the weights of all identities, the own one by `cos_face_cosine`.

    Args:
        identities: how many there are in the training set, >= 1; labels count them from 0.
        scale: > 0; 64 is usual.
        margin: >= 0, of the cosine; 0.35 is the paper's.
        dimensions: of the embeddings, >= 1.
        reduction: `mean`, `mean_active`, `sum` or `none`.

    Raises:
        InputError: see `MarginSoftmax`.

    Wang et al. 2018, eq. 4.
    """

    def __init__(
        self,
        identities: int,
        scale: float = 64.0,
        margin: float = 0.35,
        dimensions: int = 512,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(identities, scale, margin, dimensions, reduction)

    def lower(self, cosine: Tensor) -> Tensor:
        """Take the margin off."""
        return cos_face_cosine(cosine, self.margin)
