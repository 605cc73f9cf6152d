"""Rates by group of people at one threshold for all, and under damage to the photos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import (
    Interval,
    Resamples,
    check_level,
    difference_interval,
    listed,
    numbered_people,
)
from siamese_verify.evaluation.operating_points import DECISIVE_IMPOSTORS, equal_error, operating_point, rates_at
from siamese_verify.evaluation.rate_intervals import error_interval
from siamese_verify.evaluation.roc import roc_curve
from siamese_verify.evaluation.scores import as_array, checked_pairs, checked_threshold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.bootstrap import Weights


class GroupRates(NamedTuple):
    """Rates of one group at the threshold for all."""

    name: str
    genuine: int
    impostors: int
    eer: float | None  # None without genuine pairs or impostors
    far: float | None  # None without impostors
    frr: float | None  # None without genuine pairs
    far_difference: tuple[float, Interval] | None  # from all other groups together; None where either has no rate
    frr_difference: tuple[float, Interval] | None
    insufficient: bool  # fewer than ten errors of a kind decide a rate


def group_reports(
    scores: ArrayLike,
    same: ArrayLike,
    groups: ArrayLike,
    threshold: float,
    identities: ArrayLike | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    device: str = "cpu",
) -> list[GroupRates]:
    """Return the rates of each group of pairs at one threshold, and their differences from all other groups.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        groups: (N,) label of each pair; pairs labeled "" are left out.
        threshold: for all groups.
        identities: (N,2) number or name of the person on either photo; without, there are no differences.
        resamples: number of bootstrap resamples of the people.
        level: of the intervals, in (0, 1).
        seed: of the resamples.
        device: where resamples are counted, see `compare_scores`.

    Returns:
        The groups in the order of their names.

    Raises:
        InputError: not one label per pair, no group at all, a level outside of (0, 1); see also `checked_pairs` and
            `Resamples`.

    The terms are those of ISO/IEC 19795-10 on demographic differentials.
    """
    check_level(level)
    values, labels = checked_pairs(scores, same)
    names = as_array(groups).astype(np.str_)
    if names.shape != labels.shape:
        raise InputError(f"The groups have the shape {names.shape} for {len(labels)} pairs: give one label per pair.")
    known = names != ""
    if not known.any():
        raise InputError("None of the pairs has a group: give a label other than the empty one.")
    accepted = values >= checked_threshold(threshold)
    cells = _Cells(accepted, labels, names)
    plain = cells.rates(np.ones((1, len(labels)), dtype=np.int64))
    drawn = []
    if identities is not None:
        resampled = Resamples(labels, identities, resamples, seed, device)
        cells = _Cells(accepted, labels, names, resampled.place)
        drawn = [cells.rates(weights) for weights in resampled]

    def difference(name: str, kind: str) -> tuple[float, Interval] | None:
        both = plain[name, kind][:, 0]
        if identities is None or not np.isfinite(both).all():
            return None
        people = numbered_people(labels, identities)
        wrong, among = (accepted, ~labels) if kind == "far" else (~accepted, labels)
        intervals = []
        for side in _sides(names, name):
            weights = (among & side) / np.count_nonzero(among & side)
            errors = (wrong & among & side).astype(np.float64)
            intervals.append(error_interval(errors, weights, labels, people, level, errors))
        value, low, high = difference_interval(both, intervals, [block[name, kind] for block in drawn])
        return value, Interval(low, high)

    found = []
    for name in np.unique(names[known]).tolist():
        inside = names == name
        genuine, impostors = int((inside & labels).sum()), int((inside & ~labels).sum())
        accepts, rejects = int((inside & ~labels & accepted).sum()), int((inside & labels & ~accepted).sum())
        found.append(
            GroupRates(
                name=name,
                genuine=genuine,
                impostors=impostors,
                eer=equal_error(roc_curve(values[inside], labels[inside])).rate if genuine and impostors else None,
                far=accepts / impostors if impostors else None,
                frr=rejects / genuine if genuine else None,
                far_difference=difference(name, "far"),
                frr_difference=difference(name, "frr"),
                insufficient=min(few for few, of in ((accepts, impostors), (rejects, genuine)) if of)
                < DECISIVE_IMPOSTORS,
            )
        )
    return found


class MeanOfGroups(NamedTuple):
    """Mean of the groups' own equal error rates, each at its own threshold."""

    groups: int  # with genuine pairs and impostors
    eer: float  # mean, in [0, 1]
    deviation: float  # standard deviation over the groups
    low: float  # of the mean's 95 % confidence interval over groups, unless another level was asked for
    high: float


def mean_of_groups(
    reports: Sequence[GroupRates], resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> MeanOfGroups | None:
    """Return mean and spread of the equal error rates of groups, such as one for each writer of signatures.

    Args:
        reports: of the groups.
        resamples: of the groups, for the percentile interval of the bootstrap.
        level: of the interval, in (0, 1).
        seed: of the resamples.

    Returns:
        None with fewer than two groups that have an equal error rate.

    Raises:
        InputError: a level outside of (0, 1).

    Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    check_level(level)
    rates = np.array([report.eer for report in reports if report.eer is not None])
    if len(rates) < 2:
        return None
    rng = np.random.default_rng(seed)
    means = rng.multinomial(len(rates), np.full(len(rates), 1 / len(rates)), resamples) @ rates / len(rates)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return MeanOfGroups(len(rates), float(rates.mean()), float(rates.std(ddof=1)), low, high)


def _sides(names: NDArray[np.str_], name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) masks of the pairs of all other groups, and of the pairs of one."""
    return (names != name) & (names != ""), names == name


class _Cells:
    """Pairs, sorted by group, whether they are genuine, and whether they are accepted; `place` as in `Resamples`."""

    def __init__(
        self,
        accepted: NDArray[np.bool_],
        same: NDArray[np.bool_],
        names: NDArray[np.str_],
        place: Callable[[Any], Any] = np.asarray,
    ) -> None:
        self.names = np.unique(names[names != ""])
        cell = 4 * np.searchsorted(self.names, names) + 2 * same + accepted
        order = np.flatnonzero(names != "")
        order = order[np.argsort(cell[order], kind="stable")]
        self.ends = np.searchsorted(cell[order], np.arange(4 * len(self.names)), side="right")  # (4G,)
        self.order, self.last = place(order), place(np.maximum(self.ends - 1, 0))

    def rates(self, weights: Weights) -> dict[tuple[str, str], NDArray[np.float64]]:
        """(2,R) FAR and FRR of all other groups together and of each group; NaN where there are no pairs."""
        below = np.where(self.ends > 0, listed(weights[:, self.order].cumsum(1)[:, self.last]), 0)  # (R,4G)
        counts = np.diff(below, axis=1, prepend=0).reshape(len(below), len(self.names), 2, 2)
        found = {}
        for number, name in enumerate(self.names.tolist()):
            own = counts[:, number]
            for kind, same, wrong in (("far", 0, 1), ("frr", 1, 0)):
                rates = []
                for side in (counts.sum(axis=1) - own, own):
                    errors, pairs = side[:, same, wrong], side[:, same].sum(axis=1)
                    rates.append(np.divide(errors, pairs, out=np.full(len(below), np.nan), where=pairs > 0))
                found[name, kind] = np.stack(rates)
        return found


class DamagedRates(NamedTuple):
    """Rates when one photo of each pair is damaged."""

    kind: str  # of damage
    corruption: str  # kind and severity in words
    eer: float  # in [0, 1]
    tar: float  # true accept rate at a false accept rate of 1 %, in [0, 1]
    far: float  # at the threshold for photos as they are, in [0, 1]
    frr: float  # likewise


def damaged_rates(kind: str, corruption: str, scores: ArrayLike, same: ArrayLike, threshold: float) -> DamagedRates:
    """Return the rates of pairs with one damaged photo.

    Args:
        kind: of damage.
        corruption: kind and severity in words.
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        threshold: chosen on photos as they are.

    Raises:
        InputError: see `checked_pairs`.
    """
    curve = roc_curve(scores, same)
    rates = rates_at(curve, threshold)
    return DamagedRates(
        kind, corruption, equal_error(curve).rate, operating_point(curve, 0.01).tar, rates.far, rates.frr
    )
