"""Paired comparison of the equal error rates of two models over all pairs of the same photos."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.all_pairs_rows import clustered_rows
from siamese_verify.evaluation.bootstrap import Difference, check_level, correlated_difference, correlation_of
from siamese_verify.evaluation.operating_points import equal_error
from siamese_verify.evaluation.rate_intervals import equal_error_interval, equal_error_slopes
from siamese_verify.evaluation.roc import count_accepts
from siamese_verify.evaluation.scores import numbered, unit_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.clustered_pairs import ClusteredPairs

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EqualErrorComparison:
    """Two models on all pairs of the same photos.

    Attributes:
        names: of the models.
        pairs: number of pairs.
        eers: equal error rates of both, in [0, 1].
        eer: the second minus the first.
        level: of the interval.
        over: the independent units.
    """

    names: tuple[str, str]
    pairs: int
    eers: tuple[float, float]
    eer: Difference
    level: float = 0.95
    over: str = "people"

    @property
    def sentence(self) -> str:
        """The result in words; the difference in percentage points."""
        value, low, high = (100 * number for number in self.eer)
        if not any(self.eer):
            return f"No difference shown: {self.names[0]} and {self.names[1]} have the same EER."
        better, less = (self.names[1], (-value, -high, -low)) if value <= 0 else (self.names[0], (value, low, high))
        amount = (
            f"an EER {less[0]:.2f} percentage points lower ({100 * self.level:g} % CI {less[1]:z.2f} to {less[2]:z.2f})"
        )
        if low > 0 or high < 0:
            return f"{better} is better: {amount}."
        return f"No difference shown: {better} has {amount}."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {**asdict(self), "eer": self.eer._asdict(), "sentence": self.sentence}


class AllPairsErrors:
    """The equal error rate of a model over all pairs of some photos, and what each person contributes to its error.

    Args:
        embeddings: (N,D) of any non-zero length.
        identities: (N,) one number or name per row.
        level: of the intervals, in (0, 1).

    Attributes:
        eer: the rate.
        interval: of the rate, None where it depends on more than the two million highest impostors.

    Raises:
        InputError: see `clustered_rows`.
    """

    def __init__(self, embeddings: ArrayLike, identities: ArrayLike, level: float = 0.95) -> None:
        check_level(level)
        self.rows, self.level = unit_rows(embeddings), level
        self.people = numbered(identities, len(self.rows))
        pairs = clustered_rows(self.rows, self.people)
        rates = pairs.rates(pairs.thresholds())
        self.pairs = pairs.impostor_total + len(pairs.genuine)
        self.eer = equal_error_rate_of(pairs)
        self.interval = equal_error_interval(rates, level, pairs.lowest == -np.inf)
        place, rise, fall = equal_error_slopes(rates)
        self.weight = fall / (rise + fall) if rise + fall > 0 else 0.5  # of the FAR in errors of the EER
        self.far, frr = float(rates.far[place]), float(rates.frr[place])
        impostors = int(np.searchsorted(-pairs.impostors, -rates.thresholds[place], side="right"))
        genuine = int(np.searchsorted(-pairs.genuine, -rates.thresholds[place], side="right"))
        count, sizes = pairs.people, np.bincount(self.people)
        both = np.sort(pairs.impostor_people[:, :impostors], axis=0)
        codes, self._accepted = np.unique(both[0] * count + both[1], return_counts=True)
        self._dyads = codes
        self._dyad_pairs = sizes[codes // count] * sizes[codes % count]
        self._squares, self.impostors = pairs.squares, pairs.impostor_total
        own = np.bincount(pairs.genuine_people, minlength=count)
        missed = own - np.bincount(pairs.genuine_people[:genuine], minlength=count) - frr * own
        off = np.bincount(both.ravel(), minlength=count) - self.far * pairs.totals
        self.totals: Floats = self.weight * off / self.impostors + (1 - self.weight) * missed / len(pairs.genuine)

    def covariance(self, other: AllPairsErrors) -> float:
        """Covariance of the equal error rates of two models, to first order.

        The sum of products of what pairs add to either rate, over all pairs of pairs that share a person.
        Aronow, Samii & Assenova, "Cluster-robust variance estimation for dyadic data", Political Analysis 2015.
        """
        _, mine, theirs = np.intersect1d(self._dyads, other._dyads, assume_unique=True, return_indices=True)
        shared = float(self._accepted[mine] @ other._accepted[theirs]) + self.far * other.far * self._squares
        shared -= self.far * float(other._accepted @ other._dyad_pairs)
        shared -= other.far * float(self._accepted @ self._dyad_pairs)
        twice = self.weight * other.weight * shared / self.impostors**2  # two people are in the totals of either
        return float(self.totals @ other.totals) - twice

    def difference(self, other: AllPairsErrors) -> Difference | None:
        """The other's EER minus this one's, with its interval; None where one of the intervals is not known.

        The interval follows from those of both rates and from the covariance of their errors over people, see
        `correlated_difference`; nothing is resampled. `benchmarks/coverage.py` measures how often it holds the truth.

        Raises:
            InputError: the models have embedded other photos.
        """
        if not np.array_equal(self.people, other.people):
            raise InputError("The models have embedded photos of other people: compare the same photos.")
        if self.interval is None or other.interval is None:
            return None
        if np.array_equal(self.rows, other.rows):
            return Difference(0.0, 0.0, 0.0)
        correlation = correlation_of(self.covariance(other), (self.covariance(self), other.covariance(other)))
        return correlated_difference(np.array([self.eer, other.eer]), (self.interval, other.interval), correlation)

    def compare(self, other: AllPairsErrors, names: tuple[str, str]) -> EqualErrorComparison | None:
        """This model, the first, and another by their names; None and raises as `difference`."""
        difference = self.difference(other)
        if difference is None:
            return None
        return EqualErrorComparison(names, self.pairs, (self.eer, other.eer), difference, self.level)


def equal_error_rate_of(pairs: ClusteredPairs) -> float:
    """Equal error rate of all pairs; exact where it is decided by the impostors that are listed."""
    scores = np.concatenate([pairs.genuine, pairs.impostors])
    same = np.arange(len(scores)) < len(pairs.genuine)
    order = np.argsort(scores)[::-1]
    return equal_error(replace(count_accepts(scores[order], same[order]), impostors=pairs.impostor_total)).rate
