"""Photos in files: a folder for each identity, or any list of paths, on this machine or in object storage."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from siamese_verify.datasets.index import FaceIndex, make_index, string_array
from siamese_verify.datasets.storage import Storage
from siamese_verify.errors import InputError, printable
from siamese_verify.faces import open_photo
from siamese_verify.faces.photo import MAX_BYTES, too_large
from siamese_verify.tables import read_table

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".pgm", ".ppm"}
    | {".tif", ".tiff"}
)
BLOCK = 2**16  # names converted to Arrow columns at once
log = logging.getLogger(__name__)


class FilePhotos:
    """Photos by their paths, opened on access.

    Args:
        root: folder that the paths start from, or its address in object storage (`s3://bucket/folder`).
        names: N paths, unique.
        identities: (N,) integers.
    """

    people: Sequence[str]  # names by identity; missing where identities have none

    def __init__(self, root: str | Path, names: Sequence[str], identities: np.ndarray) -> None:
        self.root = root
        self.storage = Storage(root)
        self.names = names
        self.identities = identities

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Image.Image:
        return open_photo(self.read(row), self.storage.location(self.names[row]))

    def read(self, row: int) -> bytes:
        """Content of a photo's file.

        Raises:
            InputError: there is no such file, or it is larger than a photo may be.
        """
        return read_photo(self.storage, self.names[row])

    @property
    def digest(self) -> str:
        """SHA-256 of the paths and identities; the photos themselves are not read."""
        digest = hashlib.sha256(np.ascontiguousarray(self.identities, dtype=np.int64).tobytes())
        for name in self.names:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


class IndexedPhotos(FilePhotos):
    """Photos of an index; worker processes map its file instead of being sent its content.

    Args:
        root: folder that the paths start from.
        index: of the photos.
    """

    def __init__(self, root: str | Path, index: FaceIndex) -> None:
        super().__init__(root, index.names, index.identities)
        self.index = index
        self.people = index.people
        self.splits, self.cameras = index.splits, index.cameras

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return IndexedPhotos, (self.root, self.index)


class FolderPhotos(IndexedPhotos):
    """Photos in a folder for each identity: faces, signatures, products, animals.

    They are sorted by identity and path (code points). Photos may lie in folders within; hidden files are left out,
    links are followed unless they lead in a circle, and files that are no photos are counted in a warning.

    Args:
        root: `root/identity/.../photo.jpg`, here or in object storage.
        drop: a list of `siamese-verify clean` that was reviewed: photos with yes in its column `drop` are left out.

    Raises:
        InputError: no such folder, or none with a photo in it; no such list, or none of its photos is in the folder.
    """

    def __init__(self, root: str | Path, drop: str | Path | None = None) -> None:
        dropped = read_dropped(drop) if drop is not None else frozenset[str]()
        storage = Storage(root)
        if not storage.is_folder():
            raise InputError(f"There is no folder {root}: name one that holds a folder for each identity.")
        names, others, found = storage.names(), Counter[str](), 0
        paths, people = [string_array([])], [string_array([])]
        while block := list(islice(names, BLOCK)):  # as columns, millions of names fit into memory
            photos = [name for name in block if _is_photo_of_identity(name)]
            found += len(dropped.intersection(photos))
            photos = [name for name in photos if name not in dropped]
            others.update(suffix_of(name) or "no suffix" for name in block if not _is_photo_of_identity(name))
            paths.append(string_array(photos))
            people.append(string_array([name.partition("/")[0] for name in photos]))
        index = make_index(pa.concat_arrays(paths), pa.concat_arrays(people))
        if not len(index):
            suffixes = ", ".join(sorted(SUFFIXES))
            raise InputError(f"{root} holds no folder with photos ({suffixes}): give each identity its own folder.")
        check_dropped(drop, len(dropped), found, root)
        if others:
            counts = ", ".join(f"{count:,} x {suffix}" for suffix, count in others.most_common(5))
            log.warning(
                "%s files in %s are left out because they are no photos or in no identity's folder (%s).",
                f"{others.total():,}",
                printable(root),
                printable(counts),
            )
        super().__init__(root, index)


def refuse_within(output: str | Path, photos: Any) -> None:
    """Check that pictures to be written to a folder would not be among the photos.

    Raises:
        InputError: it lies in the folder that the photos are all of.
    """
    local = isinstance(photos, FolderPhotos) and not photos.storage.remote
    if local and Path(output).resolve().is_relative_to(Path(photos.root).resolve()):
        raise InputError(f"{output} lies in {photos.root}, among its people: give an output elsewhere.")


def read_photo(storage: Storage, name: str) -> bytes:
    """Content of a photo's file.

    Raises:
        InputError: there is no such file, or it is larger than a photo may be.
    """
    if storage.remote:  # one request instead of two
        return storage.read(name, 0, MAX_BYTES + 1)
    if (size := storage.size(name)) > MAX_BYTES:
        raise too_large(storage.location(name), size)
    return storage.read(name)


def read_dropped(path: str | Path) -> frozenset[str]:
    """Names of the photos that a reviewed list says to drop: those with yes in its column `drop`.

    Raises:
        InputError: no such list, a missing column, or something else than yes and no.
    """
    table = read_table(path, ("photo", "drop"), may_be_empty=True)
    answers = [answer.strip().lower() for answer in table["drop"]]
    for line, answer in zip(table.lines, answers, strict=True):
        if answer not in ("yes", "no"):
            raise InputError(f"Line {line} of {path} has {answer!r} as drop: write yes or no.")
    return frozenset(name for name, answer in zip(table["photo"], answers, strict=True) if answer == "yes")


def check_dropped(drop: object, listed: int, found: int, place: object) -> None:
    """Raise InputError if none of the photos that a list says to drop is in `place`; warn if some are not."""
    if listed and not found:
        raise InputError(f"None of the {listed:,} photos to drop in {drop} is in {place}: name them as there.")
    if found < listed:
        counts = f"{listed - found:,}", f"{listed:,}"
        log.warning("%s of the %s photos to drop in %s are not in %s.", *counts, printable(drop), printable(place))


def suffix_of(name: str) -> str:
    """Suffix of a file name in lower case, such as `.jpg`."""
    return PurePosixPath(name).suffix.lower()


def _is_photo_of_identity(name: str) -> bool:
    return "/" in name and suffix_of(name) in SUFFIXES
