"""Stopping a run by a signal: after the step, the same one on all ranks, with a whole checkpoint; else at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from siamese_verify.data.data_loaders import SIGNALS

REPEATED = 1.0  # seconds within which one request may come twice: to a process, and to its process group
GRACE = 10.0  # seconds in which a process may end by itself, which a call of a library can delay


class Stopped(BaseException):
    """A signal has stopped the run.

    Args:
        number: of the signal.
        where: in training, such as `after step 7`.
    """

    def __init__(self, number: int, where: str) -> None:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        super().__init__(f"Stopped by {name} {where}")
        self.number = number


class StopSignals:
    """Context manager that receives SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C, which is left ignored where it is ignored.

    A signal raises `Stopped` in the main thread, except while `in_steps` is True, as from the start until
    `leave_steps`: then it is only noted, for `StopAfterStep`. A second one, or one that the main thread cannot answer
    because a library does not return, calls `end` in a thread. Only the main thread can receive signals: elsewhere
    nothing happens.

    Attributes:
        received: number of the first signal, or None.
        in_steps: whether a step is to be finished first.
        where: in the run, in words.
        end: ends the process with what it is told.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.in_steps = True
        self.where = "before training"
        self.end: Callable[[BaseException], object] = lambda error: os._exit(1)
        self._earlier: dict[int, Any] = {}
        self._fired = False
        self._process = os.getpid()
        self._left = threading.Event()

    def __enter__(self) -> StopSignals:
        """Receive the signals from now on."""
        if threading.current_thread() is not threading.main_thread():
            return self
        # Python runs a handler between two instructions of the main thread only; what it writes here arrives at once.
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._earlier_write = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in SIGNALS:
            if number != signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                self._earlier[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._watch, args=(read,), name="stop-signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the signals to those who received them before."""
        self._left.set()
        if not self._earlier:
            return
        signal.set_wakeup_fd(self._earlier_write)
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        os.close(self._write)

    def leave_steps(self, where: str) -> None:
        """End at once from now on.

        Raises:
            Stopped: a signal has come before.
        """
        self.where, self.in_steps = where, False
        if self.received is not None:
            self._fired = True
            raise Stopped(self.received, where)

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Python's handler, in the main thread."""
        if os.getpid() != self._process:  # a worker, as it was forked: it ends as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if not self.in_steps and not self._fired:
            self._fired = True
            self.received = self.received or number
            raise Stopped(number, self.where)

    def _watch(self, read: int) -> None:
        since: float | None = None
        while number := os.read(read, 1):
            if number[0] not in SIGNALS:
                continue  # that of a worker's end
            if since is None:
                since = time.monotonic()
                self.received = self.received or number[0]
                if not self.in_steps:
                    threading.Thread(target=self._insist, daemon=True).start()
            elif time.monotonic() - since > REPEATED:
                self.end(Stopped(number[0], f"for the second time, {self.where}"))
        os.close(read)

    def _insist(self) -> None:
        if not self._left.wait(GRACE) and self.received is not None:
            self.end(Stopped(self.received, self.where))


class StopAfterStep(pl.Callback):
    """Stop training after the step in which a signal comes, or at the next one, on all ranks after the same step.

    The last step of an epoch is followed by its validation and its checkpoints, and training stops then. Each rank
    tells the others of its signals by a reduction on the CPU that runs beside the next step, so that no step waits
    for it and no GPU is synchronized.

    Args:
        signals: of this process.
        checkpoint: file to write where training stops within an epoch.

    Attributes:
        number: of the signal that stops training, on all ranks; 0 until then.
    """

    def __init__(self, signals: StopSignals, checkpoint: Path) -> None:
        self.signals, self.checkpoint = signals, checkpoint
        self.number = 0
        self._group: Any = None
        self._pending: tuple[Any, torch.Tensor] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for signals until a step is finished."""
        if trainer.world_size > 1 and dist.is_initialized():
            self._group = dist.new_group(backend="gloo")
        self.signals.in_steps, self.signals.where = True, "within a step"

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the checkpoint and stop, if all ranks know of a signal."""
        last = trainer.is_last_batch or batch_idx + 1 >= trainer.num_training_batches
        if last or trainer.global_step == trainer.max_steps or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.number = self._exchange()
        if self.number:
            trainer.save_checkpoint(self.checkpoint)
            end_fit(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop once the checkpoints of the epoch are written."""
        self.number = self._finish() or self._exchange() or self._finish()
        if self.number:
            end_fit(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once from now on."""
        self.signals.leave_steps("after training")

    def _exchange(self) -> int:
        """The signal that all ranks knew of a step ago, or 0; tell the others of this rank's."""
        mine = self.signals.received or 0
        if self._group is None:
            return mine
        found = self._finish()
        if not found:
            told = torch.tensor(mine)
            self._pending = dist.all_reduce(told, dist.ReduceOp.MAX, self._group, async_op=True), told
        return found

    def _finish(self) -> int:
        """Result of the reduction that is under way, or 0."""
        if self._pending is None:
            return 0
        work, told = self._pending
        work.wait()
        self._pending = None
        return int(told)


def end_fit(trainer: pl.Trainer) -> None:
    """Let Lightning end `fit` by its SIGTERMException after the step's or the epoch's metrics are logged."""
    trainer._signal_connector.received_sigterm = True


def receive_signals_instead(trainer: pl.Trainer) -> None:
    """Keep Lightning from receiving signals, whose broadcast within a handler can block, and from asking each step."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
