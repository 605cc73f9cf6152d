"""The baseline of a training: an encoder without training, measured once for each protocol and then remembered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from siamese_verify.atomic_write import atomic_write
from siamese_verify.cli.measure import Figures, Result
from siamese_verify.protocols import Protocol

FILE = "baselines.json"
WITHOUT_WEIGHTS = "siamese_verify.encoders.raw_inputs"
KEPT = 256  # of the last ones; each is a kilobyte
MAX_BYTES = 2**22  # of the file: a larger one is not ours


def may_remember(baseline: Mapping[str, Any], versions: Mapping[str, str]) -> bool:
    """Whether a baseline is all in its configuration and the versions: of no weights, and of committed code.

    Args:
        baseline: its configuration.
        versions: of the run, with its `commit`.
    """
    return baseline["_target_"] == WITHOUT_WEIGHTS and not versions.get("commit", "").endswith("+")


def baseline_key(result: Result, settings: Mapping[str, Any]) -> str:
    """Name of what a baseline is measured on: SHA-256 of the photos' pixels, of the protocol and of settings.

    Args:
        result: of another encoder on the same photos, with the hash of their crops.
        settings: whatever else decides, such as the baseline's configuration, resamples and versions.
    """
    protocol = result.compared
    made_of = [result.cropper.digest, protocol.digest(), _described(protocol), settings]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()


def _described(protocol: Protocol) -> list[str]:
    """Class and fields of a protocol but its photos, which are known by their hash."""
    named = ((field.name, getattr(protocol, field.name)) for field in fields(protocol) if field.name != "photos")
    return [type(protocol).__name__, *(f"{name}: {_text(value)}" for name, value in named)]


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return hashlib.sha256(
            json.dumps([str(value.dtype), value.shape, value.tolist()], default=str).encode()
        ).hexdigest()
    if isinstance(value, Mapping):
        return str({str(key): _text(one) for key, one in value.items()})
    return str([_text(one) for one in value]) if isinstance(value, list | tuple) else repr(value)


def recall(folder: str | Path | None, key: str) -> Figures | None:
    """Figures remembered under a key; None where there are none, or no folder is given. A foreign file is ignored."""
    if folder is None:
        return None
    try:
        name, kind, metrics, sentences = _read(Path(folder).expanduser() / FILE)[key]
        return Figures(str(name), str(kind), dict(metrics), tuple(map(str, sentences)))
    except (KeyError, TypeError, ValueError):
        return None


def remember(folder: str | Path | None, key: str, figures: Figures) -> None:
    """Keep figures under a key, and forget the oldest of more than `KEPT`; a folder that cannot be written is left."""
    if folder is None:
        return
    path = Path(folder).expanduser() / FILE
    known = _read(path)
    known.pop(key, None)
    known[key] = list(figures)
    content = json.dumps(dict([*known.items()][-KEPT:])).encode()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
