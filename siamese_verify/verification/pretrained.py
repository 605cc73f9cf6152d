"""Models by name: facenet-pytorch's weights, with what was measured of them."""

from __future__ import annotations

import json
from typing import Any

from siamese_verify import encoders
from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreMeaning
from siamese_verify.verification.model import FaceModel
from siamese_verify.verification.record import LICENCE, read_operating_points, read_quality
from siamese_verify.verification.thresholds_file import thresholds_file


def load_pretrained(name: str) -> FaceModel:
    """One of `PRETRAINED`, with the thresholds that ship with the package, else those kept on this machine.

    Raises:
        InputError: its weights are neither in torch's cache nor to be had from the network.
    """
    configuration = {"_target_": "siamese_verify.encoders.InceptionResNet", "pretrained": name}
    encoder = encoders.InceptionResNet(pretrained=name).eval()
    source = thresholds_file(name)
    try:
        measured: dict[str, Any] = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {}
        points = read_operating_points(measured.pop("operating_points", []))
        meaning = ScoreMeaning.from_dict(measured.pop("meaning")) if "meaning" in measured else None
        quality = read_quality(measured.pop("quality", {}))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"The thresholds in {source} are damaged: delete it and evaluate {name} again.") from None
    return FaceModel.of(
        name,
        encoder,
        configuration,
        points,
        measured_on=measured.get("measured_on", ""),
        training={"data": name, "pretrained": name},
        metrics=measured,
        meaning=meaning,
        quality=quality,
        licence=LICENCE,
    )
