"""Residual networks: a small one that trains from random weights on a laptop, ResNet-18, and ArcFace's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet18

from siamese_verify.encoders.encoder import Encoder
from siamese_verify.errors import InputError
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
                nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
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
        feature_norm: batch norm of the pooled features, as before the dropout and the linear layer of ArcFace.
        dropout: of the pooled features, in [0, 1).
        crop: how faces are cropped from photos.
        normalize: give embeddings of unit length.
        mirror: outside of training, give the mean of the embeddings of a photo and of its mirror image.
        shape: (C,H,W) of arrays, which it takes then instead of photos; `size` and `crop` mean nothing.
        mean: subtracted from arrays, of all channels or each.
        std: divides them afterwards.
        dtype: of their numbers.
    """

    def __init__(
        self,
        size: int = 64,
        width: int = 32,
        blocks: Sequence[int] = (1, 1, 1, 1),
        stem: int = 2,
        grid: int = 1,
        embedding_size: int = 128,
        feature_norm: bool = False,
        dropout: float = 0.0,
        crop: Crop | None = Crop(),
        normalize: bool = True,
        mirror: bool = False,
        shape: Sequence[int] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        dtype: Literal["uint8", "float32"] = "float32",
    ) -> None:
        spec = InputSpec(size, crop=crop or Crop()) if shape is None else InputSpec.of_arrays(shape, mean, std, dtype)
        if len(spec.shape) != 3:
            raise InputError(f"A residual network takes arrays of shape (C, H, W), got {spec.shape}.")
        layers: list[nn.Module] = [
            nn.Conv2d(spec.shape[0], width, stem + 2, stem, 1, bias=False),
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
            *([nn.BatchNorm2d(channels)] if feature_norm else []),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels * grid**2, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        ]
        super().__init__(nn.Sequential(*layers), embedding_size, spec, normalize, mirror)


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


class BasicBlock(nn.Module):
    """Batch norm, convolution, batch norm, PReLU, convolution of the given stride, batch norm; plus a shortcut.

    Deng et al., "ArcFace", CVPR 2019, section 3.1; Han et al., "Deep Pyramidal Residual Networks", CVPR 2017.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C',H/stride,W/stride)."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class IResNet(Encoder):
    """The residual network of ArcFace (Deng et al., CVPR 2019), as InsightFace trains it: IResNet-50 and -100.

    Its first convolution keeps the resolution and is followed by no pooling; each of the four stages halves it. All
    features of the last grid, 7 x 7 for 112 pixels, are projected to the embedding. IResNet-50 has 43.6 million
    weights, IResNet-100 has 65.2.

    Args:
        blocks: residual blocks in each stage: (3, 4, 14, 3) of IResNet-50, (3, 13, 30, 3) of IResNet-100.
        size: side of the input in pixels; 112 in the paper.
        width: channels of the first stage; each further stage doubles them.
        embedding_size: length of an embedding.
        dropout: of the features, in [0, 1); 0.4 in the paper, none in InsightFace's later trainings.
        crop: how faces are cropped from photos; `five_point` in the paper.
        normalize: give embeddings of unit length.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 14, 3),
        size: int = 112,
        width: int = 64,
        embedding_size: int = 512,
        dropout: float = 0.0,
        crop: Crop = Crop("five_point"),
        normalize: bool = True,
    ) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)]
        channels, side = width, size
        for stage, count in enumerate(blocks):
            side = -(-side // 2)
            for block in range(count):
                outputs = width * 2**stage
                layers.append(BasicBlock(channels, outputs, stride=1 if block else 2))
                channels = outputs
        norm = nn.BatchNorm1d(embedding_size)
        norm.weight.requires_grad_(False)  # stays 1: embeddings are normalized after it
        layers += [
            nn.BatchNorm2d(channels),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels * side**2, embedding_size),
            norm,
        ]
        backbone = nn.Sequential(*layers)
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)
        super().__init__(backbone, embedding_size, InputSpec(size, crop=crop), normalize)
