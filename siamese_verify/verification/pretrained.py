"""Models by name: facenet-pytorch's weights, and thresholds that were measured for them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from siamese_verify import encoders
from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreMeaning
from siamese_verify.files import write_whole
from siamese_verify.verification.model import FaceModel, read_operating_points


def load_pretrained(name: str) -> FaceModel:
    """One of `PRETRAINED`, with the thresholds that ship with the package, else those kept on this machine.

    Raises:
        InputError: its weights are neither in torch's cache nor to be had from the network.
    """
    configuration = {"_target_": "siamese_verify.encoders.InceptionResNet", "pretrained": name}
    encoder = encoders.InceptionResNet(pretrained=name).eval()
    source = shipped_thresholds(name) if ships_thresholds(name) else stored_thresholds(name)
    try:
        measured: dict[str, Any] = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {}
        points = read_operating_points(measured.get("operating_points", []))
        meaning = ScoreMeaning.from_dict(measured["meaning"]) if "meaning" in measured else None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"The thresholds in {source} are damaged: delete it and evaluate {name} again.") from None
    return FaceModel(
        name=name,
        encoder=encoder,
        configuration=configuration,
        operating_points=points,
        measured_on=measured.get("measured_on", ""),
        training={"data": name, "pretrained": name},
        metrics=measured,
        meaning=meaning,
    )


def shipped_thresholds(name: str) -> Path:
    """Where the package keeps the thresholds of a pretrained model, if it does."""
    return Path(__file__).with_name("thresholds") / f"{name}.json"


def ships_thresholds(name: str) -> bool:
    """The package holds thresholds of this model, and those of an evaluation here are not asked for."""
    return shipped_thresholds(name).is_file()


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
