"""The processes of a run of many ranks: started by the first on its machine, and ended when one of them is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from siamese_verify.data.data_loaders import SIGNALS
from siamese_verify.training.stopping import GRACE, Stopped

PERIOD = 0.5  # seconds between two looks
CLOSED = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError")  # gloo's, NCCL's
SOON = 5.0  # seconds: a connection breaks before the end of its process can be seen


class RankLost(RuntimeError):
    """Another process of the run has ended before its time."""


class RankLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher without its observer, which would end this process by SIGKILL and without a word."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other ranks of this machine, then call a function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            # A terminal sends Ctrl-C to all of them: the first tells the others, which may not be able to answer yet.
            earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._call_children_scripts()
            signal.signal(signal.SIGINT, earlier)
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class RankWatch:
    """Watch of the other processes of a run on this machine: the first one watches those it starts, they the first.

    A rank that waits for one that was killed gets an error from gloo at once, from NCCL after minutes or never.

    Args:
        trainer: that is about to fit; its launcher is replaced.
        end: ends this process with an error, from a thread, if it does not end by itself.
    """

    def __init__(self, trainer: pl.Trainer, end: Callable[[BaseException], object]) -> None:
        launcher: Any = trainer.strategy.launcher
        self.launcher: RankLauncher | None = None
        if isinstance(launcher, _SubprocessScriptLauncher):
            self.launcher = RankLauncher(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
            trainer.strategy._launcher = self.launcher
        self.parent = os.getppid() if trainer.local_rank else None
        # Not creates_processes_externally, which is true in the ranks that rank 0 has started as well.
        self.external = bool(launcher and not isinstance(launcher.cluster_environment, LightningEnvironment))
        self.end = end
        self._closed = threading.Event()
        if trainer.world_size > 1:
            threading.Thread(target=self._watch, name="rank-watch", daemon=True).start()

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """Those that this one has started, from local rank 1 on."""
        return self.launcher.procs if self.launcher else []

    def lost(self) -> BaseException | None:
        """`RankLost` or `Stopped` if a process has ended before its time, else None."""
        if self.parent is not None and os.getppid() != self.parent:
            return RankLost("The launcher has ended" if self.external else "Rank 0 has ended")
        for rank, process in enumerate(self.processes, start=1):
            code = process.poll()
            if code is not None and -code in SIGNALS:  # before it could receive them
                return Stopped(-code, f"of rank {rank}")
            if code:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"has ended with status {code}"
                return RankLost(f"Rank {rank} {how}")
        return None

    def lost_soon(self, error: BaseException) -> BaseException | None:
        """`lost`, a few seconds after an error, or `RankLost` if it is that of a closed connection.

        Ranks that torchrun or srun has started cannot see each other: they know only that, and before their launcher
        ends them by a signal.
        """
        until = time.monotonic() + (0 if self.external else SOON)
        while (found := self.lost()) is None and time.monotonic() < until and (self.processes or self.parent):
            time.sleep(PERIOD)
        if found is None and any(words in str(error) for words in CLOSED):
            return RankLost("Another rank has ended")
        return found

    def close(self, wait: float) -> None:
        """Stop watching, and end the processes that have not ended after `wait` seconds."""
        self._closed.set()
        until = time.monotonic() + wait
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            if process.poll() is None:
                process.kill()

    def _watch(self) -> None:
        while not self._closed.wait(PERIOD):
            if self.lost() is not None and not self._closed.wait(GRACE):
                self.end(self.lost() or RankLost("A rank has ended"))
