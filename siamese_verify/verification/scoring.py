"""Photos -> embeddings -> the scores of a protocol's pairs."""

from __future__ import annotations

import numpy as np
import torch

from siamese_verify.data import FaceCropper, Protocol
from siamese_verify.encoders import Encoder
from siamese_verify.types import Photos

BLOCK = 65_536  # pairs scored together


def embed_photos(encoder: Encoder, photos: Photos, cropper: FaceCropper) -> np.ndarray:
    """Embed each photo once.

    Args:
        encoder: in evaluation mode.
        photos: N photos.
        cropper: made with the encoder's input spec; one that allows no damaged photos.

    Returns:
        (N,D) float32.
    """
    device = next(encoder.buffers()).device
    embeddings = np.empty((len(photos), encoder.dimension), dtype=np.float32)
    with torch.inference_mode():
        for rows, images in cropper.stream(photos, range(len(photos)), "Embedding faces"):
            embeddings[rows] = encoder(images.to(device)).float().cpu().numpy()
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
    for start in range(0, len(left), BLOCK):
        block = slice(start, start + BLOCK)
        scores[block] = np.einsum("md,md->m", embeddings[left[block]], embeddings[right[block]])
    return scores


def score_protocol(encoder: Encoder, protocol: Protocol, cropper: FaceCropper) -> np.ndarray:
    """Scores of a protocol's pairs, (M,) float32; arguments as in `embed_photos`."""
    return score_pairs(embed_photos(encoder, protocol.photos, cropper), protocol.left, protocol.right)
