"""Fixtures of the tests of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_verify.datasets import SyntheticFaces


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two photos of one drawn person, then two of another."""
    faces = SyntheticFaces(2, 2, 64)
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{row}.png" for row in range(len(faces))]
    for row, path in enumerate(paths):
        faces[row].save(path)
    return paths
