from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import bootstrap, bootstrap_intervals, verification_report
from siamese_verify.evaluation.bootstrap import Resamples, WeightedPairs

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
    folds = np.arange(60) % 3
    fixed, folded = WeightedPairs(scores, same, TARGETS, 0.5), WeightedPairs(scores, same, folds=folds)
    compared = 0
    for weights in Resamples(same, identities, 20, seed):
        found, by_folds = fixed.metrics(weights), folded.metrics(weights)
        for place, row in enumerate(weights):
            rows = np.repeat(np.arange(60), row)
            report = verification_report(scores[rows], same[rows], threshold=0.5, targets=TARGETS)
            assert report.at_threshold is not None
            expected = {"eer": report.eer, "auc": report.auc}
            expected |= {name: getattr(report.at_threshold, name) for name in ("far", "frr", "accuracy")}
            expected |= {f"tar_at_far_{point.target:g}": point.tar for point in report.operating_points}
            expected |= {f"threshold_at_far_{point.target:g}": point.threshold for point in report.operating_points}
            assert {name: values[place] for name, values in found.items()} == pytest.approx(expected, abs=1e-12)
            try:
                kfold = verification_report(scores[rows], same[rows], folds[rows]).kfold
            except InputError:  # the others have lost a kind of pairs
                continue
            assert kfold is not None
            assert by_folds["accuracy"][place] == pytest.approx(kfold.mean, abs=1e-12)
            compared += 1
    assert compared > 5


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


def test_a_seed_fixes_the_intervals_and_a_level_widens_them() -> None:
    scores, same, identities = pairs(3, 300, 30)
    found = bootstrap_intervals(scores, same, identities, resamples=200)
    assert found == bootstrap_intervals(scores, same, np.char.zfill(identities.astype(str), 2), resamples=200)
    assert found != bootstrap_intervals(scores, same, identities, resamples=200, seed=1)
    wide = bootstrap_intervals(scores, same, identities, resamples=200, level=0.99)
    for name, (low, high) in found.items():
        assert wide[name].low <= low <= high <= wide[name].high


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """With one score for all pairs of a person, people decide; a bootstrap over pairs would be far too sure."""
    generator = np.random.default_rng(0)
    covered = []
    for trial in range(60):
        people = 60
        good = generator.random(people) < 0.8  # the true accept rate of people
        genuine = np.repeat(np.arange(people), 5)
        impostors = np.stack([np.arange(300) % people, (np.arange(300) + 1 + np.arange(300) // people) % people], 1)
        identities = np.concatenate([np.stack([genuine, genuine], 1), impostors])
        same = identities[:, 0] == identities[:, 1]
        scores = np.where(same, np.where(good[identities[:, 0]], 1.0, 0.0), -1.0)
        frr = bootstrap_intervals(scores, same, identities, threshold=0.5, resamples=200, seed=trial)["frr"]
        covered.append(frr.low <= 0.2 <= frr.high)
        assert frr.high - frr.low > 0.1
    assert 0.85 <= np.mean(covered) <= 1


def test_the_report_has_the_intervals_of_known_people() -> None:
    scores, same, identities = pairs(4, 300, 30)
    report = verification_report(scores, same, identities=identities, targets=TARGETS, resamples=100, seed=2)
    expected = bootstrap_intervals(scores, same, identities, targets=TARGETS, resamples=100, seed=2)
    assert report.intervals == expected
    assert report.to_dict()["intervals"]["eer"] == list(expected["eer"]) or report.to_dict()["intervals"]["eer"]
    assert verification_report(scores, same).intervals == {}


@pytest.mark.parametrize(
    ("identities", "options", "message"),
    [
        ([[0, 0], [0, 1]], {"level": 1}, "level 1 is none"),
        ([[0, 0], [0, 1]], {"resamples": 0}, "0 resamples say nothing"),
        ([0, 1], {}, r"shape \(2,\): give two for each of 2 pairs"),
        ([[0, 1], [0, 1]], {}, r"1 pairs are genuine with two identities or impostors with one \(first row: 0\)"),
        ([[0, 0], [1, 1]], {}, r"first row: 1"),
    ],
)
def test_what_cannot_be_drawn_is_said(identities: list[object], options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bootstrap_intervals([0.9, 0.1], [True, False], identities, **options)  # type: ignore[arg-type]
