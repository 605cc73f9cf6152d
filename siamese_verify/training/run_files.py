"""Whether a run may begin in a folder, or go on from a checkpoint."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_fabric.plugins import TorchCheckpointIO
from omegaconf import OmegaConf
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from siamese_verify.atomic_write import append_whole, write_whole
from siamese_verify.errors import InputError

FREE = ("encoder.dropout ", "encoder.pretrained ")  # settings that the weights do not depend on
NAMED = 5  # settings that an error names


def refuse_used(folder: Path, resumed: str | Path | None) -> None:
    """Refuse a folder that holds another run than the one that is resumed.

    Raises:
        InputError: it does.
    """
    left = [path for name in ("checkpoints/*.ckpt", "bundle") for path in sorted(folder.glob(name))]
    if left and not (resumed and Path(resumed).resolve().is_relative_to(folder.resolve())):
        raise InputError(
            f"{folder} holds a run already ({left[0].relative_to(folder)}): go on with it by "
            f"ckpt_path={folder / 'checkpoints' / 'last.ckpt'}, or set another folder by hydra.run.dir."
        )


def check_resumed(path: Path, module: nn.Module, configuration: dict[str, Any]) -> None:
    """See that a checkpoint is of the same encoder, loss, optimizer and schedule.

    Args:
        path: of a checkpoint of ours.
        module: that would take its weights.
        configuration: of the run that would go on with it.

    Raises:
        InputError: it is of another configuration; the settings that differ are named.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    earlier = checkpoint["hyper_parameters"]
    shapes, saved = shapes_of(module.state_dict()), shapes_of(checkpoint["state_dict"])
    others = []
    for part in ("optimizer", "scheduler"):
        before, now = ((one.get(part) or {}).get("_target_") for one in (earlier, configuration))
        others += differing(before, now, f"{part}._target_")
    within = differing(earlier.get("encoder"), configuration.get("encoder"), "encoder")
    others += [one for one in within if not one.startswith(FREE)]
    if shapes != saved:
        others += differing(earlier.get("loss"), configuration.get("loss"), "loss")
        if not others:
            odd = min(name for name in {*shapes, *saved} if shapes.get(name) != saved.get(name))
            others = differing(saved.get(odd), shapes.get(odd), odd)
    if others:
        told = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
        raise InputError(f"The checkpoint {path} is of another configuration: {told}; resume with the same settings.")


def shapes_of(state: dict[str, Any]) -> dict[str, str]:
    """The sizes of all tensors."""
    return {name: str(list(value.shape)) for name, value in state.items() if isinstance(value, torch.Tensor)}


def differing(earlier: Any, now: Any, place: str) -> list[str]:
    """What two configurations do not share, setting by setting, in words."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        names = sorted({*earlier, *now}) if earlier.get("_target_") == now.get("_target_") else ["_target_"]
        return [one for name in names for one in differing(earlier.get(name), now.get(name), f"{place}.{name}")]
    return [] if earlier == now else [f"{place} is {earlier} there and {now} here"]


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written beside the old one and then renamed; in object storage as Lightning does it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: see `siamese_verify.atomic_write.whole_file`.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()  # torch makes a RuntimeError of a full disk
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getbuffer())


class MetricsFile(CSVLogger):
    """Lightning's CSVLogger, which keeps what is there: a run that is resumed in its folder goes on in its file.

    Of the earlier rows, those from the step on at which the resumed run begins to log are left out, because it takes
    these steps again.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the file."""
        if self._experiment is None:
            self._experiment = _Rows(Path(self.log_dir))  # type: ignore[assignment]
        return self._experiment


class _Rows:
    """The rows of `metrics.csv`, as Lightning's loggers want to write them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "metrics.csv"
        self.metrics: list[dict[str, Any]] = []  # not written yet
        self.hparams: dict[str, Any] = {}
        self.columns: list[str] = []
        self.begun = False
        folder.mkdir(parents=True, exist_ok=True)

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write the configuration."""
        self.hparams.update(params)
        write_whole(self.folder / "hparams.yaml", OmegaConf.to_yaml(OmegaConf.create(self.hparams)).encode())

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Take a row."""
        values = {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in metrics.items()}
        self.metrics.append({**values, "step": len(self.metrics) if step is None else step})

    def save(self) -> None:
        """Write the rows taken since the last time."""
        if not self.metrics:
            return
        names = {name for row in self.metrics for name in row}
        if not self.begun or not names <= set(self.columns):
            first = None if self.begun else min(row["step"] for row in self.metrics)
            earlier = [row for row in self._read() if first is None or int(row["step"]) < first]
            self.columns = sorted(names | {name for row in earlier for name in row} | set(self.columns))
            write_whole(self.file, self._text([*earlier, *self.metrics], head=True))
            self.begun = True
        else:
            append_whole(self.file, self._text(self.metrics))
        self.metrics = []

    def _read(self) -> list[dict[str, Any]]:
        if not self.file.is_file():
            return []
        with self.file.open(encoding="utf-8", newline="") as file:
            return [row for row in csv.DictReader(file) if (row.get("step") or "").isdecimal()]

    def _text(self, rows: list[dict[str, Any]], head: bool = False) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        if head:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
