"""Base class of encoders, an encoder of faces with their mirror images, and raw pixels as a baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec

PIXELS_SIDE = 64  # at most: at 160 pixels, thousands of embeddings would take gigabytes and score no better
CONSTANT = 1e-5  # of one more coordinate, which gives an image of one color a direction


class Encoder(nn.Module):
    """A network from face images to embeddings.

    It standardizes the pixels itself, so that training and verification cannot do it differently.

    Args:
        backbone: (B,3,S,S) standardized floats -> (B,D).
        embedding_size: D.
        input_spec: of the images that `forward` takes; `S` is its size.
        normalize: give embeddings of unit length.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, embedding_size: int, input_spec: InputSpec, normalize: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding_size = embedding_size
        self.input_spec = input_spec
        self.normalize = normalize
        self.register_buffer("mean", torch.tensor(input_spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(input_spec.std).view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)  # convolutions on a CPU are 1.5 times as fast with it

    def forward(self, images: Tensor) -> Tensor:
        """Embed faces.

        Args:
            images: (B,3,S,S) RGB, uint8 or float in 0 ... 255.

        Returns:
            (B,D) embeddings, of unit length if `normalize`.

        Raises:
            InputError: images of another shape.
        """
        size = self.input_spec.size
        if images.shape[1:] != (3, size, size):
            raise InputError(f"This encoder takes images of shape (B, 3, {size}, {size}), got {tuple(images.shape)}.")
        embeddings: Tensor = self.backbone((images - self.mean) / self.std)  # (B,D)
        return F.normalize(embeddings) if self.normalize else embeddings


class MirroredEncoder(Encoder):
    """Concatenated embeddings of a face and of its mirror image, minus the mean over other faces.

    It takes twice the time of the inner encoder. `center` starts at zero; `siamese-verify center` measures it on faces
    that no evaluation uses, and it is saved with the weights.

    Args:
        encoder: the inner encoder.
        mirror: embed the mirror image too.
    """

    center: Tensor

    def __init__(self, encoder: Encoder, mirror: bool = True) -> None:
        embedding_size = encoder.embedding_size * (1 + mirror)
        super().__init__(encoder, embedding_size, encoder.input_spec)
        self.mirror = mirror
        self.register_buffer("center", torch.zeros(embedding_size))

    def forward(self, images: Tensor) -> Tensor:
        """Embed faces.

        Args:
            images: (B,3,S,S) RGB, uint8 or float in 0 ... 255.

        Returns:
            (B,D) embeddings of unit length.

        Raises:
            InputError: images of another shape.
        """
        embeddings = F.normalize(self.backbone(images))
        if self.mirror:
            embeddings = torch.cat([embeddings, F.normalize(self.backbone(images.flip(3)))], dim=1) / 2**0.5
        return F.normalize(embeddings - self.center)


class CenteredPixels(nn.Module):
    """Pixels minus the mean color of the image, so that the cosine is the correlation of two images."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,3,S,S) -> (B,3*S*S+1), of a larger image (B,3*64*64+1)."""
        if x.shape[-1] > PIXELS_SIDE:
            x = F.interpolate(x, size=(PIXELS_SIDE, PIXELS_SIDE), mode="area")
        return F.pad((x - x.mean(dim=(2, 3), keepdim=True)).flatten(1), (0, 1), value=CONSTANT)


class Pixels(Encoder):
    """Raw pixels as embeddings, a baseline without training; larger images are scaled to 64 x 64 pixels.

    Args:
        size: side of the input in pixels.
        crop: how faces are cropped from photos.
    """

    def __init__(self, size: int = 64, crop: Crop = Crop()) -> None:
        super().__init__(CenteredPixels(), 3 * min(size, PIXELS_SIDE) ** 2 + 1, InputSpec(size, crop=crop))
