"""Tables that people bring: CSV with a header, read whole, with the line in every complaint."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from siamese_verify.errors import InputError


def read_table(path: str | Path, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, list[str]]:
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
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(f"Line {rows.line_num} of {path} has {len(row)} fields, not {len(header)}.")
                for column, place in zip(columns, places, strict=True):
                    column.append(row[place])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The table {path} cannot be read: {error}.") from None
    if not columns[0]:
        raise InputError(f"The table {path} has no line below its header: give a pair a line.")
    return dict(zip(wanted, columns, strict=True))


def truths(path: str | Path, name: str, values: Sequence[str]) -> list[bool]:
    """Read a column of 1 and 0, true and false, yes and no.

    Raises:
        InputError: another value; the line is named.
    """
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    found = [known.get(value.strip().lower()) for value in values]
    if None in found:
        row = found.index(None)
        raise InputError(f"Line {row + 2} of {path} has {values[row]!r} as {name}: write 1 (one person) or 0.")
    return [bool(value) for value in found]
