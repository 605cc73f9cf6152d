"""What a score means: the evidence for one person, and its probability."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.roc import RocCurve

TOLERANCE = 0.01  # nats by which thinned knots may be off
RIDGE = 1e-6  # on the slope over standardised scores: keeps it finite where the kinds of pairs do not overlap


@dataclass(frozen=True)
class Calibration:
    """Scores to log-likelihood ratios, learned from pairs of known people.

    The ratio says how much more often a score occurs among genuine pairs than among impostors, so it does not depend on
    how many of each kind there were. It is linear between knots and constant beyond: no score is more evidence than
    was ever seen.

    Attributes:
        kind: a straight line by logistic regression, or an isotonic step curve.
        scores: (K,) knots, ascending.
        ratios: (K,) natural logarithms of likelihood ratios there, ascending.
        genuine: pairs it was learned from.
        impostors: likewise.
        measured_on: the data they came from.
    """

    kind: Literal["logistic", "isotonic"]
    scores: tuple[float, ...]
    ratios: tuple[float, ...]
    genuine: int
    impostors: int
    measured_on: str = ""

    def log_likelihood_ratio(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return the evidence of (N,) scores for one person, in nats: 0 says nothing, below 0 speaks for two."""
        return np.asarray(np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.ratios))

    def bounded(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Say of (N,) scores whether they may be more evidence than their ratio: too few pairs were seen beyond."""
        ratios = self.log_likelihood_ratio(scores)
        return np.asarray((ratios <= self.ratios[0]) | (ratios >= self.ratios[-1]))

    def probability(self, scores: ArrayLike, prior: float) -> NDArray[np.float64]:
        """Return the probability that (N,) pairs are genuine.

        Args:
            scores: (N,) similarities.
            prior: share of genuine pairs among those that are asked about, in (0, 1).

        Raises:
            InputError: the prior is no such share.
        """
        check_share(prior)
        odds = self.log_likelihood_ratio(scores) + math.log(prior) - math.log1p(-prior)
        return np.asarray(0.5 * (1 + np.tanh(odds / 2)))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` wrote.

        Raises:
            InputError: a field is missing, unknown or of another kind.
        """
        try:
            for name, wrong in _wrong_fields(values).items():
                if wrong:
                    raise InputError(f"The calibration is damaged ({name} is {values[name]!r}): measure it again.")
            scores, ratios = (tuple(map(float, values[name])) for name in ("scores", "ratios"))
            rest = {name: value for name, value in values.items() if name not in ("scores", "ratios")}
            found = cls(scores=scores, ratios=ratios, **rest)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The calibration is damaged ({error}): measure it again.") from None
        ascending = all(bool(np.all(np.diff(knots) >= 0)) for knots in (scores, ratios))
        if not (len(scores) == len(ratios) > 0 and np.isfinite([*scores, *ratios]).all() and ascending):
            raise InputError("The calibration is damaged (its knots do not ascend): measure it again.")
        return found


def check_share(prior: float) -> None:
    """Refuse what is no prior probability.

    Raises:
        InputError: it is none.
    """
    if not 0 < prior < 1:
        raise InputError(f"A prior probability lies between 0 and 1, got {prior}: give the share of genuine pairs.")


def _wrong_fields(values: Mapping[str, Any]) -> dict[str, bool]:
    """Say of each field whether it holds another kind of value than `Calibration.to_dict` writes."""
    lists = {name: not isinstance(values[name], list | tuple) for name in ("scores", "ratios")}
    counts = {name: type(values[name]) is not int or values[name] < 1 for name in ("genuine", "impostors")}
    kind, text = values["kind"] not in ("logistic", "isotonic"), not isinstance(values["measured_on"], str)
    return {"kind": kind, "measured_on": text, **lists, **counts}


class CalibrationBin(NamedTuple):
    """Pairs that were given about the same probability."""

    predicted: float  # on average
    observed: float  # share that was genuine
    pairs: int


class CalibrationCheck(NamedTuple):
    """How right a calibration is on pairs that it was not learned from; both kinds weigh the same."""

    kind: str
    measured_on: str
    cllr: float  # bits; 0 is perfect, 1 says nothing
    min_cllr: float  # of the best monotone calibration: what the scores themselves cost
    expected_error: float  # mean distance of probabilities from shares, over the bins
    bins: tuple[CalibrationBin, ...]


def counts_of(curve: RocCurve) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct scores of a curve, ascending, and the genuine pairs and impostors with each."""
    return (
        curve.thresholds[:0:-1],
        np.diff(curve.true_accepts)[::-1],
        np.diff(curve.false_accepts)[::-1],
    )


def fit_logistic(curve: RocCurve, measured_on: str = "") -> Calibration:
    """Fit a straight line by maximum likelihood, both kinds of pairs weighing the same.

    The line ends where the evidence would be more than the pairs can support, that of one pair against half a pair of
    the other kind: log 2M above and -log 2G below, which `fit_isotonic` cannot pass either. So a handful of separated
    pairs is never taken for certainty.

    Args:
        curve: with all scores, see `roc_curve`.
        measured_on: the data they came from.

    Brummer & du Preez, "Application-independent evaluation of speaker detection", Computer Speech & Language 2006.
    """
    from scipy.optimize import minimize

    scores, genuine, impostors = counts_of(curve)
    weights = np.stack([genuine / curve.genuine, impostors / curve.impostors])  # (2,K)
    centre = float((weights.sum(axis=0) @ scores) / 2)
    spread = math.sqrt(float(weights.sum(axis=0) @ (scores - centre) ** 2) / 2) or 1.0
    standard = (scores - centre) / spread

    def cost(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        ratio = line[0] * standard + line[1]
        loss = float(weights[0] @ np.logaddexp(0, -ratio) + weights[1] @ np.logaddexp(0, ratio))
        probability = 0.5 * (1 + np.tanh(ratio / 2))
        pull = weights[1] * probability - weights[0] * (1 - probability)
        return loss + RIDGE / 2 * line[0] ** 2, np.array([pull @ standard + RIDGE * line[0], pull.sum()])

    found = minimize(cost, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)], tol=1e-14)
    ends = scores[[0, -1]]
    line = found.x[0] * (ends - centre) / spread + found.x[1]
    ratios = np.clip(line, -math.log(2 * curve.genuine), math.log(2 * curve.impostors))
    return _calibration("logistic", np.interp(ratios, line, ends), ratios, curve, measured_on)


def pools_of(curve: RocCurve) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pool adjacent violators: the first and last distinct score of each pool, its genuine pairs and its impostors."""
    from scipy.optimize import isotonic_regression

    _, genuine, impostors = counts_of(curve)
    shares = genuine / curve.genuine, impostors / curve.impostors
    weights = shares[0] + shares[1]
    starts = np.asarray(isotonic_regression(shares[0] / weights, weights=weights).blocks)
    ends = starts[1:] - 1
    return starts[:-1], ends, np.add.reduceat(genuine, starts[:-1]), np.add.reduceat(impostors, starts[:-1])


def fit_isotonic(curve: RocCurve, measured_on: str = "") -> Calibration:
    """Fit the best monotone curve, by pooling adjacent violators; see `fit_logistic`.

    Only the lowest pool can lack genuine pairs, and only the highest impostors: half a pair is put there, so that they
    are strong evidence and not infinite.

    Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.
    """
    scores, _, _ = counts_of(curve)
    first, last, genuine, impostors = pools_of(curve)
    shares = np.maximum(genuine, 0.5) / curve.genuine, np.maximum(impostors, 0.5) / curve.impostors
    ratios = np.log(shares[0]) - np.log(shares[1])
    if len(ratios) > 1:  # half a pair may turn neighbours around
        ratios[0], ratios[-1] = min(ratios[0], ratios[1]), max(ratios[-2], ratios[-1])
    ends = np.stack([scores[first], scores[last]], axis=1).ravel()
    knots, values = _thinned(ends, np.repeat(ratios, 2))
    return _calibration("isotonic", knots, values, curve, measured_on)


def limited(calibration: Calibration, genuine: float, impostors: float) -> Calibration:
    """Return the calibration with no more evidence than independent pairs support.

    Args:
        calibration: learned from pairs.
        genuine: share of genuine pairs that may score lower than any that was seen, > 0.
        impostors: share of impostors that may score higher than any that was seen, > 0.
    """
    low, high = min(math.log(genuine), 0.0), max(-math.log(impostors), 0.0)
    knots, values = np.array(calibration.scores), np.array(calibration.ratios)
    for end in (low, high):  # where the curve crosses it
        before = np.flatnonzero((values[:-1] < end) & (values[1:] > end))
        if len(before):
            place = int(before[0]) + 1
            score = float(np.interp(end, values[place - 1 : place + 1], knots[place - 1 : place + 1]))
            knots, values = np.insert(knots, place, score), np.insert(values, place, end)
    return replace(calibration, scores=tuple(knots.tolist()), ratios=tuple(np.clip(values, low, high).tolist()))


def _thinned(
    knots: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leave knots out while the line between the others stays within `TOLERANCE`."""
    kept, start = [0], 0
    for end in range(2, len(knots)):
        between = np.interp(knots[start : end + 1], knots[[start, end]], values[[start, end]])
        if np.abs(between - values[start : end + 1]).max() > TOLERANCE:
            kept.append(end - 1)
            start = end - 1
    kept.append(len(knots) - 1)
    return knots[kept], values[kept]


def _calibration(
    kind: Literal["logistic", "isotonic"],
    scores: NDArray[np.float64],
    ratios: NDArray[np.float64],
    curve: RocCurve,
    measured_on: str,
) -> Calibration:
    return Calibration(
        kind, tuple(scores.tolist()), tuple(ratios.tolist()), curve.genuine, curve.impostors, measured_on
    )


def cllr(calibration: Calibration, curve: RocCurve) -> float:
    """Return the cost of log-likelihood ratios in bits: 0 is perfect, 1 says nothing, more misleads.

    Args:
        calibration: learned on other pairs.
        curve: of the pairs to judge it by.

    Brummer & du Preez 2006, eq. 15.
    """
    scores, genuine, impostors = counts_of(curve)
    ratios = calibration.log_likelihood_ratio(scores)
    cost = genuine @ np.logaddexp(0, -ratios) / curve.genuine + impostors @ np.logaddexp(0, ratios) / curve.impostors
    return float(cost) / (2 * math.log(2))


def min_cllr(curve: RocCurve) -> float:
    """Return the `cllr` of the best monotone calibration of these very pairs, in bits."""
    _, _, genuine, impostors = pools_of(curve)
    shares = genuine / curve.genuine, impostors / curve.impostors
    cost = 0.0
    for share in shares:
        there = share > 0  # a pool of one kind costs nothing
        cost -= float(share[there] @ np.log2(share[there] / (shares[0] + shares[1])[there]))
    return cost / 2


def check_calibration(calibration: Calibration, curve: RocCurve, bins: int = 10) -> CalibrationCheck:
    """Judge a calibration by pairs that it was not learned from, both kinds weighing the same.

    Args:
        calibration: learned on other pairs.
        curve: of the pairs to judge it by.
        bins: of equal width, of the probability.
    """
    scores, genuine, impostors = counts_of(curve)
    probability = calibration.probability(scores, 0.5)
    weights = np.stack([genuine / curve.genuine, impostors / curve.impostors]) / 2  # (2,K)
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(place, values, minlength=bins).astype(np.float64)

    total, pairs = summed(weights.sum(axis=0)), summed((genuine + impostors).astype(np.float64))
    filled = np.flatnonzero(total)
    predicted = summed(weights.sum(axis=0) * probability)[filled] / total[filled]
    observed = summed(weights[0])[filled] / total[filled]
    return CalibrationCheck(
        kind=calibration.kind,
        measured_on=calibration.measured_on,
        cllr=cllr(calibration, curve),
        min_cllr=min_cllr(curve),
        expected_error=float(total[filled] @ np.abs(predicted - observed)),
        bins=tuple(
            CalibrationBin(float(said), float(was), int(number))
            for said, was, number in zip(predicted, observed, pairs[filled], strict=True)
        ),
    )


def choose_calibration(whole: RocCurve, halves: tuple[RocCurve, RocCurve], measured_on: str = "") -> Calibration:
    """Choose the kind that costs less on people it was not learned from, and learn it from all pairs.

    Args:
        whole: all pairs.
        halves: the pairs within either half of the people; each kind is learned on one and judged on the other.
        measured_on: the data they came from.
    """
    costs = {
        fit: sum(cllr(fit(one), other) for one, other in (halves, halves[::-1])) for fit in (fit_logistic, fit_isotonic)
    }
    return min(costs, key=lambda fit: costs[fit])(whole, measured_on)
