"""Photos in files: a folder for each identity, or any list of paths; on this machine or in object storage."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from PIL import Image

from siamese_verify.datasets.index import FaceIndex, make_index, strings
from siamese_verify.datasets.storage import Storage
from siamese_verify.errors import InputError, printable
from siamese_verify.faces import open_photo
from siamese_verify.faces.photo import MAX_BYTES, too_large

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".pgm", ".ppm"}
    | {".tif", ".tiff"}
)
BLOCK = 2**16  # names that are looked at together
log = logging.getLogger(__name__)


class FilePhotos:
    """Photos by their paths, opened when asked for.

    Args:
        root: folder that the paths start from, here or in object storage (`s3://bucket/folder`).
        names: N paths, unique.
        identities: (N,) integers, who is on them.
    """

    people: Sequence[str]  # names by identity; missing where there are none

    def __init__(self, root: str | Path, names: Sequence[str], identities: np.ndarray) -> None:
        self.root = root
        self.storage = Storage(root)
        self.names = names
        self.identities = identities

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Image.Image:
        return open_photo(self.read(row), self.storage.place(self.names[row]))

    def read(self, row: int) -> bytes:
        """The file as it is.

        Raises:
            InputError: it is not there, or larger than a photo may be.
        """
        name = self.names[row]
        if self.storage.remote:  # one request instead of two
            return self.storage.read(name, 0, MAX_BYTES + 1)
        if (size := self.storage.size(name)) > MAX_BYTES:
            raise too_large(self.storage.place(name), size)
        return self.storage.read(name)

    @property
    def digest(self) -> str:
        """SHA-256 of the paths and of who is on them; the photos themselves are not read."""
        told = hashlib.sha256(np.ascontiguousarray(self.identities, dtype=np.int64).tobytes())
        for name in self.names:
            told.update(name.encode("utf-8", "surrogateescape") + b"\n")
        return told.hexdigest()


class IndexedPhotos(FilePhotos):
    """Photos of an index, which worker processes map instead of being sent it.

    Args:
        root: folder that the paths start from.
        index: of the photos.
    """

    def __init__(self, root: str | Path, index: FaceIndex) -> None:
        super().__init__(root, index.names, index.identities)
        self.index = index
        self.people = index.people
        self.splits = index.splits

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return IndexedPhotos, (self.root, self.index)


class FolderPhotos(IndexedPhotos):
    """A folder for each identity of anything: faces, signatures, products, animals.

    Photos may lie in folders within. They stand in the order of their identities and paths, by code points, alike on
    any machine; hidden files are left out, and links are followed unless they lead in a circle. Other files are counted
    in a warning.

    Args:
        root: `root/identity/.../photo.jpg`, here or in object storage.

    Raises:
        InputError: no such folder, or none with a photo in it.
    """

    def __init__(self, root: str | Path) -> None:
        storage = Storage(root)
        if not storage.is_folder():
            raise InputError(f"There is no folder {root}: name one that holds a folder for each identity.")
        names, others = storage.names(), Counter[str]()
        paths, people = [strings([])], [strings([])]
        while block := list(islice(names, BLOCK)):  # millions of names are held as columns only
            fits = ["/" in name and suffix_of(name) in SUFFIXES for name in block]
            kept = [name for name, fit in zip(block, fits, strict=True) if fit]
            others.update(suffix_of(name) or "no suffix" for name, fit in zip(block, fits, strict=True) if not fit)
            paths.append(strings(kept))
            people.append(strings([name.partition("/")[0] for name in kept]))
        index = make_index(pa.concat_arrays(paths), pa.concat_arrays(people))
        if not len(index):
            kinds = ", ".join(sorted(SUFFIXES))
            raise InputError(f"{root} holds no folder with photos ({kinds}): give each identity a folder of its own.")
        if others:
            told = ", ".join(f"{count:,} x {suffix}" for suffix, count in others.most_common(5))
            log.warning(
                "%s files in %s are left out: no photos by their names, or in no identity's folder (%s).",
                f"{others.total():,}",
                printable(root),
                printable(told),
            )
        super().__init__(root, index)


def suffix_of(name: str) -> str:
    """The end of a name that tells what kind of file it is, as in `.jpg`."""
    return PurePosixPath(name).suffix.lower()
