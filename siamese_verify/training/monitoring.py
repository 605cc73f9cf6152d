"""What a training tells while it runs: figures of its steps for the loggers, and one progress bar."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.optim import Optimizer

from siamese_verify.training.partial_weights import gradient_norm

log = logging.getLogger(__name__)

UNHELPFUL = (  # beginnings of UserWarnings of Lightning and torch, each with the reason why nobody can act on it
    "You're resuming from a checkpoint that ended before the epoch ended",  # our samplers go on within an epoch
    "Checkpoint directory .* exists and is not empty",  # that of a run which goes on
    "The dirpath has changed from",  # a run resumed in another folder; BestCheckpoint brings the best epoch along
    "The number of training batches .* is smaller than the logging interval",  # steps are counted over all epochs
    r"It is recommended to use `self.log\('val/.*sync_dist",  # all ranks measure all pairs
    "The '.*_dataloader' does not have many workers",  # faces in memory need none
    ".* does not have a deterministic implementation",  # what deterministic=warn of our trainers allows
    r"Found \d+ module\(s\) in eval mode at the start of training",  # batch norms that trainer.freeze_batch_norm froze
    r"Detected call of `lr_scheduler.step\(\)` before",  # a first step that mixed precision skips
)
NOT_ON_A_CLUSTER = "The `srun` command is available on your system but is not used"


@contextmanager
def without_unhelpful_warnings() -> Iterator[None]:
    """Leave out those warnings of Lightning, while it sets up and fits, that no user could act on."""
    with warnings.catch_warnings():
        for message in UNHELPFUL:
            warnings.filterwarnings("ignore", message, UserWarning)
        if "SLURM_JOB_ID" not in os.environ:
            warnings.filterwarnings("ignore", NOT_ON_A_CLUSTER, UserWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="pytorch_lightning")
        yield


class StepMetrics(pl.Callback):
    """Log, every `log_every_n_steps`, how fast and how large the steps are.

    `train/learning_rate`; `train/gradient_norm`, before it is clipped; `train/step_seconds`, the mean since the last
    figures, with the waiting for data and without validations; `train/images_per_second` of all ranks together; on GPUs
    `train/gpu_memory_gb`, the largest of any rank so far. In between nothing waits for a GPU.
    """

    def __init__(self) -> None:
        self._since: float | None = None  # perf_counter of the end of the last batch
        self._seconds, self._steps, self._images = 0.0, 0, 0  # since the last figures
        self._is_logged = False  # at the end of this batch

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Log the learning rate that this step uses, and the norm of its gradient."""
        self._steps += 1
        self._is_logged = (trainer.global_step + 1) % steps_between_logs(trainer) == 0
        if not self._is_logged:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        pl_module.log("train/learning_rate", float(optimizer.param_groups[0]["lr"]))
        pl_module.log("train/gradient_norm", gradient_norm(parameters, getattr(pl_module, "shard", None)))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock after a pause."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images, and log what was counted."""
        self._count(pl_module, wait=self._is_logged)
        self._images += len(batch.images)
        if not self._is_logged:
            return
        pl_module.log("train/step_seconds", self._seconds / self._steps)
        rate = self._images / max(self._seconds, 1e-9)
        pl_module.log("train/images_per_second", rate, prog_bar=True, sync_dist=True, reduce_fx="sum")
        if pl_module.device.type == "cuda":
            used = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
            pl_module.log("train/gpu_memory_gb", used, sync_dist=True, reduce_fx="max")
        self._seconds, self._steps, self._images, self._is_logged = 0.0, 0, 0, False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._pause(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._pause(pl_module)

    def _count(self, module: pl.LightningModule, wait: bool) -> None:
        if self._since is None:
            return
        if wait and module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now

    def _pause(self, module: pl.LightningModule) -> None:
        self._count(module, wait=True)
        self._since = None


class EpochBar(ProgressBar):
    """One progress bar of the present epoch, which goes away at the end, and a line in the log for each epoch.

    Lightning's bars wait for the loss of every step, and count epochs from 0 to one less than there are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None

    def disable(self) -> None:
        """Show nothing, as on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        if self._enabled:
            columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
            figures, console = TextColumn("{task.fields[figures]}"), get_console()
            self._bar = Progress(*columns, figures, transient=True, console=console, disable=not console.is_terminal)
            self._bar.add_task(self._epoch(trainer), total=self._batches, figures="")
            self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew."""
        if self._bar:
            self._bar.reset(self._bar.task_ids[0], total=self._batches, description=self._epoch(trainer))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar; figures change only where they are logged, so that a GPU is not waited for."""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=batch_idx + 1)
            if trainer.global_step % steps_between_logs(trainer) == 0:
                self._show_figures(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the error rates."""
        self._show_figures(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a line of the epoch above the bar."""
        if self._bar:
            self._bar.stop()  # the log writes past it
            log.info("%s: %s", self._epoch(trainer), figures_of(trainer))
            self._bar.start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self.teardown(trainer, pl_module, "fit")

    def _show_figures(self, trainer: pl.Trainer) -> None:
        if self._bar:
            self._bar.update(self._bar.task_ids[0], figures=figures_of(trainer))

    @property
    def _batches(self) -> int | None:
        """Of an epoch, if it has an end."""
        return None if self.total_train_batches == float("inf") else int(self.total_train_batches)

    def _epoch(self, trainer: pl.Trainer) -> str:
        last = trainer.max_epochs
        return f"Epoch {trainer.current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")


def steps_between_logs(trainer: pl.Trainer) -> int:
    """Steps between the figures of a run; more than any run has where nothing is to be logged."""
    return int(trainer.log_every_n_steps) or sys.maxsize  # type: ignore[attr-defined]


def figures_of(trainer: pl.Trainer) -> str:
    """Metrics of the progress bar in words, such as `loss 0.2, eer 0.05, 1,234 images/s`."""
    figures = {name.rpartition("/")[2]: float(value) for name, value in trainer.progress_bar_metrics.items()}
    speed = figures.pop("images_per_second", None)
    words = [f"{name} {value:.3g}" for name, value in figures.items()]
    return ", ".join(words + ([f"{speed:,.0f} images/s"] if speed is not None else []))
