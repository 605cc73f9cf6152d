"""Paired comparison of models by the same episodes or queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import FewShotReport, compare_runs, few_shot_report, retrieval_report
from siamese_verify.evaluation.bootstrap import correlated_difference
from siamese_verify.evaluation.cases import CASES, CaseComparison, Cases, compare_cases, read_cases
from siamese_verify.evaluation.report import PAIRS_DIGEST

SHOTS: dict[str, Any] = {"way": 5, "shots": 1, "queries": 3, "episodes": 100}


def models(seed: int, people: int = 20, photos: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of two equally good models, that find the same people difficult, and who is on the photos."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), photos)
    seen = rng.normal(size=(people, 8))[who] + (
        rng.uniform(0.3, 1.5, people)[who, None] * rng.normal(size=(len(who), 8))
    )
    return seen + 0.2 * rng.normal(size=seen.shape), seen + 0.2 * rng.normal(size=seen.shape), who


def paired(first: Any, second: Any) -> CaseComparison:
    intervals = first.intervals[first.metric], second.intervals[first.metric]
    return compare_cases(first.cases, second.cases, intervals, metric=first.metric)


def naive_covariance(one: Cases, other: Cases) -> float:
    """The sum over all pairs of cases, and that of the draw of cases apart."""
    count, each = len(one.values), one.people.shape[1]
    first, second = ((part.values - part.values.mean()) / count for part in (one, other))
    shared = sum(
        first[row] * second[column] * len(set(one.people[row]) & set(one.people[column]))
        for row in range(count)
        for column in range(count)
    )
    draw = float(sum(first * second))
    enlarged = ((one.eligible - 1) / (one.eligible - each)) ** 2
    return float(draw + (shared - each * (1 - each / one.eligible) * draw) * enlarged)


def test_the_covariance_is_that_of_all_pairs_of_cases_that_share_people() -> None:
    first, second, who = models(0)
    shots = [few_shot_report(rows, who, **SHOTS).cases for rows in (first, second)]
    ranked = [retrieval_report(rows, who).cases for rows in (first, second)]
    for one, other in (shots, ranked):
        assert one is not None
        assert other is not None
        assert one.covariance(other) == pytest.approx(naive_covariance(one, other), abs=1e-15)


def test_intervals_of_differences_hold_the_truth_and_are_narrower_than_those_of_independent_models() -> None:
    held = {"accuracy": [], "mean_average_precision": []}  # type: dict[str, list[bool]]
    narrower = []
    for seed in range(150):
        first, second, who = models(seed)
        shots = [few_shot_report(rows, who, **SHOTS, seed=seed) for rows in (first, second)]
        ranked = [retrieval_report(rows, who, ranks=(1,)) for rows in (first, second)]
        for one, other in (shots, ranked):
            found = paired(one, other)
            held[found.metric].append(found.difference.low <= 0 <= found.difference.high)
            apart = correlated_difference(
                np.array(found.values), [one.intervals[found.metric], other.intervals[found.metric]], 0.0
            )
            narrower.append((found.difference.high - found.difference.low) / (apart.high - apart.low))
    for metric, inside in held.items():
        assert np.mean(inside) >= 0.92, metric
    assert np.median(narrower) < 0.7


def saved(folder: Path, report: Any, digest: str = "the same", title: str = "network") -> Path:
    report.save(folder / "report", title=title, details={PAIRS_DIGEST: digest})
    return folder


def test_evaluations_of_the_same_queries_are_compared_with_an_interval(tmp_path: Path) -> None:
    first, second, who = models(1)
    worse = second + 2 * np.random.default_rng(0).normal(size=second.shape)
    reports = [retrieval_report(rows, who) for rows in (worse, first)]
    paths = [saved(tmp_path / str(row), report, title="AB"[row]) for row, report in enumerate(reports)]
    sentences, page = compare_runs(paths, tmp_path / "out")
    assert sentences[0].startswith("B is better: its mean average precision is ")
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    (test,) = content["case_tests"]
    assert test == json.loads(json.dumps(CaseComparison(**{**vars(paired(*reports)), "names": ("A", "B")}).to_dict()))
    assert test["difference"]["value"] == pytest.approx(reports[1].value - reports[0].value)
    assert content["figures"]["A"]["recall"] == {str(rank): value for rank, value in reports[0].recall.items()}
    html = page.read_text(encoding="utf-8")
    assert "recall@5" in html
    assert "<h2>Curves</h2>" not in html


def test_the_same_model_twice_is_said_to_be_the_same() -> None:
    first, _, who = models(1)
    report = retrieval_report(first, who)
    assert paired(report, report).sentence == "A and B have the same mean average precision in each case."


def test_why_there_is_no_paired_test_is_said(tmp_path: Path) -> None:
    first, second, who = models(2, people=6)

    def of(rows: np.ndarray, name: str, way: int = 6, digest: str = "the same", **changes: Any) -> Path:
        report = few_shot_report(rows, who, way=way, queries=3, episodes=30)
        return saved(tmp_path / name, FewShotReport(**{**vars(report), **changes}), digest, name)

    whole = [of(first, "one"), of(second, "two")]
    sentence = compare_runs(whole, tmp_path / "out")[0][0]
    assert sentence.startswith("one and two measured the same 30 episodes, and the accuracy of the second is ")
    assert "all people are in each of them, so that nothing is known of others" in sentence
    kept_less = tmp_path / "one" / "report" / "metrics.json"
    kept_less.write_text(json.dumps({"title": "of an earlier version"}))
    with pytest.raises(InputError, match="one was evaluated by a version that kept too little to compare: evaluate it"):
        compare_runs(whole, tmp_path / "out")
    other = [of(first, "three", 5), of(second, "four", 5, "another")]
    assert "did not measure the same episodes or queries" in compare_runs(other, tmp_path / "out")[0][0]
    without = [of(first, "five", 5), of(second, "six", 5, intervals={})]
    assert "(resamples=0)" in compare_runs(without, tmp_path / "out")[0][0]
    (without[0] / "report" / CASES).unlink()
    assert "were not kept" in compare_runs(without, tmp_path / "out")[0][0]


def test_cases_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    first, second, who = models(3, people=6)
    one, other = few_shot_report(first, who, way=5, queries=3), few_shot_report(second, who, way=5, queries=3, seed=1)
    with pytest.raises(InputError, match="A and B have other people in their episodes"):
        paired(one, other)
    assert one.cases is not None
    with pytest.raises(InputError, match="All people are in each case"):
        whole = one.cases._replace(eligible=5)
        compare_cases(whole, whole, (one.intervals["accuracy"],) * 2)
    (tmp_path / CASES).write_bytes(one.cases._replace(people=one.cases.people[:-1]).to_bytes())
    with pytest.raises(InputError, match="holds no values of episodes"):
        read_cases(tmp_path / CASES)
    (tmp_path / CASES).write_bytes(b"PK")
    with pytest.raises(InputError, match="is damaged"):
        read_cases(tmp_path / CASES)
