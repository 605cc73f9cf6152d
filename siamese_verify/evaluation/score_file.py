"""Scores from elsewhere: a team that uses another library gets the whole report from a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.tables import filled, people, read_table, truths

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class ScoreFile(NamedTuple):
    """Scored pairs, a line each."""

    scores: NDArray[np.float64]  # (N,)
    same: NDArray[np.bool_]  # (N,)
    folds: NDArray[np.str_] | None  # (N,)
    identities: NDArray[np.str_] | None  # (N, 2)
    groups: NDArray[np.str_] | None  # (N,)
    names: NDArray[np.str_] | None  # (N, 2) of the photos


def read_scores(path: str | Path) -> ScoreFile:
    """Read a CSV with the columns `score,same[,fold][,identity_a,identity_b][,group][,a,b]`.

    Args:
        path: of the file; `same` is 1 or 0, true or false.

    Raises:
        InputError: what `read_table` refuses, a score that is no finite number, a truth that is none; with the lines.
    """
    optional = ("fold", "identity_a", "identity_b", "group", "a", "b")
    columns = read_table(path, ("score", "same"), optional)
    try:
        scores = np.array(columns["score"], dtype=np.float64)
    except ValueError:
        row = next(row for row, value in enumerate(columns["score"]) if not _is_number(value))
        raise InputError(
            f"Line {columns.lines[row]} of {path} has {columns['score'][row]!r} as score: write a number."
        ) from None
    strange = np.flatnonzero(~np.isfinite(scores))
    if len(strange):
        lines = ", ".join(str(columns.lines[row]) for row in strange[:5])
        raise InputError(f"{len(strange)} scores in {path} are NaN or infinite (first lines: {lines}): leave them out.")
    given = people(path, columns)
    return ScoreFile(
        scores,
        np.array(truths(path, columns, "same"), dtype=np.bool_),
        np.array(filled(path, columns, "fold")) if "fold" in columns else None,
        None if given is None else np.array(given).T,
        np.array(columns["group"]) if "group" in columns else None,
        np.array([columns["a"], columns["b"]]).T if "a" in columns and "b" in columns else None,
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
