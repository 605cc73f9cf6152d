"""Lightning callbacks for the runs of a sweep: they tell what each rank trains with, crash, or are killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytorch_lightning as pl


class TellRank(pl.Callback):
    """Writes `rank_N.json` to the folder of the run: the settings of the loss, and the process group's size."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        told = {"loss": dict(pl_module.hparams["loss"]), "ranks": trainer.world_size, "process": os.getpid()}
        Path(trainer.default_root_dir, f"rank_{trainer.global_rank}.json").write_text(json.dumps(told))


class Crash(pl.Callback):
    """Ends the training by a bug."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise RuntimeError("this run has a bug")


class Kill(pl.Callback):
    """Kills the first process of a run, as the kernel does for want of memory."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGKILL)
