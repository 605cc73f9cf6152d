"""An encoder that also looks at the face in the mirror, and forgets what all faces have in common."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from siamese_verify.encoders.encoder import Encoder


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
        dimension = encoder.dimension * (1 + mirror)
        super().__init__(encoder, dimension, encoder.input_spec)
        self.mirror = mirror
        self.register_buffer("center", torch.zeros(dimension))

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
