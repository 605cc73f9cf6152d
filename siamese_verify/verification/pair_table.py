"""Tables of pairs to verify and of their scores: CSV and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from siamese_verify.errors import InputError
from siamese_verify.tables import csv_cell, read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".csv", ".parquet")
SCORE_COLUMNS = pa.schema(
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
    """Pairs of photos, with all other columns of their table."""

    columns: pa.Table  # M rows, as they will be written
    photos: list[str]  # P distinct names, in the order of first appearance
    left: NDArray[np.int32]  # (M,) rows of `photos`; -1 where no photo is named
    right: NDArray[np.int32]  # (M,)
    numbers: Sequence[int]  # (M,) lines of a CSV, the header being 1, or rows of a Parquet file from 1
    unit: str  # Line or Row

    def __len__(self) -> int:
        return len(self.left)


def read_pairs(path: Path) -> PairTable:
    """Read a table with the columns `a` and `b`; a column named like one of the scores is renamed to `..._given`.

    Raises:
        InputError: another suffix, no such file, invalid CSV or Parquet, no text columns `a` and `b`, or two columns of
            one name.
    """
    check_suffix(path)
    if path.suffix.lower() == ".csv":
        header = _read_header(path)
        table = read_table(path, ("a", "b"), [name for name in header if name not in ("a", "b")])
        columns = pa.table({name: pa.array(table[name], pa.large_string()) for name in header})
        numbers: Sequence[int] = table.lines
        unit = "Line"
    else:
        columns = _read_parquet(path)
        numbers, unit = range(1, len(columns) + 1), "Row"
    rows: dict[str, int] = {}
    both = np.empty((len(columns), 2), dtype=np.int32)
    for place, pair in enumerate(zip(columns["a"].to_pylist(), columns["b"].to_pylist(), strict=True)):
        both[place] = [rows.setdefault(name, len(rows)) if name else -1 for name in pair]
    return PairTable(_rename_columns(path, columns), list(rows), both[:, 0], both[:, 1], numbers, unit)


def check_suffix(path: Path) -> None:
    """Check that a file name ends in .csv or .parquet.

    Raises:
        InputError: it does not.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"The table {path} is neither .csv nor .parquet: name it by what it is.")


def _read_header(path: Path) -> list[str]:
    """Distinct column names of a CSV; none if it cannot be read, which `read_table` reports."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, strict=True), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return list(dict.fromkeys(name.strip() for name in header))


def _read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file, with plain instead of dictionary columns."""
    try:
        columns = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"The table {path} cannot be read: {error}.") from None
    names = columns.column_names
    for name in ("a", "b"):
        if name not in names:
            found = ", ".join(names) or "none"
            raise InputError(f"{path} has no column {name} (its columns: {found}): name them so.")
    if twice := [name for name in names if names.count(name) > 1]:
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


def _rename_columns(path: Path, columns: pa.Table) -> pa.Table:
    """Rename columns whose names the scores need."""
    names = [f"{name}_given" if name in SCORE_COLUMNS.names else name for name in columns.column_names]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"{path} has the columns {twice[0].removesuffix('_given')} and {twice[0]}, of which the first would be "
            "written under the name of the second: rename one of them."
        )
    return columns.rename_columns(names)


class ScoreWriter:
    """Writes a table of scores block by block.

    Args:
        file: open for writing.
        suffix: `.csv` or `.parquet`.
        table: pairs that are scored.
    """

    def __init__(self, file: BinaryIO, suffix: str, table: PairTable) -> None:
        self._columns = table.columns
        self._schema = pa.schema([*table.columns.schema, *SCORE_COLUMNS])
        self._csv = suffix.lower() == ".csv"
        writer = arrow_csv.CSVWriter if self._csv else parquet.ParquetWriter
        self._writer: Any = writer(file, self._schema)

    def write(self, start: int, rows: list[dict[str, Any]]) -> None:
        """Write the scores of the pairs from `start` on, after their columns."""
        scores = pa.Table.from_pylist(rows, schema=SCORE_COLUMNS)
        columns = [*self._columns.slice(start, len(rows)).columns, *scores.columns]
        if self._csv:
            columns = [_without_formulas(column) for column in columns]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def _without_formulas(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Apply `csv_cell` to a column of text or bytes."""
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):  # in any encoding that extends ASCII
        cells: list[Any] = [
            cell if cell is None else csv_cell(cell.decode("latin-1")).encode("latin-1") for cell in column.to_pylist()
        ]
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        cells = [cell if cell is None else csv_cell(cell) for cell in column.to_pylist()]
    else:
        return column
    return pa.chunked_array([pa.array(cells, kind)])


def check_writable(table: PairTable, suffix: str) -> None:
    """Check that the columns of a table can be written, before hours of work.

    Raises:
        InputError: a column cannot, such as lists in a CSV.
    """
    try:
        writer = ScoreWriter(io.BytesIO(), suffix, table)
        writer.write(0, [{}])
        writer.close()
    except pa.ArrowException as error:
        raise InputError(
            f"A {suffix} cannot hold every column of the pairs ({error}): write to a .parquet file, or leave it out."
        ) from None
