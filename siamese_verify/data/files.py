"""Photos in files: a folder for each identity, or any list of paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from siamese_verify.data.protocol import Protocol, all_pairs, sampled_pairs
from siamese_verify.errors import InputError
from siamese_verify.faces import open_photo

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".pgm", ".ppm", ".tif", ".tiff"})


class FilePhotos:
    """Photos by their paths, opened when asked for.

    Args:
        root: folder that the paths start from.
        names: N paths, unique.
        identities: (N,) int64 who is on them.
    """

    def __init__(self, root: str | Path, names: Sequence[str], identities: np.ndarray) -> None:
        self.root = Path(root)
        self.names = list(names)
        self.identities = identities

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Image.Image:
        return open_photo(self.root / self.names[row])


class FolderPhotos(FilePhotos):
    """A folder for each identity of anything: faces, signatures, products, animals.

    Photos may lie in folders within. Names are sorted by code points, so that they stand alike on any machine; hidden
    files are left out, and links to folders are not followed.

    Args:
        root: `root/identity/.../photo.jpg`.

    Raises:
        InputError: no such folder, or none with a photo in it.
    """

    def __init__(self, root: str | Path) -> None:
        place = Path(root)
        if not place.is_dir():
            raise InputError(f"There is no folder {root}: name one that holds a folder for each identity.")
        names = sorted(photo_names(place))
        if not names:
            kinds = ", ".join(sorted(SUFFIXES))
            raise InputError(f"{root} holds no folder with photos ({kinds}): give each identity a folder of its own.")
        self.people, identities = np.unique([name.partition("/")[0] for name in names], return_inverse=True)
        super().__init__(place, names, identities.astype(np.int64))


def photo_names(root: Path) -> list[str]:
    """Paths of the photos in the folders of a folder, relative to it, with forward slashes."""
    found = []
    for folder, folders, files in os.walk(root):  # does not follow links
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(folder).relative_to(root)
        if inside.parts:
            photos = [name for name in files if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")]
            found += [(inside / name).as_posix() for name in photos]
    return found


def folder_pairs(root: str | Path, name: str | None = None, pairs: int | None = None, seed: int = 0) -> Protocol:
    """Pairs of the photos in a folder for each identity.

    Args:
        root: see `FolderPhotos`.
        name: of the protocol; by default the folder's.
        pairs: how many to draw, half of them genuine; None compares all.
        seed: of the draw.

    Raises:
        InputError: see `FolderPhotos` and `all_pairs`; fewer than two pairs, an odd number, or more than there are.
    """
    protocol = all_pairs(
        FolderPhotos(root), name or f"{Path(root).resolve().name}, {'all' if pairs is None else pairs} pairs"
    )
    if pairs is None:
        return protocol
    if pairs < 2:
        raise InputError(f"{pairs} pairs hold no genuine and no impostor pair: draw two or more.")
    drawn = sampled_pairs(protocol, pairs, seed)
    if len(drawn.same) != pairs:
        genuine, impostors = int(drawn.same.sum()), int((~drawn.same).sum())
        raise InputError(
            f"{root} gives {genuine:,} genuine and {impostors:,} impostor pairs where half of {pairs:,} pairs was "
            f"asked for each: set pairs to {2 * min(genuine, impostors)} at most, and even."
        )
    return Protocol(protocol.name, protocol.photos, drawn)
