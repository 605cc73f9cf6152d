from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.datasets import MNISTDigits
from siamese_verify.errors import InputError

DIGITS = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10


def test_digits_are_identities(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):  # the format that its authors published
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 12, 28, 28) + DIGITS.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 12) + LABELS.tobytes())
    photos = MNISTDigits(tmp_path, download=False)
    assert photos.identities.tolist() == LABELS.tolist()
    assert photos.names[11] == "digit 1 number 00011"
    assert len(photos) == 12
    assert photos[3].mode == "RGB"
    np.testing.assert_array_equal(np.asarray(photos[3])[:, :, 0], DIGITS[3])


def test_missing_digits_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"put its four files into .*raw"):
        MNISTDigits(tmp_path, download=False)
