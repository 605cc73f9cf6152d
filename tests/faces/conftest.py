from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from siamese_verify.faces import Mtcnn, open_photo

LFW = Path(__file__).resolve().parents[2].parent / "shared/data/lfw/lfw-deepfunneled"


@pytest.fixture(scope="session")
def detector() -> Mtcnn:
    return Mtcnn()


@pytest.fixture(scope="session")
def portraits() -> list[Image.Image]:
    """Photos of one upright face each."""
    files = [LFW / name / f"{name}_0001.jpg" for name in ("AJ_Cook", "Abdullah_Gul", "George_W_Bush")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"the photos of LFW are not in {LFW}: see data/README.md")
    return [open_photo(file) for file in files]
