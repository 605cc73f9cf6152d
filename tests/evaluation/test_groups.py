from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from siamese_verify.errors import InputError
from siamese_verify.evaluation import GroupRates, group_reports, mean_of_groups, verification_report


def pairs(shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two groups of people; impostors of the second score higher by `shift`."""
    generator = np.random.default_rng(0)
    first = generator.integers(0, 100, 4000)
    second = np.where(np.arange(4000) % 2, first, (first + 2 * generator.integers(1, 50, 4000)) % 100)
    groups = np.where(first % 2, "b", "a")  # partners are of one group
    same = first == second
    scores = generator.normal(size=4000) + 3 * same + shift * (~same & (groups == "b"))
    return scores, same, groups, np.stack([first, second], axis=1)


def test_a_group_is_the_report_on_its_pairs() -> None:
    scores, same, groups, people = pairs(0.5)
    found = group_reports(scores, same, groups, 1.5, people, resamples=50)
    assert [group.name for group in found] == ["a", "b"]
    for group in found:
        inside = groups == group.name
        report = verification_report(scores[inside], same[inside], threshold=1.5)
        assert report.at_threshold is not None
        assert (group.genuine, group.impostors, group.eer) == (report.genuine, report.impostors, report.eer)
        assert (group.far, group.frr) == (report.at_threshold.far, report.at_threshold.frr)
        assert not group.insufficient


def test_a_difference_is_from_all_others_and_found_where_there_is_one() -> None:
    for shift in (0.0, 1.0):
        scores, same, groups, people = pairs(shift)
        a, b = group_reports(scores, same, groups, 1.5, people, resamples=300)
        assert a.far is not None and b.far is not None and a.far_difference and b.far_difference and b.frr_difference
        assert b.far_difference[0] == pytest.approx(b.far - a.far, abs=1e-12)
        assert a.far_difference[0] == pytest.approx(-b.far_difference[0], abs=1e-12)
        low, high = b.far_difference[1]
        assert (low > 0) == (shift > 0)
        assert high > 0
        assert b.frr_difference[1].low < 0 < b.frr_difference[1].high


def test_pairs_without_a_group_are_left_out() -> None:
    scores, same, groups, people = pairs()
    some = np.where(np.arange(4000) < 2000, groups, "")
    found = group_reports(scores, same, some, 1.5, people, resamples=20)
    expected = group_reports(scores[:2000], same[:2000], groups[:2000], 1.5)
    assert [(group.genuine, group.far, group.frr) for group in found] == [
        (group.genuine, group.far, group.frr) for group in expected
    ]
    assert expected[0].far_difference is None  # nobody knows who is on the photos


def test_a_group_without_impostors_has_no_far() -> None:
    found = group_reports([0.9, 0.8, 0.2], [True, True, False], ["x", "y", "y"], 0.5)
    assert found[0][:6] == ("x", 1, 0, None, None, 0.0)
    assert found[1][:6] == ("y", 1, 1, 0.0, 0.0, 0.0)
    assert found[0].insufficient


def test_pairs_without_any_group_raise() -> None:
    with pytest.raises(InputError, match="None of the pairs has a group"):
        group_reports([0.9, 0.1], [True, False], ["", ""], 0.5)
    with pytest.raises(InputError, match=r"shape \(1,\) for 2 pairs"):
        group_reports([0.9, 0.1], [True, False], ["a"], 0.5)


def test_the_mean_of_groups_has_an_interval_over_groups() -> None:
    rng = np.random.default_rng(0)
    rates = rng.beta(2, 20, 40)
    reports = [GroupRates(str(number), 9, 9, float(rate), 0, 0, None, None, True) for number, rate in enumerate(rates)]
    unknown = GroupRates("x", 0, 9, None, 0, None, None, None, True)
    found = mean_of_groups([*reports, unknown])
    assert found is not None
    assert found.groups == 40
    assert found.eer == pytest.approx(rates.mean())
    assert found.deviation == pytest.approx(np.std(rates, ddof=1))
    peer = bootstrap((rates,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1))
    assert [found.low, found.high] == pytest.approx([*peer.confidence_interval], rel=0.03)
    assert mean_of_groups([reports[0], unknown]) is None
