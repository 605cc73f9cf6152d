from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import rich
import torch
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from siamese_verify.structures import FaceBatch
from siamese_verify.training import EpochBar, StepMetrics, without_unhelpful_warnings
from tests.conftest import SMALL_BATCHES, TINY

IMAGES = 6  # of a batch


class Constant(Dataset[FaceBatch]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> FaceBatch:
        return FaceBatch(torch.zeros(IMAGES, 3, 2, 2), torch.zeros(IMAGES), None)


class KnownGradient(pl.LightningModule):
    """A loss whose gradient is (3, 4), of norm 5."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def training_step(self, batch: FaceBatch, _: int) -> Tensor:
        loss = self.weight @ torch.tensor([3.0, 4.0])
        self.log("train/loss", loss, prog_bar=True, batch_size=IMAGES)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=8.0)
        halved = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halved, "interval": "step"}}


class Told(CSVLogger):
    """Keeps what it is told."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append({**metrics, "step": float(step or 0)})


def fit(folder: Path, *callbacks: pl.Callback, epochs: int = 2, **options: Any) -> list[dict[str, float]]:
    logger = Told(folder)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        log_every_n_steps=2,
        enable_checkpointing=False,
        enable_model_summary=False,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning misses workers
        trainer.fit(KnownGradient(), DataLoader(Constant(), batch_size=None))
    return logger.rows


def test_steps_are_logged_with_the_gradient_before_clipping_and_the_rate_that_they_used(tmp_path: Path) -> None:
    rows = fit(tmp_path, StepMetrics(), gradient_clip_val=1.0, enable_progress_bar=False)
    assert [row["step"] for row in rows] == [1, 3, 5, 7]
    assert [row["train/learning_rate"] for row in rows] == [4.0, 1.0, 0.25, 0.0625]  # of steps 2, 4, 6, 8
    assert [row["train/gradient_norm"] for row in rows] == [5.0] * 4
    for row in rows:
        assert row["train/images_per_second"] * row["train/step_seconds"] == pytest.approx(IMAGES, rel=1e-4)
        assert "train/gpu_memory_gb" not in row


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    rows = fit(tmp_path, StepMetrics(), accumulate_grad_batches=2, enable_progress_bar=False)
    speeds = [row for row in rows if "train/images_per_second" in row]
    assert [row["train/learning_rate"] for row in speeds] == [4.0, 1.0]
    for row in speeds:
        assert row["train/images_per_second"] * row["train/step_seconds"] == pytest.approx(2 * IMAGES, rel=1e-4)


def screen(written: str) -> str:
    """What a terminal shows at the end."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\x1b[1A":
            row -= 1
        elif part[0] not in "\x1b\r":
            lines[row] += part
    return "\n".join(lines)


def test_a_terminal_shows_one_bar_that_goes_away_and_each_epoch_leaves_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, force_interactive=True)
    monkeypatch.setattr(rich, "_console", console)
    with caplog.at_level(logging.INFO):
        fit(tmp_path, StepMetrics(), EpochBar(), epochs=3)
    lines = [message for message in caplog.messages if message.startswith("Epoch")]
    assert [line.partition(":")[0] for line in lines] == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    assert re.fullmatch(r"Epoch 1/3: loss -?[\d.e+]+, [\d,]+ images/s", lines[0])
    assert "Epoch 1/3" in written.getvalue() and "━" in written.getvalue()
    assert screen(written.getvalue()).strip() == ""


def test_elsewhere_only_the_lines_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        fit(tmp_path, EpochBar())
    assert len([message for message in caplog.messages if message.startswith("Epoch")]) == 2
    assert capsys.readouterr().out == ""


def test_a_resumed_run_counts_on(fitted: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = (*TINY, *SMALL_BATCHES, "scheduler=constant")
    first = fitted(tmp_path / "first", *settings, "trainer.max_epochs=2")
    caplog.clear()
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error")
        last = f"resume='{first / 'checkpoints' / 'last.ckpt'}'"
        fitted(tmp_path / "resumed", *settings, "trainer.max_epochs=4", last)
    lines = [message.partition(":")[0] for message in caplog.messages if message.startswith("Epoch")]
    assert lines == ["Epoch 3/4", "Epoch 4/4"]


def test_only_warnings_that_nobody_can_act_on_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    srun = "The `srun` command is available on your system but is not used. HINT: ..."
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with without_unhelpful_warnings():
            warnings.warn(srun, UserWarning, stacklevel=1)
            warnings.warn("The dirpath has changed from 'a' to 'b'", UserWarning, stacklevel=1)
            warnings.warn("Checkpoint directory a/checkpoints exists and is not empty.", UserWarning, stacklevel=1)
            warnings.warn("The dirpath has changed from 'a' to 'b'", DeprecationWarning, stacklevel=1)
            warnings.warn("The disk is full", UserWarning, stacklevel=1)
        monkeypatch.setenv("SLURM_JOB_ID", "1")
        with without_unhelpful_warnings():
            warnings.warn(srun, UserWarning, stacklevel=1)
    assert [str(one.message)[:12] for one in shown] == ["The dirpath ", "The disk is ", "The `srun` c"]
