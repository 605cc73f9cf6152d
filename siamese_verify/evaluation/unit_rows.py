"""The boundary for embeddings: rows and identities come in from anywhere and leave checked, at unit length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.pair_scores import as_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

UNIT = 1e-5  # rows whose length is 1 up to so much are taken as they are: to divide again would round again


def unit_rows(embeddings: ArrayLike) -> NDArray[Any]:
    """Return the directions of embeddings.

    Args:
        embeddings: (N, D) of any non-zero length.

    Returns:
        (N, D) of unit length, float64 if they were, else float32.

    Raises:
        InputError: another shape or type, or rows without a direction.
    """
    raw = as_array(embeddings)
    if raw.ndim != 2 or raw.dtype.kind not in "fiu":
        raise InputError(f"The embeddings are {raw.dtype} of shape {raw.shape}, not floats of shape (N, D).")
    rows: NDArray[Any] = raw.astype(np.float64 if raw.dtype == np.float64 else np.float32, copy=False)
    largest = np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0))[:, None]
    unusable = np.flatnonzero(~(np.isfinite(largest) & (largest > 0)))
    if len(unusable):
        first = ", ".join(str(row) for row in unusable[:5])
        raise InputError(
            f"{len(unusable)} of {len(rows)} embeddings are zero, NaN or infinite (first rows: {first}), "
            "and have no direction to compare."
        )
    with np.errstate(over="ignore", under="ignore"):
        lengths = np.linalg.norm(rows, axis=1)
    if np.abs(lengths - 1).max(initial=0) <= UNIT:
        return rows
    scaled = np.divide(rows, largest)  # else squares of very large or small entries would overflow or vanish
    normalised: NDArray[Any] = np.divide(scaled, np.linalg.norm(scaled, axis=1, keepdims=True))
    return normalised


def numbered(identities: ArrayLike, rows: int) -> NDArray[np.int64]:
    """Return the number of each row's identity, from 0 in the order of their names.

    Args:
        identities: (N,) one number or name per row.
        rows: N.

    Raises:
        InputError: not one identity per row.
    """
    names = as_array(identities)
    if names.shape != (rows,):
        raise InputError(f"There are {rows} embeddings and identities of shape {names.shape}: give one for each.")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
