"""Draw the pictures of docs/beyond_faces.md: `python docs/draw_beyond_faces.py docs/beyond_faces`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from siamese_verify.datasets import Pedestrians, Products, Signatures

SIDE = 64


def sheet(photos: Any, rows: Sequence[Sequence[int]]) -> Image.Image:
    """Photos of a data set side by side, a row for each list of their numbers."""
    found = Image.new("RGB", (SIDE * len(rows[0]), SIDE * len(rows)))
    for y, row in enumerate(rows):
        for x, number in enumerate(row):
            found.paste(photos[number], (SIDE * x, SIDE * y))
    return found.quantize(64)


def main() -> None:
    """Write the pictures into the folder that is given."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    signatures = Signatures(5, 3, forgeries=3, size=SIDE)
    for name, photos, rows in (
        ("signatures", signatures, [range(9 * writer, 9 * writer + 9) for writer in range(5)]),
        ("pedestrians", Pedestrians(3, 12, size=SIDE), [range(12 * person, 12 * person + 12) for person in range(3)]),
        ("products", Products(3, 12, size=SIDE), [range(12 * product, 12 * product + 12) for product in range(3)]),
    ):
        sheet(photos, rows).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
