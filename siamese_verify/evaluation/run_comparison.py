"""Comparison of finished evaluations: their metrics side by side, their curves, and paired tests of the same pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.evaluation.all_pairs_comparison import AllPairsErrors, EqualErrorComparison
from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.cases import CASES, CaseComparison, Cases, compare_cases, read_cases
from siamese_verify.evaluation.comparison import ScoreComparison, compare_scores
from siamese_verify.evaluation.embedding_file import EMBEDDINGS, EmbeddingFile, read_embeddings
from siamese_verify.evaluation.report import PAIRS_DIGEST, inverted_hint, verification_report
from siamese_verify.evaluation.roc import RocCurve, read_curve
from siamese_verify.evaluation.score_file import ScoreFile, read_scores
from siamese_verify.run_record import runs_within

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGETS = (1e-2, 1e-3)  # false accept rates of the paired tests
MANY_TESTS = 5
NUMBERS = ("episodes", "way", "shots", "queries", "gallery", "people")  # of protocols that score no pairs
EACH_WITH_EACH = 5  # evaluations; of more, the first is compared with each of the others


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation, read from its files.

    Attributes:
        name: for the page.
        metrics: as in metrics.json.
        curve: its operating points, None of a protocol that scores no pairs.
        scores: of its pairs, None where all pairs were compared, or none.
        folder: with the embeddings of all pairs, None of a table of scores.
    """

    name: str
    metrics: dict[str, Any]
    curve: RocCurve | None
    scores: ScoreFile | None
    folder: Path | None = None

    @property
    def metric(self) -> str:
        """Name of the metric that stands for all."""
        return str(self.metrics.get("metric", "eer"))

    @property
    def interval(self) -> Interval | None:
        """Interval of that metric over people."""
        found = self.metrics.get("intervals", {}).get(self.metric)
        return Interval(**found) if found else None

    @cached_property
    def cases(self) -> Cases | None:
        """Episodes or queries of which the metric is the mean, None of pairs."""
        path = self.folder / CASES if self.folder else None
        return read_cases(path) if path and path.is_file() else None

    @cached_property
    def embeddings(self) -> EmbeddingFile | None:
        """The embedded photos, None where they were not kept."""
        path = self.folder / EMBEDDINGS if self.folder else None
        return read_embeddings(path) if path and path.is_file() else None

    @cached_property
    def errors(self) -> AllPairsErrors | None:
        """The equal error rate of all pairs, ready for paired tests; None without embeddings."""
        kept = self.embeddings
        return AllPairsErrors(kept.embeddings, kept.identities) if kept else None

    def figures(self) -> dict[str, Any]:
        """Return the compared metrics as JSON types: rates as fractions, None for what is unknown."""
        metrics = self.metrics
        if self.curve is None:
            found = {name: metrics[name] for name in (self.metric, *NUMBERS, "recall") if name in metrics}
            return found | {f"{self.metric}_interval": self.interval and self.interval._asdict()}
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

    @property
    def units(self) -> str:
        """What was measured, in words, such as `1,000 episodes`."""
        names = [name for name in ("pairs", "episodes", "queries") if self.metrics.get(name)]
        return f"{self.metrics[names[0]]:,} {names[0]}" if names else "photos"


def read_evaluation(path: str | Path) -> Evaluation:
    """Read a run, an evaluation or the report folder in it, or a table of scores.

    Raises:
        InputError: there is no evaluation in `path`.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"There is no file or folder {path}: name a run, an evaluation or a table of scores.")
    if place.is_file():
        scores = read_scores(place)
        report = verification_report(scores.scores, scores.same, scores.folds)
        return Evaluation(place.stem, report.to_dict(), report.curve, scores)
    folder = place / "report" if (place / "report").is_dir() else place
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        title = str(metrics["title"])
        if not metrics.keys() & {"metric", "eer"}:
            raise InputError(f"{path} was evaluated by a version that kept too little to compare: evaluate it again.")
        if metrics.get("metric", "eer") != "eer":
            return Evaluation(title, metrics, None, None, folder)
        curve = read_curve(folder / "curve.csv")
        table = folder / "scores.csv"
        return Evaluation(title, metrics, curve, read_scores(table) if table.is_file() else None, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        if runs := runs_within(place):
            raise InputError(f"{path}{runs}") from None
        reason = f"no {Path(str(error.filename)).name}" if isinstance(error, FileNotFoundError) else str(error)
        raise InputError(f"{path} holds no finished evaluation ({reason}): name a run, or a table of scores.") from None


def compare_runs(
    paths: Sequence[str | Path], output: str | Path, labels: Sequence[str] | None = None
) -> tuple[list[str], Path]:
    """Write compare.html and compare.json; return the results of the paired tests in words, and the page's path.

    Args:
        paths: of evaluations, each by `read_evaluation`. Up to `EACH_WITH_EACH` are each tested with each, of more the
            first with each of the others.
        output: folder for the page.
        labels: names of the evaluations, such as what differs between runs; their titles without.

    Raises:
        InputError: fewer than two evaluations, or one that cannot be read.
    """
    from siamese_verify.evaluation.pages.page import render_comparison

    runs = [read_evaluation(path) for path in paths]
    if len(runs) < 2:
        raise InputError(f"{len(runs)} evaluation has nothing to be compared with: name two or more.")
    titles = list(labels) if labels else [run.name for run in runs]
    names = [
        title if titles.count(title) == 1 else f"{title} ({path})" for title, path in zip(titles, paths, strict=True)
    ]
    tests: list[ScoreComparison] = []
    all_pairs_tests: list[EqualErrorComparison] = []
    case_tests: list[CaseComparison] = []
    sentences = []
    few = len(runs) <= EACH_WITH_EACH
    for first, second in combinations(range(len(runs)), 2) if few else [(0, other) for other in range(1, len(runs))]:
        pair = names[first], names[second]
        if test := _paired_test(runs[first], runs[second], pair):
            tests.append(test)
            sentences.append(test.sentence)
        elif found := _all_pairs_test(runs[first], runs[second], pair):
            all_pairs_tests.append(found)
            sentences.append(found.sentence)
        elif cases := _case_test(runs[first], runs[second], pair):
            case_tests.append(cases)
            sentences.append(cases.sentence)
        else:
            sentences.append(_why_untested(runs[first], runs[second], pair))
    if (count := len(tests) + len(all_pairs_tests) + len(case_tests)) >= MANY_TESTS:
        sentences.append(f"Of {count} comparisons at 95 %, one in twenty shows a difference by chance alone.")
    for name, run in zip(names, runs, strict=True):
        if run.curve and (hint := inverted_hint(run.metrics["auc"], run.metrics["eer"])):
            sentences.append(f"{name}: {hint}")
    figures = {name: run.figures() for name, run in zip(names, runs, strict=True)}
    curves = {name: run.curve for name, run in zip(names, runs, strict=True) if run.curve}
    page = render_comparison(figures, curves, sentences, tests, TARGETS, all_pairs_tests, case_tests)
    content = {
        "figures": figures,
        "tests": [test.to_dict() for test in tests],
        "all_pairs_tests": [test.to_dict() for test in all_pairs_tests],
        "case_tests": [test.to_dict() for test in case_tests],
        "sentences": sentences,
    }
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
        device="auto",
    )


def _all_pairs_test(first: Evaluation, second: Evaluation, names: tuple[str, str]) -> EqualErrorComparison | None:
    """Compare the EER over all pairs of the same photos; None for others, or without embeddings."""
    if first.pairs is None or first.pairs != second.pairs or first.embeddings is None or second.embeddings is None:
        return None
    photos = [(one.photos, one.identities) for one in (first.embeddings, second.embeddings)]
    if not all(np.array_equal(one, other) for one, other in zip(*photos, strict=True)):
        return None
    one, other = first.errors, second.errors
    return one.compare(other, names) if one and other else None


def _case_test(first: Evaluation, second: Evaluation, names: tuple[str, str]) -> CaseComparison | None:
    """Compare the metric of the same episodes or queries; None for others, or without intervals over people."""
    one, other, intervals = first.cases, second.cases, (first.interval, second.interval)
    if not _alike(first, second) or one is None or other is None or intervals[0] is None or intervals[1] is None:
        return None
    if one.people.shape != other.people.shape or one.eligible <= one.people.shape[1]:
        return None
    return compare_cases(one, other, (intervals[0], intervals[1]), names=names, metric=first.metric)


def _alike(first: Evaluation, second: Evaluation) -> bool:
    """Whether both measured the same metric on the same."""
    return first.metric == second.metric and first.pairs is not None and first.pairs == second.pairs


def _why_untested(first: Evaluation, second: Evaluation, names: tuple[str, str]) -> str:
    """Return why there is no paired test, and what can be compared, in a sentence."""
    both = " and ".join(names)
    if first.metric != second.metric:
        return f"{both} were measured by different protocols, so nothing compares."
    if first.curve is None:
        words = first.metric.replace("_", " ")
        if not _alike(first, second):
            return f"{both} did not measure the same episodes or queries, so there is no paired test of their {words}."
        apart = 100 * (second.metrics[second.metric] - first.metrics[first.metric])
        return (
            f"{both} measured the same {first.units}, and the {words} of the second is {abs(apart):.2f} percentage "
            f"points {'lower' if apart < 0 else 'higher'}; {_why_without(first, second)}, so there is no paired test."
        )
    if first.pairs is not None and first.pairs == second.pairs:
        return (
            f"{both} compared the same {first.metrics['pairs']:,} pairs, so their metrics and curves compare; neither "
            "their scores nor their embeddings were kept, so there is no paired test: evaluate both again with "
            "keep_embeddings=true."
        )
    differ = first.pairs is not None and second.pairs is not None
    if not differ and (first.scores is None or second.scores is None):
        without = [name for name, run in zip(names, (first, second), strict=True) if run.scores is None]
        return f"{both} cannot be tested pair by pair: the single scores of {' and '.join(without)} were not saved."
    return f"{both} did not compare the same pairs, so only the curves compare."


def _why_without(first: Evaluation, second: Evaluation) -> str:
    """What a paired test of the same episodes or queries lacks, in words."""
    one = first.cases
    if one is None or second.cases is None:
        return "the single episodes or queries of an earlier evaluation were not kept"
    if one.eligible <= one.people.shape[1]:
        return "all people are in each of them, so that nothing is known of others"
    return "their intervals over people were not computed (resamples=0)"
