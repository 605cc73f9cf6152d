"""Sweeps of real trainings: resumed after a kill, and searched by Optuna with two processes a run."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from siamese_verify.errors import InputError
from siamese_verify.run_lock import claim, is_claimed, one_at_a_time
from siamese_verify.run_record import RunRecord
from siamese_verify.sweeps.optuna_sweeper import JOURNAL
from siamese_verify.sweeps.resume_sweep import record_sweep, resume_arguments
from siamese_verify.sweeps.sweep_task import refuse_other_run
from siamese_verify.sweeps.trial_pruning import open_storage
from tests.conftest import SMALL_BATCHES, TINY

PROBE = "+callbacks.probe={_target_: tests.sweeps.breaking_runs.Probe, crash: -1, kill: -1}"  # neither
COMMAND = [sys.executable, "-m", "siamese_verify.cli.main", "train"]


def train(folder: Path, *arguments: str) -> int:
    """Run `siamese-verify train` in a folder; return its exit status."""
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([*COMMAND, *arguments], cwd=folder, env=variables, stdout=subprocess.DEVNULL).returncode


def test_the_command_of_a_sweep_takes_the_place_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, elsewhere = tmp_path / "my sweep", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    cores = "hydra.launcher.runs_at_once=2"
    record_sweep(sweep, ["-m", cores, "loss.margin=0.1,0.2", "hydra.sweep.dir=other", "data.root=faces"])
    record_sweep(sweep, ["resumed"])  # keeps the first
    monkeypatch.chdir(elsewhere)
    arguments = resume_arguments([f"resume={sweep}", "hydra/launcher=joblib", "-m"])
    assert arguments == [
        "-m",
        "loss.margin=0.1,0.2",
        "data.root=faces",
        "hydra/launcher=joblib",
        f"hydra.sweep.dir='{sweep}'",
    ]
    assert Path.cwd() == tmp_path
    with pytest.raises(InputError, match=r"continues the sweep with its own settings: leave out loss=contrastive"):
        resume_arguments([f"resume={sweep}", "loss=contrastive"])
    assert resume_arguments(["resume=runs/one", "seed=1"]) == ["resume=runs/one", "seed=1"]
    (sweep / "sweep.json").write_text("{")
    with pytest.raises(InputError, match=r"sweep.json is damaged"):
        resume_arguments([f"resume={sweep}"])


@pytest.mark.parametrize(
    "argument",
    [
        "encoder._target_=os.system",
        "+callbacks.mine={_target_: os.system, command: ls}",
        "+callbacks.mine={'_target_':os.system}",
        "--config-dir=configs",
        "-cd",
        "hydra.searchpath=[file://configs]",
        "+hydra.job_logging.filters={x: {(): my.filter}}",
        "encoder._target_=my.Net,other.Net",
        "loss='${oc.create:{_target_: my.Net}}'",
        "loss='${oc.decode:\"{_${name}_: my.Net}\"}'",
    ],
)
def test_a_sweep_brings_no_code_or_configs_unasked(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record_sweep(tmp_path / "sweep", ["-m", argument, "seed=0,1"])
    with pytest.raises(InputError, match=r"never used unasked"):
        resume_arguments(["resume=sweep", "trust_code=my.Net"])
    if "os.system" in argument:
        assert argument in resume_arguments(["resume=sweep", "trust_code=[my.Net,os.system]"])


def test_a_claim_ends_with_the_last_process_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".alive"
    assert not is_claimed(path)
    held = claim(path)
    assert held is not None and is_claimed(path) and claim(path) is None
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held.fileno()])
    held.close()
    assert is_claimed(path)
    sleeper.kill()
    sleeper.communicate()
    assert not is_claimed(path)


def test_who_only_looks_at_a_file_does_not_keep_it_from_being_claimed(tmp_path: Path) -> None:
    looking = (tmp_path / "file").open("ab+")
    fcntl.flock(looking, fcntl.LOCK_SH)
    Timer(0.2, looking.close).start()
    held = claim(tmp_path / "file")
    assert held is not None
    held.close()


def test_files_are_used_unclaimed_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    held = claim(tmp_path / "file")
    assert held is not None and not is_claimed(tmp_path / "file")
    held.close()
    with one_at_a_time(tmp_path / "turn"):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "Files cannot be locked here (No locks available): let no two commands write to one folder at a time."
    ]


@pytest.mark.slow
def test_a_killed_grid_goes_on_where_it_was(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    settings = [*TINY, *SMALL_BATCHES, "loss.margin=0.2,0.3", "trainer.max_epochs=6", f"hydra.sweep.dir={sweep}"]
    with subprocess.Popen([*COMMAND, "-m", *settings], cwd=tmp_path, stdout=subprocess.DEVNULL) as killed:
        while not (sweep / "1" / "checkpoints" / "last.ckpt").exists():
            assert killed.poll() is None
            time.sleep(0.05)
        killed.kill()
    while is_claimed(sweep / "1" / ".alive"):  # its run ends by itself
        time.sleep(0.1)
    first, cut = RunRecord.read(sweep / "0"), RunRecord.read(sweep / "1")
    assert (first.status, cut.status) == ("finished", "stopped")
    assert train(tmp_path, f"resume={sweep}") == 0
    assert RunRecord.read(sweep / "0") == first
    resumed = RunRecord.read(sweep / "1")
    assert resumed.status == "finished"
    assert [epoch for epoch, _, _ in resumed.history] == list(range(6))
    assert resumed.history[: len(cut.history)] == cut.history


@pytest.mark.slow
def test_a_search_with_two_processes_a_run_prunes_and_goes_on(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    settings = [
        *(
            *TINY,
            *SMALL_BATCHES,
            "trainer=ddp",
            "trainer.accelerator=cpu",
            "trainer.devices=2",
            "trainer.sync_batchnorm=false",
            "trainer.max_epochs=3",
        ),
        *(
            "hydra/sweeper=optuna",
            "hydra/sweeper/sampler=random",
            "hydra.sweeper.n_trials=1",
            f"hydra.sweep.dir={sweep}",
        ),
        *("hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruner.upper=-1"),
        *("+hydra.sweeper.pruner.n_warmup_steps=1", PROBE),
        *("loss.margin=interval(0.1, 0.6)", "optimizer.lr=tag(log, interval(1e-4, 1e-2))"),
    ]
    assert train(tmp_path, "-m", *settings) == 0
    assert train(tmp_path, f"resume={sweep}", "hydra.sweeper.n_trials=2") == 2, "the probe and the pruner are not ours"
    permission = "trust_code=[tests.sweeps.breaking_runs.Probe,optuna.pruners.ThresholdPruner]"
    assert train(tmp_path, f"resume={sweep}", "hydra.sweeper.n_trials=2", permission) == 0
    [study] = open_storage(str(sweep / JOURNAL)).get_all_studies()
    trials = open_storage(str(sweep / JOURNAL)).get_all_trials(study._study_id)
    assert [trial.state.name for trial in trials] == ["PRUNED"] * 2
    for number, trial in enumerate(trials):
        ranks = [json.loads((sweep / str(number) / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
        assert [rank["ranks"] for rank in ranks] == [2, 2]
        assert [rank["margin"] for rank in ranks] == [trial.params["loss.margin"]] * 2
        record = RunRecord.read(sweep / str(number))
        assert record.status == "finished" and record.pruned
        assert [epoch for epoch, _, _ in record.history] == [0, 1] == sorted(trial.intermediate_values)
        assert record.history[1][2]["val/eer"] == pytest.approx(trial.intermediate_values[1])
    assert len({trial.params["loss.margin"] for trial in trials}) == 2


def test_a_run_whose_setting_is_nan_is_the_same_run(tmp_path: Path) -> None:
    record = RunRecord(overrides=["seed=1", "loss.margin=nan"])
    refuse_other_run(tmp_path, record, ["loss.margin=nan", "seed=1"])
    with pytest.raises(InputError, match="holds another run"):
        refuse_other_run(tmp_path, record, ["loss.margin=0.2", "seed=1"])
