"""Pairs of photos that people bring, as CSV or Parquet, and the table of their scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from siamese_verify.errors import InputError
from siamese_verify.tables import csv_cell, read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".csv", ".parquet")
SCORED = pa.schema(
    [
        ("score", pa.float64()),
        ("same", pa.bool_()),
        ("log_likelihood_ratio", pa.float64()),
        ("probability", pa.float64()),
        ("prior", pa.float64()),
        ("one_in", pa.int64()),
        ("threshold", pa.float64()),
        ("reasons", pa.string()),
        ("warnings", pa.string()),
        ("error", pa.string()),
    ]
)


class PairTable(NamedTuple):
    """Pairs of photos, and whatever else stands in their table."""

    columns: pa.Table  # M rows, as they will be written
    photos: list[str]  # P distinct names, in the order in which they come first
    left: NDArray[np.int32]  # (M,) rows of `photos`; -1 where no photo is named
    right: NDArray[np.int32]  # (M,)
    places: Sequence[int]  # (M,) lines of a CSV, the header's being 1; rows of a Parquet file, from 1
    place: str  # what these are called

    def __len__(self) -> int:
        return len(self.left)


def read_pairs(path: Path) -> PairTable:
    """Read a table with the columns `a` and `b`; a column that the scores need for themselves is renamed `..._given`.

    Raises:
        InputError: another suffix, no such file, what `read_table` refuses, columns `a` or `b` of Parquet that are no
            text, a column that is there twice, two columns that would have one name.
    """
    check_suffix(path)
    if path.suffix.lower() == ".csv":
        header = _header(path)
        table = read_table(path, ("a", "b"), [name for name in header if name not in ("a", "b")])
        places: Sequence[int] = table.lines
        place = "Line"
        columns = pa.table({name: pa.array(table[name], pa.large_string()) for name in header})
        named = table["a"], table["b"]
    else:
        columns = _read_parquet(path)
        places, place = range(1, len(columns) + 1), "Row"
        named = columns["a"].to_pylist(), columns["b"].to_pylist()
    numbers: dict[str, int] = {}
    left, right = np.empty(len(columns), np.int32), np.empty(len(columns), np.int32)
    for row, (a, b) in enumerate(zip(*named, strict=True)):  # so that the photos of a pair stand together
        left[row] = numbers.setdefault(a, len(numbers)) if a else -1
        right[row] = numbers.setdefault(b, len(numbers)) if b else -1
    return PairTable(_renamed(path, columns), list(numbers), left, right, places, place)


def check_suffix(path: Path) -> None:
    """Accept tables by the end of their names.

    Raises:
        InputError: the name ends otherwise.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"The table {path} is neither .csv nor .parquet: name it by what it is.")


def _header(path: Path) -> list[str]:
    """Names of the columns, each once; none where the file cannot be read, which `read_table` then says."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, strict=True), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return list(dict.fromkeys(name.strip() for name in header))


def _read_parquet(path: Path) -> pa.Table:
    try:
        columns = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"The table {path} cannot be read: {error}.") from None
    names = columns.column_names
    for name in ("a", "b"):
        if name not in names:
            there = ", ".join(names) or "none"
            raise InputError(f"{path} has no column {name} (its columns: {there}): name them so.")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path} has the column {twice[0]} twice: keep one of them.")
    if not len(columns):
        raise InputError(f"The table {path} has no row: give a pair a row.")
    for place, field in enumerate(columns.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if field.name in ("a", "b"):
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise InputError(f"The column {field.name} of {path} is {field.type}: give the photos' paths as text.")
            kind = pa.large_string()
        columns = columns.set_column(place, pa.field(field.name, kind), columns[field.name].cast(kind))
    return columns.replace_schema_metadata(None)


def _renamed(path: Path, columns: pa.Table) -> pa.Table:
    names = [f"{name}_given" if name in SCORED.names else name for name in columns.column_names]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(
            f"{path} has the columns {twice[0].removesuffix('_given')} and {twice[0]}, of which the first would be "
            "written under the name of the second: rename one of them."
        )
    return columns.rename_columns(names)


class ScoreWriter:
    """Writes a table of scores piece by piece; nobody should see the file before `close`.

    Args:
        file: that is made anew, or a buffer.
        kind: `.csv` or `.parquet`.
        table: the pairs that are scored.
    """

    def __init__(self, file: Path | io.BytesIO, kind: str, table: PairTable) -> None:
        self.columns = table.columns
        self._schema = pa.schema([*table.columns.schema, *SCORED])
        self._csv = kind.lower() == ".csv"
        writer = arrow_csv.CSVWriter if self._csv else parquet.ParquetWriter
        self._writer: Any = writer(file, self._schema)

    def write(self, start: int, rows: list[dict[str, Any]]) -> None:
        """Write the scores of the pairs from `start` on, with what their table said of them."""
        scored = pa.Table.from_pylist(rows, schema=SCORED)
        given = self.columns.slice(start, len(rows))
        columns = [*given.columns, *scored.columns]
        if self._csv:
            columns = [_without_formulas(column) for column in columns]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def _without_formulas(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as `csv_cell` would have it, where it is text."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    texts = [text if text is None else csv_cell(text) for text in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, column.type)])


def check_writable(table: PairTable, kind: str) -> None:
    """Write one row into nowhere: what cannot be written should be known before hours of work.

    Raises:
        InputError: a column holds what such a file cannot, as a CSV cannot hold lists.
    """
    try:
        writer = ScoreWriter(io.BytesIO(), kind, table)
        writer.write(0, [{}])
        writer.close()
    except pa.ArrowException as error:
        raise InputError(
            f"A {kind} cannot hold every column of the pairs ({error}): write to a .parquet file, or leave it out."
        ) from None
