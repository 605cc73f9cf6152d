"""Engines run an encoder: aligned faces -> embeddings -> scores, on ONNX Runtime (no torch needed) or on torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.onnx_runtime import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from siamese_verify.data import FaceCropper, FacesInMemory, FacesOnDisk
    from siamese_verify.encoders import Encoder
    from siamese_verify.structures import Photos


class Engine(Protocol):
    """Runs an encoder; may be called from several threads."""

    batch_size: int  # faces to be run together

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed (N,S,S,3) uint8 RGB crops as (N,D) rows of any length."""


class OnnxEngine:
    """Runs an encoder on ONNX Runtime.

    Args:
        model: ONNX file, or its path, that takes `images` (N,3,S,S) uint8.
        name: of the file, for errors.
        threads: for one batch; None for one per core.

    Raises:
        InputError: it is not an ONNX model.
    """

    batch_size = 8  # small enough for activations to stay in the processor's cache

    def __init__(self, model: bytes | Path, name: str, threads: int | None = None) -> None:
        self._session = open_session(model, name, threads or 0, arena=True)
        self._name = name

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`."""
        images = np.ascontiguousarray(np.moveaxis(crops, 3, 1))  # (N,3,S,S)
        try:
            embeddings: NDArray[np.float32] = self._session.run(None, {"images": images})[0]
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise InputError(f"{self._name} cannot be run: {str(error).splitlines()[0]}") from None
        return embeddings


class TorchEngine:
    """Runs an encoder on torch, on the device it is on.

    Args:
        encoder: in evaluation mode.
    """

    batch_size = 64

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`."""
        import torch

        device = next(self.encoder.buffers()).device
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)  # (N,3,S,S)
            embeddings: NDArray[np.float32] = self.encoder(images.to(device)).float().cpu().numpy()
        return embeddings


def embed_crops(engine: Engine, crops: NDArray[np.uint8], embedding_size: int) -> NDArray[np.float32]:
    """Embed (N,S,S,3) uint8 crops in batches; (N,D) float32 of unit length, or all zero.

    Raises:
        InputError: the network gives embeddings of another size.
    """
    embeddings = np.empty((len(crops), embedding_size), dtype=np.float32)
    for start in range(0, len(crops), engine.batch_size):
        part = slice(start, start + engine.batch_size)
        found = engine(crops[part])
        if found.shape[1:] != (embedding_size,):
            raise InputError(f"The network gives embeddings of shape {found.shape[1:]}, not ({embedding_size},).")
        embeddings[part] = found
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32(1e-12))
    return embeddings


def embed_faces(encoder: Encoder, images: Tensor | FacesInMemory | FacesOnDisk) -> NDArray[np.float32]:
    """Embed (N,3,S,S) uint8 faces, decoded batch by batch; see `embed_crops`.

    Args:
        encoder: in evaluation mode.
        images: on the CPU, whatever device the encoder is on.
    """
    engine = TorchEngine(encoder)
    embeddings = np.empty((len(images), encoder.embedding_size), dtype=np.float32)
    for start in range(0, len(images), engine.batch_size):
        part = slice(start, start + engine.batch_size)
        embeddings[part] = embed_crops(engine, images[part].permute(0, 2, 3, 1).numpy(), encoder.embedding_size)
    return embeddings


def embed_photos(
    encoder: Encoder,
    photos: Photos,
    cropper: FaceCropper,
    rows: Sequence[int] | None = None,
    change: Callable[..., Tensor] | None = None,
    title: str = "Embedding faces",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
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


def score_pairs(
    embeddings: NDArray[np.float32], left: NDArray[np.int64], right: NDArray[np.int64], block: int = 8192
) -> NDArray[np.float32]:
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
