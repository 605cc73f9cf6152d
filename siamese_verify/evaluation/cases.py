"""Cases of which the metric of a protocol is the mean, episodes or queries, and paired comparisons of two models."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import Difference, Interval, correlated_difference, correlation_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CASES = "cases.npz"


class Cases(NamedTuple):
    """Episodes or queries.

    Attributes:
        values: (T,) of each, in [0, 1]; their mean is the metric.
        people: (T,W) numbers of the W people that each depends on, from 0.
        eligible: n, the number of people who could have been in a case, > W; W if all people are in each case.
    """

    values: Floats
    people: NDArray[np.int64]
    eligible: int

    def covariance(self, other: Cases) -> float:
        """Covariance of the means of the values of two models over other people and other draws of the same cases.

        It sums the products of residuals over all pairs of cases, times the number of people that both have: cases that
        share none are independent. What that owes to the draw of cases is counted once. The part of people is enlarged
        as by the jackknife, by (n / (n - W))^2, as cases of W out of n people resemble each other the more, the more of
        all people each has.

        Hoeffding, "A class of statistics with asymptotically normal distribution", Annals of Mathematical Statistics
        1948; Efron & Stein, "The jackknife estimate of variance", Annals of Statistics 1981.
        """
        (cases, each), count = self.people.shape, self.eligible
        first, second = ((one.values - one.values.mean()) / cases for one in (self, other))
        mine, theirs = (np.bincount(self.people.ravel(), part.repeat(each)) for part in (first, second))
        draw = float(first @ second)
        shared = float(mine @ theirs) - each * (1 - each / count) * draw  # of each person's cases
        return float(draw + shared * ((count - 1) / (count - each)) ** 2)

    def to_bytes(self) -> bytes:
        """Return the content of a file `CASES`."""
        file = io.BytesIO()
        np.savez_compressed(file, **self._asdict())
        return file.getvalue()


def read_cases(path: Path) -> Cases:
    """Read a file `CASES`; nothing in it is executed.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            found = Cases(content["values"], content["people"], int(content["eligible"]))
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}): evaluate the model again.") from None
    kinds = found.values.dtype.kind, found.people.dtype.kind
    if kinds != ("f", "i") or found.people.ndim != 2 or found.values.shape != found.people.shape[:1]:
        raise InputError(f"{path} holds no values of episodes or queries: evaluate the model again.")
    return found


@dataclass(frozen=True)
class CaseComparison:
    """Two models on the same episodes or queries; the difference is the second minus the first.

    Attributes:
        names: of the models.
        metric: that is compared, such as `accuracy`.
        cases: T.
        values: of both models, in [0, 1].
        difference: with its interval.
        level: of the interval.
        over: the independent units.
    """

    names: tuple[str, str]
    metric: str
    cases: int
    values: tuple[float, float]
    difference: Difference
    level: float = 0.95
    over: str = "people"

    @property
    def sentence(self) -> str:
        """The result in words; the difference in percentage points."""
        value, low, high = (100 * number for number in self.difference)
        words = self.metric.replace("_", " ")
        if not any(self.difference):
            return f"{self.names[0]} and {self.names[1]} have the same {words} in each case."
        better, more = (self.names[1], (value, low, high)) if value >= 0 else (self.names[0], (-value, -high, -low))
        amount = (
            f"its {words} is {more[0]:.2f} percentage points higher "
            f"({100 * self.level:g} % CI {more[1]:z.2f} to {more[2]:z.2f})"
        )
        if low > 0 or high < 0:
            return f"{better} is better: {amount}."
        return f"No difference shown: {better} is ahead, {amount}."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {**asdict(self), "difference": self.difference._asdict(), "sentence": self.sentence}


def compare_cases(
    first: Cases,
    second: Cases,
    intervals: tuple[Interval, Interval],
    *,
    names: tuple[str, str] = ("A", "B"),
    metric: str = "accuracy",
    level: float = 0.95,
) -> CaseComparison:
    """Compare two models by the same episodes or queries, with people as independent units.

    The interval of the difference follows from those of both metrics and from the covariance of their errors over
    people, see `correlated_difference`. `benchmarks/coverage.py` measures how often it holds the truth.

    Args:
        first: by the first model.
        second: by the second, of the same people in the same order.
        intervals: of both metrics over people, at this level.
        names: of the models.
        metric: name of the metric.
        level: of the intervals, in (0, 1).

    Raises:
        InputError: the cases are of other people, or all people are in each case: nothing is known of others then.
    """
    if first.eligible != second.eligible or not np.array_equal(first.people, second.people):
        raise InputError(f"{names[0]} and {names[1]} have other people in their episodes or queries: compare the same.")
    if first.eligible <= first.people.shape[1]:
        raise InputError("All people are in each case, so that nothing is known of others: add people, or lower way.")
    means = np.array([one.values.mean() for one in (first, second)])
    if np.array_equal(first.values, second.values):
        difference = Difference(0.0, 0.0, 0.0)
    else:
        correlation = correlation_of(first.covariance(second), (first.covariance(first), second.covariance(second)))
        difference = correlated_difference(means, intervals, correlation)
    return CaseComparison(names, metric, len(first.values), (float(means[0]), float(means[1])), difference, level)
