"""Results of a sweep: in what its runs differ, how they did, mean and spread over seeds, importance of parameters."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.run_record import RECORD, RunRecord
from siamese_verify.tables import csv_cell

TABLE = "sweep.csv"
SEED = "seed"
ABSENT = None  # value of a parameter that a run's configuration does not have
ELSEWHERE = {"hydra", "sweep", "resume", "ckpt_path", "name", "logger"}  # say where or how a run ran, not what it is
LEVELS = 5  # distinct numbers from which on they are put in bins
BINS = 4
FEWEST_RUNS = 6  # for any statement on importance
FOREST_RUNS = 20  # for a random forest
FOREST_MOST = 200  # runs in it, at equal distances from the best to the worst: it takes a minute for a thousand
PERMUTATIONS = 2000
BLOCK = 100  # of them at once


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

    def test_eer(self, protocol: str) -> float | None:
        """EER on a protocol, None if it was not measured."""
        found = self.record.test.get(protocol, {}).get("eer")
        return None if found is None else float(found)


class SeedGroup(NamedTuple):
    """Runs that differ in nothing but `seed`."""

    parameters: dict[str, Any]
    runs: list[RunRow]
    value: Spread | None  # the sweep's metric of the finished runs
    test: dict[str, Spread]  # EER by protocol

    @property
    def label(self) -> str:
        """The parameters in words."""
        return label(self.parameters)


class Importance(NamedTuple):
    """How much of the variance of the sweep's metric a parameter explains.

    Attributes:
        parameter: its name.
        share: in [0, 1]; None where the runs are too few.
        p_value: of the hypothesis that it has no influence, by permutation of the runs, adjusted for the number of
            parameters that are tested; None likewise.
        runs: that have the parameter, the repeated ones once.
    """

    parameter: str
    share: float | None
    p_value: float | None
    runs: int


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
                measured = [eer for run in done if (eer := run.test_eer(protocol)) is not None]
                if measured:
                    tests[protocol] = Spread.of(measured)
            kept = {name: value for name, value in runs[0].parameters.items() if name != SEED}
            found.append(SeedGroup(kept, runs, Spread.of(values) if values else None, tests))
        return sorted(found, key=lambda one: (one.value is None, self.rank(one.value.mean if one.value else None)))

    def rank(self, value: float | None) -> float:
        """What runs are sorted by: lower is better."""
        return math.inf if value is None or math.isnan(value) else -value if self.mode == "max" else value


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
            known = self._known[folder] = stamp, record, _flat(record.configuration, folder)
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
    if record.status == "running" and record.host == socket.gethostname() and not _alive(record.process):
        record = replace(record, status="failed", error="Its process ended without a word.")
    return record


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # of another user
    return True


def _value(record: RunRecord, metric: str, mode: str) -> float | None:
    """The metric at the best epoch, or the best so far."""
    found = record.metrics.get(metric)
    if found is None:
        seen = [metrics[metric] for _, _, metrics in record.history if metrics.get(metric) is not None]
        found = (max if mode == "max" else min)(seen, default=None)
    return None if found is None or not math.isfinite(found) else float(found)


def differing(records: Sequence[RunRecord], settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Settings in which resolved configurations differ, with the value of each run.

    A choice of a config group is one setting: `loss` with the names that the command line chose, or with those of the
    classes. Left out is what follows from another setting: copies of its value (by interpolation), what a choice alone
    decides, and paths in the run's own folder.

    Args:
        records: of N runs.
        settings: of these runs, by dotted name.

    Returns:
        (N,) values by name of the setting; those given on a command line first, the seed last.
    """
    flat = [dict(values) for values in settings]
    given = [dict(_assignments(record.overrides)) for record in records]
    unknown = [{name for name, value in values.items() if _unresolved(value)} for values in flat]
    for values, overrides, names_of in zip(flat, given, unknown, strict=True):
        if not values:  # it failed before it was composed: what its command line does not say is not known
            names_of.add("")
        values.update({name: _parsed(text) for name, text in overrides.items() if not values or name in names_of})
    names = list(dict.fromkeys(name for values in flat for name in values))
    chosen = {name.rpartition(".")[0] for name in names if name.endswith("._target_")}
    columns: dict[str, list[Any]] = {}
    for group in sorted(chosen & {name for overrides in given for name in overrides}):
        if all(group in overrides for overrides in given):
            columns[group] = [overrides[group] for overrides in given]
    for name in names:
        group = name.removesuffix("._target_")
        if name in chosen or group in columns:
            continue  # null instead of a choice, which the choice's own column shows
        column = [one.get(name) for one in flat]
        columns[group] = [_last(value) for value in column] if group != name else column
    varying = {}
    for name, column in columns.items():
        rows = zip(column, unknown, given, strict=True)
        known = {repr(value) for value, without, own in rows if name in own or not _below(name, without)}
        if len(known) > 1:
            varying[name] = column
    explicit = {name for overrides in given for name in overrides}
    order = sorted(varying, key=lambda name: (name not in explicit, name.count(".")))
    found: dict[str, list[Any]] = {}
    seen: set[str] = set()
    for name in order:
        column = varying[name]
        copy = repr(column) in seen
        seen |= {repr(column), repr([_last(one.get(f"{name}._target_")) for one in flat])}  # by name, or by class
        above = [choice for choice in chosen & set(varying) if name.startswith(f"{choice}.")]
        if name in explicit or not (copy or any(_decides(varying[choice], column) for choice in above)):
            found[name] = column
    return {name: found[name] for name in sorted(found, key=lambda name: name == SEED)}


def _flat(values: Any, folder: Path, prefix: str = "") -> dict[str, Any]:
    """Leaves of a configuration by dotted name; lists as text, the run's own folder as `.`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if not prefix and name in ELSEWHERE:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, folder, f"{prefix}{name}.")
        elif isinstance(value, str):
            found[f"{prefix}{name}"] = "." if _inside(value, folder) else value
        else:
            found[f"{prefix}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return found


def _unresolved(value: Any) -> bool:
    """Whether a value is an interpolation that was not resolved."""
    return isinstance(value, str) and "${" in value


def _below(name: str, places: set[str]) -> bool:
    """Whether a setting is one of the places, or below one; everything is below the empty place."""
    if not places:
        return False
    parts = name.split(".")
    return any(".".join(parts[:count]) in places for count in range(len(parts) + 1))


def _inside(text: str, folder: Path) -> bool:
    """Whether a value is a path in the run's folder."""
    parts = Path(text).parts
    return len(parts) > 1 and folder.parts[-2:] in [parts[at : at + 2] for at in range(len(parts) - 1)]


def _assignments(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Names and values of overrides, without those of Hydra itself."""
    split = [one.lstrip("+~").partition("=") for one in overrides]
    pairs = [(name.partition("@")[0], value.strip("'\"")) for name, _, value in split]
    return [(name, value) for name, value in pairs if name.partition(".")[0].partition("/")[0] not in ELSEWHERE]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _last(target: Any) -> Any:
    """Name of a class or function without its module; `none` where a choice is null."""
    return "none" if target is None else str(target).rpartition(".")[2]


def _decides(choice: Sequence[Any], column: Sequence[Any]) -> bool:
    """Whether runs of the same choice have the same value."""
    pairs = {(repr(one), repr(value)) for one, value in zip(choice, column, strict=True)}
    return len(pairs) == len({one for one, _ in pairs})


def importances(sweep: SweepResults) -> tuple[list[Importance], str]:
    """How much each parameter explains of the variance of the sweep's metric over its distinct runs, and the method.

    A parameter's share is omega squared, the part of the variance between its values without what chance alone gives
    (Hays 1963); numbers with more than `LEVELS` values count in bins of equal size. From `FOREST_RUNS` runs on, with
    numbers of many values and with optuna and scikit-learn installed, it is the functional ANOVA of a random forest
    (Hutter, Hoos & Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014). Whether a
    parameter has an influence at all is tested by permutation. Fewer than `FEWEST_RUNS` runs, or than two for each
    value, show nothing. The p-values are adjusted by Holm ("A Simple Sequentially Rejective Multiple Test Procedure",
    Scandinavian Journal of Statistics 1979): whichever parameters have no influence, the probability that one or more
    of them gets a p-value below 0.05 is at most 5 %.

    Returns:
        The most important first, and the method in words.
    """
    runs = sweep.distinct
    values = np.array([run.value for run in runs], dtype=np.float64)
    tested: list[Importance] = []
    for name in sweep.parameters:
        column = [run.parameters[name] for run in runs]
        having = [row for row, value in enumerate(column) if value is not ABSENT]
        levels = _levels([column[row] for row in having])
        count, kinds = len(having), len(set(levels))
        if kinds < 2 and count == len(runs):
            continue
        if kinds < 2 or count < max(FEWEST_RUNS, 2 * kinds) or not np.ptp(values[having]):
            tested.append(Importance(name, None, None, count))
        else:
            tested.append(Importance(name, *_explained(np.array(levels), values[having]), count))
    method = "variance between the values of one parameter (omega squared)"
    many = any(len({run.parameters[name] for run in runs}) > LEVELS for name in sweep.parameters)
    if many and len(runs) >= FOREST_RUNS and (shares := _forest_shares(sweep)):
        shares |= {one.parameter: None for one in tested if one.p_value is None}  # too few runs for its values
        tested = [one._replace(share=shares.get(one.parameter, one.share)) for one in tested]
        method = "functional ANOVA of a random forest"
    tested = _adjusted_by_holm(tested)
    count = sum(one.p_value is not None for one in tested)
    several = f", adjusted for {count} parameters (Holm)" if count > 1 else ""
    method = f"{method}, {len(runs)} runs; p by permutation{several}"
    return sorted(tested, key=lambda one: (one.share is None, -(one.share or 0))), method


def _adjusted_by_holm(tested: Sequence[Importance]) -> list[Importance]:
    """The same with p-values by Holm: the k-th smallest of m times m - k + 1, no smaller than those before it."""
    ordered = sorted((one for one in tested if one.p_value is not None), key=lambda one: one.p_value or 0.0)
    adjusted, largest = {}, 0.0
    for place, one in enumerate(ordered):
        largest = max(largest, min(1.0, (one.p_value or 0.0) * (len(ordered) - place)))
        adjusted[one.parameter] = largest
    return [one._replace(p_value=adjusted.get(one.parameter)) for one in tested]


def is_rate(metric: str) -> bool:
    """Whether a metric is an error rate, shown in percent."""
    return metric.rpartition("/")[2].startswith(("eer", "far", "frr", "tar"))


def is_numeric(column: Sequence[Any]) -> bool:
    """Whether values are numbers, all of them."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)


def logarithmic(column: Sequence[float]) -> bool:
    """Whether numbers belong on a logarithmic axis: all positive, over two decades or more."""
    return min(column) > 0 and max(column) >= 100 * min(column)


def _levels(column: Sequence[Any]) -> list[int]:
    """(N,) number of each value, or of its bin for numbers with many values."""
    if is_numeric(column) and len(set(column)) > LEVELS:
        edges = np.quantile(np.array(column, dtype=np.float64), np.linspace(0, 1, BINS + 1)[1:-1])
        return [int(place) for place in np.searchsorted(edges, column)]
    kinds = list(dict.fromkeys(map(repr, column)))
    return [kinds.index(repr(value)) for value in column]


def _explained(levels: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Omega squared of (N,) values by (N,) levels, and the p-value of no influence."""
    kinds = int(levels.max()) + 1
    sizes = np.bincount(levels, minlength=kinds)
    kept = sizes > 0
    centered = values - values.mean()

    members = (levels[:, None] == np.flatnonzero(kept)) / np.sqrt(sizes[kept])  # (N, levels)

    def between(rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = ((rows @ members) ** 2).sum(axis=1)
        return found

    total, real = float(centered @ centered), float(between(centered[None])[0])
    free = int(kept.sum()) - 1
    within = max(total - real, 0.0) / max(len(values) - free - 1, 1)
    rng = np.random.default_rng(0)
    tied = real * (1 - 1e-9)  # equal sums in another order
    as_large = 0
    for _ in range(PERMUTATIONS // BLOCK):
        as_large += int((between(rng.permuted(np.tile(centered, (BLOCK, 1)), axis=1)) >= tied).sum())
    return max(float((real - free * within) / (total + within)), 0.0), (as_large + 1) / (PERMUTATIONS + 1)


def _forest_shares(sweep: SweepResults) -> dict[str, float | None]:
    """Functional ANOVA by optuna, of the parameters that all distinct runs have.

    Empty where it is not installed, and where equal values leave no variance to explain.
    """
    try:
        import optuna
        import sklearn  # noqa: F401
    except ImportError:
        return {}
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    places = np.linspace(0, len(sweep.distinct) - 1, min(len(sweep.distinct), FOREST_MOST)).round().astype(int)
    runs = [sweep.distinct[place] for place in places]
    if len({run.value for run in runs}) < 2:
        return {}
    ranges: dict[str, Any] = {}
    for name in sweep.parameters:
        column = [run.parameters[name] for run in runs]
        if len(set(map(repr, column))) < 2 or ABSENT in column:
            continue
        if is_numeric(column):
            low, high = float(min(column)), float(max(column))
            ranges[name] = FloatDistribution(low, high, log=logarithmic(column))
        else:
            ranges[name] = CategoricalDistribution(list(dict.fromkeys(map(str, column))))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study()
        for run in runs:
            given = {
                name: float(run.parameters[name]) if isinstance(kind, FloatDistribution) else str(run.parameters[name])
                for name, kind in ranges.items()
            }
            study.add_trial(optuna.trial.create_trial(params=given, distributions=ranges, value=run.value))
        shares = optuna.importance.FanovaImportanceEvaluator(n_trees=32, max_depth=32, seed=0).evaluate(study)
        return {name: float(share) for name, share in shares.items()}
    finally:
        optuna.logging.set_verbosity(verbosity)


def sweep_table(sweep: SweepResults) -> bytes:
    """CSV of a sweep, one line for each run, rates as fractions."""
    columns = ["run", "status", *sweep.parameters, sweep.metric, "epoch"]
    for protocol in sweep.protocols:
        columns += [f"test EER ({protocol})", f"low ({protocol})", f"high ({protocol})", f"AUC ({protocol})"]
    columns += ["seconds", "started", "host", "exit_status", "error", "folder", "command"]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([csv_cell(column) for column in columns])
    for run in sweep.runs:
        record = run.record
        row: list[Any] = [run.name, run.status, *(run.parameters[name] for name in sweep.parameters)]
        row += [run.value, record.metrics.get("epoch")]
        for protocol in sweep.protocols:
            test = record.test.get(protocol, {})
            row += [test.get("eer"), *(test.get("eer_interval") or (None, None)), test.get("auc")]
        row += [round(record.seconds, 1), record.started, record.host, record.exit_status, record.error]
        row += [run.folder, record.command]
        writer.writerow(["" if cell is None else csv_cell(str(cell)) for cell in row])
    return table.getvalue().encode()
