"""Embeddings of any origin in a file, of a `.npy` or a Parquet, as rows of unit length that a search reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from siamese_verify.albums.album_folder import IN_MEMORY, StoredRows
from siamese_verify.albums.album_search import MOST, NearestRows, nearest_rows
from siamese_verify.albums.album_source import map_array
from siamese_verify.errors import InputError

FILES = frozenset({".npy", ".parquet"})
BATCH = 2**13  # rows of a Parquet unpacked at once
SCORES = 2**24  # numbers of a block of rows, or of its scores, at most
SHORTEST, LONGEST = 1e-18, 1e18  # rows whose squared length float32 holds as exactly as others
FOUND = 10**6  # rows that a search gives to all queries together


class UnitRows(StoredRows):
    """N embeddings of lengths from 1e-18 to 1e18, read as float32 of unit length a block at a time.

    Args:
        stored: (N,D) real numbers, mapped or in memory.
        place: name, for errors.

    Raises:
        InputError: another shape or type, no row; when a row is read that is longer, shorter or not finite.
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
        block, lengths = self._read(rows, np.float64)
        return np.asarray(block / lengths[:, None], dtype=np.float32)

    def scores(self, rows: slice, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,Q) cosines of a block of rows with (Q,D) queries."""
        block, lengths = self._read(rows, np.float32)
        product = block @ queries.T  # of the rows as they are: a copy of unit length takes several times as long
        product /= lengths[:, None]
        return np.asarray(product)

    def _read(self, rows: slice | NDArray[Any], dtype: type[np.floating]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """(n,D) rows as they are, and (n,) lengths."""
        with np.errstate(over="ignore"):
            block = np.asarray(self.stored[rows], dtype=np.float32, order="C")
            lengths = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=dtype))
        if not (valid := (lengths >= SHORTEST) & (lengths <= LONGEST)).all():
            row = np.arange(len(self))[rows][~valid][0]
            raise InputError(
                f"Row {row} of {self.place} has the length {lengths[~valid][0]:.3g}, and cosines need one from "
                f"{SHORTEST:g} to {LONGEST:g}: leave it out, or scale all rows."
            )
        return block, lengths


class EmbeddingsFile:
    """Embeddings in a file, with names if it has them.

    Args:
        path: a `.npy` of (N,D) numbers, which is mapped; or a `.parquet` with a list of D numbers in each row, which is
            unpacked in memory, up to `IN_MEMORY` bytes of float32.
        column: of the embeddings in a Parquet.
        names: column of names in a Parquet; None numbers the rows from 0.

    Attributes:
        rows: N embeddings.

    Raises:
        InputError: it cannot be read or is too large, or holds no such columns or embeddings.
    """

    def __init__(self, path: str | Path, column: str | None = None, names: str | None = None) -> None:
        self.path, self.names = Path(path), names
        suffix = self.path.suffix.lower()
        if suffix not in FILES:
            raise InputError(
                f"{path} holds no embeddings: give a folder of `siamese-verify embed`, a .npy or a .parquet."
            )
        if not self.path.is_file():
            raise InputError(f"There is no file {path}: give a .npy or a .parquet of embeddings.")
        if suffix == ".npy":
            if column is not None or names is not None:
                raise InputError(f"{path} is a .npy and has no columns: leave them out.")
            stored = map_array(path)
        else:
            stored = self._unpacked(column or "embedding")
        self.rows = UnitRows(stored, path)

    def names_of(self, rows: NDArray[np.int64]) -> dict[int, str]:
        """Names of some rows, by row; without a column of names such as `row 7`."""
        if self.names is None:
            return {row: f"row {row}" for row in rows.tolist()}
        found, start = dict[int, str](), 0
        for batch in self._name_batches():
            inside = np.unique(rows[(rows >= start) & (rows < start + len(batch))])
            found.update(zip(inside.tolist(), batch.take(pa.array(inside - start)).to_pylist(), strict=True))
            start += len(batch)
        return found

    def queries(self, query: str) -> NDArray[np.float32]:
        """(Q,D) queries of unit length: a `.npy` of them, or a row by its name if there are names, else by its number.

        Raises:
            InputError: none of these, or a name that several rows have.
        """
        if Path(query).suffix.lower() == ".npy" and (self.names is None or Path(query).is_file()):
            return UnitRows(np.atleast_2d(map_array(query)), query)[:]
        if self.names is not None:
            rows, start = list[int](), 0
            for batch in self._name_batches():
                rows += [row for row, name in enumerate(batch.to_pylist(), start) if name == query]
                start += len(batch)
            if len(rows) != 1:
                found = f"rows {rows[0]} and {rows[1]} are" if rows else "no row is"
                raise InputError(
                    f"In the column {self.names} of {self.path} {found} named {query!r}: without --names, rows are "
                    "given by their number."
                )
            return self.rows[np.array(rows)]
        if not (query.isdecimal() and len(query) < 20 and int(query) < len(self.rows)):
            raise InputError(
                f"{query!r} is no .npy of queries, and no row of {self.path}: its {len(self.rows):,} rows are numbered "
                "from 0, and have names with --names."
            )
        return self.rows[np.array([int(query)])]

    def search(self, queries: NDArray[np.float32], top: int, *, device: str = "cpu") -> list[NearestRows]:
        """The nearest rows of each of (Q,D) queries, see `nearest_rows`.

        Raises:
            InputError: see `nearest_rows` and `UnitRows`; too many rows are asked for.
        """
        count = len(queries)
        if not 1 <= top <= MOST or count * min(top, len(self.rows)) > FOUND:
            raise InputError(
                f"A search gives from 1 to {MOST:,} rows, and to all queries {FOUND:,}: got {count} x {top}."
            )
        block = max(1, SCORES // max(self.rows.shape[1], count))
        found = nearest_rows(queries, self.rows, top, device=device, block=block)
        return [NearestRows(*pair) for pair in zip(found.rows[:, None], found.scores[:, None], strict=True)]

    def _name_batches(self) -> Iterator[pa.Array]:
        """Names as text, empty where there is none."""
        try:
            with self._parquet() as file:
                for batch in file.iter_batches(columns=[self.names]):
                    yield pc.fill_null(pc.cast(batch.column(0), pa.large_string()), "")
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"The column {self.names} of {self.path} gives no names ({' '.join(str(error).split())}): name another."
            ) from None

    def _parquet(self) -> parquet.ParquetFile:
        return parquet.ParquetFile(pa.memory_map(str(self.path)))

    def _unpacked(self, column: str) -> NDArray[np.float32]:
        """(N,D) numbers of a column of lists."""
        try:
            with self._parquet() as file:
                present = file.schema_arrow.names
                for name in filter(None, (column, self.names)):
                    if (count := present.count(name)) != 1:
                        raise InputError(
                            f"{self.path} has {count or 'no'} column{'s' * (count > 1)} {name} (its columns: "
                            f"{', '.join(present)}): name one by --column or --names."
                        )
                return _numbers(file, column, self.path)
        except (OSError, ValueError, pa.ArrowException) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"The embeddings {self.path} cannot be read: {' '.join(str(error).split())}") from None


def _numbers(file: parquet.ParquetFile, column: str, place: object) -> NDArray[np.float32]:
    """(N,D) numbers of a column of lists."""
    kind, start = file.schema_arrow.field(column).type, 0
    number = getattr(kind, "value_type", pa.null())
    if not (pa.types.is_floating(number) or pa.types.is_integer(number)):
        raise InputError(f"The column {column} of {place} holds {kind}: embeddings are lists of numbers.")
    stored = np.empty((0, 0), dtype=np.float32)
    for batch in file.iter_batches(BATCH, columns=[column]):
        lists = batch.column(0)
        sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        if not start:
            shape = file.metadata.num_rows, int(sizes[0])
            if 4 * shape[0] * shape[1] > IN_MEMORY:
                raise InputError(
                    f"The column {column} of {place} has {shape[0]:,} x {shape[1]:,} numbers, more than "
                    f"{IN_MEMORY / 2**30:g} GiB as float32: write it as a .npy, which is mapped."
                )
            stored = np.empty(shape, dtype=np.float32)
        if len(wrong := np.flatnonzero(sizes != stored.shape[1])):
            row, size = start + wrong[0], sizes[wrong[0]]
            raise InputError(f"Row {row} of {place} has {size} numbers, and row 0 has {stored.shape[1]}.")
        numbers = lists.flatten().to_numpy(zero_copy_only=False)  # NaN where there is none
        with np.errstate(over="ignore"):
            stored[start : start + len(lists)] = numbers.reshape(len(lists), stored.shape[1])
        start += len(lists)
    return stored
