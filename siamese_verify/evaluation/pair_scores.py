"""The boundary of this package: scores and labels come in from anywhere and leave checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
