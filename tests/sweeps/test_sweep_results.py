from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from scipy.stats import f_oneway, ttest_1samp

from siamese_verify.errors import InputError
from siamese_verify.run_record import RunRecord
from siamese_verify.sweeps.parameter_importance import importances
from siamese_verify.sweeps.sweep_page import render_sweep
from siamese_verify.sweeps.sweep_results import (
    RecordsRead,
    RunRow,
    Spread,
    SweepResults,
    label,
    read_sweep,
    sweep_table,
)
from tests.sweeps.written_runs import PROTOCOL, make, write_grid, write_run

LOSSES = "siamese_verify.losses."


@pytest.fixture
def grid(tmp_path: Path) -> SweepResults:
    write_grid(tmp_path / "grid")
    return read_sweep(tmp_path / "grid")


def test_runs_are_ordered_by_validation_and_failures_are_last(grid: SweepResults) -> None:
    assert [run.name for run in grid.runs] == ["3", "4", "0", "1", "2", "5", "11", "10"]
    assert grid.best is not None
    assert grid.best.value == 0.02
    assert grid.best.test_eer(PROTOCOL) == pytest.approx(0.03)
    assert grid.counts == {"finished": 6, "running": 1, "failed": 1}
    assert grid.runs[-2].value == pytest.approx(0.001), "a run that goes on has its best so far"


def test_runs_that_a_search_gave_up_count_for_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "0", 0.2, {"x": 1})
    write_run(tmp_path / "1", 0.1, {"x": 2}, pruned=True)
    write_run(tmp_path / "2", None, {"x": 3}, status="skipped", error="It can never work.")
    write_run(tmp_path / "3", None, {"x": 4}, status="stopped")
    sweep = read_sweep(tmp_path)
    assert [(run.name, run.status) for run in sweep.runs] == [
        ("0", "finished"),
        ("3", "stopped"),
        ("1", "pruned"),
        ("2", "skipped"),
    ]
    assert [run.name for run in sweep.finished] == ["0"]
    assert [group.value is None for group in sweep.groups] == [False, True, True, True]


def test_a_metric_that_is_better_when_high_turns_the_order(tmp_path: Path) -> None:
    for name, auc in (("a", 0.7), ("b", 0.9), ("c", math.nan)):
        record = write_run(tmp_path / name, 0.1, {"x": name})
        record.configuration["sweep"] = {"metric": "val/auc", "mode": "max"}
        record.metrics["val/auc"] = auc
        record.write(tmp_path / name)
    assert [run.value for run in read_sweep(tmp_path).runs] == [0.9, 0.7, None]


def test_seeds_are_summed_up_by_students_t(grid: SweepResults) -> None:
    best, second, unfinished = grid.groups
    assert [group.label for group in grid.groups] == ["loss.margin=0.5", "loss.margin=0.2", "loss.margin=0.9"]
    assert best.value is not None
    expected = ttest_1samp([0.02, 0.03, 0.07], 0).confidence_interval(0.95)
    assert expected.low < 0, "no rate is"
    assert list(best.value) == pytest.approx([0.04, 0.0264575, 0.0, expected.high, 3])
    narrow = ttest_1samp([0.3, 0.31, 0.33], 0).confidence_interval(0.95)
    assert list(Spread.of([0.3, 0.31, 0.33])[2:4]) == pytest.approx([narrow.low, narrow.high])
    assert second.value is not None
    assert second.value.mean == pytest.approx(0.05)
    assert second.test[PROTOCOL].mean == pytest.approx(0.06)
    assert unfinished.value is None
    assert len(unfinished.runs) == 2


def test_one_seed_has_no_interval_and_the_same_seed_twice_is_one(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, 0.1, {"seed": 3})
    (group,) = read_sweep(tmp_path).groups
    assert group.value is not None
    assert group.value.runs == 1
    assert math.isnan(group.value.low)
    assert math.isnan(group.value.high)
    assert Spread.of([0.5]).mean == 0.5
    assert math.isnan(Spread.of([0.5, 0.5]).high), "equal values do not show how far others would be"


def differ(tmp_path: Path, *runs: tuple[dict[str, Any], list[str]]) -> dict[str, list[Any]]:
    """What differs, by name, for configurations with the overrides that made them."""
    for place, (configuration, overrides) in enumerate(runs):
        folder = make(tmp_path / "sweep" / str(place))
        RunRecord("failed", configuration=configuration, overrides=overrides).write(folder)
    sweep = read_sweep(tmp_path / "sweep")
    ordered = sorted(sweep.runs, key=lambda run: int(run.name))
    return {name: [run.parameters[name] for run in ordered] for name in sweep.parameters}


def test_what_differs_is_in_the_configurations_and_not_only_in_overrides(tmp_path: Path) -> None:
    one = {"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "threads": 1, "resamples": 1000}
    two = {"optimizer": {"lr": 0.1, "betas": [0.8, 0.99]}, "threads": 1, "resamples": 0}
    assert differ(tmp_path, (one, []), (two, ["resamples=0"])) == {"optimizer.betas": ["[0.9, 0.99]", "[0.8, 0.99]"]}


def test_copies_and_paths_of_a_run_do_not_differ(tmp_path: Path) -> None:
    runs = [
        (
            {
                "seed": seed,
                "datamodule": {"seed": seed},
                "trainer": {"default_root_dir": str(tmp_path / "sweep" / str(seed))},
                "callbacks": {"dirpath": f"sweep/{seed}/checkpoints"},
                "logger": {"version": f"v{seed}"},
                "earlier_stages": [{"method": "SimCLR", "seconds": 7.5 + seed}],
                "cache": f"/home/{seed}",
                "data": {"cache": f"/home/{seed}"},
            },
            [f"seed={seed}", f"hydra.run.dir=sweep/{seed}"],
        )
        for seed in range(2)
    ]
    assert differ(tmp_path, *runs) == {"seed": [0, 1]}


def test_a_sweep_that_was_moved_differs_as_before(tmp_path: Path) -> None:
    for seed in range(2):
        folder = f"runs/then/{seed}"
        configuration = {"trainer": {"default_root_dir": folder}, "callbacks": {"dirpath": f"{folder}/checkpoints"}}
        RunRecord("failed", configuration={"seed": seed, **configuration}).write(make(tmp_path / "now" / str(seed)))
    assert read_sweep(tmp_path / "now").parameters == ("seed",)


def test_a_choice_is_one_setting_and_what_it_alone_decides_is_none(tmp_path: Path) -> None:
    def run(loss: str, name: str, **settings: Any) -> tuple[dict[str, Any], list[str]]:
        overrides = [f"loss={name}", *(f"loss.{key}={value}" for key, value in settings.items() if key == "margin")]
        return {"loss": {"_target_": LOSSES + loss, **settings}}, overrides

    found = differ(
        tmp_path,
        run("TripletLoss", "triplet", margin=0.2, soft=False),
        run("TripletLoss", "triplet", margin=0.4, soft=False),
        run("NTXentLoss", "nt_xent", temperature=0.1),
    )
    assert found == {"loss": ["triplet", "triplet", "nt_xent"], "loss.margin": [0.2, 0.4, None]}


def test_a_copy_of_a_choice_does_not_differ(tmp_path: Path) -> None:
    runs: list[tuple[dict[str, Any], list[str]]] = []
    for name, target, hardness in (("identity", "IdentityBatchSampler", {}), ("hard", "Hard", {"hardness": 0.5})):
        sampler = {"_target_": f"siamese_verify.samplers.{target}", **hardness}
        runs.append(({"sampler": sampler, "datamodule": {"sampler": sampler}}, [f"sampler={name}"]))
    assert differ(tmp_path, *runs) == {"sampler": ["identity", "hard"]}


def test_a_choice_of_the_defaults_has_the_name_of_its_class(tmp_path: Path) -> None:
    miner = {"_target_": "siamese_verify.miners.semi_hard.SemiHard", "margin": 0.2}
    assert differ(tmp_path, ({"miner": None}, []), ({"miner": miner}, ["miner=semi_hard"])) == {
        "miner": ["none", "SemiHard"]
    }


def test_a_run_that_failed_before_it_was_composed_has_its_overrides(tmp_path: Path) -> None:
    found = differ(tmp_path, ({"loss": {"margin": 0.2}}, ["loss.margin=0.2"]), ({}, ["loss.margin=0.9"]))
    assert found["loss.margin"] == [0.2, 0.9]


def test_what_was_not_resolved_does_not_differ(tmp_path: Path) -> None:
    composed = {"seed": 1, "lr": 0.1, "datamodule": {"seed": 1, "photos": {"root": "faces"}}}
    raw = {"seed": 2, "lr": 0.1, "datamodule": {"seed": "${seed}", "photos": "${data.photos}"}}
    assert differ(tmp_path, (composed, []), (raw, [])) == {"seed": [1, 2]}


def test_several_sweeps_and_single_runs_are_read_together(tmp_path: Path) -> None:
    write_run(tmp_path / "one" / "0", 0.3, {"x": 1})
    write_run(tmp_path / "two" / "0", 0.2, {"x": 2})
    write_run(tmp_path / "alone", 0.1, {"x": 3})
    sweep = read_sweep(tmp_path / "one", tmp_path / "two", tmp_path / "alone", tmp_path / "one" / "0")
    assert [run.name for run in sweep.runs] == ["alone", "two/0", "one/0"]
    with pytest.raises(InputError, match="holds no run: name a sweep"):
        read_sweep(make(tmp_path / "empty"))


def test_damaged_records_and_processes_that_are_gone_are_failed_runs(tmp_path: Path) -> None:
    import socket

    make(tmp_path / "0").joinpath("run.json").write_text("{")
    gone = 2**22 + 1  # above the highest process number of Linux
    write_run(tmp_path / "1", None, {}, status="running", host=socket.gethostname(), process=gone)
    write_run(tmp_path / "2", None, {}, status="running", host="another machine", process=gone)
    found = {run.name: (run.record.status, run.record.error) for run in read_sweep(tmp_path).runs}
    assert found["0"][0] == "failed"
    assert "is damaged" in str(found["0"][1])
    assert found["1"] == ("failed", "Its process ended without a word.")
    assert found["2"] == ("running", None)


def test_a_run_is_alive_by_its_own_clock_not_that_of_the_file_server(tmp_path: Path) -> None:
    import socket

    live = {"status": "running", "host": socket.gethostname(), "process": os.getpid()}
    for name in "abc":
        write_run(tmp_path / name, None, {}, **live)
        record = json.loads((tmp_path / name / "run.json").read_text())
        record |= {"a": {}, "b": {"written": 1.0}, "c": {"written": 0.0}}[name]
        (tmp_path / name / "run.json").write_text(json.dumps(record))
        os.utime(tmp_path / name / "run.json", (1, 1))
    found = {run.name: run.record.status for run in read_sweep(tmp_path).runs}
    assert found == {"a": "running", "b": "failed", "c": "running"}, "b is the number of another process now"


def test_the_table_has_a_line_for_each_run_and_no_formula(tmp_path: Path) -> None:
    write_grid(tmp_path)
    write_run(tmp_path / "12", None, {"loss.margin": 0.1}, status="failed", error="=1+1")
    sweep = read_sweep(tmp_path)
    rows = list(csv.DictReader(io.StringIO(sweep_table(sweep).decode())))
    assert [row["run"] for row in rows] == [run.name for run in sweep.runs]
    assert float(rows[0]["val/eer"]) == 0.02
    assert rows[0]["epoch"] == "3"  # from 1
    ends = [float(rows[0][f"{name} ({PROTOCOL})"]) for name in ("low", "high")]
    assert ends == [pytest.approx(0.02), pytest.approx(0.04)]
    assert rows[0]["command"].endswith("loss.margin=0.5 seed=0")
    assert {row["run"]: row["error"] for row in rows}["12"] == "'=1+1"


def swept(tmp_path: Path, values: list[tuple[dict[str, Any], float]]) -> SweepResults:
    for place, (overrides, eer) in enumerate(values):
        write_run(tmp_path / str(place), eer, overrides)
    return read_sweep(tmp_path)


def test_importance_of_a_grid_is_omega_squared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        ({"margin": margin, "width": width, "seed": seed}, 0.1 + 0.02 * margin + rng.normal(0, 0.004))
        for margin in range(3)
        for width in range(2)
        for seed in range(3)
    ]
    found, method = importances(swept(tmp_path, rows))
    shares = {one.parameter: one for one in found}
    assert found[0].parameter == "margin"
    assert set(shares) == {"margin", "width", "seed"}
    values = [[eer for given, eer in rows if given["margin"] == margin] for margin in range(3)]
    f = f_oneway(*values).statistic
    expected = 2 * (f - 1) / (2 * (f - 1) + len(rows))  # omega squared of an F with 2 degrees of freedom
    assert shares["margin"].share == pytest.approx(expected)
    assert shares["margin"].p_value == pytest.approx(3 / 2001), "the least of 2,000 permutations, of three parameters"
    assert shares["width"].p_value is not None
    assert shares["width"].p_value > 0.05
    assert "omega squared" in method
    assert method.endswith("18 runs; p by permutation, adjusted for 3 parameters (Holm)")


def test_no_importance_is_claimed_from_too_few_runs(tmp_path: Path) -> None:
    found, _ = importances(swept(tmp_path, [({"x": place}, 0.1 * place) for place in range(5)]))
    assert [(one.share, one.p_value) for one in found] == [(None, None)]


def test_runs_that_are_repeated_count_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = [({"x": x, "seed": seed}, float(rng.normal(0.2, 0.02))) for x in range(3) for seed in range(3)]
    once, again = swept(tmp_path / "once", rows), swept(tmp_path / "thrice", 3 * rows)
    assert len(again.finished) == 27
    assert len(again.distinct) == 9
    assert importances(again) == importances(once)
    assert [group.value for group in again.groups] == [group.value for group in once.groups]


def test_of_runs_that_are_repeated_the_one_started_last_counts(tmp_path: Path) -> None:
    for place, day in enumerate((2, 3, 1)):
        write_run(tmp_path / str(place), 0.1 * day, {"x": 1, "seed": 0}, started=f"2026-01-0{day}T10:00:00+00:00")
    write_run(tmp_path / "3", 0.5, {"x": 1, "seed": 1})
    sweep = read_sweep(tmp_path)
    assert [run.name for run in sweep.distinct] == ["1", "3"]
    assert sweep.groups[0].value is not None
    assert sweep.groups[0].value.mean == pytest.approx((0.3 + 0.5) / 2)


def of_values(columns: dict[str, list[Any]], values: np.ndarray) -> SweepResults:
    """A sweep of finished runs, one for each of (N,) values, with (N,) values of each parameter."""
    runs = [
        RunRow(str(row), Path(str(row)), RunRecord("finished", configuration={"seed": row}), given, float(value))
        for row, value in enumerate(values)
        for given in [{name: column[row] for name, column in columns.items()}]
    ]
    return SweepResults((), "val/eer", "min", tuple(columns), tuple(runs))


@pytest.mark.parametrize("influence", [0.0, 3.0], ids=["of none", "of one"])
def test_one_in_twenty_sweeps_at_most_claims_an_influence_that_is_none(influence: float) -> None:
    """Family-wise: of six parameters, five without any influence or all; 400 simulated sweeps of 24 runs."""
    rng = np.random.default_rng(0)
    sweeps, wrong, alone, found = 400, 0, 0, 0
    for _ in range(sweeps):
        columns = {f"x{number}": rng.integers(2, size=24).tolist() for number in range(6)}
        values = rng.normal(0.2, 0.02, 24) * (1 + 0.1 * influence * np.array(columns["x0"]))
        p_values = {one.parameter: one.p_value for one in importances(of_values(columns, values))[0]}
        without = [p_values[name] or 0.0 for name in columns if name != "x0" or not influence]
        wrong += min(without) < 0.05
        found += p_values["x0"] is not None and p_values["x0"] < 0.05
        alone += f_oneway(*(values[np.array(columns["x1"]) == one] for one in range(2))).pvalue < 0.05
    error = 3 * math.sqrt(0.05 * 0.95 / sweeps)  # of a share of 5 % that is counted in so many sweeps
    assert wrong / sweeps < 0.05 + error
    assert abs(alone / sweeps - 0.05) < error, "a single test of a single parameter, by F"
    assert influence == 0 or found / sweeps > 0.9, "not by claiming nothing"


def test_numbers_of_a_random_search_are_judged_by_a_forest(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs optuna: pip install optuna")
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install scikit-learn")
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        rate, decay = 10 ** rng.uniform(-4, -1), rng.uniform(0, 1)
        rows.append(({"lr": float(rate), "decay": float(decay)}, 0.1 + 0.05 * (np.log10(rate) + 2.5) ** 2))
    found, method = importances(swept(tmp_path, rows))
    assert method.startswith("functional ANOVA of a random forest, 40 runs")
    assert [one.parameter for one in found] == ["lr", "decay"]
    assert found[0].share is not None
    assert found[1].share is not None
    assert found[0].share > 0.5 > 0.2 > found[1].share
    assert found[1].p_value is not None
    assert found[1].p_value > 0.05


def test_equal_results_of_a_random_search_show_no_importance(tmp_path: Path) -> None:
    sweep = swept(tmp_path, [({"lr": 0.01 * (place + 1)}, 0.5) for place in range(20)])
    found, method = importances(sweep)
    assert [(one.share, one.p_value) for one in found] == [(None, None)]
    assert method.startswith("variance between the values of one parameter")
    assert "<svg" in render_sweep(sweep)


def test_a_parameter_with_too_few_runs_for_its_values_has_no_importance_in_a_forest(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs optuna: pip install optuna")
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install scikit-learn")
    rows = [({"lr": 0.01 * (place + 1), "net": f"net{place % 15}"}, 0.1 + 0.01 * place) for place in range(20)]
    sweep = swept(tmp_path, rows)
    found, method = importances(sweep)
    assert method.startswith("functional ANOVA")
    shares = {one.parameter: (one.share, one.p_value) for one in found}
    assert shares["net"] == (None, None)
    assert None not in shares["lr"]
    assert "<svg" in render_sweep(sweep)


def test_only_records_that_have_changed_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        write_run(tmp_path / str(number), 0.1 + number / 100, {"x": number})
    known = RecordsRead()
    first = read_sweep(tmp_path, known=known)
    write_run(tmp_path / "4", 0.01, {"x": 7})
    write_run(tmp_path / "5", None, {"x": 8}, status="failed")
    read: list[str] = []

    def counted(folder: Path, original: Any = RunRecord.read) -> RunRecord:
        read.append(folder.name)
        return cast("RunRecord", original(folder))

    monkeypatch.setattr(RunRecord, "read", counted)
    again = read_sweep(tmp_path, known=known)
    assert read == ["4", "5"]
    assert again == read_sweep(tmp_path) != first
    assert again.best is not None
    assert again.best.parameters == {"x": 7}


def test_a_label_leaves_out_what_a_run_does_not_have() -> None:
    assert label({"loss": "triplet", "margin": 0.25, "temperature": None, "soft": True}) == (
        "loss=triplet, margin=0.25, soft=true"
    )
