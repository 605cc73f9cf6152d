"""The model bundle: a folder with weights and everything a verifier needs to know, and no pickle."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from types import UnionType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreMeaning
from siamese_verify.faces import alignment_name
from siamese_verify.files import write_whole
from siamese_verify.types import InputSpec
from siamese_verify.verification.model import FaceModel, build_encoder, read_operating_points

FORMAT = 3
FIELDS: dict[str, type | UnionType] = {
    "format": int,
    "encoder": dict,
    "input": dict,
    "alignment": str,
    "weights_sha256": str,
    "operating_points": list,
    "eer_threshold": float | None,
    "measured_on": str,
    "training": dict,
    "metrics": dict,
    "meaning": dict | None,
    "versions": dict,
    "sha256": str,
}


def save_bundle(folder: Path, model: FaceModel, versions: dict[str, str]) -> None:
    """Write `model.safetensors` and `bundle.json`.

    Args:
        folder: made if it is missing.
        model: with its thresholds.
        versions: of the software, for the record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.encoder.state_dict().items()}
    weights = save(state)
    content: dict[str, Any] = {
        "format": FORMAT,
        "encoder": model.configuration,
        "input": asdict(model.encoder.input_spec),
        "alignment": alignment_name(model.encoder.input_spec.crop),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "operating_points": [
            {**point._asdict(), "threshold": point.threshold if math.isfinite(point.threshold) else None}
            for point in model.operating_points
        ],
        "eer_threshold": model.eer_threshold,
        "measured_on": model.measured_on,
        "training": model.training,
        "metrics": model.metrics,
        "meaning": model.meaning.to_dict() if model.meaning else None,
        "versions": versions,
    }
    content["sha256"] = _digest(content)
    write_whole(folder / "model.safetensors", weights)
    write_whole(folder / "bundle.json", json.dumps(content, indent=1, allow_nan=False).encode())


def load_bundle(folder: Path) -> FaceModel:
    """Read a bundle and check every byte of it.

    Raises:
        InputError: a file or a field is missing, of another version, or was changed; the message names it.
    """
    try:
        content = json.loads((folder / "bundle.json").read_text(encoding="utf-8"), parse_constant=_refuse)
        weights = (folder / "model.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"The bundle {folder} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise InputError(f"The bundle {folder} is damaged: bundle.json is not an object.")
    if content.get("format") != FORMAT:
        raise InputError(
            f"The bundle {folder} has format {content.get('format')!r}, this version reads {FORMAT}: "
            "make it anew with the version that is installed."
        )
    for name, kind in FIELDS.items():
        if name not in content or not isinstance(content[name], kind):
            wanted = kind.__name__ if isinstance(kind, type) else kind
            found = type(content[name]).__name__ if name in content else "nothing"
            raise InputError(f"The bundle {folder} is damaged: field {name} should be {wanted}, is {found}.")
    if content["weights_sha256"] != hashlib.sha256(weights).hexdigest():
        raise InputError(f"The bundle {folder} is damaged: model.safetensors does not have its weights_sha256.")
    if content["sha256"] != _digest(content):
        raise InputError(f"The bundle {folder} is damaged: bundle.json was changed after it was written (sha256).")
    try:
        encoder = build_encoder(content["encoder"], load(weights))
        points = read_operating_points(content["operating_points"])
        spec = InputSpec.from_dict(content["input"])
        meaning = ScoreMeaning.from_dict(content["meaning"]) if content["meaning"] else None
    except InputError:
        raise
    except (TypeError, KeyError, ValueError, SafetensorError) as error:
        raise InputError(f"The bundle {folder} is damaged: {error}.") from None
    if spec != encoder.input_spec:
        raise InputError(f"The bundle {folder} is damaged: field input is not what its encoder takes.")
    now = alignment_name(spec.crop)
    if content["alignment"] != now:
        raise InputError(
            f"The bundle {folder} is of faces aligned as {content['alignment']}, this version aligns as {now}, and its "
            "thresholds would not hold: make it anew, or install the version that it names."
        )
    return FaceModel(
        name=str(folder),
        encoder=encoder,
        configuration=content["encoder"],
        operating_points=points,
        eer_threshold=content["eer_threshold"],
        measured_on=content["measured_on"],
        training=content["training"],
        metrics=content["metrics"],
        meaning=meaning,
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _digest(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()
