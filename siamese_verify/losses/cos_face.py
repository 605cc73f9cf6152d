"""CosFace: a softmax over identities with a margin of the cosine."""

from __future__ import annotations

from torch import Tensor

from siamese_verify.losses.class_weights import MarginSoftmax
from siamese_verify.losses.reduction import Reduction


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
