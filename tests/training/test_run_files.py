"""A run's files survive a full disk, and a resumed run goes on in them."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from siamese_verify.training import AtomicCheckpoints, MetricsFile


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged(folder: Path, *metrics: dict[str, Any]) -> None:
    logger = MetricsFile(folder, name="metrics", version="")
    for row in metrics:
        logger.log_metrics({name: value for name, value in row.items() if name != "step"}, row["step"])
        logger.save()


def test_a_resumed_run_keeps_the_rows_before_its_first_step_and_takes_the_others_again(tmp_path: Path) -> None:
    logged(tmp_path, {"step": 9, "loss": 1.0}, {"step": 11, "eer": torch.tensor(0.5)}, {"step": 19, "loss": 2.0})
    logged(tmp_path, {"step": 12, "loss": 3.0, "auc": 0.25}, {"step": 15, "loss": 4.0})
    assert [(row["step"], row["loss"], row["eer"], row["auc"]) for row in rows(tmp_path)] == [
        ("9", "1.0", "", ""),
        ("11", "", "0.5", ""),
        ("12", "3.0", "", "0.25"),
        ("15", "4.0", "", ""),
    ]
    assert [path.name for path in (tmp_path / "metrics").iterdir()] == ["metrics.csv"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, files = tmp_path / "checkpoints" / "last.ckpt", AtomicCheckpoints()
    files.save_checkpoint({"weights": torch.ones(10)}, path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device, .* MB are free.*last.ckpt"):
        files.save_checkpoint({"weights": torch.zeros(10)}, path)
    assert torch.load(path, weights_only=True)["weights"].sum() == 10
    assert [one.name for one in path.parent.iterdir()] == ["last.ckpt"]
