from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    ImpostorTail,
    Interval,
    all_pairs_intervals,
    all_pairs_report,
    calibrate,
    roc_curve,
    tar_at_far,
)
from siamese_verify.evaluation.all_pairs_rows import clustered_rows
from siamese_verify.evaluation.operating_points import most_accepts


def drawn(people: int = 60, photos: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(people), photos)
    return rng.normal(size=(len(who), 32)) + rng.normal(size=(people, 32))[who], who


def test_counts_are_compared_and_not_products_that_round() -> None:
    scores, same = np.append(np.arange(100.0), 200), np.arange(101) == 100
    tail = ImpostorTail.from_curve(roc_curve(scores, same))
    assert 0.29 * 100 < 29
    point = tar_at_far(scores, same, 0.29)
    assert (point.false_accepts, most_accepts(0.29, 100)) == (29, 29)
    assert ImpostorTail((*map(float, range(100)), 101.0), (*range(100, 0, -1), 0), 100).threshold(0.29)[0] == 71
    assert tail.accepts(tail.threshold(0.29)[0]) <= 29
    rng = np.random.default_rng(0)
    for impostors in [*range(1, 120), *rng.integers(1, 10**9, 500).tolist()]:
        for far in [0.0, 1.0, 1e-6, *(rng.integers(0, impostors + 1, 3) / impostors).tolist()]:
            most = most_accepts(far, impostors)
            assert most / impostors <= far
            assert most == impostors or (most + 1) / impostors > far


def test_a_threshold_for_any_rate_lies_in_its_interval_and_follows_the_rate() -> None:
    rows, who = drawn()
    tail = calibrate(rows, who).impostor_tail
    found = [tail.threshold(far) for far in (0.2, 0.1, 0.037, 0.01, 0.001, 1e-5, 0.0)]
    assert [threshold for threshold, _ in found] == sorted(threshold for threshold, _ in found)
    for threshold, interval in found:
        assert interval is not None
        assert interval.low <= threshold <= interval.high
    assert [interval is not None and math.isinf(interval.high) for _, interval in found] == [False] * 5 + [True] * 2
    rates = all_pairs_report(rows, who, targets=(0.037,)).operating_points[0]
    assert 0.9 * rates.far <= tail.rate(tail.threshold(0.037)[0]) <= 0.037
    intervals = all_pairs_intervals(rows, who, targets=(0.01,))["threshold_at_far_0.01"]
    assert tail.threshold(0.01)[1] == pytest.approx(intervals, abs=0.02)  # the tail keeps 40 points for each decade


def test_a_score_above_all_impostors_has_a_one_sided_bound() -> None:
    rows, who = drawn()
    tail = calibrate(rows, who).impostor_tail
    bound = tail.at_most(2.0)
    assert bound is not None
    assert 3 / tail.impostors <= bound < 100 / tail.impostors  # pairs that share people are fewer than they seem
    assert (
        tail.sentence(2.0)
        == f"At most 1 in {int(1 / bound):,} pairs of different people would score this high (95 % confidence)."
    )
    few = calibrate(*drawn(people=10)).impostor_tail
    assert few.at_most(2.0) is not None
    assert few.at_most(2.0) > 10 * bound  # type: ignore[operator]


def test_a_higher_score_is_never_said_to_be_more_likely_by_chance() -> None:
    rows, who = drawn()
    tail = calibrate(rows, who).impostor_tail
    partly = replace(tail, intervals=(*(None for _ in tail.scores[:-30]), *tail.intervals[-30:]))
    for known in (tail, partly):
        said = [known.sentence(score) for score in np.linspace(-1, 1, 500)]
        chances = [int(one.split(" in ")[1].split()[0].replace(",", "")) for one in said if " in " in one]
        assert chances == sorted(chances)
        assert len(set(chances)) > 20
        assert said[0] == "Half of all pairs of different people or more may score this high."


def test_the_interval_between_two_points_ends_at_those_of_both() -> None:
    ends = Interval(0.3, 0.5), Interval(0.05, 0.15), Interval(0.0, 0.1)
    tail = ImpostorTail((0.1, 0.3, 0.5), (40, 9, 0), 100, ends)
    assert [tail.interval(score) for score in (0.3, 0.2, 0.6)] == [(0.05, 0.15), (0.05, 0.5), (0.0, 0.1)]


def test_a_rate_outside_of_the_tail_raises() -> None:
    tail = calibrate(*drawn(9), intervals=False).impostor_tail
    assert tail.threshold(0.1)[1] is None
    assert tail.at_most(0.5) is None
    assert "None of " in tail.sentence(2.0)
    for far in (-0.1, 0.7, float("nan")):
        with pytest.raises(InputError, match=f"between 0 and 0.5, got {far}"):
            tail.threshold(far)


def test_ratios_are_bounded_by_the_number_of_people() -> None:
    who = np.repeat(np.arange(30), 4)
    rng = np.random.default_rng(0)
    rows = np.eye(30)[who] + 0.01 * rng.normal(size=(120, 30))  # nobody is like anybody else
    calibration, tail = calibrate(rows, who)
    by_pairs = calibrate(rows, who, intervals=False).calibration
    low, high = calibration.log_likelihood_ratio([-1.0, 1.0])
    assert tail.at_most(1.0) is not None
    assert high == pytest.approx(-math.log(tail.at_most(1.0) or 1))
    assert low == pytest.approx(math.log(1 - 0.05 ** (1 / 30)))
    assert by_pairs.log_likelihood_ratio(-1.0) < low < 0 < high < by_pairs.log_likelihood_ratio(1.0)
    middle = float(np.interp(0, calibration.ratios, calibration.scores))
    assert calibration.bounded([-1.0, middle, 1.0]).tolist() == [True, False, True]


def test_a_tail_of_collapsed_embeddings_has_no_intervals() -> None:
    rows, who = np.ones((30, 4), dtype=np.float32), np.arange(30) // 2
    pairs = clustered_rows(rows, who, kept=100)
    tail = ImpostorTail.from_curve(all_pairs_report(rows, who).curve).with_intervals(pairs)
    assert (tail.interval(1.0), tail.interval(2.0)) == (None, None)
    assert tail.threshold(0.1) == (tail.scores[-1], None)


def test_a_tail_is_read_as_it_was_written_and_a_certain_one_raises() -> None:
    tail = calibrate(*drawn(12)).impostor_tail
    content = json.loads(json.dumps(tail.to_dict(), allow_nan=False))
    assert ImpostorTail.from_dict(content) == tail
    certain = {**content, "intervals": [*content["intervals"][:-1], [0.0, 0.0]]}
    with pytest.raises(InputError, match="its intervals are invalid"):
        ImpostorTail.from_dict(certain)
    assert tail.intervals[-1] == Interval(0.0, tail.at_most(9.0) or 0.0)
