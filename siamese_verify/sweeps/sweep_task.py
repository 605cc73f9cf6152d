"""What Hydra's launchers call for each run of a sweep, how a sweep is stopped by a signal, and how it ends."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from siamese_verify.errors import InputError, printable
from siamese_verify.run_lock import ALIVE, claim, is_claimed
from siamese_verify.run_record import FIRST_STAGE, RECORD, RunRecord, is_gone, record_of
from siamese_verify.sweeps.child_run import STOPPED, pasted, quoted, run_in_process, task_rank
from siamese_verify.sweeps.resume_sweep import FREE, own_arguments, resume_override

EXIT_FAILED_RUNS = 1  # of a sweep
REPEATED = 1.0  # seconds within which one request may come twice: to a process, and to its process group
SHOWN = 3  # reasons in the last line
OF_THE_SWEEP = ("hydra.mode", "hydra.launcher", "hydra.sweeper", "hydra.sweep", "hydra.run.dir")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, as composed.

    Attributes:
        number: in the sweep.
        task: its overrides, without those of Hydra.
        overrides: that make it a plain single run.
        flags: of Hydra that it needs too: --config-dir and --config-name.
        folder: of the run.
        sweep: folder of the sweep.
        cwd: folder that relative paths start from.
        metric: that the sweep optimises.
    """

    number: int
    task: list[str]
    overrides: list[str]
    flags: list[str]
    folder: Path
    sweep: Path
    cwd: Path
    metric: str

    @classmethod
    def from_config(cls, cfg: DictConfig, hydra: DictConfig) -> SweepRun:
        """The run that a configuration, with Hydra's part of it, describes."""
        task, own = [*hydra.overrides.task], [*hydra.overrides.hydra]
        own = [text for text in own if not text.lstrip("+~").replace("/", ".").startswith(OF_THE_SWEEP)]
        own += ["hydra.mode=RUN", f"hydra.job.num={hydra.job.num}", f"hydra.job.id={quoted(str(hydra.job.id))}"]
        flags = [f"--config-dir={one.path}" for one in hydra.runtime.config_sources if one.provider == "command-line"]
        if hydra.job.config_name != "train":
            flags.append(f"--config-name={hydra.job.config_name}")
        cwd = Path(hydra.runtime.cwd)
        sweep, folder = cwd / hydra.sweep.dir, Path(hydra.runtime.output_dir)
        return cls(hydra.job.num, task, [*task, *own], flags, folder, sweep, cwd, cfg.sweep.metric)

    def value(self, record: RunRecord) -> float:
        """The metric of a finished run; NaN for any other."""
        measured = record.metrics.get(self.metric)
        return float(measured) if record.status == "finished" and measured is not None else math.nan


class SweepTask:
    """Task function for Hydra: trains within this process or, as one run of a sweep, in a process of its own.

    Pickled by launchers, it holds no function of `__main__`: workers of a sweep import neither torch nor the command.

    Args:
        train: trains on a configuration.
        check: raises InputError for a configuration that cannot be trained on, without reading data.
    """

    def __init__(self, train: Callable[[DictConfig], float], check: Callable[[DictConfig], None]) -> None:
        self.train, self.check = train, check
        self.__wrapped__ = train  # names the job for Hydra
        self.parent = (socket.gethostname(), os.getpid())

    def __getstate__(self) -> dict[str, Any]:
        return {"parent": self.parent}

    def __call__(self, cfg: DictConfig) -> float:
        """Train, or start the training of a run of a sweep; return its metric, NaN for a run that failed."""
        hydra = HydraConfig.get()
        if hydra.mode != RunMode.MULTIRUN:
            return self.train(cfg)
        with noting_signals() as noted:
            return self.train_run(SweepRun.from_config(cfg, cast("DictConfig", hydra)), lambda: bool(noted))

    def train_run(
        self, run: SweepRun, told: Callable[[], bool] = lambda: False, environment: Mapping[str, str] | None = None
    ) -> float:
        """Train one run of a sweep in a process of its own, unless the sweep has finished or skipped it earlier.

        Args:
            run: the run.
            told: whether this run was told to stop.
            environment: variables for its process.

        Returns:
            Its metric, NaN if it did not finish.

        Raises:
            InputError: the folder holds another run.
        """
        sentinel = stop_file(run.sweep, self.parent)

        def stop() -> bool:
            return told() or sentinel.exists() or self.orphaned()

        alive = claim(run.folder / (f"{ALIVE}_{rank}" if (rank := task_rank()) else ALIVE))
        if alive is None:
            print(f"Run {run.number} runs in another process: {run.folder}", flush=True)
            return math.nan
        with alive:
            record = record_of(run.folder)
            refuse_other_run(run.folder, record, run.task)
            if record is None or record.status not in ("finished", "skipped"):
                if stop():
                    return math.nan
                overrides = [*run.overrides, *resume_override(run.folder)]
                record = run_in_process(
                    overrides, run.folder, environment, flags=run.flags, cwd=run.cwd, stop=stop, alive=alive
                )
                if record.error and sentinel.exists() and sentinel.read_text() == str(int(signal.SIGINT)):
                    # the sweep passes Ctrl-C on as a signal that no process can ignore
                    record.error = record.error.replace("Stopped by SIGTERM", "Stopped by Ctrl-C", 1)
                    record.write(run.folder)
        return run.value(record)

    def orphaned(self) -> bool:
        """Whether the sweep's process was one of this machine and is gone; a job of SLURM outlives it."""
        return "SLURM_JOB_ID" not in os.environ and is_gone(*self.parent)


def refuse_other_run(folder: Path, record: RunRecord | None, task: Sequence[str]) -> None:
    """Check that the record in a run's folder, if there is one, is of these overrides.

    Those of where and for how long a run trains may differ: it may have been resumed with them by itself.

    Raises:
        InputError: it is of others.
    """
    if record is None or not record.overrides:
        return
    parser = OverridesParser.create()
    earlier, present = (
        [one for one in own_arguments(overrides) if not one.lstrip("+~").startswith(FREE)]
        for overrides in (record.overrides, task)
    )
    values = (
        {
            str(one.input_line).partition("=")[0]: value if (value := one.value()) == value else "nan"
            for one in parser.parse_overrides(overrides)
        }
        for overrides in (earlier, present)
    )
    if next(values) != next(values):
        raise InputError(
            f"{folder} holds another run (overrides {' '.join(earlier) or 'none'}): set another hydra.sweep.dir."
        )


@contextmanager
def noting_signals() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in a list instead of ending by them, where nothing else handles them."""
    noted: list[int] = []
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) in defaults]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    earlier = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in numbers}
    try:
        yield noted
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def stop_file(sweep: Path, parent: tuple[str, int]) -> Path:
    """File in the folder of a sweep that tells its runs, on whatever machine, to stop."""
    return sweep / f".stop-{parent[0]}-{parent[1]}"


def gave_up_file(sweep: Path) -> Path:
    """File in the folder of a sweep in which a search of this process says why it ended early."""
    return sweep / f".gave-up-{socket.gethostname()}-{os.getpid()}"


def stop_at_signals(sweep: Path) -> dict[signal.Signals, Any]:
    """On SIGINT, SIGTERM and SLURM's warning signals tell the runs of a sweep to stop; on a second one, end.

    One that comes again within `REPEATED` is the same request.

    Returns:
        The handlers until now.
    """
    sentinel = stop_file(sweep, (socket.gethostname(), os.getpid()))
    sweep.mkdir(parents=True, exist_ok=True)
    sentinel.unlink(missing_ok=True)
    gave_up_file(sweep).unlink(missing_ok=True)

    since: list[float] = []

    def stop(number: int, _: FrameType | None) -> None:
        if since:
            if time.monotonic() - since[0] > REPEATED:
                raise KeyboardInterrupt
            return
        since.append(time.monotonic())
        sentinel.write_text(str(number))
        os.write(2, b"Stopping: each run finishes its step and writes last.ckpt. Once more to end at once.\n")

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    return {number: signal.signal(number, stop) for number in numbers}


def end_of_sweep(sweep: Path, runs: int = 0) -> None:
    """Print why runs of a sweep did not finish.

    Args:
        sweep: its folder.
        runs: that it has; 0 if that is not known.

    Raises:
        SystemExit: with status 1 if runs failed, all were skipped, or a search gave up; 130 if the sweep was stopped by
            Ctrl-C, 75 if by another signal.
    """
    sentinel = stop_file(sweep, (socket.gethostname(), os.getpid()))
    number = int(sentinel.read_text()) if sentinel.exists() else 0
    sentinel.unlink(missing_ok=True)
    records = {
        path.parent: record_of(path.parent) for path in sorted(sweep.rglob(RECORD)) if path.parent.name != FIRST_STAGE
    }
    finished = [folder for folder, record in records.items() if record and record.status == "finished"]
    if number:
        by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        waiting = f", {runs - len(records)} not started" if runs > len(records) else ""
        count = f"{len(finished)} of {max(runs, len(records))} runs finished{waiting}"
        print(f"Stopped by {by}: {count}; {pasted('resume', sweep)} continues.", file=sys.stderr)
        raise SystemExit(130 if number == signal.SIGINT else STOPPED[0])
    gave_up = gave_up_file(sweep)
    why = gave_up.read_text() if gave_up.exists() else ""
    gave_up.unlink(missing_ok=True)
    if why:
        print(printable(f"The search ended early: {why}"), file=sys.stderr)
    failed = {
        folder.relative_to(sweep): record.error if record else "its record is damaged"
        for folder, record in records.items()
        if (not record or record.status not in ("finished", "skipped")) and not is_claimed(folder / ALIVE)
    }
    skipped = sum(record is not None and record.status == "skipped" for record in records.values())
    left_out = f", {skipped} were skipped" if skipped else ""
    if not failed:
        if records and skipped == len(records):
            print(f"All {skipped} runs can never work, so nothing was trained: see the reasons above.", file=sys.stderr)
        elif not why:
            return
        raise SystemExit(EXIT_FAILED_RUNS)
    reasons = [f"{folder}: {error}" for folder, error in list(failed.items())[:SHOWN]]
    more = [f"and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
    line = f"{len(failed)} of {len(records)} runs failed{left_out}: {'; '.join([*reasons, *more])}"
    print(printable(line), file=sys.stderr)
    raise SystemExit(EXIT_FAILED_RUNS)
