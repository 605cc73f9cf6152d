"""Identification as a cross-check of verification: is the nearest other photo of the same person?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.pair_scores import as_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BLOCK_ENTRIES = 2**22  # similarities held at once; with their masks some 50 MB, whatever N is


def _unit_rows(embeddings: ArrayLike) -> NDArray[Any]:
    raw = as_array(embeddings)
    if raw.ndim != 2 or raw.dtype.kind not in "fiu":
        raise InputError(f"The embeddings are {raw.dtype} of shape {raw.shape}, not floats of shape (N, D).")
    rows = raw.astype(np.float64 if raw.dtype == np.float64 else np.float32)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    unusable = np.flatnonzero(~(np.isfinite(largest) & (largest > 0)))
    if len(unusable):
        first = ", ".join(str(row) for row in unusable[:5])
        raise InputError(
            f"{len(unusable)} of {len(rows)} embeddings are zero, NaN or infinite (first rows: {first}), "
            "and have no direction to compare."
        )
    scaled = np.divide(rows, largest)  # else squares of very large or small entries would overflow or vanish
    normalised: NDArray[Any] = np.divide(scaled, np.linalg.norm(scaled, axis=1, keepdims=True))
    return normalised


def nearest_neighbour_accuracy(embeddings: ArrayLike, identities: ArrayLike) -> float:
    """Return how often the nearest of all other photos, by cosine, shows the same person (leave-one-out rank 1).

    People with one photo are no probes, as no answer would be right, but they are among the others. A stranger who is
    exactly as near as the nearest photo of the person counts as an error, so that collapsed embeddings score 0.

    Args:
        embeddings: (N, D) of any non-zero length.
        identities: (N,) one number or name per person.

    Returns:
        Probes answered right over probes, in [0, 1]. Memory grows with N, not with N * N.

    Raises:
        InputError: shapes that do not fit, rows without a direction, or nobody with two photos.
    """
    rows = _unit_rows(embeddings)
    names = as_array(identities)
    if names.shape != (len(rows),):
        raise InputError(f"There are {len(rows)} embeddings and identities of shape {names.shape}: give one for each.")
    _, person, photos = np.unique(names, return_inverse=True, return_counts=True)
    if photos.max(initial=0) < 2:
        raise InputError(f"None of {len(photos)} people has two photos: nearest neighbours need at least one who has.")
    # One person's rows stand together, so that the few genuine entries of a block can be picked by index.
    order = np.argsort(person, kind="stable")
    rows, person = rows[order], person[order]
    first = np.cumsum(photos) - photos
    probes = np.flatnonzero(photos[person] > 1)
    right = 0
    step = max(1, BLOCK_ENTRIES // len(rows))
    for start in range(0, len(probes), step):
        block = probes[start : start + step]  # (B,)
        similarity = rows[block] @ rows.T  # (B,N)
        similarity[np.arange(len(block)), block] = -np.inf  # the photo itself
        count = photos[person[block]]  # (B,)
        begin = np.cumsum(count) - count
        probe = np.repeat(np.arange(len(block)), count)  # (K,) the K genuine entries
        photo = np.arange(len(probe)) + np.repeat(first[person[block]] - begin, count)
        own = np.maximum.reduceat(similarity[probe, photo], begin)
        similarity[probe, photo] = -np.inf
        right += int(np.count_nonzero(own > similarity.max(axis=1)))
    return right / len(probes)
