"""Input checks: scores, labels, thresholds, embeddings and identities from arrays, lists or tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def as_array(values: ArrayLike) -> NDArray[Any]:
    """Return an array, list or tensor as an array; a tensor may be on any device and have a gradient."""
    given: Any = values
    if hasattr(given, "detach"):  # a torch tensor, recognized without importing torch
        given = given.detach().cpu()
        if str(given.dtype) == "torch.bfloat16":
            given = given.float()  # numpy has no such type
    return np.asarray(given)


def checked_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the scores as a float64 copy, which holds every smaller float exactly.

    Raises:
        InputError: they are not numbers, not one-dimensional, empty, NaN or infinite.
    """
    raw = as_array(scores)
    if raw.dtype.kind not in "fiub":
        raise InputError(f"The scores are of type {raw.dtype}, not real numbers: give one float per pair.")
    if raw.ndim != 1:
        raise InputError(f"The scores have the shape {raw.shape}, not (N,): give one number per pair.")
    if raw.size == 0:
        raise InputError("There are 0 scores: give at least one genuine and one impostor pair.")
    values = raw.astype(np.float64)  # a copy: a report must not change with the caller's array
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
    """Return validated copies of scores and labels.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, or numbers that are all 0 or 1; True for a genuine pair.

    Returns:
        (N,) float64 and (N,) bool.

    Raises:
        InputError: the scores or labels are invalid, lengths differ, or there is no genuine or no impostor pair.
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
    invalid = raw != labels  # 2, -1 and NaN differ from their own truth value
    if invalid.any():
        raise InputError(
            f"{np.count_nonzero(invalid)} of {len(raw)} labels are neither 0 nor 1, the first of them "
            f"{raw[np.argmax(invalid)]}: each must be True (the same person) or False."
        )
    genuine = int(np.count_nonzero(labels))
    if genuine == 0:
        raise InputError(f"None of the {len(labels)} pairs is genuine: a false reject rate needs at least one.")
    if genuine == len(labels):
        raise InputError(f"None of the {len(labels)} pairs is an impostor: a false accept rate needs at least one.")
    return values, labels


def checked_threshold(threshold: float) -> float:
    """Return the threshold, which may be infinite.

    Raises:
        InputError: it is NaN.
    """
    if np.isnan(threshold):
        raise InputError("The threshold is NaN: give a number on the scale of the scores.")
    return float(threshold)


UNIT = 1e-5  # rows whose length differs from 1 by less are returned as they are: another division would round again


def unit_rows(embeddings: ArrayLike) -> NDArray[Any]:
    """Return embeddings scaled to unit length.

    Args:
        embeddings: (N, D) of any non-zero length.

    Returns:
        (N, D) of unit length, float64 if they were, else float32.

    Raises:
        InputError: another shape or type, or rows that are zero, NaN or infinite.
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
            f"{len(unusable)} of {len(rows)} embeddings are zero, NaN or infinite (first rows: {first}): "
            "leave them out."
        )
    with np.errstate(over="ignore", under="ignore"):
        lengths = np.linalg.norm(rows, axis=1)
    if np.abs(lengths - 1).max(initial=0) <= UNIT:
        return rows
    scaled = np.divide(rows, largest)  # else squares of very large or small entries would overflow or vanish
    normalized: NDArray[Any] = np.divide(scaled, np.linalg.norm(scaled, axis=1, keepdims=True))
    return normalized


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


def score_pairs(
    embeddings: NDArray[np.float32], left: NDArray[np.int64], right: NDArray[np.int64], block: int = 8192
) -> NDArray[np.float32]:
    """Cosine similarities of M pairs of rows of (N,D) unit embeddings; `block` pairs are gathered at once."""
    scores = np.empty(len(left), dtype=np.float32)
    for start in range(0, len(left), block):
        part = slice(start, start + block)
        scores[part] = np.einsum("md,md->m", embeddings[left[part]], embeddings[right[part]])
    return scores
