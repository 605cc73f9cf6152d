"""Residual networks: a small one that trains from random weights on a laptop, and ResNet-18."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import resnet18

from siamese_verify.encoders.encoder import Encoder
from siamese_verify.structures import Crop, InputSpec


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )
        self.activation = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C',H/stride,W/stride)."""
        out: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return out


class SmallResNet(Encoder):
    """A small residual network; each stage has half the resolution and twice the width of the one before.

    Args:
        size: side of the input in pixels.
        width: channels of the first stage.
        blocks: residual blocks in each stage; the stages after the first halve the resolution.
        stem: stride of the first convolution, in pixels.
        grid: side of the grid that features are pooled to before the embedding; 1 averages over the whole face.
        embedding_size: length of an embedding.
        dropout: of the pooled features, in [0, 1).
        crop: how faces are cropped from photos.
        normalize: give embeddings of unit length.
    """

    def __init__(
        self,
        size: int = 64,
        width: int = 32,
        blocks: Sequence[int] = (1, 1, 1, 1),
        stem: int = 2,
        grid: int = 1,
        embedding_size: int = 128,
        dropout: float = 0.0,
        crop: Crop = Crop(),
        normalize: bool = True,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, stem + 2, stem, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
        ]
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                outputs = width * 2**stage
                layers.append(ResidualBlock(channels, outputs, stride=2 if stage and not block else 1))
                channels = outputs
        layers += [
            nn.AdaptiveAvgPool2d(grid),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels * grid**2, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        ]
        super().__init__(nn.Sequential(*layers), embedding_size, InputSpec(size, crop=crop), normalize)


class ResNet18(Encoder):
    """ResNet-18 from random weights (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016).

    Args:
        size: side of the input in pixels.
        embedding_size: length of an embedding.
        crop: how faces are cropped from photos.
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
