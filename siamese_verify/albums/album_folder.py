"""Folder with the faces of an album: what they were made of, by what, and parts of a Parquet table.

Each part holds the faces of a range of photos, and in its metadata which photos of the range have none and why. It is
written under a temporary name and renamed: it is there completely or not at all, and so are its photos. The list of
photos only grows, so that ranges stay what they are when an album gets more photos.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import ipc, parquet

from siamese_verify.albums.album_source import AlbumSource
from siamese_verify.atomic_write import atomic_open, atomic_write
from siamese_verify.datasets.index import StringColumn, string_array
from siamese_verify.errors import InputError
from siamese_verify.faces import Quality
from siamese_verify.faces.rotation import Box, to_photo
from siamese_verify.run_lock import claim

if TYPE_CHECKING:
    from siamese_verify.verification import DetectedFace

METADATA, PHOTOS, PARTS, LEFT_OUT, LOCK = "metadata.json", "photos.arrow", "parts", "left_out.csv", ".lock"
FORMAT = 1
FEWEST, MOST = 16, 2048  # photos of a part: what a kill can lose, and what keeps the number of files small
FILES = 2**16  # parts of an album: of more photos, larger ones
BLOCK = 2**16  # names written at once
CONVERTED = 1024  # int8 rows converted at once
IN_MEMORY = 2**31  # bytes of embeddings; more are mapped from a file
LEFT_OUT_KEY = b"left_out"


class PhotoRange(NamedTuple):
    """Photos `start` ... `stop` - 1 of an album, whose faces are in one part."""

    start: int
    stop: int

    @property
    def file(self) -> str:
        """Name of the part."""
        return f"part-{self.start:010}-{self.stop - 1:010}.parquet"


class AlbumFace(NamedTuple):
    """A face of an album, or the track of one through a clip."""

    photo: str
    box: Box  # of the upright photo, in pixels
    probability: float
    quality: Quality
    embedding: NDArray[np.float32]  # (D,) of unit length


class LeftOutPhoto(NamedTuple):
    """A photo without a face that could be embedded."""

    photo: str
    reason: str  # `no_face`, `multiple_faces` (too many), `unreadable_photo`, `unread_file`, `refused`, `no_embedding`
    detail: str  # a sentence


@dataclass(frozen=True)
class AlbumMetadata:
    """What an album was made of, and by what.

    Attributes:
        model: name of the model.
        bundle: that it was loaded from: a pretrained name or a folder; empty if not known.
        weights_sha256: of its weights.
        fingerprint: of its embedding space, see `ModelMetadata`.
        face_policy: identifier of detector and policy; empty where photos are embedded as a whole.
        source: `AlbumSource.identity`.
        place: of the source, as it was named.
        root: that the names of the photos start from.
        embedding_size: D.
        storage: `float32`, or `int8` with a scale for each row.
        photos_per_part: of a part.
        lists: numbers of photos after the first listing and after each that found more; ranges end there.
        versions: of the software that began.
    """

    model: str
    bundle: str
    weights_sha256: str
    fingerprint: str
    face_policy: str
    source: str
    place: str
    root: str
    embedding_size: int
    storage: str
    photos_per_part: int
    lists: tuple[int, ...]
    versions: dict[str, str]

    @property
    def loaded_from(self) -> str:
        """Name by which the model is loaded again."""
        return self.bundle or self.model


class AlbumFolder:
    """Folder of an album that `siamese-verify embed` has made.

    Args:
        path: of the folder.

    Raises:
        InputError: there is no such folder, or its metadata are damaged or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            stored = json.loads((self.path / METADATA).read_bytes())
            if stored.pop("format") != FORMAT:
                raise InputError(f"{path} is of another version of siamese-verify: embed the photos again.")
            stored["lists"] = tuple(stored["lists"])
            self.metadata = AlbumMetadata(**{one.name: stored[one.name] for one in fields(AlbumMetadata)})
        except FileNotFoundError:
            raise InputError(
                f"{path} holds no embeddings: make them by "
                f"`siamese-verify embed SOURCE --output {shlex.quote(str(path))}`."
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path / METADATA} is damaged ({error}): embed the photos again.") from None

    @cached_property
    def names(self) -> StringColumn:
        """Names of the photos, mapped."""
        return StringColumn(read_names(self.path))

    @cached_property
    def source(self) -> AlbumSource:
        """Where the photos are, to be read again."""
        source = AlbumSource(self.metadata.place)
        return source if source.root == self.metadata.root else AlbumSource(source.place, self.metadata.root)

    def ranges(self) -> list[PhotoRange]:
        """Ranges of photos of all parts, ascending."""
        step, found = self.metadata.photos_per_part, []
        for first, end in zip((0, *self.metadata.lists), self.metadata.lists, strict=False):
            found += [PhotoRange(start, min(start + step, end)) for start in range(first, end, step)]
        return found

    def part(self, photos: PhotoRange) -> Path:
        """File of a part, from the root of the file system: Arrow takes `trip:2024/parts` for an address."""
        return self.path.absolute() / PARTS / photos.file

    def finished(self) -> list[PhotoRange]:
        """Ranges whose parts are there."""
        present = {file.name for file in (self.path / PARTS).iterdir()} if (self.path / PARTS).is_dir() else set()
        return [photos for photos in self.ranges() if photos.file in present]

    def complete(self, unfinished: bool = False) -> list[Path]:
        """Files of all parts, in the order of the photos.

        Args:
            unfinished: give what is there.

        Raises:
            InputError: some are missing.
        """
        ranges, finished = self.ranges(), self.finished()
        if len(finished) < len(ranges) and not unfinished:
            done = sum(stop - start for start, stop in finished)
            raise InputError(
                f"{self.path} has {done:,} of {self.metadata.lists[-1]:,} photos: run `siamese-verify embed` again, "
                "which goes on there."
            )
        return [self.part(photos) for photos in finished]

    def write_part(self, photos: PhotoRange, faces: Sequence[AlbumFace], left_out: Sequence[LeftOutPhoto]) -> None:
        """Write the faces of a range of photos, and which of its photos have none.

        Faces whose embedding has not unit length are left out.

        Raises:
            InputError: those of several photos, and no other.
        """
        size = self.metadata.embedding_size
        rows: NDArray[Any] = np.array([face.embedding for face in faces], dtype=np.float32).reshape(len(faces), size)
        valid = np.abs(np.linalg.norm(rows, axis=1) - 1) < 1e-3
        if len({face.photo for face in faces}) > 1 and not valid.any():
            raise InputError(f"The embedding of {faces[0].photo} is NaN or zero: the model's weights are damaged.")
        wrong = {face.photo for face, one in zip(faces, valid, strict=True) if not one}
        faces, rows = [face for face, one in zip(faces, valid, strict=True) if one], rows[valid]
        left_out = [
            *left_out,
            *(
                LeftOutPhoto(photo, "no_embedding", f"The embedding of {photo} is NaN or zero.")
                for photo in sorted(wrong - {face.photo for face in faces})
            ),
        ]
        columns: dict[str, Any] = {"photo": string_array([face.photo for face in faces])}
        by_dictionary = ["photo"]
        for side, name in enumerate(("left", "top", "right", "bottom")):
            columns[name] = _float32(face.box[side] for face in faces)
        columns["probability"] = _float32(face.probability for face in faces)
        for name in Quality._fields:
            values = (getattr(face.quality, name) for face in faces)
            columns[name] = _float32(math.nan if value is None else value for value in values)
        if self.metadata.storage == "int8":
            rows, columns["scale"] = quantize(rows)
            by_dictionary.append("embedding.list.element")  # one byte a number: a plain int8 of Parquet has four
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), size)
        table = pa.table(columns).replace_schema_metadata({LEFT_OUT_KEY: json.dumps(left_out)})
        with atomic_open(self.part(photos), private=True) as file:
            parquet.write_table(table, file, compression="none", use_dictionary=by_dictionary, write_statistics=False)

    def left_out(self) -> Iterator[LeftOutPhoto]:
        """Photos without a face, in the order of the photos."""
        for path in self.complete(unfinished=True):
            yield from self.left_out_of(path)

    @staticmethod
    def left_out_of(part: Path) -> list[LeftOutPhoto]:
        """Photos of one part without a face."""
        with _reading(part):
            metadata = parquet.read_schema(part).metadata
        return [LeftOutPhoto(*row) for row in json.loads(metadata[LEFT_OUT_KEY])]

    def tables(self, columns: Sequence[str] | None = None, unfinished: bool = False) -> Iterator[pa.Table]:
        """Tables of the parts, one at a time, in the order of the photos.

        Args:
            columns: to read; all by default.
            unfinished: see `complete`.

        Raises:
            InputError: a part is missing or damaged.
        """
        yield from (self.table(path, columns) for path in self.complete(unfinished))

    @staticmethod
    def table(part: Path, columns: Sequence[str] | None = None) -> pa.Table:
        """Table of one part, see `tables`."""
        with _reading(part):
            return parquet.read_table(part, columns=None if columns is None else list(columns))

    def sizes(self, unfinished: bool = False) -> list[int]:
        """Number of faces of each part."""
        return [_rows_of(path) for path in self.complete(unfinished)]

    def rows(self, unfinished: bool = False, mapped: bool = False) -> StoredRows:
        """Embeddings as they are stored: in memory up to `IN_MEMORY` bytes, else mapped from one file.

        The file is made at the first call from all parts, beside them, and again when they are others.

        Args:
            unfinished: see `complete`.
            mapped: whatever their number, for who reads a few.

        Raises:
            InputError: a part is missing or damaged; the file is to be made while another process writes.
        """
        size, is_int8 = self.metadata.embedding_size, self.metadata.storage == "int8"
        dtype = np.dtype(np.int8 if is_int8 else np.float32)
        file = self.file_of_rows(".npy", unfinished)
        if mapped and file.is_file():
            return StoredRows(np.load(file, mmap_mode="r"), size)
        shape = (sum(self.sizes(unfinished)), size + 4 * is_int8)  # int8 rows are followed by their scale
        if not shape[0] or (not mapped and shape[0] * shape[1] * dtype.itemsize <= IN_MEMORY):
            rows, start = np.empty(shape, dtype), 0
            for block in self._blocks(unfinished):
                rows[start : start + len(block)] = block
                start += len(block)
            return StoredRows(rows, size)
        if not file.is_file():
            with claimed(self.path):
                for old in self.path.glob("rows-*.npy"):
                    old.unlink()
                with atomic_open(file, private=True) as sink:
                    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_2_0(sink, header)
                    for block in self._blocks(unfinished):
                        sink.write(block.data)
        return StoredRows(np.load(file, mmap_mode="r"), size)

    def file_of_rows(self, suffix: str, unfinished: bool = False) -> Path:
        """File of what is made of all rows, of another name where a part was made anew; see `complete`."""
        parts = [(part.name, part.stat()) for part in self.complete(unfinished)]
        state = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in parts]
        return self.path / f"rows-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}{suffix}"

    def _blocks(self, unfinished: bool) -> Iterator[NDArray[Any]]:
        """Rows of each part, as `StoredRows` has them."""
        is_int8 = self.metadata.storage == "int8"
        for table in self.tables(["embedding", "scale"] if is_int8 else ["embedding"], unfinished):
            rows = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, self.metadata.embedding_size)
            if is_int8:
                scale = table["scale"].to_numpy().astype(np.float32)
                yield np.concatenate([rows, scale[:, None].view(np.int8)], axis=1)
            else:
                yield np.ascontiguousarray(rows, dtype=np.float32)


class StoredRows:
    """N embeddings of unit length, stored as float32 or int8, and read as float32 a block at a time.

    Args:
        stored: (N,D) float32, or (N,D+4) int8 whose last four bytes are a row's float32 scale; mapped or in memory.
        embedding_size: D.
    """

    def __init__(self, stored: NDArray[Any], embedding_size: int) -> None:
        self.stored = stored
        self.shape = (len(stored), embedding_size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[Any]) -> NDArray[np.float32]:
        """(n,D) rows."""
        block = self.stored[rows]
        if block.dtype != np.int8:
            return np.asarray(block, dtype=np.float32)
        size = self.shape[1]
        scale = np.ascontiguousarray(block[:, size:]).view(np.float32)
        result: NDArray[np.float32] = block[:, :size].astype(np.float32)
        result *= scale
        return result

    def scores(self, rows: slice, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,Q) cosines of a block of rows with (Q,D) queries."""
        block = self.stored[rows]
        if block.dtype != np.int8:
            return np.asarray(block @ queries.T)
        size = self.shape[1]
        product = np.empty((len(block), len(queries)), dtype=np.float32)
        floats = np.empty((min(CONVERTED, len(block)), size), dtype=np.float32)  # used again, within a cache
        for start in range(0, len(block), CONVERTED):
            part = block[start : start + CONVERTED, :size]
            floats[: len(part)] = part
            product[start : start + len(part)] = floats[: len(part)] @ queries.T
        product *= np.ascontiguousarray(block[:, size:]).view(np.float32)  # scaled after the product, which is smaller
        return product


def quantize(rows: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round rows of unit length to int8.

    Args:
        rows: (N,D) float32, none zero.

    Returns:
        (N,D) int8 whose largest absolute value in each row is 127, and (N,) float32 scales: a row times its scale has
        unit length.
    """
    most = np.abs(rows).max(axis=1, keepdims=True, initial=np.finfo(np.float32).tiny)
    rounded = np.rint(rows * (127 / most))
    return rounded.astype(np.int8), (1 / np.linalg.norm(rounded, axis=1)).astype(np.float32)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Context manager in which no other process writes to an album.

    Raises:
        InputError: another one does.
    """
    lock = claim(folder / LOCK)
    if lock is None:
        raise InputError(f"Another process is writing to {folder}: wait until it has finished.")
    with lock:
        yield


def create_folder(path: str | Path) -> Path:
    """Make the folder of an album, for its owner only: embeddings of faces are personal data.

    Raises:
        InputError: it is an address or a file, or holds other things.
    """
    folder = Path(path)
    if "://" in str(path):
        raise InputError(f"{path} is an address: name a folder of this machine for the embeddings.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{path} is a file: name a folder for the embeddings.")
    if folder.is_dir() and not (folder / METADATA).is_file():
        for file in folder.iterdir():
            if file.name not in (PHOTOS, PARTS, LOCK) and not _is_unfinished(file):
                raise InputError(f"{path} holds {file.name}, which is no album's: name another folder.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / PARTS).mkdir(exist_ok=True, mode=0o700)
    return folder


def remove_unfinished(folder: Path) -> None:
    """Delete files that a killed process was writing; only for who has the claim of the folder."""
    for place in (folder, folder / PARTS):
        for file in filter(_is_unfinished, list(place.iterdir())):
            file.unlink(missing_ok=True)


def _is_unfinished(file: Path) -> bool:
    return file.name.startswith(".") and file.name.endswith(".part")


def write_metadata(folder: Path, metadata: AlbumMetadata) -> None:
    """Write what an album is made of."""
    content = {"format": FORMAT, **asdict(metadata)}
    atomic_write(folder / METADATA, json.dumps(content, indent=2).encode(), private=True)


def write_names(folder: Path, names: Iterable[str], known: pa.ChunkedArray | None = None) -> int:
    """Write the names of an album's photos: those known first, then the others; return how many there are."""
    rest, total = iter(names), 0
    schema = pa.schema([("photo", pa.large_string())])
    blocks: Iterator[pa.Array] = iter(known.chunks) if known is not None else iter(())
    with atomic_open(folder / PHOTOS, private=True) as file, ipc.new_file(file, schema) as writer:
        for block in blocks:
            writer.write_batch(pa.record_batch([block], schema=schema))
            total += len(block)
        while block := list(islice(rest, BLOCK)):
            writer.write_batch(pa.record_batch([string_array(block)], schema=schema))
            total += len(block)
    return total


def read_names(folder: Path) -> pa.ChunkedArray:
    """Names of an album's photos, mapped.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return ipc.open_file(pa.memory_map(str(folder / PHOTOS))).read_all()["photo"]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise InputError(f"{folder / PHOTOS} is damaged ({error}): embed the photos into another folder.") from None


def added_names(known: pa.ChunkedArray, names: Iterable[str]) -> pa.Array:
    """Those of the names that are not known, in their order; both are unique.

    As far as they are the known ones in their order, they are compared a block at a time: memory does not grow where
    nothing or only the end is new.
    """
    rest, same = iter(names), 0
    found: list[pa.Array] = []
    while block := list(islice(rest, BLOCK)):
        listed = string_array(block)
        if not found and pa.chunked_array([listed]).equals(known.slice(same, len(listed))):
            same += len(listed)
        else:
            found.append(listed)
    more, others = pa.chunked_array(found, pa.large_string()), known.slice(same)
    if len(more) and len(others):
        more = more.filter(pc.invert(pc.is_in(more, value_set=others.combine_chunks())))
    return more.combine_chunks()


def default_part(photos: int) -> int:
    """Photos of a part, for an album of so many."""
    return max(min(MOST, max(FEWEST, photos // 256)), -(-photos // FILES))


def _float32(values: Iterable[float]) -> pa.Array:
    return pa.array(np.fromiter(values, dtype=np.float32))


def _rows_of(part: Path) -> int:
    with _reading(part):
        return int(parquet.read_metadata(part).num_rows)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Context that turns the errors of a damaged part into a sentence."""
    try:
        yield
    except (OSError, pa.ArrowException):
        raise InputError(f"The part {path} is damaged: delete it, and embed again, which makes it anew.") from None


def album_face(photo: str, face: DetectedFace, size: tuple[int, int]) -> AlbumFace:
    """A face that was found on a photo, without its embedding.

    Args:
        photo: name.
        face: that was found.
        size: width and height of the photo.
    """
    box: Box = (0.0, 0.0, float(size[0]), float(size[1]))
    if face.box is not None:
        left, top, right, bottom = face.box
        corners = to_photo([(left, top), (right, top), (right, bottom), (left, bottom)], size, face.rotated_by)
        across, down = zip(*corners, strict=True)
        box = (min(across), min(down), max(across), max(down))
    probability = 1.0 if face.probability is None else face.probability
    return AlbumFace(photo, box, probability, face.quality, np.empty(0, dtype=np.float32))
