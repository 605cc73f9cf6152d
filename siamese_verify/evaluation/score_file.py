"""Scores from elsewhere: a team that uses another library gets the whole report from a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.tables import read_table, truths

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
        raise InputError(f"Line {row + 2} of {path} has {columns['score'][row]!r} as score: write a number.") from None
    strange = np.flatnonzero(~np.isfinite(scores))
    if len(strange):
        lines = ", ".join(str(row + 2) for row in strange[:5])
        raise InputError(f"{len(strange)} scores in {path} are NaN or infinite (first lines: {lines}): leave them out.")
    return ScoreFile(
        scores,
        np.array(truths(path, "same", columns["same"]), dtype=np.bool_),
        np.array(columns["fold"]) if "fold" in columns else None,
        _two(columns, "identity_a", "identity_b"),
        np.array(columns["group"]) if "group" in columns else None,
        _two(columns, "a", "b"),
    )


def _two(columns: dict[str, list[str]], first: str, second: str) -> NDArray[np.str_] | None:
    there = first in columns and second in columns
    return np.stack([np.array(columns[first]), np.array(columns[second])], axis=1) if there else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
