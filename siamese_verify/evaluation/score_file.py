"""Scores and curves in files: CSV tables of scored pairs, and published ROC curves."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.evaluation.differentials import labels_of
from siamese_verify.evaluation.roc import STEPS
from siamese_verify.tables import Table, boolean_column, csv_cell, fold_column, identity_columns, is_number, read_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class ScoreFile(NamedTuple):
    """Scored pairs of a CSV file, one per line."""

    scores: NDArray[np.float64]  # (N,)
    same: NDArray[np.bool_]  # (N,)
    folds: NDArray[np.int64] | NDArray[np.str_] | None  # (N,)
    identities: NDArray[np.str_] | None  # (N, 2)
    groups: NDArray[np.str_] | None  # (N,)
    names: NDArray[np.str_] | None  # (N, 2) of the photos
    lines: Sequence[int]  # (N,) line numbers in the file
    sides: NDArray[np.str_] | None = None  # (N, 2) group of either photo

    def describe(self, row: int) -> str:
        """Return photos and line of a pair."""
        photos = "" if self.names is None else f"{self.names[row, 0]} and {self.names[row, 1]}, "
        return f"{photos}line {self.lines[row]}"


def group_columns(group: str) -> tuple[str, str, str]:
    """Return the names of the columns that a table of pairs may have for groups: of pairs, and of either photo."""
    return group, f"{group}_a", f"{group}_b"


def read_groups(
    path: str | Path, columns: Table, group: str
) -> tuple[NDArray[np.str_] | None, NDArray[np.str_] | None]:
    """Return the (N,) groups of pairs and the (N,2) groups of their photos, None for either without its columns.

    Raises:
        InputError: a column other than `group` was asked for and is missing, one of two photos has no column, or see
            `labels_of`.
    """
    whole, *sides = group_columns(group)
    present = [name for name in sides if name in columns]
    if len(present) == 1 or (group != "group" and whole not in columns and not present):
        raise InputError(f"{path} has no column {group}, or not both {sides[0]} and {sides[1]}: name another one.")
    return (
        None if whole not in columns else np.array(columns[whole]) if group == "group" else labels_of(columns[whole]),
        labels_of([columns[name] for name in sides]).T if present else None,
    )


def read_scores(path: str | Path, group: str = "group") -> ScoreFile:
    """Read a CSV with the columns `score,same[,fold][,identity_a,identity_b][,group][,group_a,group_b][,a,b]`.

    Args:
        path: of the file; `same` is 1 or 0, true or false.
        group: see `read_groups`.

    Raises:
        InputError: see `read_table`; a score that is not a finite number, an invalid label; with the lines.
    """
    optional = ("fold", "identity_a", "identity_b", *group_columns(group), "a", "b")
    columns = read_table(path, ("score", "same"), optional)
    try:
        scores = np.array(columns["score"], dtype=np.float64)
    except ValueError:
        row = next(row for row, value in enumerate(columns["score"]) if not is_number(value))
        raise InputError(
            f"Line {columns.lines[row]} of {path} has {columns['score'][row]!r} as score: write a number."
        ) from None
    invalid = np.flatnonzero(~np.isfinite(scores))
    if len(invalid):
        lines = ", ".join(str(columns.lines[row]) for row in invalid[:5])
        raise InputError(f"{len(invalid)} scores in {path} are NaN or infinite (first lines: {lines}): leave them out.")
    given = identity_columns(path, columns)
    groups, sides = read_groups(path, columns, group)
    return ScoreFile(
        scores,
        np.array(boolean_column(path, columns, "same"), dtype=np.bool_),
        fold_column(path, columns),
        None if given is None else np.array(given).T,
        groups,
        np.array([columns["a"], columns["b"]]).T if "a" in columns and "b" in columns else None,
        columns.lines,
        sides,
    )


def write_scores(
    path: Path,
    scores: Sequence[float] | NDArray[np.floating],
    same: Sequence[bool] | NDArray[np.bool_],
    names: Sequence[tuple[str, str]],
    *,
    folds: Sequence[Any] | NDArray[Any] | None = None,
    identities: Sequence[tuple[str, str]] | None = None,
    groups: Sequence[str] | NDArray[np.str_] | None = None,
    sides: NDArray[np.str_] | None = None,
) -> None:
    """Write a CSV that `read_scores` reads: one line for each of (N,) pairs."""
    columns: dict[str, list[Any]] = {
        "a": [csv_cell(left) for left, _ in names],
        "b": [csv_cell(right) for _, right in names],
        "score": [f"{score:.9g}" for score in scores],
        "same": [int(one) for one in same],
    }
    if identities is not None:
        columns["identity_a"] = [csv_cell(left) for left, _ in identities]
        columns["identity_b"] = [csv_cell(right) for _, right in identities]
    first, second = (None, None) if sides is None else sides.T
    for name, values in (("fold", folds), ("group", groups), ("group_a", first), ("group_b", second)):
        if values is not None:
            columns[name] = [csv_cell(str(value)) for value in values]
    table = io.StringIO()
    writer = csv.writer(table)  # ends lines by \r\n, since only then "\r" in a name is quoted
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    atomic_write(path, table.getvalue().encode())


class PublishedCurve(NamedTuple):
    """Points of a ROC curve of other authors."""

    name: str
    far: NDArray[np.float64]  # (K,) ascending, in [0, 1]
    tar: NDArray[np.float64]  # (K,) in [0, 1]


def read_published(folder: str | Path) -> list[PublishedCurve]:
    """Read the curves of a folder: text files of two columns, TAR and FAR in either order, as on LFW's results page.

    The column that is larger on average is the TAR, as on any curve better than chance. Rows with NaN are left out.

    Raises:
        InputError: no such folder, no text file in it, or one without a curve.
    """
    place = Path(folder)
    files = sorted(place.glob("*.txt")) if place.is_dir() else []
    if not files:
        raise InputError(f"There are no published curves (*.txt) in {folder}: name another folder, or published=null.")
    return [_read_published_curve(file) for file in files]


def _read_published_curve(file: Path) -> PublishedCurve:
    try:
        points = np.loadtxt(file, ndmin=2)
    except (ValueError, OSError) as error:
        raise InputError(f"{file} holds no curve of two columns: {error}.") from None
    points = points[np.isfinite(points).all(axis=1)]
    if points.shape[1] != 2 or len(points) < 2 or points.min() < 0 or points.max() > 1:
        raise InputError(f"{file} holds no curve: two columns of rates in [0, 1] are needed, two rows or more.")
    far, tar = sorted(points.T, key=lambda rates: float(rates.mean()))
    order = np.lexsort((tar, far))
    far, tar = far[order], tar[order]
    kept = np.diff(np.floor(np.stack([far, tar, np.log10(np.maximum(far, 1e-7)) / 7]) * STEPS), prepend=-np.inf).any(0)
    kept[-1] = True
    # Named after the file, without the words that all such files have in their names.
    name = re.sub("[_-](lfw|roc|curve)(?![^_-])", "", file.stem, flags=re.IGNORECASE)
    return PublishedCurve(name.replace("_", " "), far[kept], tar[kept])
