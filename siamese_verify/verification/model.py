"""A model by any of its names: pretrained, a bundle folder, a run folder, or a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamese_verify import encoders
from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint
from siamese_verify.files import write_whole
from siamese_verify.types import Crop

PRETRAINED = ("casia-webface", "vggface2")


@dataclass(frozen=True)
class FaceModel:
    """An encoder and what is known about it.

    Attributes:
        name: what it was loaded by.
        encoder: in evaluation mode.
        configuration: `_target_` and arguments that build the encoder.
        operating_points: thresholds by false accept rate; empty where none were ever measured.
        eer_threshold: of the same measurement; None without one.
        measured_on: the data and pairs behind them.
        training: what the weights were trained on: `data` and `pretrained`, each a name or None.
        metrics: of the same measurement.
    """

    name: str
    encoder: encoders.Encoder
    configuration: dict[str, Any]
    operating_points: tuple[OperatingPoint, ...] = ()
    eer_threshold: float | None = None
    measured_on: str = ""
    training: dict[str, str | None] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def operating_point(self, far: float | None = None) -> OperatingPoint:
        """The threshold for a false accept rate.

        Args:
            far: one of those measured; by default the strictest that enough impostors stand behind, else the loosest.

        Raises:
            InputError: none was measured, or not this one.
        """
        if not self.operating_points:
            raise InputError(
                f"No threshold of {self.name} was ever measured: give one with --threshold, or measure it with "
                f"`siamese-verify evaluate model={self.name}`."
            )
        by_far = sorted(self.operating_points, key=lambda point: point.target)
        if far is None:
            return next((point for point in by_far if not point.insufficient), by_far[-1])
        for point in by_far:
            if abs(point.target - far) <= 1e-9 * far:
                return point
        measured = ", ".join(f"{point.target:g}" for point in by_far)
        raise InputError(
            f"No threshold of {self.name} for a false accept rate of {far:g} was measured: use {measured}."
        )


def load_model(name: str | Path, device: str = "cpu") -> FaceModel:
    """Load a model.

    Args:
        name: `casia-webface`, `vggface2`, a bundle folder, a run folder, or a Lightning checkpoint.
        device: where the encoder goes.

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    from siamese_verify.verification.bundle import load_bundle

    path = Path(name)
    if str(name) in PRETRAINED:
        model = _load_pretrained(str(name))
    elif (path / "bundle.json").is_file():
        model = load_bundle(path)
    elif (path / "bundle" / "bundle.json").is_file():
        model = load_bundle(path / "bundle")
    elif path.is_file():
        model = load_checkpoint(path)
    else:
        raise InputError(f"There is no model {name}: give {', '.join(PRETRAINED)}, a bundle folder or a checkpoint.")
    model.encoder.to(device)
    return model


def load_checkpoint(path: Path) -> FaceModel:
    """Read the encoder and its thresholds from a checkpoint that training wrote, without unpickling code.

    Raises:
        InputError: the file is no such checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        configuration = dict(checkpoint["hyper_parameters"]["encoder"])
        state = {k.removeprefix("encoder."): v for k, v in checkpoint["state_dict"].items() if k.startswith("encoder.")}
    except Exception as error:  # torch's unpickler raises anything on what is no pickle, and advises to trust the file
        raise InputError(f"{path} is not a checkpoint of siamese-verify ({type(error).__name__}).") from None
    measured = checkpoint.get("validation") or {}
    data = checkpoint["hyper_parameters"].get("data", {}).get("name")
    return FaceModel(
        name=str(path),
        encoder=build_encoder(configuration, state),
        configuration=configuration,
        operating_points=read_operating_points(measured.get("operating_points", [])),
        eer_threshold=measured.get("eer_threshold"),
        measured_on=f"all {measured.get('pairs', 0):,} pairs of the people held out from {data} training",
        training={"data": data, "pretrained": configuration.get("pretrained")},
        metrics=measured,
    )


def build_encoder(configuration: Mapping[str, Any], state: Mapping[str, Tensor]) -> encoders.Encoder:
    """Build an encoder of ours from its config and weights; nothing else is ever imported or called.

    Args:
        configuration: `_target_`, a class of `siamese_verify.encoders`, and its arguments.
        state: its state dict.

    Raises:
        InputError: another target, wrong arguments, or weights that do not fit.
    """
    arguments = dict(configuration)
    target = str(arguments.pop("_target_", ""))
    module, _, name = target.rpartition(".")
    if module != "siamese_verify.encoders" or name == "Encoder" or name not in encoders.__all__:
        raise InputError(f"The model's encoder {target!r} is not one of siamese_verify.encoders.")
    if arguments.get("pretrained"):
        arguments["pretrained"] = None  # the weights come with the model
    if isinstance(arguments.get("crop"), Mapping):
        arguments["crop"] = Crop(**{key: value for key, value in arguments["crop"].items() if key != "_target_"})
    try:
        encoder: encoders.Encoder = getattr(encoders, name)(**arguments)
        encoder.load_state_dict(state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"The model's weights do not fit its encoder {name}: {str(error).splitlines()[0]}") from None
    return encoder.eval()


def read_operating_points(rows: list[dict[str, Any]]) -> tuple[OperatingPoint, ...]:
    """Read operating points from JSON, where an infinite threshold is null.

    Raises:
        TypeError: fields are missing or unknown.
    """
    return tuple(
        OperatingPoint(**{**row, "threshold": float("inf") if row["threshold"] is None else row["threshold"]})
        for row in rows
    )


def _load_pretrained(name: str) -> FaceModel:
    configuration = {"_target_": "siamese_verify.encoders.InceptionResNet", "pretrained": name}
    encoder = encoders.InceptionResNet(pretrained=name).eval()
    shipped = files("siamese_verify.verification") / "thresholds" / f"{name}.json"
    stored = stored_thresholds(name)
    text = shipped.read_text() if shipped.is_file() else stored.read_text() if stored.is_file() else "{}"
    measured: dict[str, Any] = json.loads(text)
    return FaceModel(
        name=name,
        encoder=encoder,
        configuration=configuration,
        operating_points=read_operating_points(measured.get("operating_points", [])),
        eer_threshold=measured.get("eer_threshold"),
        measured_on=measured.get("measured_on", ""),
        training={"data": name, "pretrained": name},
        metrics=measured,
    )


def stored_thresholds(name: str) -> Path:
    """Where an evaluation on this machine keeps the thresholds of a pretrained model that ships without."""
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(home).expanduser() / "siamese-verify" / "thresholds" / f"{name}.json"


def store_thresholds(name: str, measurement: dict[str, Any]) -> Path:
    """Keep a measurement for `load_model`; a model that ships with thresholds goes on using those."""
    path = stored_thresholds(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(measurement, indent=1, allow_nan=False).encode())
    return path
