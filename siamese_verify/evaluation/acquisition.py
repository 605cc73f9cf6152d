"""Failures to acquire, and the error rates that include them (ISO/IEC 19795-1)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.operating_points import rates_at
from siamese_verify.evaluation.rate_intervals import far_interval_at, frr_interval_at, mean_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from siamese_verify.evaluation.clustered_pairs import ClusteredPairs
    from siamese_verify.evaluation.report import VerificationReport


class GeneralizedRates(NamedTuple):
    """Error rates at a threshold without and with failures to acquire.

    Attributes:
        threshold: accept at this score and above.
        fmr: false match rate: share of the compared impostor pairs that are accepted.
        fnmr: false non-match rate: share of the compared genuine pairs that are rejected.
        generalized_far: share of all impostor pairs that are accepted.
        generalized_frr: share of all genuine pairs that are rejected, those with a failure to acquire included.
        generalized_far_interval: 95 % confidence interval over people, None where they are unknown.
        generalized_frr_interval: likewise.
    """

    threshold: float
    fmr: float
    fnmr: float
    generalized_far: float
    generalized_frr: float
    generalized_far_interval: Interval | None = None
    generalized_frr_interval: Interval | None = None


class GroupFailures(NamedTuple):
    """Failures to acquire among the photos of a group.

    Attributes:
        group: its name.
        photos: of the group.
        failures: of these.
        failure_interval: 95 % confidence interval of their share over people, one-sided if all or none failed.
    """

    group: str
    photos: int
    failures: int
    failure_interval: Interval


class Acquisition(NamedTuple):
    """Failures to acquire of an evaluation; a pair with one is not compared.

    Attributes:
        photos: that pairs were to be made of.
        failures: photos without a face, or with multiple faces where it is unclear which one is meant.
        failure_rate: failure-to-acquire rate (FTA), in [0, 1].
        failure_interval: 95 % confidence interval of the FTA over people, one-sided without a failure.
        genuine: pairs, compared or not.
        genuine_failures: those not compared.
        impostors: pairs, compared or not.
        impostor_failures: those not compared.
        rates: at the report's threshold, and at its operating points.
        groups: failures by group of photos, where there are groups.
    """

    photos: int
    failures: int
    failure_rate: float
    failure_interval: Interval
    genuine: int
    genuine_failures: int
    impostors: int
    impostor_failures: int
    rates: tuple[GeneralizedRates, ...]
    groups: tuple[GroupFailures, ...] = ()

    @property
    def sentence(self) -> str:
        """The failures, the rates at the report's threshold, and the failures of each group, in words."""
        at = self.rates[0]
        low, high = self.failure_interval
        far, frr = (
            f" ({one.low:.2%} to {one.high:.2%})" if one else ""
            for one in (at.generalized_far_interval, at.generalized_frr_interval)
        )
        return (
            f"No face could be selected in {self.failures:,} of {self.photos:,} photos (FTA {self.failure_rate:.2%}, "
            f"95 % interval {low:.2%} to {high:.2%}). "
            f"At threshold {at.threshold:.4f}, FNMR is {at.fnmr:.2%} and generalized FRR {at.generalized_frr:.2%}{frr}"
            f", FMR {at.fmr:.2%} and generalized FAR {at.generalized_far:.2%}{far}." + self._of_groups
        )

    @property
    def _of_groups(self) -> str:
        rows = [
            f"{one.group} {one.failures / one.photos:.2%} of {one.photos:,} photos"
            f" ({one.failure_interval.low:.2%} to {one.failure_interval.high:.2%})"
            for one in self.groups
        ]
        return f" FTA by group: {', '.join(rows)}." if rows else ""


def failure_interval(identities: ArrayLike, failed: ArrayLike, level: float = 0.95) -> Interval:
    """Return the confidence interval of the failure-to-acquire rate, with people as the independent units.

    Args:
        identities: (N,) number or name of the person on each photo.
        failed: (N,) bool, True for a failure.
        level: in (0, 1).

    Returns:
        The interval; it ends at the one-sided bound where all photos or none failed.
    """
    _, people = np.unique(np.asarray(identities), return_inverse=True)
    low, high = mean_interval(people, 1.0 - np.asarray(failed, dtype=np.float64), level)
    return Interval(1 - high, 1 - low)


def group_failures(identities: ArrayLike, failed: ArrayLike, groups: ArrayLike) -> tuple[GroupFailures, ...]:
    """Return the failures to acquire of each group of photos, of one that was lost whole as well.

    Args:
        identities: (N,) person on each photo.
        failed: (N,) bool, True for a failure.
        groups: (N,) label of each photo, "" for none.
    """
    people, missed, labels = np.asarray(identities), np.asarray(failed, dtype=np.bool_), np.asarray(groups)
    found = []
    for name in np.unique(labels[labels != ""]).tolist():
        own = labels == name
        interval = failure_interval(people[own], missed[own])
        found.append(GroupFailures(name, int(own.sum()), int(missed[own].sum()), interval))
    return tuple(found)


def with_failures(pairs: ClusteredPairs, identities: ArrayLike, failed: ArrayLike) -> ClusteredPairs:
    """Return all pairs of a set, of which those with a failure to acquire score minus infinity.

    Args:
        pairs: all of the photos without a failure, see `clustered_rows`.
        identities: (N,) person on each photo.
        failed: (N,) bool, True for a failure.
    """
    names, people = np.unique(np.asarray(identities), return_inverse=True)
    kept = np.unique(people[~np.asarray(failed, dtype=np.bool_)])  # number of the people in `pairs`
    sizes = np.bincount(people)
    own, lost = sizes * (sizes - 1) // 2, np.zeros(len(names), dtype=np.int64)
    lost[kept] = np.bincount(pairs.genuine_people, minlength=len(kept))
    lost = own - lost
    both = kept[pairs.impostor_people]
    squares = sizes**2
    return replace(
        pairs,
        genuine=np.append(pairs.genuine, np.full(int(lost.sum()), -np.inf)),
        genuine_people=np.append(kept[pairs.genuine_people], np.repeat(np.arange(len(names)), lost)),
        impostor_people=both,
        dyad_pairs=sizes[both[0]] * sizes[both[1]],
        totals=sizes * (len(people) - sizes),
        squares=int(squares.sum() ** 2 - squares @ squares) // 2,
    )


def add_failures(
    report: VerificationReport,
    identities: ArrayLike,
    failed: ArrayLike,
    genuine: int,
    impostors: int,
    pairs: ClusteredPairs | None = None,
) -> Acquisition:
    """Add failures to acquire to the error rates of the pairs that could be compared.

    Args:
        report: of the compared pairs.
        identities: (N,) person on each photo that pairs were to be made of.
        failed: (N,) bool, True for a photo that could not be used.
        genuine: pairs, compared or not.
        impostors: pairs, compared or not.
        pairs: all of these, with minus infinity as the score of those not compared, for the intervals of the
            generalized rates; see `with_failures`.
    """
    genuine_failures, impostor_failures = genuine - report.genuine, impostors - report.impostors
    thresholds = list(dict.fromkeys([report.threshold, *(point.threshold for point in report.operating_points)]))
    known = pairs.rates(pairs.thresholds(thresholds)) if pairs and len(pairs.impostors) else None
    rates = []
    for threshold in thresholds:
        at = rates_at(report.curve, threshold)
        generalized = (at.false_accepts / impostors, (at.false_rejects + genuine_failures) / genuine)
        intervals: list[Interval] = []
        if known is not None and threshold in known.thresholds:
            place = int(np.flatnonzero(known.thresholds == threshold)[0])
            intervals = [far_interval_at(known, place), frr_interval_at(known, place)]
        rates.append(GeneralizedRates(threshold, at.far, at.frr, *generalized, *intervals))
    missed = np.asarray(failed, dtype=np.bool_)
    photos, failures = len(missed), int(missed.sum())
    return Acquisition(
        photos,
        failures,
        failures / photos,
        failure_interval(identities, missed),
        genuine,
        genuine_failures,
        impostors,
        impostor_failures,
        tuple(rates),
    )
