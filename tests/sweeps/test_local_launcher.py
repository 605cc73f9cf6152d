"""Which GPUs and cores the runs of a sweep get on this machine, and how many run at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from siamese_verify.cli.configuration import CONF
from siamese_verify.errors import InputError
from siamese_verify.sweeps.local_launcher import LocalLauncher
from siamese_verify.sweeps.sweep_task import SweepRun, SweepTask, stop_file


class RecordingTask(SweepTask):
    """Notes what each run gets, and how many run at the same time, instead of training.

    Args:
        together: runs that wait for each other.
        stopping: number of the run in which the sweep is told to stop.
    """

    def __init__(self, together: int, stopping: int | None = None) -> None:
        super().__init__(train=lambda cfg: 0.0, check=lambda cfg: None)
        self.given: dict[int, dict[str, str]] = {}
        self.folders: dict[int, Path] = {}
        self.together: list[list[str]] = []
        self._now: list[str] = []
        self._lock, self._barrier, self.stopping = threading.Lock(), threading.Barrier(together), stopping

    def train_run(
        self, run: SweepRun, told: Callable[[], bool] = lambda: False, environment: Mapping[str, str] | None = None
    ) -> float:
        variables = dict(environment or {})
        with self._lock:
            self.given[run.number], self.folders[run.number] = variables, run.folder
            self._now.append(variables.get("CUDA_VISIBLE_DEVICES", ""))
            self.together.append([*self._now])
        self._barrier.wait(60)
        if run.number == self.stopping:
            stop_file(run.sweep, self.parent).write_text("15")
        with self._lock:
            self._now.remove(variables.get("CUDA_VISIBLE_DEVICES", ""))
        return run.number / 10


def launch(launcher: LocalLauncher, task: RecordingTask, folder: Path, runs: Sequence[Sequence[str]]) -> list[float]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", [f"hydra.sweep.dir={folder}"], run_mode=RunMode.MULTIRUN)
        context = HydraContext(config_loader=loader, callbacks=Callbacks(DictConfig({})))
        launcher.setup(hydra_context=context, task_function=task, config=config)
        return [result.return_value for result in launcher.launch(runs, 3)]


def test_runs_have_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-5a,4,6,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    task = RecordingTask(together=2)
    values = launch(LocalLauncher(gpus_per_run=2), task, tmp_path, [[f"seed={seed}"] for seed in range(6)])
    assert values == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]  # in order
    assert {run["CUDA_VISIBLE_DEVICES"] for run in task.given.values()} == {"1,GPU-5a", "4,6"}
    assert max(map(len, task.together)) == 2
    assert all(len({*gpus}) == len(gpus) for gpus in task.together)
    assert task.folders == {number: tmp_path / str(number) for number in range(3, 9)}


@pytest.mark.parametrize(
    ("at_once", "overrides", "threads"),
    [(1, (), None), (2, (), 4), (2, ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"), 2), (20, (), 1)],
)
def test_runs_at_once_share_the_cores(
    at_once: int, overrides: tuple[str, ...], threads: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    task = RecordingTask(together=min(at_once, 4))
    launch(LocalLauncher(runs_at_once=at_once), task, tmp_path, [[*overrides, "seed=1"]] * 4)
    expected = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    assert [*task.given.values()] == 4 * [expected]
    assert max(map(len, task.together)) == min(at_once, 4)


def test_runs_are_composed_when_they_start_and_none_once_the_sweep_is_stopped(tmp_path: Path) -> None:
    task = RecordingTask(together=1, stopping=4)
    runs = [["seed=0"], ["seed=1"], ["no_such_setting=1"]]
    assert str(launch(LocalLauncher(), task, tmp_path, runs)) == "[0.3, 0.4, nan]"


def test_what_the_launcher_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"hydra.launcher.gpus_per_run is 2, but 1 GPUs are visible\."):
        LocalLauncher(gpus_per_run=2)
    with pytest.raises(InputError, match=r"hydra.launcher.runs_at_once must be a whole number of 1 or more, got 0\."):
        LocalLauncher(runs_at_once=0)


def test_hydra_finds_the_launcher() -> None:
    names = {f"{found.__module__}.{found.__name__}" for found in Plugins.instance().discover()}
    assert "hydra_plugins.siamese_verify.local_launcher.LocalLauncher" in names
