"""Photos -> embeddings -> the scores of a protocol's pairs."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from siamese_verify.data import FaceCropper
from siamese_verify.encoders import Encoder
from siamese_verify.types import Photos

BLOCK = 2**22  # numbers gathered together: 16 MB


def embed_photos(encoder: Encoder, photos: Photos, cropper: FaceCropper) -> np.ndarray:
    """Embed each photo once.

    Args:
        encoder: in evaluation mode.
        photos: N photos.
        cropper: made with the encoder's input spec; one that allows no damaged photos.

    Returns:
        (N,D) float32 of unit length.
    """
    device = next(encoder.buffers()).device
    embeddings = np.empty((len(photos), encoder.dimension), dtype=np.float32)
    with torch.inference_mode():
        for rows, images in cropper.stream(photos, range(len(photos)), "Embedding faces"):
            embeddings[rows] = F.normalize(encoder(images.to(device)).float()).cpu().numpy()
    return embeddings


def score_pairs(embeddings: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine similarity of pairs of unit rows.

    Args:
        embeddings: (N,D) of unit length.
        left: (M,) rows.
        right: (M,) rows.

    Returns:
        (M,) float32, in [-1, 1] up to rounding.
    """
    scores = np.empty(len(left), dtype=np.float32)
    pairs = max(1, BLOCK // embeddings.shape[1])
    for start in range(0, len(left), pairs):
        block = slice(start, start + pairs)
        scores[block] = np.einsum("md,md->m", embeddings[left[block]], embeddings[right[block]])
    return scores
