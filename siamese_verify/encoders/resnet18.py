"""torchvision's ResNet-18 with an embedding in place of its classifier."""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet18

from siamese_verify.encoders.encoder import Encoder
from siamese_verify.structures import Crop, InputSpec


class ResNet18(Encoder):
    """ResNet-18 from random weights (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016).

    Args:
        size: side of the input in pixels.
        embedding_size: length of an embedding.
        crop: how faces are cut from photos.
        normalize: give embeddings of unit length.
    """

    def __init__(
        self, size: int = 112, embedding_size: int = 256, crop: Crop = Crop("box", margin=10), normalize: bool = True
    ) -> None:
        backbone = resnet18(weights=None)
        backbone.fc = nn.Sequential(
            nn.Linear(backbone.fc.in_features, embedding_size, bias=False), nn.BatchNorm1d(embedding_size)
        )
        super().__init__(backbone, embedding_size, InputSpec(size, crop=crop), normalize)
