"""The extrapolated impostor tail: its fit against scipy's, its intervals against populations whose rates are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, genpareto, norm, t, uniform

from siamese_verify.evaluation import extrapolate, roc_curve, verification_report
from siamese_verify.evaluation.clustered_pairs import ClusteredPairs, cluster_pairs
from siamese_verify.evaluation.tail_extrapolation import GeneralizedParetoTail, fit_tail


def normal_pairs(seed: int, people: int = 60, photos: int = 4, likeness: float = 0.0) -> tuple[np.ndarray, ...]:
    """Scores of all pairs, standard normal among impostors, of people some of whom are more like all others."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), photos)
    left, right = np.triu_indices(len(who), 1)
    same = who[left] == who[right]
    alike = likeness * rng.normal(size=people)
    noise = (1 - 2 * likeness**2) ** 0.5 * rng.normal(size=len(left))
    scores = noise + np.where(same, 5, alike[who[left]] + alike[who[right]])
    return scores, same, np.stack([who[left], who[right]], axis=1)


def tail_of(*pairs: np.ndarray) -> tuple[ClusteredPairs, GeneralizedParetoTail]:
    clustered = cluster_pairs(*pairs)
    tail = fit_tail(clustered, float(np.median(pairs[0][~pairs[1]])))
    assert tail is not None
    return clustered, tail


def test_the_fit_is_as_likely_as_that_of_scipy() -> None:
    for seed in range(3):
        _, tail = tail_of(*normal_pairs(seed))
        shape, scale, likelihood = tail.fit
        best = genpareto.fit(tail.excesses, floc=0)
        assert likelihood == pytest.approx(genpareto.logpdf(tail.excesses, shape, 0, scale).sum())
        assert likelihood > genpareto.logpdf(tail.excesses, *best).sum() - 0.01
        assert (shape, scale) == pytest.approx((best[0], best[2]), abs=0.02)
        for rate in (1e-4, 1e-6):
            threshold = tail.threshold(rate)
            assert tail.rate(threshold) == pytest.approx(rate)
            exact = genpareto.isf(rate / tail.share, shape, 0, scale)
            assert tail.excess(threshold) == pytest.approx(exact)


def test_the_constrained_fit_is_the_likeliest_with_that_rate() -> None:
    _, tail = tail_of(*normal_pairs(0))
    count, total = len(tail.excesses), tail.pairs.impostor_total

    def likelihood(share: float, shape: float, scale: float) -> float:
        fitted = genpareto.logpdf(tail.excesses, shape, 0, scale).sum()
        return float(count * np.log(share) + (total - count) * np.log1p(-share) + fitted)

    score = tail.threshold(1e-5)
    found = tail.constrained(4e-5, score)
    parts = found.share, found.shape, found.scale
    assert found.share * genpareto.sf(tail.excess(score), *parts[1:2], 0, found.scale) == pytest.approx(4e-5)
    best = likelihood(tail.share, *tail.fit[:2])
    assert found.deviance == pytest.approx(2 * (best - likelihood(*parts)))
    rng = np.random.default_rng(0)
    for share, shape in zip(rng.normal(found.share, 2e-4, 300), rng.normal(found.shape, 0.05, 300), strict=True):
        inside = np.expm1(-shape * np.log(4e-5 / share))
        other = likelihood(share, shape, shape * tail.excess(score) / inside)
        assert other <= best - found.deviance / 2 + 0.02
    assert tail.constrained(1e-5, score).deviance == pytest.approx(0, abs=0.02)


def test_the_interval_ends_where_the_deviance_exceeds_its_quantile() -> None:
    _, tail = tail_of(*normal_pairs(0, likeness=0.3))
    interval = tail.threshold_interval(1e-5)
    for score, sign in ((interval.low, 1), (interval.high, -1)):
        for step, inside in ((-1e-3, False), (1e-3, True)):
            found = tail.constrained(1e-5, score + sign * step)
            assert (found.deviance <= 3.8415 * tail.effect(1e-5, score + sign * step, found)) == inside
    assert interval.low < tail.threshold(1e-5) < interval.high
    narrow = tail.threshold_interval(1e-5, 0.8)
    assert interval.low < narrow.low < narrow.high < interval.high


@pytest.mark.parametrize("likeness", [0.0, 0.3])
def test_intervals_hold_the_true_threshold_at_rates_that_no_impostor_shows(likeness: float) -> None:
    sets, held, wide = 40, 0, []
    for seed in range(sets):
        _, tail = tail_of(*normal_pairs(seed, 30, likeness=likeness))
        interval = tail.threshold_interval(1e-6)
        held += interval.low <= norm.isf(1e-6) <= interval.high
        wide.append(interval.high - interval.low)
    assert held >= 0.85 * sets
    assert np.median(wide) < 8  # they are no empty statement


def test_pairs_of_one_person_make_the_interval_wider() -> None:
    widths = []
    for likeness in (0.0, 0.5):
        found = [tail_of(*normal_pairs(seed, 40, likeness=likeness))[1].threshold_interval(1e-4) for seed in range(5)]
        widths.append(np.median([one.high - one.low for one in found]))
    assert widths[1] > 1.5 * widths[0]


def test_what_is_extrapolated_is_marked_and_only_below_ten_impostors(tmp_path: Path) -> None:
    scores, same, people = normal_pairs(0)
    targets = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
    report = verification_report(scores, same, identities=people, targets=targets)
    found = report.extrapolated
    assert found is not None
    assert [point.target for point in found.points] == [1e-4, 1e-6]
    assert [point.insufficient for point in report.operating_points] == [False] * 3 + [True] * 2
    thresholds = [point.threshold for point in found.points]
    assert report.operating_points[2].threshold < thresholds[0] < thresholds[1]
    for point in found.points:
        assert point.tar == np.mean(scores[same] >= point.threshold)
        assert point.tar_interval.low <= point.tar <= point.tar_interval.high
    report.save(tmp_path)
    assert "Extrapolated, not measured" in (tmp_path / "report.html").read_text()
    assert report.to_dict()["extrapolated"]["points"][0]["threshold_interval"]["low"] < thresholds[0]


def test_no_interval_is_made_from_too_few_or_equal_impostors() -> None:
    scores, same, people = normal_pairs(0, 12, 2)
    assert extrapolate(cluster_pairs(scores, same, people), roc_curve(scores, same), (1e-6,)) is None
    scores, same, people = normal_pairs(0)
    equal = np.where(same, scores, 0.0)
    assert extrapolate(cluster_pairs(equal, same, people), roc_curve(equal, same), (1e-6,)) is None
    two = np.where(same, scores, (scores > 0).astype(float))  # the higher half is equal
    assert extrapolate(cluster_pairs(two, same, people), roc_curve(two, same), (1e-6,)) is None
    for steps, known in ((10, False), (1000, True)):  # in one standard deviation of the impostors
        rounded = np.round(scores * steps) / steps
        found = extrapolate(cluster_pairs(rounded, same, people), roc_curve(rounded, same), (1e-6,))
        assert (found is not None) == known, f"rounded to 1 / {steps}: few distinct values hide how steep the tail is"
    few = normal_pairs(0, 3, 20)
    assert fit_tail(cluster_pairs(*few), 0.0) is None, "how the pairs of three people depend is not seen"


@pytest.mark.parametrize("name", ["uniform", "cosines of 4 dimensions", "cosines of 5 dimensions"])
def test_of_scores_that_end_abruptly_the_threshold_is_bounded_from_above(name: str) -> None:
    _, same, people = normal_pairs(0, 60, 5)
    scores = {"uniform": uniform(), "cosines of 4 dimensions": beta(1.5, 1.5), "cosines of 5 dimensions": beta(2, 2)}
    for seed in range(4):
        drawn = np.where(same, 2.0, scores[name].rvs(len(same), random_state=seed))
        found = extrapolate(cluster_pairs(drawn, same, people), roc_curve(drawn, same), (1e-5,))
        assert found is not None
        low, high = found.points[0].threshold_interval
        truth, ranked = scores[name].isf(1e-5), np.sort(drawn[~same])
        assert ranked[-100] < low <= truth <= high < 1.05 * truth
        assert found.points[0].threshold <= high


def test_ends_rise_as_rates_fall_in_any_order_of_targets() -> None:
    """Scores that are cut off: from the fit alone the high end is lower at 0.0001 % than at 0.001 %."""
    scores, same, people = normal_pairs(0, 40, 3)
    cut = np.where(same, 0.95, np.minimum(scores / 3, 0.9))
    found = [
        extrapolate(cluster_pairs(cut, same, people), roc_curve(cut, same), targets)
        for targets in ((1e-4, 1e-5, 1e-6), (1e-5, 1e-6, 1e-4))
    ]
    assert found[0] is not None
    assert found[1] is not None
    for ends in zip(*(point.threshold_interval for point in found[0].points), strict=True):
        assert list(ends) == sorted(ends)
    assert found[1].points == tuple(found[0].points[at] for at in (1, 2, 0))


@pytest.mark.parametrize("freedom", [1, 3])
def test_heavy_tails_are_extrapolated_as_heavy(freedom: int) -> None:
    """Normal scores are moved so that they have Student's distribution, that of Cauchy with one degree of freedom."""
    held, ratios = 0, []
    for seed in range(20):
        scores, same, people = normal_pairs(seed, likeness=0.2)
        scores = np.where(same, 1e9, t.isf(norm.sf(scores), freedom))
        _, tail = tail_of(scores, same, people)
        low, high = tail.threshold_interval(1e-5)
        held += low <= t.isf(1e-5, freedom) <= high
        ratios.append(tail.threshold(1e-5) / t.isf(1e-5, freedom))
    assert held >= 17
    assert 0.5 < np.median(ratios) < 2


def test_no_threshold_of_cosines_is_above_one() -> None:
    scores, same, people = normal_pairs(0)
    cosines = np.where(same, 1.0, np.clip(scores / 4.5, -1, 1))
    found = extrapolate(cluster_pairs(cosines, same, people), roc_curve(cosines, same), (1e-5, 1e-12))
    assert found is not None
    assert [point.target for point in found.points] == [1e-5]
    assert found.points[0].threshold <= found.points[0].threshold_interval.high <= 1


@pytest.mark.filterwarnings("error")
def test_scores_of_any_unit_are_extrapolated_alike() -> None:
    scores, same, people = normal_pairs(0)
    ends = []
    for unit in (1.0, 1e200, 1e-200):
        found = extrapolate(cluster_pairs(scores * unit, same, people), roc_curve(scores * unit, same), (1e-6,))
        assert found is not None
        ends.append([found.points[0].threshold / unit, *(end / unit for end in found.points[0].threshold_interval)])
    assert ends[1] == pytest.approx(ends[0])
    assert ends[2] == pytest.approx(ends[0])
