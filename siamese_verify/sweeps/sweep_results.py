"""Results of a sweep: its runs as a table, how they did, and the mean and spread over seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.run_record import FIRST_STAGE, RECORD, RunRecord, is_gone
from siamese_verify.sweeps.run_differences import ABSENT, SEED, differing, settings_of
from siamese_verify.tables import csv_cell

TABLE = "sweep.csv"
FOLD = "fold"  # setting of an experiment that tests one fold
TITLES = {"eer": "EER", "mean_average_precision": "mAP", "auc": "AUC"}  # of metrics, where they have another name


class Spread(NamedTuple):
    """Mean of a metric over seeds.

    Attributes:
        mean: of the runs.
        deviation: standard deviation of a run, with n - 1 degrees of freedom; NaN for one run.
        low: end of the 95 % interval of the mean, by Student's t with n - 1 degrees of freedom, within the rates' 0 ...
            1; NaN for one run, or for equal values, which do not show how far others would be.
        high: likewise.
        runs: n, of different seeds.

    The interval covers what a seed decides (initial weights, order of the batches, augmentation), for the same people:
    how well other people would be verified is what the interval of each test EER covers.
    """

    mean: float
    deviation: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of (n,) rates, n >= 1."""
        from scipy.stats import t

        mean, count = float(np.mean(values)), len(values)
        if count < 2:
            return cls(mean, math.nan, math.nan, math.nan, count)
        deviation = float(np.std(values, ddof=1))
        if deviation == 0:
            return cls(mean, deviation, math.nan, math.nan, count)
        half = float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
        return cls(mean, deviation, max(0.0, mean - half), min(1.0, mean + half), count)


class Tested(NamedTuple):
    """The metric that stands for all of a test protocol.

    Attributes:
        metric: its name, such as `eer`.
        value: a rate, in [0, 1].
        interval: 95 % over people, None where it is unknown.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class RunRow:
    """A run as a row of a sweep's table.

    Attributes:
        name: of its folder, within the sweep.
        folder: with its files.
        record: of the run.
        parameters: its values of what differs between the runs; None where its configuration has no such setting.
        value: the sweep's metric at the best epoch (so far, while it runs); None without a validation.
    """

    name: str
    folder: Path
    record: RunRecord
    parameters: Mapping[str, Any]
    value: float | None

    @property
    def status(self) -> str:
        """Status of its record, `pruned` where a search gave it up."""
        return "pruned" if self.record.pruned and self.record.status == "finished" else self.record.status

    @property
    def seed(self) -> Any:
        """Seed of the run."""
        return self.record.configuration.get(SEED)

    @property
    def bundle(self) -> Path | None:
        """Its bundle, None if it has none."""
        return self.folder / "bundle" if (self.folder / "bundle").is_dir() else None

    def tested(self, protocol: str) -> Tested | None:
        """The metric that stands for a protocol, the first in its record; None if it was not measured."""
        measured = self.record.test.get(protocol) or {}
        name = next(iter(measured), "")
        if measured.get(name) is None:
            return None
        bounds = measured.get(f"{name}_interval")
        return Tested(name, float(measured[name]), (bounds[0], bounds[1]) if bounds else None)

    def test_eer(self, protocol: str) -> float | None:
        """EER on a protocol, None if it was not measured."""
        found = self.tested(protocol)
        return found.value if found and found.metric == "eer" else None


class FoldResults(NamedTuple):
    """Models that each are tested on another fold of a protocol, after training on the people of the other folds.

    Attributes:
        protocol: name of it.
        category: of LFW's results page, "" for others.
        accuracies: by the number of the fold, in [0, 1]; each fold is decided by a threshold that its own model has
            from other people.
        folds: of the sweep, those included that have not finished.
    """

    protocol: str
    category: str
    accuracies: dict[int, float]
    folds: int

    @property
    def sentence(self) -> str:
        """Mean and standard error over the folds, as LFW's authors report them (technical report 07-49)."""
        values, count = list(self.accuracies.values()), len(self.accuracies)
        error = f" ± {np.std(values, ddof=1) / math.sqrt(count):.2%}" if count > 1 else ""
        category = f" Category of LFW's results page: {self.category}." if self.category else ""
        of = f" of {self.folds}" if count < self.folds else ""
        return (
            f"{self.protocol}: accuracy {np.mean(values):.2%}{error} over {count}{of} folds (mean and standard error), "
            f"each decided by the threshold of its own model, from other people.{category}"
        )


class SeedGroup(NamedTuple):
    """Runs that differ in nothing but `seed`."""

    parameters: dict[str, Any]
    runs: list[RunRow]
    value: Spread | None  # the sweep's metric of the finished runs
    test: dict[str, Spread]  # by protocol, the metric that stands for it

    @property
    def label(self) -> str:
        """The parameters in words."""
        return label(self.parameters)


@dataclass(frozen=True)
class SweepResults:
    """The runs of a sweep, or any runs that are compared.

    Attributes:
        folders: that were read.
        metric: by which the runs are ordered.
        mode: `min` or `max`.
        parameters: names of the settings that differ, those of the command line first.
        runs: the finished ones first, the best of them at the front; those that failed last.
    """

    folders: tuple[Path, ...]
    metric: str
    mode: str
    parameters: tuple[str, ...]
    runs: tuple[RunRow, ...]

    @cached_property
    def finished(self) -> list[RunRow]:
        """Finished runs with a metric, the best first."""
        return [run for run in self.runs if run.status == "finished" and run.value is not None]

    @cached_property
    def distinct(self) -> list[RunRow]:
        """Finished runs, the best first; of those with the same settings and the same seed the one started last.

        Repeating a run says nothing on how other seeds would do, so it does not count as another.
        """
        newest: dict[str, RunRow] = {}
        for run in sorted(self.finished, key=lambda run: run.record.started):
            newest[json.dumps({**run.parameters, SEED: run.seed}, default=str)] = run
        chosen = {id(run) for run in newest.values()}
        return [run for run in self.finished if id(run) in chosen]

    @property
    def best(self) -> RunRow | None:
        """The best finished run."""
        return self.finished[0] if self.finished else None

    @cached_property
    def protocols(self) -> list[str]:
        """Names of the test protocols."""
        return list(dict.fromkeys(name for run in self.runs for name in run.record.test))

    def test_title(self, protocol: str) -> str:
        """What is measured on a protocol, such as `test EER`."""
        found = (run.tested(protocol) for run in self.runs)
        return f"test {next((metric_title(one.metric) for one in found if one), 'EER')}"

    @property
    def counts(self) -> dict[str, int]:
        """Number of runs by status."""
        found: dict[str, int] = {}
        for run in self.runs:
            found[run.status] = found.get(run.status, 0) + 1
        return found

    @cached_property
    def groups(self) -> list[SeedGroup]:
        """Runs that differ in `seed` only, together; the best mean first, groups without a finished run last."""
        by_parameters: dict[str, list[RunRow]] = {}
        for run in self.runs:
            key = json.dumps({name: value for name, value in run.parameters.items() if name != SEED}, default=str)
            by_parameters.setdefault(key, []).append(run)
        counted = {id(run) for run in self.distinct}
        found = []
        for runs in by_parameters.values():
            done = [run for run in runs if id(run) in counted]
            values = [run.value for run in done if run.value is not None]
            tests = {}
            for protocol in self.protocols:
                measured = [one.value for run in done if (one := run.tested(protocol))]
                if measured:
                    tests[protocol] = Spread.of(measured)
            kept = {name: value for name, value in runs[0].parameters.items() if name != SEED}
            found.append(SeedGroup(kept, runs, Spread.of(values) if values else None, tests))
        return sorted(found, key=lambda one: (one.value is None, self.rank(one.value.mean if one.value else None)))

    @cached_property
    def folds(self) -> FoldResults | None:
        """Results over the folds of a protocol; None unless the runs differ in their fold only.

        A fold that was repeated counts once, as it was run last.
        """
        if set(self.parameters) != {FOLD} or not all(isinstance(run.parameters[FOLD], int) for run in self.runs):
            return None
        done = sorted(self.finished, key=lambda run: run.record.started)
        protocols = {name for run in done for name in list(run.record.test)[:1]}
        if len(protocols) != 1:
            return None
        protocol = protocols.pop()
        found = {
            int(run.parameters[FOLD]): float(run.record.test[protocol]["balanced_accuracy"])
            for run in done
            if run.record.test.get(protocol, {}).get("balanced_accuracy") is not None
        }
        categories = {run.record.lfw_category for run in done}
        category = categories.pop() if len(categories) == 1 else ""
        folds = len({run.parameters[FOLD] for run in self.runs})
        return FoldResults(protocol, category, dict(sorted(found.items())), folds) if found else None

    def rank(self, value: float | None) -> float:
        """What runs are sorted by: lower is better."""
        return math.inf if value is None or math.isnan(value) else -value if self.mode == "max" else value


def metric_title(name: str) -> str:
    """Name of a metric for people, such as `recall@1` for `recall_at_1`."""
    return TITLES.get(name, name.replace("_at_", "@").replace("_", " "))


def label(parameters: Mapping[str, Any]) -> str:
    """Parameters in words, such as `loss.margin=0.2, seed=1`; those that a run does not have are left out."""
    named = [f"{name}={shown(value)}" for name, value in parameters.items() if value is not ABSENT]
    return ", ".join(named) or "all alike"


def shown(value: Any) -> str:
    """Value of a parameter as text."""
    if value is ABSENT:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def is_rate(metric: str) -> bool:
    """Whether a metric is an error rate, shown in percent."""
    return metric.rpartition("/")[2].startswith(("eer", "far", "frr", "tar"))


def find_runs(folders: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """Names and folders of the runs in folders: a run itself, or a sweep with runs in its folders.

    Raises:
        InputError: a folder that is neither.
    """
    found: dict[Path, str] = {}
    for given in map(Path, folders):
        inner = [given] if (given / RECORD).is_file() else [path.parent for path in record_files(given)]
        if not inner:
            raise InputError(f"{given} holds no run: name a sweep, a run, an evaluation or a table of scores.")
        for one in inner:
            inside = one.relative_to(given).as_posix() if one != given else given.name or str(given)
            found.setdefault(one.resolve(), inside if len(folders) == 1 or one == given else f"{given.name}/{inside}")
    return [(name, folder) for folder, name in found.items()]


def record_files(sweep: Path) -> list[Path]:
    """Records of the runs of a sweep, whose folders lie in its own or one level below; 2 before 10, words last."""
    found = [path for depth in ("*", "*/*") for path in sweep.glob(f"{depth}/{RECORD}")]
    found = [path for path in found if path.parent.name != FIRST_STAGE]
    return sorted(found, key=lambda path: _natural(path.parent))


def _natural(folder: Path) -> tuple[tuple[int, int | str], ...]:
    """Sort key: 2 before 10, numbers before words."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in folder.parts)


class RecordsRead:
    """Records of runs and the leaves of their configurations, read again only where a file has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], RunRecord, dict[str, Any]]] = {}

    def read(self, folder: Path) -> tuple[RunRecord, dict[str, Any]]:
        """The record of a run's folder and its settings by dotted name; a damaged record is that of a failed run."""
        try:
            found = (folder / RECORD).stat()
            stamp = found.st_mtime_ns, found.st_size, found.st_ino
        except OSError:
            stamp = (0, 0, 0)
        known = self._known.get(folder)
        if known is None or known[0] != stamp:
            try:
                record = RunRecord.read(folder)
            except InputError as error:
                record = RunRecord(status="failed", error=str(error))
            known = self._known[folder] = stamp, record, settings_of(record, folder)
        return known[1], known[2]


def read_sweep(*folders: str | Path, known: RecordsRead | None = None) -> SweepResults:
    """Read the runs of sweeps, or single runs, at any time: also those that still run, failed or were stopped.

    Args:
        folders: of sweeps or runs.
        known: what was read of them before, which is brought up to date.

    Raises:
        InputError: a folder without a run.
    """
    places = find_runs(folders)
    known = known or RecordsRead()
    read = [known.read(folder) for _, folder in places]
    records = [_as_it_is(record, folder) for (record, _), (_, folder) in zip(read, places, strict=True)]
    columns = differing(records, [leaves for _, leaves in read])
    asked = [record.configuration["sweep"] for record in records if record.configuration.get("sweep")]
    chosen = asked[0] if asked else {}
    metric, mode = str(chosen.get("metric") or "val/eer"), str(chosen.get("mode") or "min")
    runs = [
        RunRow(
            name,
            folder,
            record,
            {parameter: column[place] for parameter, column in columns.items()},
            _value(record, metric, mode),
        )
        for place, ((name, folder), record) in enumerate(zip(places, records, strict=True))
    ]
    sweep = SweepResults(tuple(map(Path, folders)), metric, mode, tuple(columns), ())
    stages = ("finished", "running", "stopped", "pruned", "skipped", "failed")

    def order(run: RunRow) -> tuple[int, float]:
        return stages.index(run.status) if run.status in stages else len(stages), sweep.rank(run.value)

    return replace(sweep, runs=tuple(sorted(runs, key=order)))


def _as_it_is(record: RunRecord, folder: Path) -> RunRecord:
    """The record of a run; one that says `running` of a process of this machine that is gone is a failed run."""
    if not record.host and (folder / "report" / "metrics.json").is_file():
        record = replace(record, status="finished")  # written before records had a status
    if record.status == "running" and is_gone(record.host, record.process, record.written or math.inf):
        record = replace(record, status="failed", error="Its process ended without a word.")
    return record


def _value(record: RunRecord, metric: str, mode: str) -> float | None:
    """The metric at the best epoch, or the best so far."""
    found = record.metrics.get(metric)
    if found is None:
        seen = [metrics[metric] for _, _, metrics in record.history if metrics.get(metric) is not None]
        found = (max if mode == "max" else min)(seen, default=None)
    return None if found is None or not math.isfinite(found) else float(found)


def sweep_table(sweep: SweepResults) -> bytes:
    """CSV of a sweep, one line for each run, rates as fractions."""
    columns = ["run", "status", *sweep.parameters, sweep.metric, "epoch"]
    further: dict[str, list[str]] = {}  # other metrics of each protocol
    for protocol in sweep.protocols:
        names = dict.fromkeys(name for run in sweep.runs for name in list(run.record.test.get(protocol, {}))[1:])
        further[protocol] = [name for name in names if not name.endswith("_interval")]
        columns += [f"{sweep.test_title(protocol)} ({protocol})", f"low ({protocol})", f"high ({protocol})"]
        columns += [f"{metric_title(name)} ({protocol})" for name in further[protocol]]
    columns += ["seconds", "started", "host", "exit_status", "error", "folder", "command"]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([csv_cell(column) for column in columns])
    for run in sweep.runs:
        record = run.record
        row: list[Any] = [run.name, run.status, *(run.parameters[name] for name in sweep.parameters)]
        row += [run.value, record.best_epoch]
        for protocol in sweep.protocols:
            found = run.tested(protocol)
            row += [found.value, *(found.interval or (None, None))] if found else [None, None, None]
            row += [record.test.get(protocol, {}).get(name) for name in further[protocol]]
        row += [round(record.seconds, 1), record.started, record.host, record.exit_status, record.error]
        row += [run.folder, record.command]
        writer.writerow(["" if cell is None else csv_cell(str(cell)) for cell in row])
    return table.getvalue().encode()
