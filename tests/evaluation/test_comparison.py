from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreComparison, compare_scores, equal_error_rate, kfold_accuracy, tar_at_far
from siamese_verify.evaluation.bootstrap import Difference


def scored(better: float, seed: int = 0) -> dict[str, Any]:
    """Two models that see the same pairs; the second sees `better` more of what tells them apart."""
    generator = np.random.default_rng(seed)
    first = generator.integers(0, 150, 1500)
    second = np.where(np.arange(1500) % 2, first, (first + generator.integers(1, 150, 1500)) % 150)
    same = first == second
    seen = generator.normal(size=1500) + 2 * same
    return {
        "first": seen + 0.5 * generator.normal(size=1500),
        "second": seen + better * same + 0.5 * generator.normal(size=1500),
        "same": same,
        "identities": np.stack([first, second], axis=1),
    }


def compare(better: float, **options: Any) -> ScoreComparison:
    return compare_scores(**scored(better), **{"resamples": 300, "names": ("old", "new"), **options})


def test_differences_are_those_of_the_metrics() -> None:
    given = scored(1.0)
    found = compare(1.0)
    eers = [equal_error_rate(given[name], given["same"]) for name in ("first", "second")]
    assert found.eer.value == pytest.approx(eers[1] - eers[0], abs=1e-12)
    tars = [tar_at_far(given[name], given["same"], 0.01).tar for name in ("first", "second")]
    assert found.tar[0.01].value == pytest.approx(tars[1] - tars[0], abs=1e-12)
    assert found.eer.low < found.eer.value < found.eer.high < 0
    assert found.error_rate.value == pytest.approx((found.errors[1] - found.errors[0]) / 1500)
    assert found.alone[0] - found.alone[1] == found.errors[0] - found.errors[1]
    assert found.over == "people"


def test_a_better_model_is_said_to_be_better_whichever_comes_first() -> None:
    assert compare(1.0).sentence.startswith("new is better: ")
    given = scored(1.0)
    given["first"], given["second"] = given["second"], given["first"]
    turned = compare_scores(**given, resamples=300, names=("new", "old"))
    assert turned.sentence.startswith("new is better: ")
    assert turned.eer.value == -compare(1.0).eer.value


def test_equally_good_models_show_no_difference() -> None:
    found = compare(0.0)
    assert found.error_rate.low < 0 < found.error_rate.high
    assert found.sentence.startswith("No difference shown: ")
    same = replace(found, error_rate=Difference(0.0, 0.0, 0.0))
    assert same.sentence == f"No difference shown: {' and '.join(found.names)} make as many errors."


def test_the_sentence_has_the_numbers_in_percentage_points() -> None:
    found = compare(1.0)
    value, low, high = (-100 * number for number in found.error_rate)
    expected = f"{value:.2f} percentage points fewer errors (95 % CI {high:.2f} to {low:.2f}, p ="
    assert expected in found.sentence
    assert high < value < low


def test_few_pairs_are_judged_by_mcnemars_exact_test() -> None:
    same = np.array([True, False] * 20)
    perfect = np.where(same, 1.0, 0.0)
    worse = perfect.copy()
    worse[[0, 1, 2, 3, 4, 5]] = 0.5  # below for genuine pairs, above for none: three genuine pairs are wrong
    found = compare_scores(perfect, worse, same, thresholds=(0.7, 0.7), resamples=10)
    assert (found.errors, found.alone) == ((0, 3), (0, 3))
    assert found.p_value == pytest.approx(2 * binom.cdf(0, 3, 0.5))
    assert found.over == "pairs"


def test_the_same_model_twice_differs_in_nothing() -> None:
    given = scored(0.0)
    given["second"] = given["first"]
    found = compare_scores(**given, resamples=50)
    assert (found.p_value, found.error_rate, found.alone) == (1.0, (0.0, 0.0, 0.0), (0, 0))


def test_folds_decide_each_by_the_others() -> None:
    given = scored(1.0)
    folds = np.arange(1500) // 150
    found = compare(1.0, folds=folds)
    for number, name in enumerate(("first", "second")):
        accuracy = kfold_accuracy(given[name], given["same"], folds).mean
        assert 1 - found.errors[number] / 1500 == pytest.approx(accuracy, abs=1e-12)


def test_one_person_who_decides_all_is_no_difference_between_models() -> None:
    """McNemar's test would be sure: forty pairs are wrong by one model alone, and none by the other."""
    who = np.repeat(np.arange(30), 40)
    other = np.where(np.arange(len(who)) % 2, who, (who + 1) % 30)
    same = who == other
    good = np.where(same, 1.0, 0.0)
    bad = np.where(who == 7, 1 - good, good)
    found = compare_scores(good, bad, same, np.stack([who, other], 1), thresholds=(0.5, 0.5), resamples=50)
    assert found.alone == (0, 40)
    assert binomtest(0, 40).pvalue < 1e-9
    assert found.p_value > 0.05
    assert found.error_rate.low < 0


def test_two_models_without_errors_may_still_differ() -> None:
    who = np.repeat(np.arange(20), 10)
    other = np.where(np.arange(200) % 2, who, (who + 1) % 20)
    same = who == other
    noise = np.random.default_rng(0).random((2, 200)) / 2
    first, second = same + noise
    found = compare_scores(first, second, same, np.stack([who, other], 1), resamples=50)
    for one in (found.error_rate, found.eer, found.auc, found.tar[0.01]):
        assert one.value == 0
        assert one.low < -0.05 < 0.05 < one.high


def test_a_comparison_converts_to_json() -> None:
    content = json.loads(json.dumps(compare(1.0).to_dict(), allow_nan=False))
    assert content["sentence"].startswith("new is better")
    assert set(content["tar"]) == {"0.01", "0.001"}
    assert set(content["eer"]) == {"value", "low", "high"}


def test_scores_of_other_pairs_raise() -> None:
    with pytest.raises(InputError, match="A has 2 scores and B 3: compare the same pairs"):
        compare_scores([0.1, 0.9], [0.1, 0.9, 0.5], [False, True])
    with pytest.raises(InputError, match="The confidence level is 0"):
        compare_scores([0.1, 0.9], [0.1, 0.9], [False, True], level=0)
