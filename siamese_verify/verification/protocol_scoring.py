"""Photos -> embeddings -> the scores of a protocol's pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from siamese_verify.data import FaceCropper, FacesInMemory, FacesOnDisk
from siamese_verify.encoders import Encoder
from siamese_verify.structures import Photos

BLOCK = 2**22  # numbers gathered together: 16 MB
FACES = 64  # embedded together


def embed_photos(
    encoder: Encoder,
    photos: Photos,
    cropper: FaceCropper,
    rows: Sequence[int] | None = None,
    change: Callable[..., Tensor] | None = None,
    title: str = "Embedding faces",
) -> np.ndarray:
    """Embed each photo once.

    Args:
        encoder: in evaluation mode.
        photos: N photos.
        cropper: made with the encoder's input spec; one that allows no damaged photos.
        rows: which photos, all by default.
        change: what to do to (n,3,S,S) uint8 crops before; told by `first=` how many came before them.
        title: what the progress bar says.

    Returns:
        (N,D) float32 of unit length, in the order of the rows.
    """
    chosen = range(len(photos)) if rows is None else rows
    embeddings = np.empty((len(chosen), encoder.embedding_size), dtype=np.float32)
    done = 0
    for found, images in cropper.stream(photos, chosen, title):
        embeddings[done : done + len(found)] = embed_faces(encoder, change(images, first=done) if change else images)
        done += len(found)
    return embeddings


def embed_faces(encoder: Encoder, images: Tensor | FacesInMemory | FacesOnDisk) -> np.ndarray:
    """Embed (N,3,S,S) uint8 crops, some at a time, by an encoder in evaluation mode; (N,D) float32 of unit length."""
    device = next(encoder.buffers()).device
    with torch.inference_mode():
        parts = [
            F.normalize(encoder(images[start : start + FACES].to(device)).float()).cpu().numpy()
            for start in range(0, len(images), FACES)
        ]
    return np.concatenate(parts)


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
