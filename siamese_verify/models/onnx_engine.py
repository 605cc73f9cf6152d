"""Faces -> embeddings, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.onnx_runtime import session_of

FACES = 8  # embedded together: what is between two layers stays near the processor


class Engine(Protocol):
    """What runs an encoder; it may be called from several threads."""

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N,S,S,3) uint8 RGB -> (N,D) embeddings of any length."""


class OnnxEngine:
    """An encoder on ONNX Runtime.

    Args:
        model: an ONNX file, or where it lies, that takes `images` (N,3,S,S) uint8.
        name: of the file, for errors.
        threads: for one batch; None for one per core.

    Raises:
        InputError: it is no ONNX model.
    """

    def __init__(self, model: bytes | Path, name: str, threads: int | None = None) -> None:
        self._session = session_of(model, name, threads or 0, arena=True)
        self._name = name

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`."""
        images = np.ascontiguousarray(np.moveaxis(crops, 3, 1))
        try:
            embeddings: NDArray[np.float32] = self._session.run(None, {"images": images})[0]
        except Exception as error:  # the runtime's own classes, which have no common one
            raise InputError(f"{self._name} cannot be run: {str(error).splitlines()[0]}") from None
        return embeddings


def embed_crops(engine: Engine, crops: NDArray[np.uint8], embedding_size: int) -> NDArray[np.float32]:
    """Embed (N,S,S,3) uint8 crops, some at a time; (N,D) float32 of unit length, or all zero."""
    embeddings = np.empty((len(crops), embedding_size), dtype=np.float32)
    for start in range(0, len(crops), FACES):
        found = engine(crops[start : start + FACES])
        if found.shape != embeddings[start : start + FACES].shape:
            raise InputError(
                f"The network gives {found.shape[1:]} numbers for a face, {embedding_size} were announced."
            )
        embeddings[start : start + FACES] = found
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings /= np.maximum(lengths, np.float32(1e-12))
    return embeddings
