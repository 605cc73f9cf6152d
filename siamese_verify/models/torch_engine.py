"""Faces -> embeddings by torch, on any device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_verify.encoders import Encoder


class TorchEngine:
    """An encoder on torch.

    Args:
        encoder: in evaluation mode, on its device.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N,S,S,3) uint8 RGB -> (N,D) embeddings."""
        device = next(self.encoder.buffers()).device
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)
            embeddings: NDArray[np.float32] = self.encoder(images.to(device)).float().cpu().numpy()
        return embeddings
