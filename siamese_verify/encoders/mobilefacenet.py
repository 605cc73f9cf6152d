"""MobileFaceNet, a network of one million weights for phones."""

from __future__ import annotations

from torch import Tensor, nn

from siamese_verify.encoders.encoder import Encoder
from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec

# Table 1 of the paper: expansion, output channels, blocks, stride of the first.
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1, linear: bool = False
) -> nn.Sequential:
    """Convolution, batch norm and, unless linear, a PReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers) if linear else nn.Sequential(*layers, nn.PReLU(outputs))


class Bottleneck(nn.Module):
    """Inverted residual: expand, depthwise, project (Sandler et al., "MobileNetV2", CVPR 2018)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            convolution(inputs, hidden, 1),
            convolution(hidden, hidden, 3, stride, 1, groups=hidden),
            convolution(hidden, outputs, 1, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C',H/stride,W/stride)."""
        out: Tensor = self.body(x)
        return x + out if self.shortcut else out


class MobileFaceNet(Encoder):
    """MobileFaceNet with its global depthwise convolution (Chen et al., CCBR 2018, table 1).

    Args:
        size: side of the input in pixels, a multiple of 16; 112 in the paper.
        embedding_size: length of an embedding.
        crop: how faces are cropped from photos.
        normalize: give embeddings of unit length.

    Raises:
        InputError: `size` is not a multiple of 16.
    """

    def __init__(
        self, size: int = 112, embedding_size: int = 128, crop: Crop = Crop("box", margin=10), normalize: bool = True
    ) -> None:
        if size % 16 or size < 16:
            raise InputError(f"The size of MobileFaceNet must be a multiple of 16, got {size}.")
        layers: list[nn.Module] = [convolution(3, 64, 3, 2, 1), convolution(64, 64, 3, 1, 1, groups=64)]
        channels = 64
        for expansion, outputs, count, stride in BOTTLENECKS:
            for block in range(count):
                layers.append(Bottleneck(channels, outputs, expansion, 1 if block else stride))
                channels = outputs
        layers += [
            convolution(channels, 512, 1),
            convolution(512, 512, size // 16, groups=512, linear=True),  # global: 7 x 7 for 112
            convolution(512, embedding_size, 1, linear=True),
            nn.Flatten(),
        ]
        super().__init__(nn.Sequential(*layers), embedding_size, InputSpec(size, crop=crop), normalize)
