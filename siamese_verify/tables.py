"""CSV tables: read with line numbers in errors, and written without cells that a spreadsheet would compute."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet computes, also after `csv_cell`


class Table(dict[str, list[str]]):
    """Columns by name.

    Attributes:
        lines: number of the line that each row ends in; the header's is 1.
    """

    lines: array[int]


def csv_cell(text: str) -> str:
    """Cell of a CSV that a spreadsheet shows and does not compute: formulas get an apostrophe.

    `=1+1.jpg` becomes `'=1+1.jpg`, which `read_csv_cell` turns back; numbers stay as they are.
    """
    return f"'{text}" if FORMULA.match(text) and not is_number(text) else text


def read_csv_cell(text: str) -> str:
    """Undo `csv_cell`."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def is_number(text: str) -> bool:
    """Whether a cell holds a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_header(path: str | Path) -> list[str]:
    """Return the names of the columns of a CSV.

    Raises:
        InputError: no such file, or not UTF-8.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file, strict=True), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The table {path} cannot be read: {error}.") from None


def read_table(
    path: str | Path, needed: Sequence[str], optional: Sequence[str] = (), *, may_be_empty: bool = False
) -> Table:
    """Read some columns of a CSV.

    Args:
        path: of the file, UTF-8, with a header.
        needed: names of columns that must be there.
        optional: names of columns that may be there.
        may_be_empty: allow a header alone.

    Returns:
        The values of each column that is there, in the order of the lines.

    Raises:
        InputError: no such file, not UTF-8, a column that is missing or occurs twice, a line of another length,
            no row.
    """
    if not Path(path).exists():
        raise InputError(f"The table {path} cannot be read: there is no such file.")
    if not Path(path).is_file():  # a pipe that nobody may write to
        raise InputError(f"The table {path} is not a regular file: write it to one first.")
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            missing = [name for name in needed if name not in header]
            if missing:
                names = ", ".join(header) or "none"
                if len(header) == 1 and (mark := next((one for one in ";\t" if one in header[0]), "")):
                    word = "semicolons" if mark == ";" else "tabs"
                    raise InputError(f"{path} separates its columns by {word} ({header[0]!r}): write commas.")
                raise InputError(f"{path} has no column {', '.join(missing)} (its columns: {names}): rename them.")
            wanted = [name for name in (*needed, *optional) if name in header]
            twice = [name for name in wanted if header.count(name) > 1]
            if twice:
                raise InputError(f"{path} has the column {twice[0]} twice: keep one of them.")
            places = [header.index(name) for name in wanted]
            columns: list[list[str]] = [[] for _ in wanted]
            lines = array("q")
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(f"Line {rows.line_num} of {path} has {len(row)} fields, not {len(header)}.")
                lines.append(rows.line_num)
                for column, place in zip(columns, places, strict=True):
                    column.append(read_csv_cell(row[place]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The table {path} cannot be read: {error}.") from None
    if not columns[0] and not may_be_empty:
        raise InputError(f"The table {path} has no line below its header: give each pair a line.")
    table = Table(zip(wanted, columns, strict=True))
    table.lines = lines
    return table


def boolean_column(path: str | Path, table: Table, name: str) -> list[bool]:
    """Values of a column of 1 and 0, true and false, yes and no.

    Raises:
        InputError: another value; the line is named.
    """
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    found = [known.get(value.strip().lower()) for value in table[name]]
    if None in found:
        row = found.index(None)
        raise InputError(
            f"Line {table.lines[row]} of {path} has {table[name][row]!r} as {name}: write 1 (one person) or 0."
        )
    return [bool(value) for value in found]


def required_column(path: str | Path, table: Table, name: str, way_out: str = "leave the column out") -> list[str]:
    """Values of a column that every row must have, without blanks around them.

    Raises:
        InputError: a value is empty or NaN; the line is named.
    """
    values = [value.strip() for value in table[name]]
    for row, value in enumerate(values):
        if not value or value.lower() == "nan":
            raise InputError(f"Line {table.lines[row]} of {path} has no {name}: fill it in, or {way_out}.")
    return values


def fold_column(path: str | Path, table: Table) -> NDArray[np.int64] | NDArray[np.str_] | None:
    """Values of the column `fold`, None without one; integers if all of them are whole numbers.

    Raises:
        InputError: see `required_column`.
    """
    if "fold" not in table:
        return None
    values = required_column(path, table, "fold")
    if all(value.isdecimal() for value in values):
        return np.array(values, dtype=np.int64)
    return np.array(values)


def identity_columns(path: str | Path, table: Table) -> tuple[list[str], list[str]] | None:
    """Values of the columns `identity_a` and `identity_b`, None without them.

    Raises:
        InputError: one of the columns is missing, or see `required_column`.
    """
    present = [name for name in ("identity_a", "identity_b") if name in table]
    if len(present) == 1:
        raise InputError(f"{path} has {present[0]} alone: give both identity_a and identity_b, or neither.")
    return (required_column(path, table, "identity_a"), required_column(path, table, "identity_b")) if present else None
