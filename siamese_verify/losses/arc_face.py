"""ArcFace: a softmax over identities with a margin of the angle."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses.class_weights import MarginSoftmax
from siamese_verify.losses.reduction import Reduction


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
