"""Files of a training run: checks of its folder and checkpoint, atomic checkpoints, and a metrics file to resume."""

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

from siamese_verify.atomic_write import atomic_append, atomic_write
from siamese_verify.errors import InputError

FREE = ("encoder.dropout ", "encoder.pretrained ")  # settings that the shapes of the weights do not depend on
SHOWN = 5  # settings in an error message


def refuse_used(folder: Path, resumed: str | Path | None) -> None:
    """Raise InputError if a folder holds another run than the one that is resumed."""
    found = [path for name in ("checkpoints/*.ckpt", "bundle") for path in sorted(folder.glob(name))]
    if found and not (resumed and Path(resumed).resolve().is_relative_to(folder.resolve())):
        raise InputError(
            f"{folder} holds a run already ({found[0].relative_to(folder)}): resume it by "
            f"resume={folder}, or set another folder by hydra.run.dir."
        )


def check_resumed(path: Path, module: nn.Module, configuration: dict[str, Any]) -> None:
    """Check that a checkpoint is of the same encoder, loss, optimizer and schedule.

    Args:
        path: checkpoint of an earlier run.
        module: the module that takes its weights.
        configuration: of the run that resumes it.

    Raises:
        InputError: the configurations differ; it names the settings.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    earlier = checkpoint["hyper_parameters"]
    differences = []
    for part in ("optimizer", "scheduler"):
        before, now = ((config.get(part) or {}).get("_target_") for config in (earlier, configuration))
        differences += differing_settings(before, now, f"{part}._target_")
    encoder = differing_settings(earlier.get("encoder"), configuration.get("encoder"), "encoder")
    differences += [difference for difference in encoder if not difference.startswith(FREE)]
    shapes, saved = tensor_shapes(module.state_dict()), tensor_shapes(checkpoint["state_dict"])
    if shapes != saved:
        differences += differing_settings(earlier.get("loss"), configuration.get("loss"), "loss")
        if not differences:
            name = min(name for name in {*shapes, *saved} if shapes.get(name) != saved.get(name))
            differences = differing_settings(saved.get(name), shapes.get(name), name)
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        shown = ", ".join(differences[:SHOWN]) + more
        raise InputError(f"The checkpoint {path} is of another configuration: {shown}; resume with the same settings.")


def tensor_shapes(state: dict[str, Any]) -> dict[str, str]:
    """Shapes of the tensors of a state, as text."""
    return {name: str(list(value.shape)) for name, value in state.items() if isinstance(value, torch.Tensor)}


def differing_settings(earlier: Any, now: Any, name: str) -> list[str]:
    """Describe each setting that differs between two configurations."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        keys = sorted({*earlier, *now}) if earlier.get("_target_") == now.get("_target_") else ["_target_"]
        return [found for key in keys for found in differing_settings(earlier.get(key), now.get(key), f"{name}.{key}")]
    return [] if earlier == now else [f"{name} is {earlier} there and {now} here"]


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints written beside the earlier file and then renamed; in object storage as Lightning writes them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: see `siamese_verify.atomic_write.atomic_open`.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()  # torch would turn the OSError of a full disk into a RuntimeError
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content.getbuffer())


class MetricsFile(CSVLogger):
    """Lightning's CSVLogger that continues the file of a run that is resumed in its folder.

    Earlier rows are dropped from the step on at which the resumed run starts to log, because it repeats these steps.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the file."""
        if self._experiment is None:
            self._experiment = _MetricsWriter(Path(self.log_dir))  # type: ignore[assignment]
        return self._experiment


class _MetricsWriter:
    """Writer of `metrics.csv`, with the interface of Lightning's `ExperimentWriter`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "metrics.csv"
        self.metrics: list[dict[str, Any]] = []  # rows that are not written yet
        self.hparams: dict[str, Any] = {}
        self.columns: list[str] = []
        self.started = False
        folder.mkdir(parents=True, exist_ok=True)

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write the configuration."""
        self.hparams.update(params)
        atomic_write(self.folder / "hparams.yaml", OmegaConf.to_yaml(OmegaConf.create(self.hparams)).encode())

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row."""
        values = {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in metrics.items()}
        self.metrics.append({**values, "step": len(self.metrics) if step is None else step})

    def save(self) -> None:
        """Write the rows added since the last call."""
        if not self.metrics:
            return
        names = {name for row in self.metrics for name in row}
        if not self.started or not names <= set(self.columns):
            first = None if self.started else min(row["step"] for row in self.metrics)
            earlier = [row for row in self._read() if first is None or int(row["step"]) < first]
            self.columns = sorted(names | {name for row in earlier for name in row} | set(self.columns))
            atomic_write(self.file, self._text([*earlier, *self.metrics], head=True))
            self.started = True
        else:
            atomic_append(self.file, self._text(self.metrics))
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
