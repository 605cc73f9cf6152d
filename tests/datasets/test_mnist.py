from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from siamese_verify.datasets import MNISTDigits, SmallDigits
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


def test_the_small_digits_are_those_of_scikit_learn_and_no_image_is_in_two_parts() -> None:
    known = load_digits()
    everything = SmallDigits()
    assert everything.identities.tolist() == known.target.tolist()
    np.testing.assert_array_equal(np.asarray(everything[0])[:, :, 1], (known.images[0] / 16 * 255).round())
    parts = [SmallDigits(part) for part in ("train", "validation", "test")]
    assert [name for part in parts for name in part.names] == everything.names
    assert [sorted(set(part.identities.tolist())) for part in parts] == [list(range(10))] * 3
    assert parts[2][7] == everything[1297 + 7]


def test_a_part_that_does_not_exist_and_a_package_that_is_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="part of the digits must be one of train, validation, test, all, got 'dev'"):
        SmallDigits("dev")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"not installed: pip install 'siamese-verify\[digits\]'"):
        SmallDigits()
