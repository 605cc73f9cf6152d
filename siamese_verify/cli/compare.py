"""`siamese-verify compare`: evaluations beside one another."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from siamese_verify.atomic_write import write_whole
from siamese_verify.errors import InputError, printable
from siamese_verify.evaluation import (
    Comparison,
    Interval,
    RocCurve,
    ScoreFile,
    compare_scores,
    inverted_hint,
    read_curve_points,
    read_scores,
    verification_report,
)
from siamese_verify.evaluation.pages.page import curve_numbers, interval, page_from, percent, rate
from siamese_verify.evaluation.report import PAIRS_DIGEST

TARGETS = (1e-2, 1e-3)


@dataclass(frozen=True)
class Evaluation:
    """What is left of one.

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
        """Return what the table shows, as JSON types: rates as fractions, None for what is not known."""
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
        """The digest of its pairs, None where it was not kept."""
        found: str | None = self.metrics.get("details", {}).get(PAIRS_DIGEST)
        return found


def read_evaluation(path: str | Path) -> Evaluation:
    """Read a run, an evaluation or the report folder in it, or a table of scores.

    Raises:
        InputError: there is none of them.
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
        curve = read_curve_points(folder / "curve.csv")
        there = folder / "scores.csv"
        return Evaluation(title, metrics, curve, read_scores(there) if there.is_file() else None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} holds no finished evaluation ({error}): name a run, or a table of scores.") from None


def compare_runs(paths: Sequence[str | Path], output: str | Path) -> tuple[list[str], Path]:
    """Write `compare.html`; returns what the paired tests say, and its path.

    Raises:
        InputError: fewer than two evaluations, or one that can't be read.
    """
    if len(paths) < 2:
        raise InputError(f"{len(paths)} evaluation has nothing to be compared with: name two or more.")
    runs = [read_evaluation(path) for path in paths]
    names = _unlike([run.name for run in runs], paths)
    tests: list[Comparison] = []
    sentences = []
    for first, second in combinations(range(len(runs)), 2):
        pair = names[first], names[second]
        if test := _test(runs[first], runs[second], pair):
            tests.append(test)
            sentences.append(test.sentence)
        else:
            sentences.append(_untested(runs[first], runs[second], pair))
    hints = [
        (name, inverted_hint(run.metrics["auc"], run.metrics["eer"])) for name, run in zip(names, runs, strict=True)
    ]
    sentences += [f"{name}: {hint}" for name, hint in hints if hint]
    rows = [_row(run.figures()) for run in runs]
    page = page_from(
        "compare.html.j2",
        script="report.js",
        title="Comparison",
        rows=rows,
        names=names,
        figures=[
            name for name in dict.fromkeys(name for row in rows for name in row) if any(row.get(name) for row in rows)
        ],
        sentences=sentences,
        tests=tests,
        targets=TARGETS,
        numbers={
            "curves": [curve_numbers(run.curve, name) for run, name in zip(runs, names, strict=True)],
            "points": [],
            "published": [],
        },
    )
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "compare.html", page.encode(), private=True)
    tested = [test.to_dict() for test in tests]
    figures = {name: run.figures() for name, run in zip(names, runs, strict=True)}
    content = {"figures": figures, "tests": tested, "sentences": sentences}
    write_whole(folder / "compare.json", json.dumps(content, indent=1, allow_nan=False).encode())
    return sentences, folder / "compare.html"


def _row(figures: dict[str, Any]) -> dict[str, str]:
    """Write figures for the page."""
    row = {
        "pairs": f"{figures['pairs']:,}",
        "EER": _with_interval(figures["eer"], figures["eer_interval"]),
        "AUC": f"{figures['auc']:.5f}",
        "accuracy": rate(figures["accuracy"]),
        "balanced accuracy": rate(figures["balanced_accuracy"]),
    }
    for point in figures["tar_at_far"]:
        few = "*" if point["insufficient"] else ""
        row[f"TAR@FAR={percent(point['far'], 0)}"] = _with_interval(point["tar"], point["interval"]) + few
    return row


def _with_interval(value: float, bounds: dict[str, float | None] | None) -> str:
    low, high = (bounds["low"], bounds["high"]) if bounds else (None, None)
    return percent(value) if low is None or high is None else f"{percent(value)} ({interval(Interval(low, high))})"


def _unlike(names: list[str], paths: Sequence[str | Path]) -> list[str]:
    """Tell evaluations with one name apart by their paths."""
    return [name if names.count(name) == 1 else f"{name} ({path})" for name, path in zip(names, paths, strict=True)]


def _untested(first: Evaluation, second: Evaluation, names: tuple[str, str]) -> str:
    """Say why there is no paired test, and what can be compared."""
    both = " and ".join(names)
    if first.pairs is not None and first.pairs == second.pairs:
        return (
            f"{both} compared the same {first.metrics['pairs']:,} pairs, so their figures and curves compare; their "
            "single scores were not kept, so there is no paired test: for one, evaluate both on listed pairs, such as "
            "protocol=pair_file."
        )
    differ = first.pairs is not None and second.pairs is not None
    if not differ and (first.scores is None or second.scores is None):
        without = [name for name, run in zip(names, (first, second), strict=True) if run.scores is None]
        return f"{both} cannot be tested pair by pair: the single scores of {' and '.join(without)} were not kept."
    return f"{both} did not compare the same pairs, so only the curves compare."


def _test(first: Evaluation, second: Evaluation, names: tuple[str, str]) -> Comparison | None:
    """Compare by the pairs, if they are the same; thresholds chosen on other data are taken along."""
    one, two = first.scores, second.scores
    if one is None or two is None or len(one.scores) != len(two.scores) or not np.array_equal(one.same, two.same):
        return None
    if one.names is not None and two.names is not None and not np.array_equal(one.names, two.names):
        return None
    chosen = [
        run.metrics["at_threshold"]["threshold"] if run.metrics["at_threshold"] else None for run in (first, second)
    ]
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


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.description = "Put reports of runs or evaluations beside one another, with paired tests on the same pairs."
    parser.add_argument("run", nargs="+", help="a run, an evaluation, a report folder or a table of scores")
    parser.add_argument("--output", default="runs/compare", help="folder for compare.html (%(default)s)")


def compare(options: argparse.Namespace) -> int:
    """Write a page that compares evaluations, and print what it says."""

    sentences, page = compare_runs(options.run, options.output)
    print(*map(printable, [*sentences, f"Page: {page}"]), sep="\n")
    return 0
