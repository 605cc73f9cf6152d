"""The boundary of this package: scores and labels come in from anywhere and leave checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def as_array(values: ArrayLike) -> NDArray[Any]:
    """Take arrays, lists and tensors alike; a tensor may be on any device and have a gradient."""
    given: Any = values
    if hasattr(given, "detach"):  # a torch tensor, recognised without importing torch
        given = given.detach().cpu()
        if str(given.dtype) == "torch.bfloat16":
            given = given.float()  # numpy has no such type
    return np.asarray(given)


def checked_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the scores in double precision, which holds every smaller float exactly.

    Raises:
        InputError: they are not numbers, not one-dimensional, none at all, NaN or infinite.
    """
    raw = as_array(scores)
    if raw.dtype.kind not in "fiub":
        raise InputError(f"The scores are of type {raw.dtype}, not real numbers: give one float per pair.")
    if raw.ndim != 1:
        raise InputError(f"The scores have the shape {raw.shape}, not (N,): give one number per pair.")
    if raw.size == 0:
        raise InputError("There are 0 scores: give at least one genuine and one impostor pair.")
    values = raw.astype(np.float64)  # a copy, so that a report keeps what was measured
    finite = np.isfinite(values)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        nans = int(np.isnan(values).sum())
        first = ", ".join(str(row) for row in rows[:5])
        raise InputError(
            f"{len(rows)} of {len(values)} scores are not finite ({nans} NaN, {len(rows) - nans} infinite; "
            f"first rows: {first}): look for empty or diverged embeddings in these pairs."
        )
    return values


def checked_pairs(scores: ArrayLike, same: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores and labels as arrays that every metric can rely on.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, or numbers that are all 0 or 1; True for a genuine pair.

    Returns:
        (N,) float64 and (N,) bool, neither of them shared with the caller.

    Raises:
        InputError: the scores are unusable, the labels are not 0 or 1, lengths differ, or a class is missing.
    """
    values = checked_scores(scores)
    raw = as_array(same)
    if raw.ndim != 1:
        raise InputError(f"The labels have the shape {raw.shape}, not (N,): give one bool per pair.")
    if len(raw) != len(values):
        raise InputError(f"There are {len(values)} scores and {len(raw)} labels: give one label per score.")
    if raw.dtype.kind not in "fiub":
        raise InputError(f"The labels are of type {raw.dtype}, but each must be True (the same person) or False.")
    labels = raw.astype(np.bool_)
    strange = raw != labels  # 2, -1 and NaN differ from their own truth value
    if strange.any():
        raise InputError(
            f"{np.count_nonzero(strange)} of {len(raw)} labels are neither 0 nor 1, the first of them "
            f"{raw[np.argmax(strange)]}: each must be True (the same person) or False."
        )
    genuine = int(np.count_nonzero(labels))
    if genuine == 0:
        raise InputError(f"None of the {len(labels)} pairs is genuine: a false reject rate needs at least one.")
    if genuine == len(labels):
        raise InputError(f"None of the {len(labels)} pairs is an impostor: a false accept rate needs at least one.")
    return values, labels


def checked_threshold(threshold: float) -> float:
    """Return the threshold; infinite ones accept or refuse every pair.

    Raises:
        InputError: it is NaN.
    """
    if np.isnan(threshold):
        raise InputError("The threshold is NaN: give a number on the scale of the scores.")
    return float(threshold)


class Ranking(NamedTuple):
    """Pairs from the most alike to the least."""

    scores: NDArray[np.float64]  # (N,) descending
    same: NDArray[np.bool_]  # (N,) of the pair in this place
    rows: NDArray[np.int64]  # (N,) where the pair stood before


def rank(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> Ranking:
    """Sort checked pairs; the order among ties is arbitrary, and nothing may depend on it."""
    rows = np.argsort(scores)[::-1]
    return Ranking(scores[rows], same[rows], rows)


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
