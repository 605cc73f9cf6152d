"""How the command of a sweep ends: its status tells what became of the runs, whatever else goes wrong."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from siamese_verify.cli import sweep_callbacks
from siamese_verify.cli.sweep_callbacks import WatchSweep
from siamese_verify.run_record import Status
from siamese_verify.sweeps import sweep_progress, sweep_task
from siamese_verify.sweeps.sweep_progress import SweepProgress, closing_lines
from siamese_verify.sweeps.sweep_results import read_sweep
from siamese_verify.sweeps.sweep_task import end_of_sweep, stop_at_signals
from tests.sweeps.written_runs import write_run


@pytest.fixture
def config(tmp_path: Path) -> DictConfig:
    """What the callbacks of a sweep read of its configuration."""
    return OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})


@pytest.fixture
def hydra() -> Callbacks:
    """Hydra's callbacks, which turn every Exception into a warning."""
    callbacks = Callbacks()
    callbacks.callbacks = [WatchSweep()]
    return callbacks


def watching(hydra: Callbacks, folder: Path) -> WatchSweep:
    """The callback of a sweep that has started."""
    (watch,) = hydra.callbacks
    assert isinstance(watch, WatchSweep)
    watch.handlers, watch.progress = {}, SweepProgress(folder)
    watch.progress.start()
    return watch


def test_failed_runs_end_a_sweep_with_status_1_though_its_results_cannot_be_drawn(
    hydra: Callbacks,
    config: DictConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> str:
        raise RuntimeError("zero variance")

    monkeypatch.setattr(sweep_progress, "render_sweep", refuse)
    monkeypatch.setattr(sweep_progress, "POLL", 0.01)
    write_run(tmp_path / "0", None, {"x": 1}, status="failed", error="No faces.")
    watching(hydra, tmp_path)
    with pytest.raises(SystemExit) as end:
        hydra.on_multirun_end(config)
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert "The results could not be drawn: RuntimeError: zero variance" in printed.out
    assert "1 of 1 runs failed: 0: No faces." in printed.err


@pytest.mark.parametrize(("run", "status"), [("failed", 1), ("finished", 70)])
def test_a_sweep_whose_results_cannot_be_printed_never_ends_with_status_0(
    run: Status, status: int, hydra: Callbacks, config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> str:
        raise OSError("the terminal is gone")

    monkeypatch.setattr(sweep_progress, "POLL", 0.01)
    write_run(tmp_path / "0", 0.1, {"x": 1}, status=run)
    watch = watching(hydra, tmp_path)
    watch.progress.finish()
    monkeypatch.setattr(watch.progress, "finish", refuse)
    with pytest.raises(SystemExit) as end:
        hydra.on_multirun_end(config)
    assert end.value.code == status


def test_a_sweep_that_cannot_be_watched_does_not_start(
    hydra: Callbacks, config: DictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(sweep_callbacks, "refuse_invalid", refuse)
    monkeypatch.setattr(GlobalHydra, "config_loader", lambda _: None)
    with pytest.raises(SystemExit) as end:
        hydra.on_multirun_start(config)
    assert end.value.code == 70
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_a_stopped_sweep_says_how_many_runs_it_has_not_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "0", None, {"seed": 0}, status="stopped", error="Stopped by Ctrl-C.")
    earlier = stop_at_signals(tmp_path)
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        end_of_sweep(tmp_path, runs=3)
    assert end.value.code == 130
    expected = f"Stopped by Ctrl-C: 0 of 3 runs finished, 2 not started; resume={tmp_path} continues.\n"
    assert capsys.readouterr().err == expected
    assert closing_lines(read_sweep(tmp_path))[0] == "1 run: 1 stopped."


@pytest.mark.parametrize("again", [False, True])
def test_a_signal_that_comes_twice_at_once_is_one_request(
    again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = stop_at_signals(tmp_path)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # to the process, and to its group
        if again:
            monkeypatch.setattr(sweep_task, "REPEATED", -1.0)  # as if it came later
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    with pytest.raises(SystemExit) as end:
        end_of_sweep(tmp_path)
    assert end.value.code == 75
