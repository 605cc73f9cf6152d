"""Paths and identities of millions of photos as columns of an Arrow file that is mapped into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

from siamese_verify.atomic_write import atomic_open
from siamese_verify.errors import InputError

Strings: TypeAlias = "pa.Array | Sequence[str]"


class StringColumn(Sequence[str]):
    """Sequence of the strings in an Arrow column, or in a dictionary column, converted on access."""

    def __init__(self, column: pa.Array) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [str(name) for name in self.column[row].to_pylist()]
        return str(self.column[int(row)].as_py())


class FaceIndex:
    """Paths and identities of N photos, grouped by identity.

    Args:
        table: columns `path` (large_string) and `identity` (dictionary of int32 and large_string, ascending); also
            `split` and `camera` (such dictionaries) if the photos have them.
        file: that the table is mapped from, so that another process maps it too; None if it is in memory.
    """

    def __init__(self, table: pa.Table, file: Path | None = None) -> None:
        self.file = file
        self._table = table
        self.names = StringColumn(_contiguous(table["path"]))
        identity = _contiguous(table["identity"])
        self.identities: np.ndarray = identity.indices.to_numpy(zero_copy_only=True)  # (N,) int32
        self.people = StringColumn(identity.dictionary)
        self.splits, self.cameras = (
            StringColumn(_contiguous(table[name])) if name in table.column_names else None
            for name in ("split", "camera")
        )

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (open_index, (self.file,)) if self.file else (FaceIndex, (self._table,))


def _contiguous(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def make_index(
    paths: Strings, identities: Strings, splits: Strings | None = None, cameras: Strings | None = None
) -> FaceIndex:
    """Index photos, sorted by the names of their identities; photos of one identity keep their order.

    Args:
        paths: (N,) of the photos.
        identities: (N,) names.
        splits: (N,) names, null for none.
        cameras: (N,) names, null for none.

    Raises:
        InputError: a name that is not Unicode.
    """
    columns = {"path": string_array(paths)}
    for name, values in (("split", splits), ("camera", cameras)):
        if values is not None:
            columns[name] = string_array(values).fill_null("").dictionary_encode()
    encoded = string_array(identities).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    codes = rank[encoded.indices.to_numpy(zero_copy_only=False)]
    if (np.diff(codes) < 0).any():
        rows = np.argsort(codes, kind="stable")
        codes, columns = codes[rows], {name: column.take(pa.array(rows)) for name, column in columns.items()}
    identity = pa.DictionaryArray.from_arrays(pa.array(codes), encoded.dictionary.take(pa.array(order)))
    return FaceIndex(pa.table({**columns, "identity": identity}))


def string_array(values: Strings) -> pa.Array:
    """Arrow array of strings.

    Raises:
        InputError: one that is not Unicode, as the names of some old files are.
    """
    try:
        return values.cast(pa.large_string()) if isinstance(values, pa.Array) else pa.array(values, pa.large_string())
    except UnicodeEncodeError as error:
        raise InputError(f"The name {error.object!r} is not Unicode: rename the file.") from None


def save_index(index: FaceIndex, file: Path) -> FaceIndex:
    """Write an index to a file, and map that."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(file) as sink, ipc.new_file(sink, index._table.schema) as writer:
        writer.write_table(index._table, max_chunksize=max(1, len(index)))  # a single chunk
    return open_index(file)


def open_index(file: Path) -> FaceIndex:
    """Map an index that `save_index` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return FaceIndex(ipc.open_file(pa.memory_map(str(file))).read_all(), file)
    except (OSError, pa.ArrowException, KeyError, AttributeError) as error:
        raise InputError(f"The index {file} is damaged ({error}): delete it, and it is made again.") from None


def index_path(cache: str | Path | None, source: Path, *details: object) -> Path | None:
    """Path of the cached index of a list: another one whenever the list or `details` change; None without a cache."""
    if cache is None:
        return None
    state = source.stat()
    key = repr((str(source.resolve()), state.st_size, state.st_mtime_ns, details, 3))  # 3: version of the columns
    return Path(cache).expanduser() / "index" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
