"""CSV: tables that people bring, read whole, with the line in every complaint; cells that no spreadsheet computes."""

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


FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet computes, and what `csv_cell` made of it


class Table(dict[str, list[str]]):
    """Columns by name; blank lines and line breaks within quotes make rows and lines differ.

    Attributes:
        lines: number of the line that each row ends in, the header's being 1.
    """

    lines: array[int]


def csv_cell(text: str) -> str:
    """Return a cell of a CSV that a spreadsheet shows and does not compute: an apostrophe goes before a formula.

    `=1+1.jpg` becomes `'=1+1.jpg`, which `read_csv_cell` turns back; numbers stay as they are.

    Args:
        text: such as the name of a file or a person.
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


def read_table(path: str | Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Read the columns of a CSV by name; others are left out.

    Args:
        path: of the file, UTF-8, with a header.
        needed: columns that must be there.
        optional: columns that may be.

    Returns:
        The values of each column that is there, in the order of the lines.

    Raises:
        InputError: no such file, not UTF-8, a column that is missing or there twice, a line of another length, no line.
    """
    if Path(path).exists() and not Path(path).is_file():  # a pipe that nobody may write to
        raise InputError(f"The table {path} is no file: write it to one first.")
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            missing = [name for name in needed if name not in header]
            if missing:
                there = ", ".join(header) or "none"
                raise InputError(f"{path} has no column {', '.join(missing)} (its columns: {there}): name them so.")
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
    if not columns[0]:
        raise InputError(f"The table {path} has no line below its header: give a pair a line.")
    table = Table(zip(wanted, columns, strict=True))
    table.lines = lines
    return table


def truths(path: str | Path, table: Table, name: str) -> list[bool]:
    """Read a column of 1 and 0, true and false, yes and no.

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


def filled(path: str | Path, table: Table, name: str) -> list[str]:
    """Read a column of names or numbers that every line must have, without the blanks around them.

    Raises:
        InputError: a value is empty or NaN; the line is named.
    """
    values = [value.strip() for value in table[name]]
    for row, value in enumerate(values):
        if not value or value.lower() == "nan":
            raise InputError(f"Line {table.lines[row]} of {path} has no {name}: fill it in, or leave the column out.")
    return values


def folds_of(path: str | Path, table: Table) -> NDArray[np.int64] | NDArray[np.str_] | None:
    """Read the column `fold`, None without one; whole numbers are put in their order, not in that of their digits.

    Raises:
        InputError: see `filled`.
    """
    if "fold" not in table:
        return None
    values = filled(path, table, "fold")
    if all(value.isdecimal() for value in values):
        return np.array(values, dtype=np.int64)
    return np.array(values)


def people(path: str | Path, table: Table) -> tuple[list[str], list[str]] | None:
    """Read who is on both photos of each pair, None without `identity_a` and `identity_b`.

    Raises:
        InputError: there is only one of the columns, or see `filled`.
    """
    there = [name for name in ("identity_a", "identity_b") if name in table]
    if len(there) == 1:
        raise InputError(f"{path} has {there[0]} alone: give both identity_a and identity_b, or neither.")
    return (filled(path, table, "identity_a"), filled(path, table, "identity_b")) if there else None
