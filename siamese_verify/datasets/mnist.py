"""Handwritten digits, whose identity is the digit: MNIST, and the small ones that scikit-learn brings along."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from siamese_verify.errors import InputError

PARTS = {"train": slice(1000), "validation": slice(1000, 1297), "test": slice(1297, None), "all": slice(None)}


class DigitPhotos:
    """Data set of gray digits as RGB photos.

    Args:
        images: (N,H,W) uint8.
        digits: (N,) in 0 ... 9.
        first: number of the first one, in names.
    """

    def __init__(self, images: np.ndarray, digits: ArrayLike, first: int = 0) -> None:
        self.images = images
        self.identities: np.ndarray = np.asarray(digits).astype(np.int64)
        self.people = [str(digit) for digit in range(10)]
        self.names = [f"digit {digit} number {number:05}" for number, digit in enumerate(self.identities, first)]

    def __len__(self) -> int:
        return len(self.identities)

    def __getitem__(self, row: int) -> Image.Image:
        return Image.fromarray(self.images[row]).convert("RGB")


class MNISTDigits(DigitPhotos):
    """MNIST's digits of 28 x 28 pixels, read by torchvision.

    Args:
        root: folder that holds or gets `MNIST/raw`.
        train: the 60,000 training digits, else the 10,000 test digits.
        download: download them if they are missing.

    Raises:
        InputError: they are missing and cannot be downloaded, or are damaged.
    """

    def __init__(self, root: str | Path, train: bool = True, download: bool = True) -> None:
        from torchvision.datasets import MNIST

        try:
            digits = MNIST(str(root), train=train, download=download)
        except (RuntimeError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raw = Path(root) / "MNIST" / "raw"
            raise InputError(
                f"MNIST is not in {root} and cannot be downloaded ({reason}): put its four files into {raw}, or set "
                "data=digits for scikit-learn's small digits, which need no download."
            ) from None
        super().__init__(digits.data.numpy(), digits.targets.numpy())


class SmallDigits(DigitPhotos):
    """The 1,797 digits of 8 x 8 pixels that are a part of scikit-learn: they need no download.

    Args:
        part: `train`, the first 1,000; `validation`, the next 297; `test`, the last 500; or `all`. All ten digits are
            in each part, in different images.

    Raises:
        InputError: scikit-learn is not installed, or there is no such part.

    The test set of Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998; its 17 shades
    of gray become 0 ... 255.
    """

    def __init__(self, part: Literal["train", "validation", "test", "all"] = "all") -> None:
        if part not in PARTS:
            raise InputError(f"part of the digits must be one of {', '.join(PARTS)}, got {part!r}.")
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise InputError(
                "The digits are a part of scikit-learn, which is not installed: pip install 'siamese-verify[digits]'."
            ) from None
        found, rows = load_digits(), PARTS[part]
        images = (found.images[rows] * (255 / 16)).round().astype(np.uint8)
        super().__init__(images, found.target[rows], rows.start or 0)
