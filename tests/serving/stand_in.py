"""A verifier without weights: the face is the whole photo, and its embedding the downsampled pixels.

Photos 77 pixels wide have no face, 78 two faces, 79 raise an error, 80 take long.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from siamese_verify.evaluation import Calibration, ImpostorTail, OperatingPoint, ScoreCalibration
from siamese_verify.faces import quality_of
from siamese_verify.models import ModelMetadata
from siamese_verify.structures import Crop, InputSpec
from siamese_verify.verification import DetectedFace, NoDecision, Verifier

NO_FACE, MULTIPLE, BROKEN, SLOW = 77, 78, 79, 80
SIDE = 16


class StandIn(Verifier):
    """Verifier without weights.

    Args:
        seconds: time to embed a batch.
    """

    batch = 8

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[int] = []
        self.gate = threading.Event()  # slow photos wait for it
        self.photos = 0
        self.on_multiple_faces = "error"
        points = tuple(
            OperatingPoint(far, far, tar, threshold, False, 4000, round(4000 * far))
            for far, tar, threshold in ((0.1, 0.99, 0.2), (0.01, 0.9, 0.5), (0.001, 0.7, 0.8))
        )
        score_calibration = ScoreCalibration(
            Calibration("logistic", (-1.0, 1.0), (-8.0, 8.0), 100, 4000),
            ImpostorTail((0.0, 0.2, 0.5, 0.8, 0.9, 0.95), (2000, 400, 40, 4, 1, 0), 4000),
        )
        self.metadata = ModelMetadata(
            "stand-in",
            {},
            InputSpec(32, crop=Crop("whole")),
            SIDE * SIDE * 3,
            points,
            measured_on="4,000 pairs of nobody",
            metrics={
                "histogram": {"edges": [-0.5, 0, 0.5, 1], "genuine": [0, 10, 90], "impostors": [2000, 1960, 40]},
            },
            score_calibration=score_calibration,
            weights_sha256="00",
        )

    def find(
        self, photo: Any, name: str | None = None, on_multiple_faces: str | None = None, *, opened: bool = False
    ) -> list[DetectedFace]:
        self.photos += 1
        if photo.width == NO_FACE:
            raise NoDecision(f"No face was found on {name}: use another.", "no_face")
        if photo.width == BROKEN:
            raise RuntimeError("secret of the client")
        if photo.width == SLOW:
            self.gate.wait(20)
        faces = 2 if photo.width == MULTIPLE else 1
        if faces > 1 and on_multiple_faces in (None, "error"):
            raise NoDecision(f"2 faces were found on {name}: crop it.", "multiple_faces")
        crop = photo.resize((32, 32))
        face = DetectedFace(str(name), np.asarray(crop), quality_of(crop), faces=faces)
        return [face] * (faces if on_multiple_faces == "any" else 1)

    def embed_crops(self, crops: np.ndarray) -> np.ndarray:
        self.batches.append(len(crops))
        time.sleep(self.seconds)
        rows = crops.reshape(len(crops), SIDE, 2, SIDE, 2, 3).mean(axis=(2, 4)).reshape(len(crops), -1)
        rows = rows - rows.mean(axis=1, keepdims=True)
        unit: np.ndarray = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)
        return unit


def serve(arguments: list[str]) -> int:
    """Serve a stand-in as a process of its own.

    Args:
        arguments: fields of `Settings`, as in `rate=0`, an API `key`, `seconds` of a batch, a folder of a `gallery` and
            its `key`, and `processes`.
    """
    from siamese_verify.serving.server import listen
    from siamese_verify.serving.settings import Settings
    from siamese_verify.serving.supervisor import Supervisor

    given: dict[str, Any] = dict(argument.split("=", 1) for argument in arguments)
    listener = listen(Settings(port=0))
    if "processes" in given:
        return Supervisor(serve_here, given, listener, int(given["processes"]), 10, show).run()
    return serve_here(given, listener, show)


def serve_here(options: dict[str, Any], listener: socket.socket, ready: Callable[[str], None]) -> int:
    from siamese_verify.serving.api_keys import SCOPES, Key, KeyFile, hash_key
    from siamese_verify.serving.app import create_app
    from siamese_verify.serving.server import run
    from siamese_verify.serving.settings import Settings

    given = dict(options)
    supervised = given.pop("processes", None) is not None
    keys = KeyFile([Key(hash_key(given.pop("key")), "test", frozenset(SCOPES))]) if "key" in given else None
    stand_in = StandIn(float(given.pop("seconds", 0)))
    gallery = None
    if "gallery" in given:
        from siamese_verify.gallery import Gallery

        folder = Path(given.pop("gallery"))
        gallery = Gallery.open(folder / "gallery.db", stand_in, key=folder / "key")
    if "trusted_proxies" in given:
        given["trusted_proxies"] = tuple(given["trusted_proxies"].split(","))
    settings = Settings(port=0, **{name: number(value) for name, value in given.items()})
    app = create_app(stand_in, settings, keys=keys, gallery=gallery)
    return run(app, settings, listener, ready=ready, supervised=supervised)


def show(url: str) -> None:
    print(url, flush=True)


def number(text: Any) -> Any:
    """Number of a text, or the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    return text


if __name__ == "__main__":
    import sys

    sys.exit(serve(sys.argv[1:]))
