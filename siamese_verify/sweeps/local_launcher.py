"""Launcher for Hydra that trains the runs of a sweep on this machine: one after another, or some at once."""

from __future__ import annotations

import copy
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from siamese_verify.errors import InputError
from siamese_verify.sweeps.sweep_task import SweepRun, SweepTask, stop_file
from siamese_verify.worker_pool import usable_cores


class LocalLauncher(Launcher):
    """Launcher of runs on this machine, each in a process of its own.

    Args:
        runs_at_once: on CPUs, which share the cores; None for 1, or for as many as the GPUs allow.
        gpus_per_run: GPUs that a run sees, of those that this process sees; None to leave them as they are.

    Raises:
        InputError: values below 1, or fewer GPUs than a run needs.
    """

    def __init__(self, runs_at_once: int | None = None, gpus_per_run: int | None = None) -> None:
        for name, value in (("runs_at_once", runs_at_once), ("gpus_per_run", gpus_per_run)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"hydra.launcher.{name} must be a whole number of 1 or more, got {value!r}.")
        self.gpus = visible_gpus() if gpus_per_run else []
        if gpus_per_run and len(self.gpus) < gpus_per_run:
            raise InputError(f"hydra.launcher.gpus_per_run is {gpus_per_run}, but {len(self.gpus)} GPUs are visible.")
        self.gpus_per_run = gpus_per_run
        most = len(self.gpus) // gpus_per_run if gpus_per_run else 1
        self.runs_at_once = min(runs_at_once or most, most) if gpus_per_run else runs_at_once or 1

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives its launchers.

        Raises:
            InputError: a command other than a training.
        """
        if not isinstance(task_function, SweepTask):
            raise InputError("hydra/launcher=local starts trainings only: set hydra/launcher=basic.")
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train a run for each list of overrides; return their metrics in order, as Hydra's launchers do.

        Once the sweep is told to stop, those that are left are not composed, and their metrics are NaN.
        """
        jobs = enumerate(map(list, job_overrides), initial_job_idx)
        stopping = stop_file(Path(self.config.hydra.sweep.dir), self.task.parent)
        returned = self.launch_each(lambda: None if stopping.exists() else next(jobs, None), lambda number, job: None)
        left = [JobReturn(overrides, status=JobStatus.COMPLETED) for _, overrides in jobs]
        for one in left:
            one.return_value = math.nan
        return [*returned, *left]

    def launch_each(
        self, next_job: Callable[[], tuple[int, list[str]] | None], ended: Callable[[int, JobReturn], None]
    ) -> Sequence[JobReturn]:
        """Train runs that are chosen and composed one by one, `runs_at_once` at a time; return their results in order.

        Args:
            next_job: gives number and overrides of the next run, whenever one can start; None at the end.
            ended: called with the number and result of each.
        """
        setup_globals()
        results: dict[int, JobReturn] = {}
        choosing, aborted = threading.Lock(), threading.Event()

        def told() -> bool:
            if aborted.is_set():
                raise KeyboardInterrupt
            return False

        def train_some(gpus: list[str]) -> None:
            while not aborted.is_set():
                with choosing:
                    if (job := next_job()) is None:
                        return
                    number, overrides = job
                    config, run = self.compose(overrides, number)
                self.context.callbacks.on_job_start(config=config, task_function=self.task)
                value = self.task.train_run(run, told, self.environment(config, gpus))
                result = JobReturn(run.task, *parts_of(config), str(run.cwd), config.hydra.job.name)
                result.status, result.return_value = JobStatus.COMPLETED, value
                self.context.callbacks.on_job_end(config=config, job_return=result)
                with choosing:
                    results[number] = result
                    ended(number, result)

        size = self.gpus_per_run or 0
        slots = [self.gpus[slot * size : (slot + 1) * size] for slot in range(self.runs_at_once)]
        with ThreadPoolExecutor(self.runs_at_once) as pool:
            try:
                for end in as_completed([pool.submit(train_some, gpus) for gpus in slots]):
                    end.result()
            except BaseException:
                aborted.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [results[number] for number in sorted(results)]

    def compose(self, overrides: Sequence[str], number: int) -> tuple[DictConfig, SweepRun]:
        """Configuration of one run, with Hydra's part, and the run that it describes."""
        config = self.context.config_loader.load_sweep_config(self.config, [*overrides])
        with read_write(config.hydra), read_write(config.hydra.runtime):
            config.hydra.job.id = config.hydra.job.num = number
            HydraConfig.instance().set_config(config)  # for ${hydra:job.num}
            folder = Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir))
            config.hydra.runtime.output_dir = str(folder.absolute())
        return config, SweepRun.from_config(config, config.hydra)

    def environment(self, config: DictConfig, gpus: Sequence[str]) -> dict[str, str]:
        """Variables for a run: its GPUs, or its share of the cores."""
        if gpus:
            return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        if self.runs_at_once == 1 or config.threads is not None or "OMP_NUM_THREADS" in os.environ:
            return {}
        ranks = config.trainer.devices if isinstance(config.trainer.devices, int) else 1
        return {"OMP_NUM_THREADS": str(max(1, usable_cores() // (self.runs_at_once * ranks)))}


def parts_of(config: DictConfig) -> tuple[DictConfig, DictConfig]:
    """The configuration of a run and Hydra's, as its launchers separate them."""
    run, hydra = copy.deepcopy(config), OmegaConf.create({"hydra": config.hydra})
    with open_dict(run):
        del run["hydra"]
    return run, hydra


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]
