"""A verifier without weights: fast, and importable by other processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_verify.models.metadata import ModelMetadata
from siamese_verify.structures import Crop, InputSpec
from siamese_verify.verification import Verifier

SIZE = 16  # of its embeddings
METADATA = ModelMetadata("stub", {}, InputSpec(8, crop=Crop("whole")), SIZE, weights_sha256="ab" * 32)
OTHER = ModelMetadata("other", {}, InputSpec(8, crop=Crop("whole")), SIZE, weights_sha256="cd" * 32)
ARRAYS = ModelMetadata(
    "arrays", {}, InputSpec(0, (0.0,), (1.0,), Crop("none"), (20,), "float32"), SIZE, weights_sha256="ef" * 32
)


def first_pixels(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The first numbers of each crop, of any length above zero."""
    return crops.reshape(len(crops), -1)[:, :SIZE].astype(np.float32) + 1


def load() -> Verifier:
    return Verifier(METADATA, first_pixels)


def load_for_arrays() -> Verifier:
    return Verifier(ARRAYS, first_pixels)


def draw_album(folder: Path, photos: int, seed: int = 0) -> Path:
    """Photos of noise in folders of four, the last one damaged."""
    rng = np.random.default_rng(seed)
    for row in range(photos):
        path = folder / f"{row // 4:03}" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    path.write_bytes(b"no photo")
    return folder
