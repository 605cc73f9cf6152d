"""Photos in MXNet's RecordIO files, as InsightFace passes them around: `train.rec` and `train.idx`, without MXNet."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image
from rich.markup import escape
from rich.progress import track

from siamese_verify.data.index import kept_file
from siamese_verify.data.record_file import (
    BLOCK,
    SAMPLE,
    WINDOW,
    DamageError,
    RecordFile,
    RecordIndex,
    check_image,
    photo_in,
)
from siamese_verify.data.storage import Storage
from siamese_verify.errors import InputError
from siamese_verify.faces import open_photo
from siamese_verify.files import whole_file
from siamese_verify.types import InputSpec


class RecordNames(Sequence[str]):
    """Names of records, made when they are asked for: `record 17` has the key 17.

    Args:
        keys: (N,) int64.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [f"record {key}" for key in self.keys[row].tolist()]
        return f"record {int(self.keys[row])}"


class RecordPhotos:
    """Photos in a RecordIO file, read when they are asked for, in the order of their keys.

    A set of InsightFace's begins with a record (key 0) that says which further ones hold the ranges of keys of each
    identity. Then these are the identities, numbered in the order of those records, and on opening only they and a
    sample of the photos are looked at; where a set has more than 2^24 photos, also the starts of those beyond, as the
    ranges are float32, which cannot tell them apart. In any other set every record is a photo, and its first label the
    identity; the start of every record is read. Without `.idx`, the file is read from its beginning to its end to find
    the records; their keys are the numbers in their headers, or where these are not unique, their places.

    Args:
        root: folder with `train.rec` and `train.idx`, or the `.rec` file with its `.idx` beside it, here or in object
            storage. If `property` lies beside `train.rec`, the number of classes that it tells is compared.
        aligned: size and crop that its photos, faces already, were aligned by; None if they are photos of any kind.
        cache: folder to keep the index in, so that it is mapped the next time instead of being read again, and by
            worker processes; for sets on this machine. None keeps nothing.

    Raises:
        InputError: no such file; a line of the `.idx` that is none, or a key twice; the `.idx` does not belong to the
            `.rec`; ranges of identities that contradict one another or the photos; a label that is no whole number from
            0 to 2^24 - 1; other classes than `property` tells; no photo.
    """

    def __init__(self, root: str | Path, aligned: InputSpec | None = None, cache: str | Path | None = None) -> None:
        self.root, self.aligned = root, aligned
        self.storage, stem = _located(root)
        self.file = RecordFile(self.storage, f"{stem}.rec")
        self._kept: Path | None = None
        if not self.storage.remote:
            other = Path(self.storage.place(f"{stem}.idx"))
            state = (other.stat().st_size, other.stat().st_mtime_ns) if other.is_file() else None
            kept = kept_file(cache, Path(self.file.place), "records", state)
            self._kept = kept.with_suffix(".npy") if kept else None
        if not self._kept or not self._kept.is_file():
            self._read(stem)
        if self._kept:
            if not self._kept.is_file():
                self._kept.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(self._kept) as file:
                    np.save(file, np.stack([self.keys, self.offsets, self.identities]))
            self._map(self._kept)
        self.names = RecordNames(self.keys)

    def __getstate__(self) -> dict[str, object]:
        mapped = ("keys", "offsets", "identities", "names") if self._kept else ()
        return {name: value for name, value in self.__dict__.items() if name not in mapped}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if self._kept:
            self._map(self._kept)
            self.names = RecordNames(self.keys)

    def _map(self, file: Path) -> None:
        self.keys, self.offsets, self.identities = np.load(file, mmap_mode="r", allow_pickle=False)

    def _read(self, stem: str) -> None:
        index = self.file.index(f"{stem}.idx")
        if not len(index.keys):
            raise InputError(f"{self.file.place} holds no record: get it again, with its .idx.")
        ends = self.file.metadata(index)
        if ends is None:
            labels = self.file.labels(index)
            self.keys, self.offsets = index
            self.identities, classes = labels, len(np.unique(labels))
        else:
            self.file.check(RecordIndex(*(part[:: max(1, len(part) // SAMPLE)] for part in index)))
            identities, classes = self.file.identities(index, *ends)
            photos = slice(1, 1 + len(identities))
            self.keys, self.offsets, self.identities = index.keys[photos], index.offsets[photos], identities
        if not len(self.keys):
            raise InputError(f"{self.file.place} holds no photo: get it again, with its .idx.")
        if stem == "train":
            _check_property(self.storage, classes)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> Image.Image:
        return open_photo(self.read(row), f"{self.names[row]} at offset {self.offsets[row]} of {self.file.place}")

    @property
    def digest(self) -> str:
        """SHA-256 of where the photos lie, of their identities and of the size of the `.rec`, not of its content."""
        digest = hashlib.sha256(f"{self.file.size}\n".encode())
        for column in (self.keys, self.offsets, self.identities):
            digest.update(np.ascontiguousarray(column, dtype="<i8").data)
        return digest.hexdigest()

    def read(self, row: int) -> bytes:
        """Read a photo as it is: the bytes of an image file.

        Raises:
            InputError: the record is damaged or longer than `MAX_BYTES`; the message has its file, key and offset.
        """
        offset = int(self.offsets[row])
        try:
            return photo_in(self.file.window(WINDOW).record(offset))
        except DamageError as damage:
            raise InputError(
                f"{self.names[row]} at offset {offset} of {self.file.place} is damaged: {damage}. Get the file again."
            ) from None

    def check(self) -> list[tuple[str, str]]:
        """Read all records, and what their photos tell of their kind and size, without decoding them.

        Returns:
            The name of each damaged one, and where it begins and what is wrong with it, in the order of the keys.
        """
        window, damaged = self.file.window(BLOCK), []
        order = np.argsort(self.offsets, kind="stable")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is stricter
            for row in track(order, f"checking {escape(self.file.name)}"):
                try:
                    check_image(photo_in(window.record(int(self.offsets[row]))))
                except DamageError as damage:
                    damaged.append((int(row), f"at offset {self.offsets[row]}: {damage}"))
        return [(self.names[row], reason) for row, reason in sorted(damaged)]


def _located(root: str | Path) -> tuple[Storage, str]:
    """The folder of a set, and the name of its files without ending."""
    folder, _, name = str(root).rpartition("/")
    if not name.endswith(".rec") or Storage(root).is_folder():
        return Storage(root), "train"
    if isinstance(root, Path) or "://" not in root:
        return Storage(Path(root).parent), Path(root).stem
    return Storage(f"{folder}/"), name.removesuffix(".rec")


def _check_property(storage: Storage, classes: int) -> None:
    if not storage.exists("property"):
        return
    place, content = storage.place("property"), storage.read("property", 0, 80)
    told = re.fullmatch(rb"\s*(\d+)\s*,\s*\d+\s*,\s*\d+\s*", content)
    if not told:
        raise InputError(f"{place} should tell classes,height,width, is {content.decode(errors='replace')!r}: mend it.")
    if int(told[1]) != classes:
        raise InputError(
            f"{place} tells of {int(told[1]):,} identities, but {storage.place('train.rec')} has {classes:,}: they do "
            f"not belong together, get both again."
        )
