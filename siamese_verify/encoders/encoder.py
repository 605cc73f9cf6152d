"""What every encoder is: a backbone, the input it was made for, and embeddings of unit length."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.structures import InputSpec


class Encoder(nn.Module):
    """Images to embeddings, the one network of a Siamese pair.

    Standardising the pixels is part of the network, so that training and verifying can never do it differently.

    Args:
        backbone: (B,3,S,S) standardised floats -> (B,D).
        embedding_size: D.
        input_spec: what `forward` expects; `S` is its size.
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
        self.to(memory_format=torch.channels_last)  # convolutions on a CPU are half as fast again with it

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
    """Embeddings of a face and of its mirror image side by side, less the mean over other faces.

    Twice the work of the encoder inside. `center` starts at zero; `siamese-verify center` measures it on faces that no
    evaluation uses, and it is saved with the weights.

    Args:
        encoder: the one inside.
        mirror: add the mirror image.
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
