"""Comparison of finished evaluations: their metrics side by side, their curves, and paired tests of the same pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.evaluation.comparison import ScoreComparison, compare_scores
from siamese_verify.evaluation.report import PAIRS_DIGEST, inverted_hint, verification_report
from siamese_verify.evaluation.roc import RocCurve, read_curve
from siamese_verify.evaluation.score_file import ScoreFile, read_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGETS = (1e-2, 1e-3)  # false accept rates of the paired tests


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation, read from its files.

    Attributes:
        name: for the page.
        metrics: as in metrics.json.
        curve: its operating points.
        scores: of its pairs, None where all pairs were compared.
    """

    name: str
    metrics: dict[str, Any]
    curve: RocCurve
    scores: ScoreFile | None

    def figures(self) -> dict[str, Any]:
        """Return the compared metrics as JSON types: rates as fractions, None for what is unknown."""
        metrics = self.metrics
        fixed, folds, intervals = metrics["at_threshold"], metrics["kfold"], metrics.get("intervals", {})
        return {
            "pairs": metrics["pairs"],
            "eer": metrics["eer"],
            "eer_interval": intervals.get("eer"),
            "auc": metrics["auc"],
            "accuracy": folds["mean"] if folds else None,
            "balanced_accuracy": 1 - (fixed["far"] + fixed["frr"]) / 2 if fixed else None,
            "tar_at_far": [
                {
                    "far": point["target"],
                    "tar": point["tar"],
                    "interval": intervals.get(f"tar_at_far_{point['target']:g}"),
                    "insufficient": point["insufficient"],
                }
                for point in metrics["operating_points"]
            ],
        }

    @property
    def pairs(self) -> str | None:
        """The digest of its pairs, None where it is unknown."""
        found: str | None = self.metrics.get("details", {}).get(PAIRS_DIGEST)
        return found

    @property
    def threshold(self) -> float | None:
        """The threshold chosen on other data, None without one."""
        fixed = self.metrics["at_threshold"]
        return fixed["threshold"] if fixed else None


def read_evaluation(path: str | Path) -> Evaluation:
    """Read a run, an evaluation or the report folder in it, or a table of scores.

    Raises:
        InputError: there is no evaluation in `path`.
    """
    place = Path(path)
    if place.is_file():
        scores = read_scores(place)
        report = verification_report(scores.scores, scores.same, scores.folds)
        return Evaluation(place.stem, report.to_dict(), report.curve, scores)
    folder = place / "report" if (place / "report").is_dir() else place
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        title = str(metrics["title"])
        curve = read_curve(folder / "curve.csv")
        table = folder / "scores.csv"
        return Evaluation(title, metrics, curve, read_scores(table) if table.is_file() else None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} holds no finished evaluation ({error}): name a run, or a table of scores.") from None


def compare_runs(paths: Sequence[str | Path], output: str | Path) -> tuple[list[str], Path]:
    """Write compare.html and compare.json; return the results of the paired tests in words, and the page's path.

    Raises:
        InputError: fewer than two evaluations, or one that cannot be read.
    """
    from siamese_verify.evaluation.pages.page import render_comparison

    if len(paths) < 2:
        raise InputError(f"{len(paths)} evaluation has nothing to be compared with: name two or more.")
    runs = [read_evaluation(path) for path in paths]
    titles = [run.name for run in runs]
    names = [
        title if titles.count(title) == 1 else f"{title} ({path})" for title, path in zip(titles, paths, strict=True)
    ]
    tests: list[ScoreComparison] = []
    sentences = []
    for first, second in combinations(range(len(runs)), 2):
        pair = names[first], names[second]
        if test := _paired_test(runs[first], runs[second], pair):
            tests.append(test)
            sentences.append(test.sentence)
        else:
            sentences.append(_why_untested(runs[first], runs[second], pair))
    for name, run in zip(names, runs, strict=True):
        if hint := inverted_hint(run.metrics["auc"], run.metrics["eer"]):
            sentences.append(f"{name}: {hint}")
    figures = {name: run.figures() for name, run in zip(names, runs, strict=True)}
    curves = {name: run.curve for name, run in zip(names, runs, strict=True)}
    page = render_comparison(figures, curves, sentences, tests, TARGETS)
    content = {"figures": figures, "tests": [test.to_dict() for test in tests], "sentences": sentences}
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "compare.html", page.encode(), private=True)
    atomic_write(folder / "compare.json", json.dumps(content, indent=1, allow_nan=False).encode())
    return sentences, folder / "compare.html"


def _paired_test(first: Evaluation, second: Evaluation, names: tuple[str, str]) -> ScoreComparison | None:
    """Compare the scores of the same pairs, each at its threshold chosen on other data; None for other pairs."""
    one, two = first.scores, second.scores
    if one is None or two is None or len(one.scores) != len(two.scores) or not np.array_equal(one.same, two.same):
        return None
    if one.names is not None and two.names is not None and not np.array_equal(one.names, two.names):
        return None
    chosen = first.threshold, second.threshold
    thresholds = (chosen[0], chosen[1]) if chosen[0] is not None and chosen[1] is not None else None
    return compare_scores(
        one.scores,
        two.scores,
        one.same,
        one.identities,
        folds=one.folds,
        thresholds=thresholds,
        names=names,
        targets=TARGETS,
    )


def _why_untested(first: Evaluation, second: Evaluation, names: tuple[str, str]) -> str:
    """Return why there is no paired test, and what can be compared, in a sentence."""
    both = " and ".join(names)
    if first.pairs is not None and first.pairs == second.pairs:
        return (
            f"{both} compared the same {first.metrics['pairs']:,} pairs, so their metrics and curves compare; their "
            "single scores were not saved, so there is no paired test: for one, evaluate both on listed pairs, such as "
            "protocol=pair_file."
        )
    differ = first.pairs is not None and second.pairs is not None
    if not differ and (first.scores is None or second.scores is None):
        without = [name for name, run in zip(names, (first, second), strict=True) if run.scores is None]
        return f"{both} cannot be tested pair by pair: the single scores of {' and '.join(without)} were not saved."
    return f"{both} did not compare the same pairs, so only the curves compare."
