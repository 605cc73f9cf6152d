from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import Interval, bootstrap, compare_scores, group_reports, verification_report
from siamese_verify.evaluation.bootstrap import Resamples, WeightedPairs, difference_interval, placement

TARGETS = (0.1, 0.3)


def pairs(seed: int, count: int = 60, people: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, truths, and who is on the photos."""
    generator = np.random.default_rng(seed)
    first = generator.integers(0, people, count)
    second = np.where(generator.random(count) < 0.5, first, generator.integers(0, people, count))
    same = first == second
    scores = np.round(generator.normal(size=count) + same, seed % 3)
    return scores, same, np.stack([first, second], axis=1)


@pytest.mark.parametrize("seed", range(8))
def test_weighted_metrics_are_those_of_the_pairs_written_down_as_often(seed: int) -> None:
    scores, same, identities = pairs(seed)
    measured = WeightedPairs(scores, same, TARGETS)
    for weights in Resamples(same, identities, 20, seed):
        found = measured.metrics(weights)
        for place, row in enumerate(weights):
            rows = np.repeat(np.arange(60), row)
            report = verification_report(scores[rows], same[rows], targets=TARGETS)
            expected = {"eer": report.eer, "auc": report.auc}
            expected |= {f"tar_at_far_{point.target:g}": point.tar for point in report.operating_points}
            assert {name: values[place] for name, values in found.items()} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [200, 40_000])
def test_people_are_drawn_and_pairs_follow(count: int) -> None:
    _, same, identities = pairs(1, count)  # many pairs make several blocks of weights
    left, right = identities.T
    drawn = 0
    for weights in Resamples(same, identities, 30):
        drawn += len(weights)
        for row in weights:
            own = [np.unique(row[(left == person) & same]) for person in range(7)]
            assert [len(one) for one in own] == [1] * 7  # all genuine pairs of a person count alike
            times = np.concatenate(own)
            assert times.sum() == 7
            np.testing.assert_array_equal(row, np.where(same, times[left], times[left] * times[right]))
    assert drawn == 30


def test_every_person_is_drawn_once_on_average() -> None:
    _, same, identities = pairs(2, 400, 20)
    drawn: Counter[int] = Counter()
    for weights in Resamples(same, identities, 2000):
        for person in range(20):
            drawn[person] += int(weights[:, np.flatnonzero((identities == person).all(axis=1))[0]].sum())
    assert min(drawn.values()) == pytest.approx(2000, rel=0.12)
    assert max(drawn.values()) == pytest.approx(2000, rel=0.12)


def test_the_interval_of_a_difference_is_that_of_independent_metrics_or_narrower_where_they_move_together() -> None:
    values, intervals = np.array([0.3, 0.4]), [Interval(0.2, 0.45), Interval(0.36, 0.5)]
    rng = np.random.default_rng(0)
    apart, together = rng.normal(size=(2, 4000)), np.outer([1, 2], rng.normal(size=4000))
    apart[1] -= apart[0] * (apart[0] @ apart[1]) / (apart[0] @ apart[0])
    alone = difference_interval(values, intervals, [apart])
    assert alone == pytest.approx((0.1, 0.1 - (0.04**2 + 0.15**2) ** 0.5, 0.1 + (0.1**2 + 0.1**2) ** 0.5), abs=5e-4)
    assert difference_interval(values, intervals, [together]) == pytest.approx((0.1, 0.1 - 0.11, 0.1))
    assert difference_interval(values, intervals, []) == pytest.approx(alone, abs=5e-4)
    perfect = difference_interval(np.ones(2), [Interval(0.9, 1.0)] * 2, [np.ones((2, 9))])
    assert perfect == pytest.approx((0, -0.1, 0.1))  # nothing moved in the resamples, which proves nothing


@pytest.mark.parametrize("block", [bootstrap.BLOCK_ON_GPU, 2000])
def test_tensors_are_counted_as_arrays_are(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    scores, same, identities = pairs(1, 500, 20)
    groups = np.array(["", "a", "b"])[identities[:, 0] % 3]

    def found() -> tuple[object, object]:
        comparison = compare_scores(scores, scores**3, same, identities, resamples=50, device="cuda")
        return comparison, group_reports(scores, same, groups, 0.5, identities, resamples=50, device="cuda")

    monkeypatch.setattr(bootstrap, "BLOCK_ON_GPU", block)
    monkeypatch.setattr(bootstrap, "placement", lambda *_: torch.as_tensor)
    on_gpu = found()
    monkeypatch.setattr(bootstrap, "placement", lambda *_: np.asarray)
    assert on_gpu == found()


def test_few_weights_are_counted_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert placement("auto", bootstrap.LARGE - 1) is np.asarray
    assert placement("cpu", bootstrap.LARGE) is np.asarray
    assert placement("auto", bootstrap.LARGE) is not np.asarray
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placement("auto", bootstrap.LARGE) is np.asarray


@pytest.mark.parametrize("resamples", [0, -1])
def test_fewer_than_one_resample_raises(resamples: int) -> None:
    with pytest.raises(InputError, match=f"The number of resamples is {resamples}"):
        Resamples(np.array([True, False]), [[0, 0], [0, 1]], resamples)
