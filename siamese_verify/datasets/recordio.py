"""Photos in an MXNet RecordIO file (`.rec` with `.idx`), as InsightFace's training sets come, read without MXNet."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, overload

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import csv as arrow_csv
from tqdm import tqdm

from siamese_verify.atomic_write import atomic_open
from siamese_verify.datasets.index import index_path
from siamese_verify.datasets.storage import Storage
from siamese_verify.errors import InputError
from siamese_verify.faces import open_photo
from siamese_verify.faces.photo import MAX_BYTES
from siamese_verify.structures import InputSpec

MAGIC = 0xCED7230A
MAGIC_BYTES = MAGIC.to_bytes(4, "little")
WHOLE, FIRST, MIDDLE, LAST = range(4)  # kinds of parts: a record that holds the magic number is cut there
PART = struct.Struct("<II")  # magic number; kind in the upper 3 bits, length in the lower 29
LABELS = struct.Struct("<IfQQ")  # number of labels that follow, the label if none does, two ids
HEADER = np.dtype(  # PART, LABELS and the first two labels of a record
    {
        "names": ["magic", "word", "flag", "label", "id", "id2", "first", "second"],
        "formats": ["<u4", "<u4", "<u4", "<f4", "<u8", "<u8", "<f4", "<f4"],
    }
)
EXACT = 2**24  # whole numbers below are exact in float32, as labels are stored
WINDOW = 2**14  # bytes read for a record: most faces of 112 x 112 pixels fit
BATCH = 2**16  # headers read together
SAMPLE = 64  # offsets that are checked on opening where not all headers are read


class DamagedRecordError(Exception):
    """What is wrong with a record."""


class RecordNames(Sequence[str]):
    """Names of records by their keys (N,), made on access: `record 17` has the key 17."""

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
    """Photos in a RecordIO file, read on access, in the order of their keys.

    In InsightFace's sets record 0 names the records that hold the ranges of keys of the identities; only those and a
    sample of the photos are read on opening. Of other sets, and of those with 2^24 records or more, whose ranges
    float32 cannot hold, every record's header is read: its first label is the identity.

    Args:
        root: folder with `train.rec` and `train.idx`, or the `.rec` file with its `.idx` beside it, here or in object
            storage. If `property` lies beside `train.rec`, its number of classes is compared.
        aligned: size and crop that the photos, which are faces already, were aligned by; None for photos of any kind.
        cache: folder for an index that the next run and worker processes map instead of reading it again; for files on
            this machine.

    Raises:
        InputError: no such file; an invalid `.idx`, or one of another `.rec`; ranges of identities that contradict one
            another; a label that is not a whole number from 0 to 2^24 - 1; another number of classes; no photo.
    """

    def __init__(self, root: str | Path, aligned: InputSpec | None = None, cache: str | Path | None = None) -> None:
        self.root, self.aligned, self.cache = root, aligned, cache
        self.storage, stem = _locate(root)
        self.file = f"{stem}.rec"
        self.location = self.storage.location(self.file)
        self.size = self.storage.size(self.file)
        self._cached = None if self.storage.remote else self._cached_index(Path(self.storage.location(f"{stem}.idx")))
        if self._cached and not self._cached.is_file():
            self._cached.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(self._cached) as file:
                np.save(file, self._read_columns(stem))
        columns = np.load(self._cached, mmap_mode="r") if self._cached else self._read_columns(stem)
        self.keys, self.offsets, self.identities = columns  # each (N,) int64
        self.names = RecordNames(self.keys)

    def __reduce_ex__(self, protocol: object) -> str | tuple[object, ...]:
        if self._cached:
            return RecordPhotos, (self.root, self.aligned, self.cache)
        return super().__reduce_ex__(protocol)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> Image.Image:
        return open_photo(self.read(row), f"{self.names[row]} at offset {self.offsets[row]} of {self.location}")

    @property
    def digest(self) -> str:
        """SHA-256 of offsets and identities and of the size of the `.rec`, not of its content."""
        digest = hashlib.sha256(f"{self.size}\n".encode())
        for column in (self.keys, self.offsets, self.identities):
            digest.update(np.ascontiguousarray(column, dtype="<i8").data)
        return digest.hexdigest()

    def read(self, row: int) -> bytes:
        """Content of a photo's file.

        Raises:
            InputError: the record is damaged or longer than `MAX_BYTES`.
        """
        offset = int(self.offsets[row])
        try:
            record = self._record(offset)
            start = LABELS.size + 4 * LABELS.unpack_from(record)[0] if len(record) >= LABELS.size else LABELS.size
            if start >= len(record):
                raise DamagedRecordError("it holds no photo")
            return record[start:]
        except DamagedRecordError as error:
            raise InputError(
                f"{self.names[row]} at offset {offset} of {self.location} is damaged: {error}; get the file again."
            ) from None

    def _record(self, offset: int) -> bytes:
        """Content of a record, its parts joined by the magic number that it was cut at."""
        parts: list[bytes] = []
        place, kind = offset, FIRST
        while kind not in (WHOLE, LAST):
            content = self.storage.read(self.file, place, place + WINDOW)
            if content[:4] != MAGIC_BYTES or len(content) < PART.size:
                raise DamagedRecordError(f"no {'further part of it' if parts else 'record'} begins at byte {place:,}")
            _, word = PART.unpack_from(content)
            kind, length = word >> 29, word & 2**29 - 1
            if kind not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
                raise DamagedRecordError(f"its parts are out of order at byte {place:,}")
            start, end = place + PART.size, place + PART.size + length
            if end > self.size:
                raise DamagedRecordError(f"it goes on to byte {end:,}, but the file ends at {self.size:,}")
            if sum(map(len, parts)) + length > MAX_BYTES:
                raise DamagedRecordError(f"it has more bytes than the limit of {MAX_BYTES:,}")
            if end > place + len(content):
                content += self.storage.read(self.file, place + len(content), end)
            parts.append(content[PART.size : PART.size + length])
            place = start + (length + 3) // 4 * 4
        return MAGIC_BYTES.join(parts)

    def _cached_index(self, idx: Path) -> Path | None:
        state = (idx.stat().st_size, idx.stat().st_mtime_ns) if idx.is_file() else None
        path = index_path(self.cache, Path(self.location), "records", state)
        return path.with_suffix(".npy") if path else None

    def _read_columns(self, stem: str) -> np.ndarray:
        """(3,N) int64 keys, offsets and identities of the photos."""
        keys, offsets = self._read_index(f"{stem}.idx")
        first = self._complete_headers(keys[:1], offsets[:1])
        if keys[0] == 0 and _without_photo(first)[0] and len(keys) < EXACT:
            step = 1 + len(keys) // SAMPLE
            self._read_headers(keys[::step], offsets[::step])
            rows, identities, classes = self._read_ranges(keys, offsets, *first[["first", "second"]][0].tolist())
        else:
            headers = self._complete_headers(keys, offsets)
            rows = np.flatnonzero(~_without_photo(headers))
            identities = self._first_labels(keys[rows], headers[rows])
            classes = len(np.unique(identities))
        if not len(rows):
            raise InputError(f"{self.location} holds no photo: get it again, with its .idx.")
        if stem == "train" and self.storage.exists("property"):
            self._check_classes(classes)
        return np.stack([keys[rows], offsets[rows], identities])

    def _read_index(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(N,) int64 keys, ascending, and (N,) int64 offsets of records: the lines `key <tab> offset` of an `.idx`."""
        location, names = self.storage.location(name), ["key", "offset"]
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(self.storage.read(name)),
                arrow_csv.ReadOptions(column_names=names),
                arrow_csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
                arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int64()), null_values=[]),
            )
        except pa.ArrowInvalid as error:
            raise InputError(f"{location} is not a list of keys and offsets ({error}): get it again.") from None
        keys, offsets = (table[name].to_numpy() for name in names)
        order = np.argsort(keys, kind="stable")
        keys, offsets = keys[order], offsets[order]
        if not len(keys) or keys[0] < 0:
            raise InputError(f"{location} has {'a negative key' if len(keys) else 'no record'}: get it again.")
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            raise InputError(f"{location} has the key {keys[twice[0]]} twice: get it again.")
        return keys, offsets

    def _read_headers(self, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """(N,) `HEADER` of records.

        Raises:
            InputError: no record begins at an offset.
        """
        headers = np.zeros(len(keys), dtype=HEADER)
        wrong = (offsets < 0) | (offsets > self.size - PART.size)
        if not wrong.any():
            order = np.argsort(offsets, kind="stable")
            batches = range(0, len(keys), BATCH)
            for begin in tqdm(batches, f"reading {self.file}", delay=2, leave=False, disable=None):
                rows = order[begin : begin + BATCH]
                found = self.storage.read_many(self.file, offsets[rows].tolist(), HEADER.itemsize)
                content = b"".join(part.ljust(HEADER.itemsize, b"\0") for part in found)
                headers[rows] = np.frombuffer(content, dtype=HEADER)
            wrong = headers["magic"] != MAGIC
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"Record {keys[row]} cannot begin at offset {offsets[row]} of {self.location}: its .idx belongs to "
                "another file, or one of them is damaged; get both again."
            )
        return headers

    def _complete_headers(self, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """(N,) `HEADER` of records that are long enough for their labels; InputError if not."""
        headers = self._read_headers(keys, offsets)
        length = (headers["word"] & 2**29 - 1).astype(np.int64)
        labels = LABELS.size + 4 * np.minimum(headers["flag"], 2).astype(np.int64)
        short = (headers["word"] >> 29 > FIRST) | (length < labels) | (offsets + PART.size + labels > self.size)
        if short.any():
            row = int(np.argmax(short))
            raise InputError(
                f"Record {keys[row]} at offset {offsets[row]} of {self.location} is damaged: it is too short for its "
                "labels; get the file again, or remove the record from its .idx."
            )
        return headers

    def _first_labels(self, keys: np.ndarray, headers: np.ndarray) -> np.ndarray:
        """(N,) int64 first labels."""
        labels = np.where(headers["flag"] > 0, headers["first"], headers["label"]).astype(np.float64)
        wrong = np.flatnonzero(~((labels >= 0) & (labels < EXACT) & (labels == np.floor(labels))))
        if len(wrong):
            raise InputError(
                f"The label of record {keys[wrong[0]]} of {self.location} is {labels[wrong[0]]}, not a whole number "
                f"from 0 to {EXACT - 1:,}: it cannot be an identity."
            )
        return labels.astype(np.int64)

    def _read_ranges(
        self, keys: np.ndarray, offsets: np.ndarray, first: float, end: float
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Rows and identities of photos, and the number of identities, from records `first` ... `end` - 1.

        Each of them holds the first key of its identity and the key after the last; photos have the keys from 1 on.
        """
        count = len(keys)
        if not 1 <= first < end == count == keys[-1] + 1 or first != int(first):
            self._contradicts(f"identities are in records {first:.0f} to {end - 1:.0f} of {count:,}")
        begin = int(first)
        headers = self._complete_headers(keys[begin:], offsets[begin:])
        bare = _without_photo(headers)
        if not bare.all():
            self._contradicts(f"record {keys[begin:][np.argmin(bare)]} holds no range of an identity")
        ranges = np.stack([headers["first"], headers["second"]], axis=1).astype(np.float64)  # (C,2)
        order = np.lexsort((ranges[:, 1], ranges[:, 0]))
        starts, ends = ranges[order].T
        expected = np.append(1.0, ends[:-1])
        right = (starts == expected) & (starts <= ends) & (starts == np.floor(starts))
        if not right.all():
            wrong = int(np.argmin(right))
            self._contradicts(
                f"record {keys[begin + order[wrong]]} gives its identity the keys from {starts[wrong]:.9g} to before "
                f"{ends[wrong]:.9g}, but {expected[wrong]:.9g} is the next"
            )
        if ends[-1] != first:
            self._contradicts(f"ranges end at {ends[-1]:.9g}, photos at {begin}")
        return np.arange(1, begin), np.repeat(order, (ends - starts).astype(np.int64)), len(order)

    def _contradicts(self, reason: str) -> NoReturn:
        raise InputError(
            f"The identities of {self.location} contradict its records: {reason}; get it again, with its .idx."
        )

    def _check_classes(self, classes: int) -> None:
        location, content = self.storage.location("property"), self.storage.read("property", 0, 80)
        found = re.fullmatch(rb"\s*(\d+)\s*,\s*\d+\s*,\s*\d+\s*", content)
        if not found:
            raise InputError(f"{location} should be classes,height,width, got {content.decode(errors='replace')!r}.")
        if int(found[1]) != classes:
            raise InputError(
                f"{location} announces {int(found[1]):,} identities, but {self.location} has {classes:,}: they do not "
                "belong together, get both again."
            )


def _without_photo(headers: np.ndarray) -> np.ndarray:
    """(N,) bool: records that hold two labels or more and nothing else."""
    size = LABELS.size + 4 * headers["flag"].astype(np.int64)
    return np.asarray((headers["flag"] >= 2) & (headers["word"] == size))


def _locate(root: str | Path) -> tuple[Storage, str]:
    """The folder of a set, and the name of its files without suffix."""
    name = str(root).rpartition("/")[2]
    if not name.endswith(".rec") or Storage(root).is_folder():
        return Storage(root), "train"
    return Storage(str(root).removesuffix(name) or "."), name.removesuffix(".rec")
