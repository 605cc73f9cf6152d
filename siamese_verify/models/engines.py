"""Engines run an encoder: aligned faces -> embeddings, on ONNX Runtime (no torch needed) or on torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.onnx_runtime import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from siamese_verify.encoders import Encoder

BATCH = 8  # faces run together: small enough for activations to stay in the processor's cache


class Engine(Protocol):
    """Runs an encoder; may be called from several threads."""

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
    """Embed (N,S,S,3) uint8 crops in small batches; (N,D) float32 of unit length, or all zero.

    Raises:
        InputError: the network gives embeddings of another size.
    """
    embeddings = np.empty((len(crops), embedding_size), dtype=np.float32)
    for start in range(0, len(crops), BATCH):
        found = engine(crops[start : start + BATCH])
        if found.shape[1:] != (embedding_size,):
            raise InputError(f"The network gives embeddings of shape {found.shape[1:]}, not ({embedding_size},).")
        embeddings[start : start + BATCH] = found
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32(1e-12))
    return embeddings
