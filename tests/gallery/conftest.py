"""A small gallery of generated embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siamese_verify.evaluation import ImpostorTail
from siamese_verify.gallery import Gallery, GalleryKey, GalleryModel

DIMENSION = 16


@pytest.fixture
def key() -> GalleryKey:
    return GalleryKey(bytes(range(32)))


@pytest.fixture(scope="session")
def impostor_tail() -> ImpostorTail:
    """The cosines of a million pairs of directions at random, counted in steps of 0.01."""
    rng = np.random.default_rng(7)
    left, right = (rng.normal(size=(1_000_000, DIMENSION)).astype(np.float32) for _ in range(2))
    cosines = np.sort((left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1))
    scores = np.arange(0.0, 1.0, 0.01)
    accepted = len(cosines) - np.searchsorted(cosines, scores)
    accepted[-1] = 0
    keep = np.append(True, np.diff(accepted) < 0)
    return ImpostorTail(tuple(scores[keep].tolist()), tuple(accepted[keep].tolist()), len(cosines))


@pytest.fixture
def model(impostor_tail: ImpostorTail) -> GalleryModel:
    return GalleryModel("ab" * 32, DIMENSION, "mine", impostor_tail)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "gallery.db"


@pytest.fixture
def gallery(path: Path, model: GalleryModel, key: GalleryKey) -> Iterator[Gallery]:
    with Gallery.open(path, model, key=key) as opened:
        yield opened


@pytest.fixture(scope="session")
def faces() -> NDArray[np.float32]:
    """(12,3,16) unit rows: three photos of each of twelve people, far from those of all others."""
    rng = np.random.default_rng(3)
    people = np.linalg.qr(rng.normal(size=(DIMENSION, DIMENSION)))[0][:12, None]
    rows = people + 0.05 * rng.normal(size=(12, 3, DIMENSION))
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float32)
    return unit
