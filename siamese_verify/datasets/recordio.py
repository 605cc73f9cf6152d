"""The RecordIO format: records in a file, an index beside it, and what their headers tell."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, overload

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import csv as arrow_csv
from rich.markup import escape
from rich.progress import Progress, track

from siamese_verify.atomic_write import whole_file
from siamese_verify.datasets.index import kept_file
from siamese_verify.datasets.storage import Storage
from siamese_verify.errors import InputError
from siamese_verify.faces import open_photo
from siamese_verify.faces.photo import MAX_BYTES, MAX_PIXELS
from siamese_verify.structures import InputSpec

MAGIC = 0xCED7230A
MAGIC_BYTES = MAGIC.to_bytes(4, "little")
WHOLE, FIRST, MIDDLE, LAST = range(4)  # which part of a record it is; one that holds the magic number is cut there
PART = struct.Struct("<II")  # magic number; kind in the upper 3 bits, length in the lower 29
HEADER = struct.Struct("<IfQQ")  # number of labels that follow, label if none does, two numbers
START = np.dtype(  # of a record, as far as it tells who is on it
    {
        "names": ["magic", "word", "flag", "label", "id", "id2", "first", "second"],
        "formats": ["<u4", "<u4", "<u4", "<f4", "<u8", "<u8", "<f4", "<f4"],
    }
)
LABEL = np.float32  # what labels are written as
EXACT = 2**24  # it has all whole numbers below, and rounds others to this one
WINDOW = 2**14  # bytes read at once where one record is wanted: most faces of 112 x 112 pixels fit
BLOCK = 2**23  # where all of them are
BATCH = 2**16  # records whose starts are read together
SAMPLE = 64  # photos or a few more whose places are checked on opening
SHOWN = 2**26  # bytes, or with their like in records, from which a progress bar is shown


class DamageError(Exception):
    """What is wrong with a record."""


class RecordIndex(NamedTuple):
    """Where records begin, ascending by their keys."""

    keys: np.ndarray  # (N,) int64, unique
    offsets: np.ndarray  # (N,) int64, bytes


class Window:
    """A file of which `block` bytes or more are read at a time."""

    def __init__(self, storage: Storage, name: str, size: int, block: int) -> None:
        self.storage, self.name, self.size, self.block = storage, name, size, block
        self._start, self._content = 0, b""

    def take(self, start: int, end: int) -> bytes:
        """Some bytes of the file."""
        self._check_end(end)
        if not self._start <= start <= end <= self._start + len(self._content):
            last = min(self.size, max(end, start + self.block))
            self._content, self._start = self.storage.read(self.name, start, last), start
            if len(self._content) < last - start:
                raise DamageError("the file has become shorter since it was opened")
        return self._content[start - self._start : end - self._start]

    def parts(self, offset: int) -> Iterator[tuple[int, int]]:
        """First byte, and the byte after the last, of each part of the record that begins at an offset."""
        place, kind = offset, -1
        while kind not in (WHOLE, LAST):
            magic, word = PART.unpack(self.take(place, place + PART.size))
            if magic != MAGIC:
                raise DamageError(f"no {'record' if kind < 0 else 'further part of it'} begins at byte {place:,}")
            if word >> 29 not in ((WHOLE, FIRST) if kind < 0 else (MIDDLE, LAST)):
                raise DamageError(f"its parts are out of order at byte {place:,}")
            kind, part = word >> 29, word & 2**29 - 1
            start, end = place + PART.size, place + PART.size + part
            self._check_end(end)
            yield start, end
            place = start + (part + 3) // 4 * 4

    def record(self, offset: int) -> bytes:
        """The content of the record that begins at an offset."""
        found: list[bytes] = []
        length = 0
        for start, end in self.parts(offset):
            length += end - start + (len(MAGIC_BYTES) if found else 0)
            if length > MAX_BYTES:
                raise DamageError(f"it has {length:,} bytes or more, the limit is {MAX_BYTES:,}")
            found.append(self.take(start, end))
        return MAGIC_BYTES.join(found)

    def _check_end(self, end: int) -> None:
        if end > self.size:
            raise DamageError(f"it goes on to byte {end:,}, but the file ends at {self.size:,}")


class RecordFile:
    """A `.rec` and what its records tell of the people on the photos."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name, self.place = storage, name, storage.place(name)
        self.size = storage.size(name)

    def window(self, block: int) -> Window:
        """Look at the file, `block` bytes at a time."""
        return Window(self.storage, self.name, self.size, block)

    def index(self, name: str) -> RecordIndex:
        """Read the `.idx`, or do without."""
        if not self.storage.exists(name):
            return self._scan()
        place = self.storage.place(name)
        index = _parsed(self.storage.read(name), place)
        wrong = np.flatnonzero((index.offsets > self.size - PART.size) | (index.offsets % 4 != 0))
        if len(wrong):
            self._foreign(
                index, int(wrong[0]), f"the file has {self.size:,} bytes, and records begin at multiples of 4"
            )
        return index

    def metadata(self, index: RecordIndex) -> tuple[float, float] | None:
        """First key of the identities' records and the key after the last, if InsightFace's first record is there."""
        if index.keys[0] != 0:
            return None
        start = self._starts(RecordIndex(*(part[:1] for part in index)))
        return (float(start["first"][0]), float(start["second"][0])) if _without_photo(start)[0] else None

    def check(self, index: RecordIndex) -> None:
        """Refuse an index of another file."""
        self._begins(index)

    def labels(self, index: RecordIndex) -> np.ndarray:
        """(N,) int64 labels of photos."""
        labels = np.empty(len(index.keys), dtype=np.int64)
        batches = range(0, len(labels), BATCH)
        for begin in track(batches, f"reading the labels of {escape(self.name)}", disable=len(batches) < 16):
            rows = slice(begin, begin + BATCH)
            start = self._starts(RecordIndex(index.keys[rows], index.offsets[rows]))
            label = np.where(start["flag"] > 0, start["first"], start["label"]).astype(np.float64)
            wrong = np.flatnonzero(~((label >= 0) & (label < EXACT) & (label == np.floor(label))))
            if len(wrong):
                raise InputError(
                    f"The label of record {index.keys[rows][wrong[0]]} of {self.place} is {label[wrong[0]]}, not a "
                    f"whole number from 0 to {EXACT - 1:,}: it cannot be an identity."
                )
            labels[rows] = label
        return labels

    def identities(self, index: RecordIndex, first: float, end: float) -> tuple[np.ndarray, int]:
        """Read who is on the photos from the records of the identities.

        Args:
            index: of all records.
            first: key of the first identity's record.
            end: the key after the last.

        Returns:
            (N,) int64 identities of the photos, keys 1 ... N, and how many identities there are.
        """
        count = len(index.keys)
        if index.keys[-1] != count - 1:
            gap = int(np.flatnonzero(index.keys != np.arange(count))[0])
            self._contradicts(f"its ranges count on all keys up to {index.keys[-1]}, but {gap} is missing in the .idx")
        if LABEL(count) != end or not 1 <= first < end or first != int(first):
            self._contradicts(f"it tells of identities in the records {first:.0f} to {end - 1:.0f} of {count}")
        border = int(first) if first < EXACT else self._border(index, int(first))
        records = RecordIndex(index.keys[border:], index.offsets[border:])
        start = self._starts(records)
        bare = _without_photo(start)
        if not bare.all():
            self._contradicts(f"record {records.keys[np.argmin(bare)]} should tell the range of an identity")
        ranges = np.stack([start["first"], start["second"]], axis=1).astype(np.float64)  # (C, 2)
        order = np.lexsort((ranges[:, 1], ranges[:, 0]))
        ranges = ranges[order]
        begins = np.append(1.0, ranges[:-1, 1])  # each range goes on where the one before ends
        right = (ranges[:, 0] == begins) & (ranges[:, 0] <= ranges[:, 1]) & (ranges[:, 0] == np.floor(ranges[:, 0]))
        if not right.all():
            wrong = int(np.argmin(right))
            self._contradicts(
                f"record {records.keys[order[wrong]]} gives its identity the keys from {ranges[wrong, 0]:.9g} on and "
                f"before {ranges[wrong, 1]:.9g}, where the next free key is {begins[wrong]:.9g}"
            )
        if ranges[-1, 1] != LABEL(border):
            self._contradicts(f"its ranges end at {ranges[-1, 1]:.0f}, but its photos at {border}")
        bounds = self._bounds(index, ranges, border)
        return np.repeat(order, np.diff(bounds)), len(order)

    def _border(self, index: RecordIndex, first: int) -> int:
        """The key of the first identity's record, where float32 does not tell it."""
        near = slice(first - 1, first + 2)
        bare = _without_photo(self._starts(RecordIndex(index.keys[near], index.offsets[near])))
        found = [int(key) for key in index.keys[near][bare] if LABEL(key) == first]
        if not found:
            self._contradicts(f"it tells of identities from record {first} on, where there are none")
        return found[0]

    def _bounds(self, index: RecordIndex, ranges: np.ndarray, border: int) -> np.ndarray:
        """(C+1,) int64 keys that the photos of each identity begin at, and the key after the last photo."""
        bounds = np.append(1.0, ranges[:, 1]).astype(np.int64)
        if border < EXACT:
            return bounds
        rounded = int(np.argmax(bounds >= EXACT)) - 1  # the first identity whose range ends where float32 has gaps
        begin = int(bounds[rounded])
        labels = self.labels(RecordIndex(index.keys[begin:border], index.offsets[begin:border]))
        inner = begin + 1 + np.flatnonzero(np.diff(labels))
        if len(inner) != len(bounds) - rounded - 2 or (inner.astype(LABEL) != bounds[rounded + 1 : -1]).any():
            self._contradicts(f"its ranges from key {begin} on do not fit the labels of the photos")
        bounds[rounded + 1 :] = np.append(inner, border)
        return bounds

    def _begins(self, index: RecordIndex) -> np.ndarray:
        """(N,) `START` of records, as it stands there, refused if one of them does not begin with the magic number."""
        order = np.argsort(index.offsets, kind="stable")
        offsets = index.offsets[order]
        starts = np.empty(len(order), dtype=START)
        for begin in range(0, len(order), BATCH):
            rows = slice(begin, begin + BATCH)
            found = self.storage.read_many(self.name, offsets[rows].tolist(), START.itemsize)
            cut = [len(content) for content in found if len(content) < START.itemsize]
            content = b"".join(content.ljust(START.itemsize, b"\0") for content in found) if cut else b"".join(found)
            starts[order[rows]] = np.frombuffer(content, dtype=START)
        wrong = np.flatnonzero(starts["magic"] != MAGIC)
        if len(wrong):
            self._foreign(index, int(wrong[0]), "no record begins there")
        return starts

    def _starts(self, index: RecordIndex) -> np.ndarray:
        """(N,) `START` of records, refused if one of them is damaged there."""
        starts = self._begins(index)
        kind, length = starts["word"] >> 29, (starts["word"] & 2**29 - 1).astype(np.int64)
        needed = HEADER.size + 4 * np.minimum(starts["flag"], 2).astype(np.int64)
        short = (kind > FIRST) | (length < needed) | (index.offsets + PART.size + needed > self.size)
        for row in np.flatnonzero(short):  # by damage, or because the header holds the magic number
            try:
                record = self.window(WINDOW).record(int(index.offsets[row]))
                _photo_start(record)
            except DamageError as damage:
                raise InputError(
                    f"Record {index.keys[row]} at offset {index.offsets[row]} of {self.place} is damaged: {damage}. "
                    f"Get the file again, or take the record out of its .idx."
                ) from None
            content = PART.pack(MAGIC, len(record)) + record
            starts[row] = np.frombuffer(content[: START.itemsize].ljust(START.itemsize, b"\0"), dtype=START)[0]
        return starts

    def _scan(self) -> RecordIndex:
        """Find the records by reading all of the file."""
        window, offsets, numbers = self.window(BLOCK), array("q"), array("Q")
        with Progress(disable=self.size < SHOWN) as progress:
            bar = progress.add_task(f"{escape(self.name)} has no .idx: finding its records", total=self.size)
            place = 0
            while place < self.size:
                try:
                    parts = window.parts(place)
                    start, end = next(parts)
                    inside = end - start >= HEADER.size
                    header = window.take(start, start + HEADER.size) if inside else window.record(place)
                    if len(header) < HEADER.size:
                        raise DamageError(f"it has {len(header)} bytes, too few for its header")
                    for part in parts:
                        start, end = part
                except DamageError as damage:
                    raise InputError(
                        f"{self.place} is damaged or no RecordIO file, at offset {place}: {damage}. Get it again, or "
                        f"put its .idx beside it to use the other records."
                    ) from None
                offsets.append(place)
                numbers.append(HEADER.unpack_from(header)[2])
                place = start + (end - start + 3) // 4 * 4
                if not len(offsets) % 1024:
                    progress.update(bar, completed=place)
        keys = np.frombuffer(numbers, dtype=np.uint64)
        if (keys >= 2**63).any() or len(np.unique(keys)) != len(keys):
            keys = np.arange(len(keys), dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        return RecordIndex(keys[order].astype(np.int64), np.frombuffer(offsets, dtype=np.int64)[order])

    def _foreign(self, index: RecordIndex, row: int, reason: str) -> NoReturn:
        raise InputError(
            f"Record {index.keys[row]} cannot begin at offset {index.offsets[row]} of {self.place}, as its .idx says: "
            f"{reason}. The .idx and the .rec do not belong together, or one of them is damaged: get both again."
        )

    def _contradicts(self, reason: str) -> NoReturn:
        raise InputError(
            f"What {self.place} tells of its identities contradicts itself: {reason}. Get it again, with its .idx."
        )


def _parsed(content: bytes, place: str) -> RecordIndex:
    """Read the lines `key <tab> offset` of an `.idx`."""
    if not content:
        return RecordIndex(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    names = ["key", "offset"]
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(content),
            arrow_csv.ReadOptions(column_names=names),
            arrow_csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int64()), null_values=[]),
        )
        keys, offsets = (table[name].to_numpy() for name in names)
        if keys.min() < 0 or offsets.min() < 0:
            raise pa.ArrowInvalid("a number is negative")
    except pa.ArrowInvalid as error:
        for number, line in enumerate(io.BytesIO(content), 1):
            if not re.fullmatch(rb"\s*\d{1,18}\s*\t\s*\d{1,18}\s*", line):
                told = line.strip()[:80].decode(errors="replace")
                raise InputError(
                    f"Line {number} of {place} should be a key, a tab and an offset, is {told!r}: get it again."
                ) from None
        raise InputError(f"{place} is no list of keys and offsets ({error}): get it again.") from None
    if (keys[1:] < keys[:-1]).any():
        order = np.argsort(keys, kind="stable")
        keys, offsets = keys[order], offsets[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        raise InputError(f"{place} has the key {keys[twice[0]]} twice: get it again.")
    return RecordIndex(keys, offsets)


def _photo_start(record: bytes) -> int:
    """The first byte after the header and the labels."""
    if len(record) < HEADER.size:
        raise DamageError(f"it has {len(record)} bytes, too few for its header")
    labels = HEADER.unpack_from(record)[0]
    start = HEADER.size + 4 * labels
    if start > len(record):
        raise DamageError(f"it should have {labels:,} labels, but ends before")
    return int(start)


def photo_in(record: bytes) -> bytes:
    """The image file in a record."""
    photo = record[_photo_start(record) :]
    if not photo:
        raise DamageError("it holds no photo")
    return photo


def _without_photo(starts: np.ndarray) -> np.ndarray:
    """(N,) bool: records that hold labels and nothing else."""
    size = HEADER.size + 4 * starts["flag"].astype(np.int64)
    return np.asarray((starts["flag"] >= 2) & (starts["word"] == size))


def check_image(photo: bytes) -> None:
    """See by its header that a photo is one, and not too large.

    Raises:
        DamageError: it is not.
    """
    try:
        with Image.open(io.BytesIO(photo)) as image:
            width, height = image.size
    except Exception:  # damage deep in a file can raise anything
        raise DamageError("its photo is not an image that can be read") from None
    if not 0 < width * height <= MAX_PIXELS:
        raise DamageError(f"its photo has {width} x {height} pixels, the limit is {MAX_PIXELS:,}")


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
