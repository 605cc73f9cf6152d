"""Thresholds of pretrained models: those that ship with the package, and those that were measured on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from siamese_verify.files import data_folder, write_whole


def thresholds_file(name: str) -> Path:
    """Where the thresholds of a pretrained model come from; there may be no such file."""
    return shipped_thresholds(name) if ships_thresholds(name) else stored_thresholds(name)


def shipped_thresholds(name: str) -> Path:
    """Where the package keeps the thresholds of a pretrained model, if it does."""
    return Path(__file__).with_name("thresholds") / f"{name}.json"


def ships_thresholds(name: str) -> bool:
    """The package holds thresholds of this model, and those of an evaluation here are not asked for."""
    return shipped_thresholds(name).is_file()


def stored_thresholds(name: str) -> Path:
    """Where an evaluation on this machine keeps the thresholds of a pretrained model that ships without."""
    return data_folder() / "thresholds" / f"{name}.json"


def store_thresholds(name: str, measurement: dict[str, Any]) -> Path:
    """Keep a measurement for `load_model`; a model that ships with thresholds goes on using those."""
    path = stored_thresholds(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(measurement, indent=1, allow_nan=False).encode())
    return path
