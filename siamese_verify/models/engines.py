"""Engines run an encoder: aligned faces -> embeddings -> scores, on ONNX Runtime (no torch needed) or on torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.onnx_runtime import CUDA, open_session

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from siamese_verify.data import FaceCropper, FacesInMemory, FacesOnDisk
    from siamese_verify.encoders import Encoder
    from siamese_verify.structures import Photos

BATCH = 4  # faces run together: small enough for activations to stay in the processor's cache
LARGE_BATCH = 64  # of whole data sets on torch
GPU_BATCH = 256
CHUNK = 64  # photos opened together


class Engine(Protocol):
    """Runs an encoder; may be called from several threads. An attribute `batch` says how many faces it takes best."""

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed (N,S,S,3) uint8 RGB crops, or (N,*shape) arrays if the encoder takes those, as (N,D) rows."""


class OnnxEngine:
    """Runs an encoder on ONNX Runtime.

    Args:
        model: ONNX file, or its path, that takes `images` (N,3,S,S) uint8.
        name: of the file, for errors.
        threads: for one batch; None for one per core.
        arrays: the network takes (N,*shape) arrays of this type; None for photos.
        device: see `siamese_verify.onnx_runtime.open_session`.
        optimized: likewise.

    Attributes:
        batch: faces that are best run together.

    Raises:
        InputError: it is not an ONNX model, or the device cannot be used.
    """

    def __init__(
        self,
        model: bytes | Path,
        name: str,
        threads: int | None = None,
        arrays: str | None = None,
        device: str = "cpu",
        optimized: bool = False,
    ) -> None:
        self._arrays = arrays
        self._session = open_session(model, name, threads or 0, arena=True, device=device, optimized=optimized)
        self._name = name
        self.batch = GPU_BATCH if CUDA in self._session.get_providers() else BATCH

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`."""
        images = crops.astype(self._arrays, copy=False) if self._arrays else np.moveaxis(crops, 3, 1)  # (N,3,S,S)
        images = np.ascontiguousarray(images)
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

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return next(self.encoder.buffers()).device

    @property
    def batch(self) -> int:
        """Faces that are best run together."""
        return BATCH if self.device.type == "cpu" else GPU_BATCH

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`."""
        import torch

        from siamese_verify.pairwise.pair_scores import full_precision

        with torch.inference_mode(), full_precision():  # scores and thresholds hold on other devices too
            spec = self.encoder.input_spec
            images = spec.channels_first(torch.from_numpy(np.ascontiguousarray(crops, dtype=spec.dtype)))
            embeddings: NDArray[np.float32] = self.encoder(images.to(self.device)).float().cpu().numpy()
        return embeddings


def embed_crops(
    engine: Engine, crops: NDArray[np.uint8], embedding_size: int, batch_size: int | None = None
) -> NDArray[np.float32]:
    """Embed (N,S,S,3) uint8 crops, or arrays, in batches; (N,D) float32 of unit length, or all zero.

    Args:
        engine: runs the encoder.
        crops: of the faces.
        embedding_size: D.
        batch_size: faces run together; None for what is best for the engine.

    Raises:
        InputError: the network gives embeddings of another size.
    """
    embeddings = np.empty((len(crops), embedding_size), dtype=np.float32)
    best: int = getattr(engine, "batch", BATCH)
    size = batch_size or best
    for start in range(0, len(crops), size):
        found = engine(crops[start : start + size])
        if found.shape[1:] != (embedding_size,):
            raise InputError(f"The network gives embeddings of shape {found.shape[1:]}, not ({embedding_size},).")
        embeddings[start : start + size] = found
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32(1e-12))
    return embeddings


def embed_faces(encoder: Encoder, images: Tensor | FacesInMemory | FacesOnDisk) -> NDArray[np.float32]:
    """Embed (N,3,S,S) faces, or arrays, on the CPU by an encoder in evaluation mode, anywhere; see `embed_crops`."""
    engine, size = TorchEngine(encoder), encoder.embedding_size
    step = max(LARGE_BATCH, engine.batch)
    batches = (images[start : start + step] for start in range(0, len(images), step))
    crops = (encoder.input_spec.channels_last(batch).numpy() for batch in batches)
    return np.concatenate([embed_crops(engine, batch, size, step) for batch in crops])


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
    (embeddings,), acquired = embed_photos_by((encoder,), photos, cropper, rows, change, title)
    return embeddings, acquired


def embed_photos_by(
    encoders: Sequence[Encoder],
    photos: Photos,
    cropper: FaceCropper,
    rows: Sequence[int] | None = None,
    change: Callable[..., Tensor] | None = None,
    title: str = "Embedding faces",
) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Embed photos, each opened once, by encoders that take the same crops; see `embed_photos`."""
    chosen = range(len(photos)) if rows is None else rows
    embeddings = [np.empty((len(chosen), encoder.embedding_size), dtype=np.float32) for encoder in encoders]
    acquired: list[int] = []
    for found, images in cropper.stream(photos, chosen, title):
        done = len(acquired)
        changed = change(images, first=done) if change else images
        for part, encoder in zip(embeddings, encoders, strict=True):
            part[done : done + len(found)] = embed_faces(encoder, changed)
        acquired += found
    return [part[: len(acquired)] for part in embeddings], np.array(acquired, dtype=np.int64)
