"""Error versus discard: what leaving out the photos of lowest quality spares (ISO/IEC 29794-1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.scores import as_array, checked_scores, checked_threshold, numbered, unit_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

UP_TO = 0.2  # share of discarded pairs that the partial area reaches to
SHARES = tuple(np.linspace(0, 0.5, 101).tolist())  # at which a curve is kept


class DiscardCurve(NamedTuple):
    """False non-match rate of the genuine pairs that remain when those of lowest quality are left out.

    Attributes:
        name: of the quality measure.
        threshold: fixed for all shares.
        shares: (K,) of genuine pairs discarded, ascending from 0 to 0.5.
        fnmr: (K,) of the others.
        partial_area: mean over shares up to 0.2 of the FNMR less that of the ideal order, which discards errors first;
            0 is ideal, and quality that says nothing has that of a constant FNMR, `uninformative_area`.
        uninformative_area: see `partial_area`.
    """

    name: str
    threshold: float
    shares: tuple[float, ...]
    fnmr: tuple[float, ...]
    partial_area: float
    uninformative_area: float


def discard_curve(scores: ArrayLike, quality: ArrayLike, threshold: float, name: str = "quality") -> DiscardCurve:
    """Return the error-versus-discard curve of genuine pairs by one quality measure.

    Pairs of equal quality are discarded in no order: the curve has the expected rate.

    Args:
        scores: (G,) of genuine pairs.
        quality: (G,2) of both photos of each pair, higher is better; that of a pair is the lower one, and NaN the
            lowest.
        threshold: a pair with a lower score is an error.
        name: of the measure.

    Raises:
        InputError: not two qualities per score, or invalid scores.

    ISO/IEC 29794-1; Grother & Tabassi, "Performance of biometric quality measures", TPAMI 2007; Schlett et al.,
    "Considerations on the evaluation of biometric quality assessment algorithms", 2023, for the partial area.
    """
    values = checked_scores(scores)
    both = as_array(quality).astype(np.float64)
    if both.shape != (len(values), 2):
        raise InputError(f"The qualities have the shape {both.shape} for {len(values)} pairs: give two for each pair.")
    lower = np.nan_to_num(both, nan=-np.inf, posinf=np.inf, neginf=-np.inf).min(axis=1)
    errors = values < checked_threshold(threshold)
    order = np.argsort(lower, kind="stable")
    ranked = lower[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(order) - 1) + 1  # of equal qualities
    discarded = np.append(0, ends)
    spared = np.append(0, np.cumsum(errors[order])[ends - 1])
    count, wrong = len(values), int(errors.sum())

    def rates(shares: Floats) -> Floats:
        return np.asarray((wrong - np.interp(shares * count, discarded, spared)) / (count - shares * count))

    grid = np.linspace(0, UP_TO, 2001)
    ideal = np.maximum(wrong - grid * count, 0) / (count - grid * count)

    def area(excess: Floats) -> float:
        return float(np.trapezoid(excess, grid) / UP_TO)

    found = rates(np.array(SHARES))
    return DiscardCurve(
        name,
        float(threshold),
        SHARES,
        tuple(found.tolist()),
        area(rates(grid) - ideal),
        area(wrong / count - ideal),
    )


def genuine_pairs(embeddings: ArrayLike, identities: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Return (G,) scores and (G,2) rows of all genuine pairs of (N,D) embeddings of (N,) identities."""
    from siamese_verify.pairwise.pair_scores import SCALE, PairScores

    rows = unit_rows(embeddings)
    found = [(np.empty(0), np.empty(0, dtype=np.int64)), *PairScores(rows, numbered(identities, len(rows))).genuine()]
    scores, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores / SCALE, np.stack(np.divmod(numbers, len(rows)), axis=1)


def discard_curves(
    scores: ArrayLike, pairs: NDArray[np.int64], qualities: Mapping[str, ArrayLike], threshold: float
) -> tuple[DiscardCurve, ...]:
    """Return a curve for each quality measure that is known of a photo, see `discard_curve`.

    Args:
        scores: (G,) of genuine pairs.
        pairs: (G,2) rows of their photos.
        qualities: (N,) of the photos by name, higher is better, NaN where unknown.
        threshold: for all.
    """
    known = {name: as_array(values).astype(np.float64) for name, values in qualities.items()}
    return tuple(
        discard_curve(scores, values[pairs], threshold, name)
        for name, values in known.items()
        if np.isfinite(values).any()
    )
