"""Who is on which photo, for millions of them: columns in a file that is mapped into memory, not read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

from siamese_verify.atomic_write import whole_file
from siamese_verify.errors import InputError

Strings: TypeAlias = "pa.Array | Sequence[str]"


class Names(Sequence[str]):
    """Strings of an Arrow column, made when they are asked for.

    Args:
        column: of strings, or of a dictionary of them.
    """

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
    """Paths and identities of photos, those of an identity side by side.

    Args:
        table: columns `path` (large_string, N) and `identity` (dictionary of int32 and large_string), ascending; also
            `split` (such a dictionary) if the photos have one.
        file: that it is mapped from, so that another process maps it too instead of being sent it; None if it lies in
            memory.
    """

    def __init__(self, table: pa.Table, file: Path | None = None) -> None:
        self.file = file
        self._table = table
        self.names = Names(whole(table["path"]))
        identity = whole(table["identity"])
        self.identities: np.ndarray = identity.indices.to_numpy(zero_copy_only=True)  # (N,) int32
        self.people = Names(identity.dictionary)
        self.splits = Names(whole(table["split"])) if "split" in table.column_names else None

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (open_index, (self.file,)) if self.file else (FaceIndex, (self._table,))


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece; without a copy if it is."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def make_index(
    paths: pa.Array | Sequence[str],
    identities: pa.Array | Sequence[str],
    splits: pa.Array | Sequence[str] | None = None,
) -> FaceIndex:
    """Index photos by their identities, in the order of the identities' names; those of one stay in the order given.

    Args:
        paths: (N,) of the photos.
        identities: (N,) names.
        splits: (N,) names, or null for no split; None = there are no splits.

    Raises:
        InputError: a name that is not Unicode.
    """
    columns = {"path": strings(paths)}
    if splits is not None:
        columns["split"] = strings(splits).fill_null("").dictionary_encode()
    encoded = strings(identities).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    codes = place[encoded.indices.to_numpy(zero_copy_only=False)]
    if (np.diff(codes) < 0).any():
        rows = np.argsort(codes, kind="stable")
        codes, columns = codes[rows], {name: column.take(pa.array(rows)) for name, column in columns.items()}
    identity = pa.DictionaryArray.from_arrays(pa.array(codes), encoded.dictionary.take(pa.array(order)))
    return FaceIndex(pa.table({**columns, "identity": identity}))


def strings(values: Strings) -> pa.Array:
    """An Arrow column of strings.

    Raises:
        InputError: one that is not Unicode, as the names of some old files are.
    """
    try:
        return values.cast(pa.large_string()) if isinstance(values, pa.Array) else pa.array(values, pa.large_string())
    except UnicodeEncodeError as error:
        raise InputError(f"The name {error.object!r} is not Unicode: rename the file.") from None


def save_index(index: FaceIndex, file: Path) -> FaceIndex:
    """Write an index so that it can be mapped, and map it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as sink, ipc.new_file(sink, index._table.schema) as writer:
        writer.write_table(index._table, max_chunksize=max(1, len(index)))  # one piece
    return open_index(file)


def open_index(file: Path) -> FaceIndex:
    """Map an index that `save_index` wrote.

    Raises:
        InputError: the file is none, or damaged.
    """
    try:
        return FaceIndex(ipc.open_file(pa.memory_map(str(file))).read_all(), file)
    except (OSError, pa.ArrowException, KeyError, AttributeError) as error:
        raise InputError(f"The index {file} is damaged ({error}): delete it, and it is made again.") from None


def kept_file(cache: str | Path | None, source: Path, *details: object) -> Path | None:
    """Where the index of a list is kept: another place as soon as the list is another.

    Args:
        cache: folder, or None to keep nothing.
        source: the list.
        details: of what is read of it.
    """
    if cache is None:
        return None
    state = source.stat()
    told = repr((str(source.resolve()), state.st_size, state.st_mtime_ns, details, 2))  # 2: with splits
    return Path(cache).expanduser() / "index" / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.arrow"
