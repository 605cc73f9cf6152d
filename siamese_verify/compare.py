"""`siamese-verify compare`: evaluations beside one another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    Comparison,
    RocCurve,
    ScoreFile,
    compare_scores,
    read_curve_points,
    read_scores,
    verification_report,
)
from siamese_verify.evaluation.pages.page import curve_numbers, page_from, percent
from siamese_verify.files import write_whole

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

    def row(self) -> dict[str, str]:
        """Figures for the table."""
        row = {"pairs": f"{self.metrics['pairs']:,}", "EER": percent(self.metrics["eer"])}
        row["AUC"] = f"{self.metrics['auc']:.5f}"
        if self.metrics["kfold"]:
            row["accuracy"] = percent(self.metrics["kfold"]["mean"])
        elif self.metrics["at_threshold"]:
            row["accuracy"] = percent(self.metrics["at_threshold"]["accuracy"])
        for point in self.metrics["operating_points"]:
            row[f"TAR@FAR={percent(point['target'], 0)}"] = percent(point["tar"]) + (
                "*" if point["insufficient"] else ""
            )
        return row


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


def compare(paths: Sequence[str | Path], output: str | Path) -> tuple[list[str], Path]:
    """Write `compare.html`; returns what the paired tests say, and its path.

    Raises:
        InputError: fewer than two evaluations, or one that can't be read.
    """
    if len(paths) < 2:
        raise InputError(f"{len(paths)} evaluation has nothing to be compared with: name two or more.")
    runs = [read_evaluation(path) for path in paths]
    names = _unlike([run.name for run in runs], paths)
    tests = [
        test
        for first, second in combinations(range(len(runs)), 2)
        if (test := _test(runs[first], runs[second], (names[first], names[second]))) is not None
    ]
    sentences = [test.sentence for test in tests] or ["They did not score the same pairs, so only the curves compare."]
    rows = [run.row() for run in runs]
    page = page_from(
        "compare.html.j2",
        script="report.js",
        title="Comparison",
        rows=rows,
        names=names,
        figures=list(dict.fromkeys(name for row in sorted(rows, key=_order) for name in row)),
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
    write_whole(
        folder / "compare.json",
        json.dumps(
            {"figures": dict(zip(names, rows, strict=True)), "tests": tested}, indent=1, allow_nan=False
        ).encode(),
    )
    return sentences, folder / "compare.html"


def _order(row: dict[str, str]) -> tuple[bool, int]:
    """Put rows first that have every figure, so that those of all come in their order."""
    return "accuracy" not in row, -len(row)


def _unlike(names: list[str], paths: Sequence[str | Path]) -> list[str]:
    """Tell evaluations with one name apart by their paths."""
    return [name if names.count(name) == 1 else f"{name} ({path})" for name, path in zip(names, paths, strict=True)]


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
