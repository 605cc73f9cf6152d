"""Embeddings of any origin in a file, of a `.npy` or a Parquet, as rows of unit length that a search reads."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from siamese_verify.albums.album_folder import IN_MEMORY, StoredRows
from siamese_verify.albums.album_search import MOST, NearestRows, build_index, nearest_rows, proposed_rows
from siamese_verify.errors import InputError
from siamese_verify.gallery.template_search import ApproximateIndex

FILES = frozenset({".npy", ".parquet"})
NAMES = ("name", "photo", "path", "id")  # columns that are looked for
BATCH = 2**13  # rows of a Parquet unpacked at once
SCORES = 2**24  # numbers of a block of rows, or of its scores, at most
PLAIN = 1e-20, 1e30  # squared lengths that float32 holds as exactly as others
FOUND = 10**6  # rows that a search gives to all queries together


class UnitRows(StoredRows):
    """N embeddings of any length above zero, read as float32 of unit length a block at a time.

    Args:
        stored: (N,D) real numbers, mapped or in memory.
        place: name, for errors.

    Raises:
        InputError: another shape or type, no row; when a row is read that is NaN, infinite or zero.
    """

    def __init__(self, stored: NDArray[Any], place: object) -> None:
        if stored.ndim != 2 or stored.dtype.kind not in "fiu" or not stored.size:
            raise InputError(
                f"{place} holds {stored.dtype} of shape {stored.shape}: embeddings are (N,D) real numbers."
            )
        super().__init__(stored, stored.shape[1])
        self.place = place

    def __getitem__(self, rows: slice | NDArray[Any]) -> NDArray[np.float32]:
        """(n,D) rows."""
        with np.errstate(over="ignore"):
            block = np.array(self.stored[rows], dtype=np.float32, order="C")
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
        if not (valid := np.isfinite(lengths) & (lengths > 0)).all():
            row = np.arange(len(self))[rows][~valid][0]
            raise InputError(f"Row {row} of {self.place} is NaN, infinite or zero, and has no cosine: leave it out.")
        block /= lengths[:, None]
        return block

    def scores(self, rows: slice, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,Q) cosines of a block of rows with (Q,D) queries."""
        with np.errstate(over="ignore"):
            block = np.asarray(self.stored[rows], dtype=np.float32)
            squares = np.einsum("nd,nd->n", block, block)
        if not ((squares > PLAIN[0]) & (squares < PLAIN[1])).all():
            return np.asarray(self[rows] @ queries.T)
        product = block @ queries.T  # of the rows as they are: a copy of unit length takes several times as long
        product /= np.sqrt(squares)[:, None]
        return np.asarray(product)


class EmbeddingsFile:
    """Embeddings in a file, with names if it has them.

    Args:
        path: a `.npy` of (N,D) numbers, which is mapped; or a `.parquet` with a list of D numbers in each row, which is
            unpacked: above `IN_MEMORY` bytes into a temporary file.
        column: of the embeddings in a Parquet.
        names: column of names in a Parquet; by default the first of `NAMES` that is there.

    Attributes:
        rows: N embeddings.

    Raises:
        InputError: it cannot be read, or holds no such columns or embeddings.
    """

    def __init__(self, path: str | Path, column: str | None = None, names: str | None = None) -> None:
        self.path, self.names, self._column = Path(path), names, column or "embedding"
        if self.path.suffix.lower() not in FILES:
            raise InputError(
                f"{path} holds no embeddings: give a folder of `siamese-verify embed`, a .npy or a .parquet."
            )
        try:
            if self.path.suffix.lower() == ".npy":
                if column is not None or names is not None:
                    raise InputError(f"{path} is a .npy and has no columns: leave them out.")
                stored: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
            else:
                with self._parquet() as file:
                    present = file.schema_arrow.names
                    self.names = names or next((name for name in NAMES if name in present), None)
                    if missing := [name for name in (self._column, names) if name and name not in present]:
                        raise InputError(f"{path} has no column {missing[0]} (its columns: {', '.join(present)}).")
                    stored = _unpacked(file, self._column, path)
        except InputError:
            raise
        except (OSError, ValueError, EOFError, pa.ArrowException) as error:
            raise InputError(f"The embeddings {path} cannot be read: {' '.join(str(error).split())}") from None
        self.rows = UnitRows(stored, path)

    def names_of(self, rows: NDArray[np.int64]) -> dict[int, str]:
        """Names of some rows, by row: their numbers, such as `row 7`, where there are none."""
        if self.names is None:
            return {row: f"row {row}" for row in rows.tolist()}
        found, start = dict[int, str](), 0
        for batch in self._name_batches():
            inside = np.unique(rows[(rows >= start) & (rows < start + len(batch))])
            named = batch.take(pa.array(inside - start)).to_pylist()
            found.update(zip(inside.tolist(), map(str, named), strict=True))
            start += len(batch)
        return found

    def queries(self, query: str) -> NDArray[np.float32]:
        """(Q,D) queries of unit length: those of a `.npy` file of (Q,D) or (D,), or the row of a name or number.

        Raises:
            InputError: neither, or a name that several rows have.
        """
        if Path(query).suffix.lower() == ".npy" and Path(query).is_file():
            try:
                given = np.load(query, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise InputError(f"{query} holds no array ({error}): write one by numpy.save.") from None
            return UnitRows(np.atleast_2d(given), query)[:]
        rows, start = list[int](), 0
        for batch in self._name_batches() if self.names else ():
            rows += (np.flatnonzero(pc.equal(batch, query)) + start).tolist()
            start += len(batch)
        if len(rows) > 1:
            raise InputError(f"Rows {rows[0]} and {rows[1]} of {self.path} are {query!r}: give the number of one.")
        if not rows and query.isdecimal() and int(query) < len(self.rows):
            rows = [int(query)]
        if not rows:
            raise InputError(
                f"{query!r} is no .npy of queries, and no {'name or ' if self.names else ''}row of {self.path}, whose "
                f"{len(self.rows):,} rows are numbered from 0."
            )
        return self.rows[np.array(rows)]

    def search(
        self, queries: NDArray[np.float32], top: int, *, approximate: bool = False, device: str = "cpu"
    ) -> list[NearestRows]:
        """The nearest rows of each of (Q,D) queries, see `nearest_rows`; or of those that FAISS proposes.

        The index of FAISS is made at the first call, beside the file, and again when that is another.

        Raises:
            InputError: see `nearest_rows` and `UnitRows`; too many rows are asked for; FAISS is not installed.
        """
        count = len(queries)
        if not 1 <= top <= MOST or count * min(top, len(self.rows)) > FOUND:
            raise InputError(
                f"A search gives from 1 to {MOST:,} rows, and to all queries {FOUND:,}: got {count} x {top}."
            )
        if approximate:
            state = (self._column, self.path.stat().st_size, self.path.stat().st_mtime_ns)
            key = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
            path = self.path.with_name(f"{self.path.name}-{key}.faiss")
            index = ApproximateIndex.load(path, None) or build_index(path, self.rows, f"{self.path.name}-")
            return [proposed_rows(query, self.rows, top, index) for query in queries]
        block = max(1, SCORES // max(self.rows.shape[1], count))
        found = nearest_rows(queries, self.rows, top, device=device, block=block)
        return [NearestRows(*pair) for pair in zip(found.rows[:, None], found.scores[:, None], strict=True)]

    def _parquet(self) -> parquet.ParquetFile:
        return parquet.ParquetFile(pa.memory_map(str(self.path)))

    def _name_batches(self) -> Iterator[pa.Array]:
        with self._parquet() as file:
            for batch in file.iter_batches(columns=[self.names]):
                yield pc.cast(batch.column(0), pa.string())


def _unpacked(file: parquet.ParquetFile, column: str, place: object) -> NDArray[np.float32]:
    """(N,D) numbers of a column of lists, in memory up to `IN_MEMORY` bytes."""
    kind, start = file.schema_arrow.field(column).type, 0
    number = getattr(kind, "value_type", pa.null())
    if not (pa.types.is_floating(number) or pa.types.is_integer(number)):
        raise InputError(f"The column {column} of {place} holds {kind}: embeddings are lists of numbers.")
    stored = np.empty((0, 0), dtype=np.float32)
    for batch in file.iter_batches(BATCH, columns=[column]):
        lists = batch.column(0)
        sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        if not start:
            stored = _empty(file.metadata.num_rows, int(sizes[0]))
        if len(wrong := np.flatnonzero(sizes != stored.shape[1])):
            row, size = start + wrong[0], sizes[wrong[0]]
            raise InputError(f"Row {row} of {place} has {size} numbers, and row 0 has {stored.shape[1]}.")
        numbers = lists.flatten().to_numpy(zero_copy_only=False)  # NaN where there is none
        with np.errstate(over="ignore"):
            stored[start : start + len(lists)] = numbers.reshape(len(lists), -1)
        start += len(lists)
    return stored


def _empty(count: int, size: int) -> NDArray[np.float32]:
    """(count, size) array to be filled; above `IN_MEMORY` bytes mapped from a file that is gone when the process is."""
    if 4 * count * size <= IN_MEMORY:
        return np.empty((count, size), dtype=np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=(count, size))
