"""Embeddings of photos, and the scores of a protocol's pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from siamese_verify.data import FaceCropper, FacesInMemory, FacesOnDisk
from siamese_verify.encoders import Encoder
from siamese_verify.structures import Photos

BATCH = 64  # faces embedded together
PAIRS = 8192  # scored together


def embed_photos(
    encoder: Encoder,
    photos: Photos,
    cropper: FaceCropper,
    rows: Sequence[int] | None = None,
    change: Callable[..., Tensor] | None = None,
    title: str = "Embedding faces",
) -> tuple[np.ndarray, np.ndarray]:
    """Embed photos, each once.

    Args:
        encoder: in evaluation mode.
        photos: N photos.
        cropper: made with the encoder's input specification.
        rows: of the photos to embed, all by default.
        change: is applied to (n,3,S,S) uint8 crops first; called with `first=`, how many came before them.
        title: of the progress bar.

    Returns:
        (K,D) float32 embeddings of unit length, and the (K,) rows of their photos, in the order given: without those
        that the cropper left out as failures to acquire.
    """
    chosen = range(len(photos)) if rows is None else rows
    embeddings = np.empty((len(chosen), encoder.embedding_size), dtype=np.float32)
    acquired: list[int] = []
    for found, images in cropper.stream(photos, chosen, title):
        done = len(acquired)
        embeddings[done : done + len(found)] = embed_faces(encoder, change(images, first=done) if change else images)
        acquired += found
    return embeddings[: len(acquired)], np.array(acquired, dtype=np.int64)


def embed_faces(encoder: Encoder, images: Tensor | FacesInMemory | FacesOnDisk) -> np.ndarray:
    """Embed (N,3,S,S) uint8 crops in batches by an encoder in evaluation mode: (N,D) float32 of unit length."""
    device = next(encoder.buffers()).device
    with torch.inference_mode():
        parts = [
            F.normalize(encoder(images[start : start + BATCH].to(device)).float()).cpu().numpy()
            for start in range(0, len(images), BATCH)
        ]
    return np.concatenate(parts)


def score_pairs(embeddings: np.ndarray, left: np.ndarray, right: np.ndarray, block: int = PAIRS) -> np.ndarray:
    """Cosine similarity of pairs of unit rows.

    Args:
        embeddings: (N,D) of unit length.
        left: (M,) rows.
        right: (M,) rows.
        block: pairs gathered at once.

    Returns:
        (M,) float32, in [-1, 1] up to rounding.
    """
    scores = np.empty(len(left), dtype=np.float32)
    for start in range(0, len(left), block):
        part = slice(start, start + block)
        scores[part] = np.einsum("md,md->m", embeddings[left[part]], embeddings[right[part]])
    return scores
