from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import Interval, bootstrap, verification_report
from siamese_verify.evaluation.bootstrap import Resamples, WeightedPairs, difference_of

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


@pytest.mark.parametrize("block", [1, 500, 2**20])
def test_people_are_drawn_and_pairs_follow(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "BLOCK", block)
    _, same, identities = pairs(1, 200)
    for weights in Resamples(same, identities, 30):
        times = {}
        for row in weights:
            for person in range(7):
                own = [weight for weight, pair in zip(row, identities, strict=True) if tuple(pair) == (person, person)]
                assert len(set(own)) == 1
                times[person] = own[0]
            assert sum(times.values()) == 7
            assert row.tolist() == [times[a] if a == b else times[a] * times[b] for a, b in identities.tolist()]


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
    alone = difference_of(values, intervals, [apart])
    assert alone == pytest.approx((0.1, 0.1 - (0.04**2 + 0.15**2) ** 0.5, 0.1 + (0.1**2 + 0.1**2) ** 0.5), abs=5e-4)
    assert difference_of(values, intervals, [together]) == pytest.approx((0.1, 0.1 - 0.11, 0.1))
    assert difference_of(values, intervals, []) == pytest.approx(alone, abs=5e-4)
    perfect = difference_of(np.ones(2), [Interval(0.9, 1.0)] * 2, [np.ones((2, 9))])
    assert perfect == pytest.approx((0, -0.1, 0.1))  # nothing moved in the resamples, which proves nothing


@pytest.mark.parametrize("resamples", [0, -1])
def test_resamples_are_drawn(resamples: int) -> None:
    with pytest.raises(InputError, match=f"{resamples} resamples say nothing"):
        Resamples(np.array([True, False]), [[0, 0], [0, 1]], resamples)
