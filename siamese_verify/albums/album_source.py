"""Where the photos of an album come from: a folder, a list, records, arrays or clips, here or in object storage."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from siamese_verify.datasets import RecordPhotos
from siamese_verify.datasets.folder import SUFFIXES, read_photo, suffix_of
from siamese_verify.datasets.index import StringColumn, string_array
from siamese_verify.datasets.listing import refuse_empty_cells, refuse_repeated
from siamese_verify.datasets.storage import Storage
from siamese_verify.errors import InputError

CLIPS = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi"})
LISTS = frozenset({".csv", ".parquet", ".txt"})
RETRIES = (1.0, 4.0, 16.0)  # seconds before object storage is asked again
Kind = Literal["folder", "list", "records", "arrays", "clip"]


class AlbumSource:
    """Photos by name, read one at a time.

    Args:
        place: a folder, whose photos are taken at any depth; a list of paths, which is a `.csv` or `.parquet` with the
            column `path`, or a `.txt` with a path in each line; a `.rec` with its `.idx`, or their folder; a `.npy`
            with (N,*shape) arrays; or a clip. All but arrays and clips may be addresses in object storage, such as
            `s3://bucket/album`.
        root: folder that the paths of a list start from, also absolute ones that lie in it; by default the list's own.

    Attributes:
        kind: of the source.
        root: folder or address that the names start from.
        storage: files below the root.
        skipped: files of a folder that are no photos, by suffix; known when all names were listed.

    Raises:
        InputError: there is nothing at this place, or nothing of these kinds.
    """

    def __init__(self, place: str | Path, root: str | Path | None = None) -> None:
        self.place = absolute(place)
        self.kind: Kind = _kind_of(self.place)
        if root is not None and self.kind != "list":
            raise InputError(f"A root goes with a list of paths, but {place} is none: leave it out.")
        folder = self.place.rpartition("/")[0] or "."
        self.root = absolute(root) if root is not None else folder if self.kind in ("list", "clip") else self.place
        self.skipped: Counter[str] = Counter()
        self.storage = Storage(self.root)

    @property
    def identity(self) -> str:
        """What tells this source from others: its full path or address, with the root of a list."""
        return " from ".join(
            place if "://" in place else str(Path(place).resolve()) for place in dict.fromkeys([self.place, self.root])
        )

    def names(self) -> Iterator[str]:
        """Unique names of the photos, in the order in which they are embedded.

        Raises:
            InputError: a list that cannot be read, has no column `path`, or has a path empty or twice.
        """
        if self.kind == "folder":
            for name in self.storage.names():
                if suffix_of(name) in SUFFIXES:
                    yield name
                else:
                    self.skipped[suffix_of(name) or "no suffix"] += 1
        elif self.kind == "list":
            paths = read_paths(self.place)
            if pc.any(pc.match_substring_regex(paths.column, "^/|://")).as_py():
                paths = StringColumn(string_array(list(map(self.storage.name_of, paths))))
                refuse_repeated(self.place, paths.column, "remove one of them")
            yield from paths
        elif self.kind == "clip":
            yield self.place.rpartition("/")[2]
        else:
            count = len(self._records) if self.kind == "records" else len(self._arrays)
            yield from (self._records.names[row] if self.kind == "records" else f"row {row}" for row in range(count))

    def location(self, name: str) -> str:
        """Path or address of a photo, for people."""
        if self.kind in ("records", "arrays"):
            return f"{name} of {self.place}"
        return self.storage.location(name)

    def read(self, name: str) -> Any:
        """Bytes of a photo's file, or an array.

        Raises:
            InputError: there is no such photo, or it is damaged or too large.
            ConnectionError: object storage did not answer, whether or not it has the photo.
        """
        if self.kind == "arrays":
            return np.asarray(self._arrays[self._number(name)])
        if self.kind == "records":
            keys = self._records.keys
            row = int(np.searchsorted(keys, self._number(name)))
            if row == len(keys) or keys[row] != self._number(name):
                raise InputError(f"There is no {self.location(name)}.")
            return self._persistently(lambda: self._records.read(row))
        return self._persistently(lambda: read_photo(self.storage, name))

    def is_clip(self, name: str) -> bool:
        """Whether a name is that of a clip."""
        return suffix_of(name) in CLIPS and self.kind in ("clip", "list")

    def check(self, name: str) -> None:
        """Read a photo's file, or the first byte of a clip's; raises what `read` does."""
        if self.is_clip(name):
            self._persistently(lambda: self.storage.read(name, 0, 1))
        else:
            self.read(name)

    def _persistently(self, read: Any) -> bytes:
        """Read, several times where object storage does not answer: a photo must not be left out for that."""
        for pause in (*RETRIES, None):
            try:
                content: bytes = read()
                return content
            except InputError as error:
                if not self.storage.remote or "check permissions and connection" not in str(error):
                    raise
                if pause is None:
                    raise ConnectionError(str(error)) from None
                time.sleep(pause)
        raise AssertionError

    @staticmethod
    def _number(name: str) -> int:
        try:
            return int(name.rpartition(" ")[2])
        except ValueError:
            raise InputError(f"{name!r} is no row: write 'row 17'.") from None

    @cached_property
    def _records(self) -> RecordPhotos:
        return RecordPhotos(self.place)

    @cached_property
    def _arrays(self) -> np.ndarray:
        arrays = map_array(self.place)
        if arrays.ndim < 2:
            raise InputError(f"{self.place} has the shape {arrays.shape}: give an array of inputs, (N,*shape).")
        return arrays


def map_array(path: str | Path) -> NDArray[Any]:
    """Array of a `.npy`, mapped for reading; no pickle is read, and nothing is allocated.

    Raises:
        InputError: there is no such file, or it is none, damaged, cut off or of objects.
    """
    try:
        with np.errstate(over="ignore"):
            array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except Exception as error:  # a damaged header raises whatever its text makes of it
        raise InputError(f"{path} holds no array ({' '.join(str(error).split())}): write one by numpy.save.") from None
    return array


def absolute(place: str | Path) -> str:
    """A path from the root of the file system; an address as it is."""
    return str(place) if "://" in str(place) else str(Path(place).absolute())


def _kind_of(place: str) -> Kind:
    suffix, storage = suffix_of(place.rstrip("/")), Storage(place)
    is_folder = storage.is_folder()
    if is_folder and suffix != ".rec":
        return "records" if storage.exists("train.rec") and storage.exists("train.idx") else "folder"
    folder, _, name = place.rpartition("/")
    if not Storage(folder or ".").exists(name):
        raise InputError(f"There is no {place}: give a folder of photos, a list, a .rec, a .npy or a clip.")
    if suffix == ".rec":
        return "records"
    if suffix in LISTS:
        return "list"
    if suffix in (CLIPS | {".npy"}):
        if storage.remote:
            raise InputError(f"{place} is in object storage: copy it to this machine first.")
        return "arrays" if suffix == ".npy" else "clip"
    known = ", ".join(sorted(LISTS | CLIPS | {".rec", ".npy"}))
    raise InputError(f"{place} is neither a folder nor one of {known}: put the photos into a folder.")


def read_paths(place: str) -> StringColumn:
    """Paths of a list: the column `path` of a `.csv` or `.parquet`, else its lines.

    Raises:
        InputError: it cannot be read, has no such column, no path, or one empty or twice.
    """
    folder, _, name = place.rpartition("/")
    try:
        content = io.BytesIO(Storage(folder or ".").read(name))
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".txt":
            lines = content.getvalue().decode("utf-8-sig").splitlines()
            paths = string_array([line.strip() for line in lines if line.strip()])
        else:
            if suffix == ".parquet":
                has_path = "path" in parquet.read_schema(content).names
                table = parquet.read_table(content, columns=["path"] if has_path else None)
            else:
                options = arrow_csv.ConvertOptions(column_types={"path": pa.large_string()}, strings_can_be_null=False)
                table = arrow_csv.read_csv(content, convert_options=options)
            if "path" not in table.column_names:
                present = ", ".join(table.column_names)
                raise InputError(f"{place} has no column path (its columns: {present}): rename the one with the paths.")
            paths = string_array(table["path"].combine_chunks())
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"The list {place} cannot be read: {' '.join(str(error).split())}") from None
    if not len(paths):
        raise InputError(f"The list {place} holds no photo.")
    refuse_empty_cells(place, "path", paths)
    refuse_repeated(place, paths, "remove one of them")
    return StringColumn(paths)
