from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from siamese_verify.faces import sharpness

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    grey = np.asarray(NOISE.convert("L"), dtype=float)
    values = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 39)
        for x in range(1, 49)
    ]
    assert sharpness(NOISE) == pytest.approx(np.var(values), rel=1e-12)


def test_a_flat_picture_has_no_sharpness() -> None:
    assert sharpness(Image.new("RGB", (10, 10), "grey")) == 0


def test_blur_takes_sharpness_away() -> None:
    assert sharpness(NOISE.filter(ImageFilter.GaussianBlur(1))) < sharpness(NOISE) / 10
