"""MNIST: handwritten digits, whose identity is the digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from siamese_verify.errors import InputError


class MNISTDigits:
    """MNIST's digits, read by torchvision.

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
            self.digits = MNIST(str(root), train=train, download=download)
        except (RuntimeError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raw = Path(root) / "MNIST" / "raw"
            raise InputError(
                f"MNIST is not in {root} and cannot be downloaded ({reason}): put its four files into {raw}."
            ) from None
        self.identities: np.ndarray = self.digits.targets.numpy().astype(np.int64)
        self.people = [str(digit) for digit in range(10)]
        self.names = [f"digit {digit} number {number:05}" for number, digit in enumerate(self.identities)]

    def __len__(self) -> int:
        return len(self.identities)

    def __getitem__(self, row: int) -> Image.Image:
        return Image.fromarray(self.digits.data[row].numpy()).convert("RGB")
