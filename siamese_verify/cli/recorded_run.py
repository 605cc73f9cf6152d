"""Recording of a training run: its run.json and its log, from its first second to its end, whatever ends it."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from siamese_verify.cli.run_metadata import versions
from siamese_verify.cli.user_errors import (
    EXIT_BUG,
    EXIT_CTRL_C,
    EXIT_LOST,
    EXIT_TEMPORARY,
    EXIT_USER_ERROR,
    place_in_own_code,
    user_message,
)
from siamese_verify.errors import InputError
from siamese_verify.run_record import RunRecord
from siamese_verify.sweeps.child_run import pasted
from siamese_verify.training.rank_processes import RankLost
from siamese_verify.training.stopping import Stopped, StopSignals


class Recording:
    """The record of a run that is in progress, and its folder.

    Args:
        record: is changed while the run goes on.
        folder: of the run.
        first: whether this process writes the record: the first of a run of many processes does.
    """

    def __init__(self, record: RunRecord, folder: Path, first: bool = True) -> None:
        self.record, self.folder, self.first = record, folder, first
        self.end_others: Callable[[], None] = lambda: None  # processes that this one has started
        self._clock = time.monotonic() - record.seconds

    def save(self) -> None:
        """Write `run.json`, with the time up to now."""
        self.record.seconds = round(time.monotonic() - self._clock, 1)
        if self.first:
            self.record.write(self.folder)

    def close(self, error: BaseException, cfg: DictConfig | None = None) -> None:
        """Record what ends the run, and say it on the terminal if nobody else will.

        Args:
            error: that ends it.
            cfg: its configuration, which gives settings their names.
        """
        record = self.record
        record.status, record.exit_status, record.error = outcome(error, self.folder, cfg)
        write_log("".join(traceback.format_exception(error)) if record.exit_status == EXIT_BUG else record.error)
        speaks = self.first
        if isinstance(error, RankLost) and rank_name() == "1":
            with suppress(InputError):
                left = RunRecord.read(self.folder)
                if left.status == "running":  # the first process had no last word
                    self.record = replace(left, status="failed", error=record.error, exit_status=EXIT_LOST)
                    speaks = self.first = True
        with suppress(OSError):  # the disk is full: the first error is the one to report
            self.save()
        if speaks and isinstance(error, Stopped | RankLost):
            print(record.error, file=sys.stderr, flush=True)

    def end(self, error: BaseException) -> NoReturn:
        """End this process and those it has started at once, from any thread."""
        self.close(error)
        self.end_others()
        os._exit(self.record.exit_status or EXIT_BUG)

    def add_validation(self, epoch: int, step: int, metrics: dict[str, float], metric: str, mode: str) -> None:
        """Add the metrics of a validation; they become those of the run if they are the best so far.

        Args:
            epoch: that was validated, from 0.
            step: of training, from 1.
            metrics: by their names in the loggers.
            metric: of them, which is compared.
            mode: whether it should be `min` or `max`.
        """
        sign = 1 if mode == "min" else -1
        earlier = [one for one in self.record.history if one[1] < step]  # a resumed run repeats the others
        self.record.history = [*earlier, (epoch, step, metrics)]
        best = min(self.record.history, key=lambda one: sign * one[2][metric])
        self.record.metrics = {"epoch": best[0], **best[2]}
        self.save()


@contextmanager
def recorded(
    cfg: DictConfig, folder: Path, signals: StopSignals | None = None, earlier: RunRecord | None = None
) -> Iterator[Recording]:
    """Context manager of a run whose start and end are recorded in `folder`, errors and their tracebacks included.

    Args:
        cfg: composed configuration.
        folder: of the run; holds no other run.
        signals: that may stop it.
        earlier: record of the run that it resumes.

    Raises:
        SystemExit: a signal has stopped it, another rank is lost; in further processes, with any error.
    """
    first = is_first_process()
    if not first:
        log_apart(folder)
    recording = Recording(new_record(cfg, earlier or RunRecord()), folder, first)
    if signals:
        signals.end = recording.end
    logging.captureWarnings(True)  # into the log as well
    try:
        if signals:
            signals.leave_steps("before training")
        recording.save()
        write_log(recording.record.command)
        if cfg.get("resume"):
            write_log(f"Goes on from {cfg.resume}.")
        recording.record.configuration = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
        yield recording
        if signals:
            signals.in_steps = True  # it is done
        recording.record.status, recording.record.exit_status = "finished", 0
        recording.save()
    except BaseException as error:
        recording.close(error, cfg)
        if isinstance(error, Stopped | RankLost) or not first:
            raise SystemExit(recording.record.exit_status) from None
        raise
    finally:
        logging.captureWarnings(False)


def is_first_process() -> bool:
    """Whether this is the first process of a run, by what launchers tell the others."""
    return not any(int(os.environ.get(name) or 0) for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def rank_name() -> str:
    """Number of this process in its run, by what launchers tell it."""
    return next(filter(None, (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))), "0")


def log_apart(folder: Path) -> None:
    """Let a further process of a run keep its messages from the terminal, in a log of its own."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            handler.baseFilename = str(folder / f"rank-{rank_name()}.log")  # it is opened with the first message
        elif isinstance(handler, logging.StreamHandler):
            root.removeHandler(handler)


def new_record(cfg: DictConfig, earlier: RunRecord) -> RunRecord:
    """The record of a run that starts now, or goes on."""
    hydra = HydraConfig.get()
    overrides = [one for one in hydra.overrides.task if not one.startswith("resume=")]
    added = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    folders = [argument for path in added for argument in ("--config-dir", path)]
    return replace(
        earlier,
        status="running",
        error=None,
        exit_status=None,
        command=f"siamese-verify train {shlex.join([*folders, *overrides])}".rstrip(),
        overrides=overrides,
        host=socket.gethostname(),
        process=os.getpid(),
        started=earlier.started or datetime.now().astimezone().isoformat(timespec="seconds"),
        working_folder=str(Path.cwd()),
        test={},
        versions=versions(),
        configuration=cast("dict[str, Any]", OmegaConf.to_container(cfg)),  # a missing value shows when resolving it
    )


def outcome(error: BaseException, folder: Path, cfg: DictConfig | None) -> tuple[Any, int, str]:
    """Status, exit status and sentence of a run that an error ends."""
    resume = f"resume with `siamese-verify train {pasted('resume', shortest(folder))}`."
    if isinstance(error, Stopped):
        return "stopped", EXIT_CTRL_C if error.number == signal.SIGINT else EXIT_TEMPORARY, f"{error}: {resume}"
    if isinstance(error, RankLost):
        return "failed", EXIT_LOST, f"{error}: {resume}"
    if isinstance(error, KeyboardInterrupt):
        return "stopped", EXIT_CTRL_C, f"Interrupted: {resume}"
    if isinstance(error, SystemExit):
        return "failed", error.code if isinstance(error.code, int) else 1, f"It ended with status {error.code}."
    sentence = user_message(error, (cfg,)) if isinstance(error, Exception) else None
    if sentence is not None:
        return "failed", EXIT_USER_ERROR, sentence
    said = (" ".join(f"{type(error).__name__}: {error}".split()), place_in_own_code(error))
    return "failed", EXIT_BUG, ". ".join(filter(None, said))


def shortest(folder: Path) -> Path:
    """A path as a user would write it: relative within the working folder."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def write_log(text: str) -> None:
    """Write a text to the log file of the run, not to the terminal."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(logging.LogRecord(__name__, logging.INFO, __file__, 0, text, None, None))
