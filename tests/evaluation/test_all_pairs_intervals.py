from __future__ import annotations

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import all_pairs_intervals, all_pairs_report, bootstrap_intervals, calibrate
from siamese_verify.evaluation.all_pairs_intervals import RecountedPairs
from siamese_verify.evaluation.bootstrap import Resamples, interval_of

TARGETS = (0.3, 0.1, 0.01)


def people_and_rows(seed: int, tied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(6, 60))
    people = rng.integers(0, max(2, count // 3), count)
    people[:3] = 0, 0, 1
    rows = rng.normal(size=(count, 4)) + rng.normal(size=(count, 4))[people]
    return (np.where(rows > 0, 0.5, -0.5) if tied else rows), people  # ties without rounding


def listed(rows: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with the bits of the blocks, truth and people of all pairs i < j."""
    pairs = RecountedPairs(rows, people)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = np.triu_indices(len(rows), 1)
    scores, same = np.einsum("nd,nd->n", unit[left], unit[right]), people[left] == people[right]
    for kind, exact in ((same, pairs.genuine), (~same, pairs.impostors)):
        order = np.flatnonzero(kind)[np.argsort(-scores[kind], kind="stable")]
        assert np.allclose(scores[order], exact, atol=1e-12)
        scores[order] = exact
    return scores, same, np.stack([people[left], people[right]], axis=1)


@pytest.mark.parametrize("seed", range(12))
def test_the_intervals_are_those_of_the_listed_pairs(seed: int) -> None:
    rows, people = people_and_rows(seed)
    scores, same, identities = listed(rows, people)
    wanted = bootstrap_intervals(scores, same, identities, None, 0.3, TARGETS, 200)
    found = all_pairs_intervals(rows, people, 0.3, TARGETS, 200)
    assert {*wanted} - {*found} == {"auc"}
    assert found == {name: wanted[name] for name in found}


@pytest.mark.parametrize("seed", range(6))
def test_the_intervals_of_tied_scores_are_those_of_the_listed_pairs(seed: int) -> None:
    rows, people = people_and_rows(seed, tied=True)
    assert len(np.unique(RecountedPairs(rows, people).impostors)) == 5
    scores, same, identities = listed(rows, people)
    wanted = bootstrap_intervals(scores, same, identities, None, 0.3, TARGETS, 200)
    found = all_pairs_intervals(rows, people, 0.3, TARGETS, 200)
    assert found == {name: wanted[name] for name in found}


def test_what_too_many_impostors_decide_is_left_out_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, people = people_and_rows(3)
    whole = all_pairs_intervals(rows, people, 0.3, TARGETS, 200)
    count = len(RecountedPairs(rows, people).impostors)
    monkeypatch.setattr(RecountedPairs.__init__, "__defaults__", (count // 3,))
    some = all_pairs_intervals(rows, people, 0.3, TARGETS, 200)
    assert "tar_at_far_0.3" not in some
    assert "tar_at_far_0.01" in some
    assert some == {name: whole[name] for name in some}


def test_the_interval_holds_the_value() -> None:
    rows, people = people_and_rows(5)
    report = all_pairs_report(rows, people, targets=TARGETS)
    found = all_pairs_intervals(rows, people, targets=TARGETS)
    assert found["eer"].low <= report.eer <= found["eer"].high
    for point in report.operating_points:
        interval = found[f"tar_at_far_{point.target:g}"]
        assert interval.low <= point.tar <= interval.high


@pytest.mark.parametrize("seed", range(6))
def test_the_tail_of_strangers_has_the_intervals_of_a_direct_count(seed: int) -> None:
    rows, people = people_and_rows(seed)
    scores, same, identities = listed(rows, people)
    tail = calibrate(rows, people, resamples=100, seed=4).strangers
    weights = np.concatenate(list(Resamples(same, identities, 100, seed=4)))
    for score, interval in zip(tail.scores, tail.intervals, strict=True):
        rates = weights[:, ~same & (scores >= score)].sum(axis=1) / weights[:, ~same].sum(axis=1)
        assert interval == interval_of(rates)


def test_a_threshold_for_any_rate_lies_in_its_interval_and_follows_the_rate() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(60), 4)
    rows = rng.normal(size=(240, 8)) + rng.normal(size=(60, 8))[people]
    tail = calibrate(rows, people).strangers
    found = [tail.threshold(far) for far in (0.2, 0.1, 0.037, 0.01, 0.001, 0.0)]
    assert [threshold for threshold, _ in found] == sorted(threshold for threshold, _ in found)
    for threshold, interval in found:
        assert interval is not None
        assert interval.low <= threshold <= interval.high
    rates = all_pairs_report(rows, people, targets=(0.037,)).operating_points[0]
    assert 0.9 * rates.far <= tail.rate(tail.threshold(0.037)[0]) <= 0.037
    intervals = all_pairs_intervals(rows, people, targets=(0.01,))["threshold_at_far_0.01"]
    assert tail.threshold(0.01)[1] == pytest.approx(intervals, abs=0.02)  # the tail keeps 40 points for each decade


def test_a_rate_that_the_tail_does_not_hold_is_refused() -> None:
    rows, people = people_and_rows(1)
    tail = calibrate(rows, people, resamples=0).strangers
    assert tail.threshold(0.1)[1] is None
    for far in (-0.1, 0.7, float("nan")):
        with pytest.raises(InputError, match=f"asked for is {far}: give one between 0 and 0.5"):
            tail.threshold(far)


@pytest.mark.parametrize(
    ("people", "level", "message"),
    [
        ([0, 0, 0], 0.95, "3 photos of 1 people"),
        ([0, 1, 2], 0.95, "3 photos of 3 people"),
        ([0, 0, 1], 1.0, "level 1.0"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(people: list[int], level: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        all_pairs_intervals(np.eye(3), people, level=level)


def test_collapsed_embeddings_have_no_interval_where_more_tie_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, people = np.ones((30, 4), dtype=np.float32), np.arange(30) // 2
    assert all_pairs_intervals(rows, people, targets=TARGETS, resamples=20)["eer"] == (0.5, 0.5)
    monkeypatch.setattr(RecountedPairs.__init__, "__defaults__", (100,))
    assert all_pairs_intervals(rows, people, 0.5, TARGETS, 20) == {}
    tail = calibrate(rows, people, resamples=20).strangers
    assert tail.accepts(1.0) == len(RecountedPairs(rows, people, 1000).impostors)
    assert (tail.interval(1.0), tail.interval(2.0)) == (None, (0, 0))
    assert tail.threshold(0.1) == (tail.scores[-1], None)
