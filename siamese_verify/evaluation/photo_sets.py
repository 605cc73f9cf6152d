"""Templates made of several photos of a person, and the report on pairs of them (set to set)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.scores import as_array, numbered, unit_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

Combine = Literal["mean", "quality", "best"]
COMBINE: tuple[Combine, ...] = get_args(Combine)


def check_combine(combine: str) -> None:
    """Raise InputError for an unknown way to combine photos."""
    if combine not in COMBINE:
        raise InputError(f"combine must be one of {', '.join(COMBINE)}, got {combine!r}.")


def quality_weights(qualities: Mapping[str, ArrayLike]) -> Floats:
    """Return (N,) weights of photos in (0, 1]: the mean, over the measures known of each, of its rank among all photos.

    Ranks need no unit; equal qualities have their mean rank.

    Args:
        qualities: (N,) by name, higher is better, NaN where unknown.

    Raises:
        InputError: of some photo no quality is known.
    """
    from scipy.stats import rankdata

    columns = [as_array(values).astype(np.float64) for values in qualities.values()]
    table = np.stack(columns) if columns else np.full((1, 1), np.nan)
    known = ~np.isnan(table)
    if not known.any(axis=0).all():
        raise InputError("The quality of some photos is not known: combine them by their mean, or by the best pair.")
    ranks = rankdata(table, axis=1, nan_policy="omit") / np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.where(known, ranks, 0).sum(axis=0) / known.sum(axis=0))


def combine_photos(
    embeddings: ArrayLike, templates: ArrayLike, weights: ArrayLike | None = None
) -> NDArray[np.floating]:
    """Return the (T,D) templates of unit length: the direction of the mean of their photos' unit embeddings.

    Args:
        embeddings: (N,D) of any nonzero length.
        templates: (N,) number or name of the template of each photo.
        weights: (N,) positive, of the photos; None for equal ones.

    Returns:
        In the order of the templates' names.

    Raises:
        InputError: shapes that do not fit, or photos of a template that cancel each other.

    Maze et al., "IARPA Janus Benchmark - C", ICB 2018.
    """
    rows = unit_rows(embeddings)
    numbers = numbered(templates, len(rows))
    scaled = rows if weights is None else rows * as_array(weights).astype(rows.dtype)[:, None]
    order = np.argsort(numbers, kind="stable")
    sums = np.add.reduceat(scaled[order], np.flatnonzero(np.diff(numbers[order], prepend=-1)), axis=0)
    return unit_rows(sums)


def best_pair_scores(embeddings: ArrayLike, templates: ArrayLike, block: int = 2048) -> NDArray[np.floating]:
    """Return (T,T) scores of templates: the highest cosine of a photo of one and a photo of the other.

    Args:
        embeddings: see `combine_photos`, as templates.
        templates: likewise.
        block: rows compared at once.
    """
    rows = unit_rows(embeddings)
    numbers = numbered(templates, len(rows))
    order = np.argsort(numbers, kind="stable")
    rows, starts = rows[order], np.flatnonzero(np.diff(numbers[order], prepend=-1))
    found = np.full((len(starts), len(starts)), -np.inf, dtype=rows.dtype)
    for first in range(0, len(rows), block):
        best = np.maximum.reduceat(rows[first : first + block] @ rows.T, starts, axis=1)
        own, places = np.unique(numbers[order[first : first + block]], return_index=True)
        found[own] = np.maximum(found[own], np.maximum.reduceat(best, places, axis=0))
    return found


def draw_templates(identities: ArrayLike, size: int, seed: int = 0) -> NDArray[np.int64]:
    """Return (N,) the number of the template of each photo, -1 for photos left over.

    The photos of each person are shuffled and divided into templates of `size`.

    Args:
        identities: (N,) number or name of each photo's person.
        size: photos of a template, >= 1.
        seed: of the shuffle.

    Raises:
        InputError: nobody has photos for two templates, or only one person for one.
    """
    people = numbered(identities, len(as_array(identities)))
    found, count, owners, several = np.full(len(people), -1), 0, 0, False
    rng = np.random.default_rng(seed)
    for person in range(int(people.max(initial=-1)) + 1):
        own = rng.permutation(np.flatnonzero(people == person))
        whole = len(own) // size
        found[own[: whole * size]] = count + np.arange(whole * size) // size
        count, owners, several = count + whole, owners + (whole > 0), several or whole > 1
    if owners < 2 or not several:
        raise InputError(
            f"{owners} people have {size} photos for a template and {'some' if several else 'nobody'} has {2 * size} "
            "for two: set a smaller size."
        )
    return found
