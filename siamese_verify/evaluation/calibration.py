"""Score calibration: log-likelihood ratios and probabilities of scores, learned from pairs of known people."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import numbered_people
from siamese_verify.evaluation.impostor_tail import ImpostorTail
from siamese_verify.evaluation.roc import roc_curve
from siamese_verify.evaluation.scores import as_array, checked_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.clustered_pairs import ClusteredPairs
    from siamese_verify.evaluation.roc import RocCurve

TOLERANCE = 0.01  # nats that knots left out may change the curve by
RIDGE = 1e-6  # on the slope over standardized scores: keeps it finite where the kinds of pairs do not overlap


@dataclass(frozen=True)
class Calibration:
    """Map from scores to log-likelihood ratios.

    The ratio of the densities of a score among genuine and among impostor pairs does not depend on how many pairs of
    each kind there were. Its logarithm is linear between knots and constant beyond the first and last.

    Attributes:
        kind: a straight line by logistic regression, or an isotonic step curve.
        scores: (K,) knots, ascending.
        ratios: (K,) natural logarithms of the likelihood ratios at the knots, ascending.
        genuine: number of genuine pairs it was learned from.
        impostors: number of impostor pairs.
        measured_on: name of the data.
    """

    kind: Literal["logistic", "isotonic"]
    scores: tuple[float, ...]
    ratios: tuple[float, ...]
    genuine: int
    impostors: int
    measured_on: str = ""

    def log_likelihood_ratio(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return the log-likelihood ratios of (N,) scores in nats: above 0 for one person, below 0 for two."""
        return np.asarray(np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.ratios))

    def bounded(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Return for (N,) scores whether the ratio is at an end of the curve: the true one may be more extreme."""
        ratios = self.log_likelihood_ratio(scores)
        return np.asarray((ratios <= self.ratios[0]) | (ratios >= self.ratios[-1]))

    def probability(self, scores: ArrayLike, prior: float) -> NDArray[np.float64]:
        """Return the probability that (N,) pairs are genuine.

        Args:
            scores: (N,) similarities.
            prior: share of genuine pairs among all pairs in question, in (0, 1).

        Raises:
            InputError: the prior is not in (0, 1).
        """
        check_share(prior)
        odds = self.log_likelihood_ratio(scores) + math.log(prior) - math.log1p(-prior)
        return np.asarray(0.5 * (1 + np.tanh(odds / 2)))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` wrote.

        Raises:
            InputError: a field is missing, unknown or invalid.
        """
        try:
            for name, invalid in _invalid_fields(values).items():
                if invalid:
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
    """Raise InputError for a prior probability, the share of genuine pairs, outside of (0, 1)."""
    if not 0 < prior < 1:
        raise InputError(f"A prior probability lies between 0 and 1, got {prior}: give the share of genuine pairs.")


def _invalid_fields(values: Mapping[str, Any]) -> dict[str, bool]:
    """By name of the field, whether its value has another type than `Calibration.to_dict` writes."""
    lists = {name: not isinstance(values[name], list | tuple) for name in ("scores", "ratios")}
    counts = {name: type(values[name]) is not int or values[name] < 1 for name in ("genuine", "impostors")}
    kind, text = values["kind"] not in ("logistic", "isotonic"), not isinstance(values["measured_on"], str)
    return {"kind": kind, "measured_on": text, **lists, **counts}


def counts_by_score(curve: RocCurve) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct scores of a curve, ascending, and the numbers of genuine and impostor pairs with each."""
    return curve.thresholds[:0:-1], np.diff(curve.true_accepts)[::-1], np.diff(curve.false_accepts)[::-1]


def fit_logistic(curve: RocCurve, measured_on: str = "") -> Calibration:
    """Fit a straight line by maximum likelihood, both kinds of pairs having the same weight.

    The line ends where the ratio exceeds what the pairs support, one pair against half a pair of the other kind: at
    log 2M and -log 2G, the limits of `fit_isotonic`. So a few separated pairs never give certainty.

    Args:
        curve: with all scores, see `roc_curve`.
        measured_on: name of the data.

    Brummer & du Preez, "Application-independent evaluation of speaker detection", Computer Speech & Language 2006.
    """
    from scipy.optimize import minimize

    scores, genuine, impostors = counts_by_score(curve)
    weights = np.stack([genuine / curve.genuine, impostors / curve.impostors])  # (2,K)
    center = float((weights.sum(axis=0) @ scores) / 2)
    deviation = math.sqrt(float(weights.sum(axis=0) @ (scores - center) ** 2) / 2) or 1.0
    standard = (scores - center) / deviation

    def cost(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        ratio = line[0] * standard + line[1]
        loss = float(weights[0] @ np.logaddexp(0, -ratio) + weights[1] @ np.logaddexp(0, ratio))
        probability = 0.5 * (1 + np.tanh(ratio / 2))
        gradient = weights[1] * probability - weights[0] * (1 - probability)
        return loss + RIDGE / 2 * line[0] ** 2, np.array([gradient @ standard + RIDGE * line[0], gradient.sum()])

    found = minimize(cost, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)], tol=1e-14)
    ends = scores[[0, -1]]
    line = found.x[0] * (ends - center) / deviation + found.x[1]
    ratios = np.clip(line, -math.log(2 * curve.genuine), math.log(2 * curve.impostors))
    return _calibration("logistic", np.interp(ratios, line, ends), ratios, curve, measured_on)


def pool_scores(
    curve: RocCurve,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Pool adjacent violators: (P,) lowest and highest score, genuine and impostor pairs of each pool."""
    from scipy.optimize import isotonic_regression

    scores, genuine, impostors = counts_by_score(curve)
    shares = genuine / curve.genuine, impostors / curve.impostors
    weights = shares[0] + shares[1]
    bounds = np.asarray(isotonic_regression(shares[0] / weights, weights=weights).blocks)
    first, last = bounds[:-1], bounds[1:] - 1
    return scores[first], scores[last], np.add.reduceat(genuine, first), np.add.reduceat(impostors, first)


def fit_isotonic(curve: RocCurve, measured_on: str = "", tolerance: float = TOLERANCE) -> Calibration:
    """Fit the best monotone curve, by pooling adjacent violators.

    Only the lowest pool can lack genuine pairs, and only the highest impostors: half a pair is added there, so that the
    ratio is finite.

    Args:
        curve: with all scores, see `roc_curve`.
        measured_on: name of the data.
        tolerance: in nats, that knots left out may change the curve by.

    Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.
    """
    lowest, highest, genuine, impostors = pool_scores(curve)
    shares = np.maximum(genuine, 0.5) / curve.genuine, np.maximum(impostors, 0.5) / curve.impostors
    ratios = np.log(shares[0]) - np.log(shares[1])
    if len(ratios) > 1:  # half a pair may reverse the order of neighbors
        ratios[0], ratios[-1] = min(ratios[0], ratios[1]), max(ratios[-2], ratios[-1])
    ratios = np.maximum.accumulate(ratios)  # equal ones of neighbors may differ by rounding
    knots, values = np.stack([lowest, highest], axis=1).ravel(), np.repeat(ratios, 2)
    kept, start = [0], 0
    for end in range(2, len(knots)):  # drop knots as long as the line between the others is close enough
        line = np.interp(knots[start : end + 1], knots[[start, end]], values[[start, end]])
        if np.abs(line - values[start : end + 1]).max() > tolerance:
            kept.append(end - 1)
            start = end - 1
    kept.append(len(knots) - 1)
    return _calibration("isotonic", knots[kept], values[kept], curve, measured_on)


def _calibration(
    kind: Literal["logistic", "isotonic"],
    scores: NDArray[np.float64],
    ratios: NDArray[np.float64],
    curve: RocCurve,
    measured_on: str,
) -> Calibration:
    knots, values = tuple(scores.tolist()), tuple(ratios.tolist())
    return Calibration(kind, knots, values, curve.genuine, curve.impostors, measured_on)


def bound_ratios(calibration: Calibration, genuine: float, impostors: float) -> Calibration:
    """Return a calibration whose ratios do not exceed what independent pairs support.

    Args:
        calibration: learned from pairs.
        genuine: share of genuine pairs that may score lower than any observed, > 0.
        impostors: share of impostors that may score higher than any observed, > 0.
    """
    low, high = min(math.log(genuine), 0.0), max(-math.log(impostors), 0.0)
    knots, values = np.array(calibration.scores), np.array(calibration.ratios)
    for end in (low, high):  # a new knot where the curve crosses the bound
        before = np.flatnonzero((values[:-1] < end) & (values[1:] > end))
        if len(before):
            place = int(before[0]) + 1
            score = float(np.interp(end, values[place - 1 : place + 1], knots[place - 1 : place + 1]))
            knots, values = np.insert(knots, place, score), np.insert(values, place, end)
    return replace(calibration, scores=tuple(knots.tolist()), ratios=tuple(np.clip(values, low, high).tolist()))


def cllr(calibration: Calibration, curve: RocCurve) -> float:
    """Return the cost of log-likelihood ratios in bits: 0 is perfect, 1 is no information, more is misleading.

    Args:
        calibration: learned on other pairs.
        curve: of the pairs to compute it on.

    Brummer & du Preez 2006, eq. 15.
    """
    scores, genuine, impostors = counts_by_score(curve)
    ratios = calibration.log_likelihood_ratio(scores)
    cost = genuine @ np.logaddexp(0, -ratios) / curve.genuine + impostors @ np.logaddexp(0, ratios) / curve.impostors
    return float(cost) / (2 * math.log(2))


def choose_calibration(whole: RocCurve, halves: tuple[RocCurve, RocCurve], measured_on: str = "") -> Calibration:
    """Return the kind of calibration that costs less on people it was not learned from, learned from all pairs.

    Args:
        whole: all pairs.
        halves: the pairs within either half of the people; each kind is learned on one and tested on the other.
        measured_on: name of the data.
    """
    costs = {
        fit: sum(cllr(fit(one), other) for one, other in (halves, halves[::-1])) for fit in (fit_logistic, fit_isotonic)
    }
    return min(costs, key=lambda fit: costs[fit])(whole, measured_on)


class ScoreCalibration(NamedTuple):
    """Calibration of scores and their impostor tail."""

    calibration: Calibration
    impostor_tail: ImpostorTail

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"calibration": self.calibration.to_dict(), "impostor_tail": self.impostor_tail.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScoreCalibration:
        """Return the score calibration that `to_dict` wrote.

        Raises:
            InputError: a part is missing or invalid.
        """
        try:
            return cls(Calibration.from_dict(values["calibration"]), ImpostorTail.from_dict(values["impostor_tail"]))
        except (KeyError, TypeError) as error:
            raise InputError(f"The score calibration is damaged ({error}): measure it again.") from None


def calibrate(
    embeddings: ArrayLike,
    identities: ArrayLike,
    measured_on: str = "",
    seed: int = 0,
    *,
    intervals: bool = True,
) -> ScoreCalibration:
    """Calibrate scores by all pairs of some people.

    The kind of calibration is chosen by halves of the people, learned on one and tested on the other, see
    `choose_calibration`. Where a half has no genuine or no impostor pair, it is the straight line.

    Args:
        embeddings: (N,D) of any nonzero length.
        identities: (N,) one number or name per row.
        measured_on: name of the data.
        seed: of the split into halves.
        intervals: of the impostor tail, for which the pairs are compared once more. The ratios are then limited to what
            people, not pairs, support, see `bound_ratios`.

    Raises:
        InputError: see `all_pairs_report`.
    """
    from siamese_verify.evaluation.all_pairs import all_pairs_report
    from siamese_verify.evaluation.all_pairs_rows import clustered_rows

    rows, names = as_array(embeddings), as_array(identities)
    whole = all_pairs_report(rows, names).curve
    people = np.unique(names)
    chosen = np.isin(names, np.random.default_rng(seed).permutation(people)[: len(people) // 2])
    try:
        halves = tuple(all_pairs_report(rows[half], names[half]).curve for half in (chosen, ~chosen))
        calibration = choose_calibration(whole, (halves[0], halves[1]), measured_on)
    except InputError:  # too few people to hold some out
        calibration = fit_logistic(whole, measured_on)
    return _with_tail(calibration, whole, clustered_rows(rows, names) if intervals else None)


def calibrate_pairs(
    scores: ArrayLike, same: ArrayLike, identities: ArrayLike, measured_on: str = "", seed: int = 0
) -> ScoreCalibration:
    """Calibrate scores by listed pairs; as `calibrate` does it by all pairs.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        identities: (N,2) number or name of the person on either photo.
        measured_on: name of the data.
        seed: of the split into halves.

    Raises:
        InputError: see `checked_pairs` and `numbered_people`.
    """
    from siamese_verify.evaluation.clustered_pairs import cluster_pairs

    values, labels = checked_pairs(scores, same)
    people = numbered_people(labels, identities)
    count = int(people.max()) + 1
    chosen = np.isin(people, np.random.default_rng(seed).permutation(count)[: count // 2])  # (N,2)
    whole = roc_curve(values, labels)
    try:
        halves = tuple(roc_curve(values[half], labels[half]) for half in (chosen.all(axis=1), ~chosen.any(axis=1)))
        calibration = choose_calibration(whole, (halves[0], halves[1]), measured_on)
    except InputError:
        calibration = fit_logistic(whole, measured_on)
    return _with_tail(calibration, whole, cluster_pairs(values, labels, people))


def _with_tail(calibration: Calibration, whole: RocCurve, pairs: ClusteredPairs | None) -> ScoreCalibration:
    """A calibration with the impostor tail, and with what people support if their pairs are given."""
    from siamese_verify.evaluation.rate_intervals import proportion_interval

    tail = ImpostorTail.from_curve(whole)
    if pairs is not None:
        tail = tail.with_intervals(pairs)
        if tail.intervals and tail.intervals[-1]:
            missed = proportion_interval(0.0, float(len(np.unique(pairs.genuine_people))), 0.95).high
            calibration = bound_ratios(calibration, missed, tail.intervals[-1].high)
    return ScoreCalibration(calibration, tail)
