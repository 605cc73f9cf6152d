"""A verifier without weights for tests of the server: a face is the whole photo, an embedding its coarse pixels.

What its photos say by their size: 77 pixels wide has no face, 78 several, 79 raises, 80 takes long.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint
from siamese_verify.types import Crop, InputSpec

NO_FACE, SEVERAL, BROKEN, SLOW = 77, 78, 79, 80
SIDE = 16


class NoDecision(InputError):
    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Face:
    name: str
    crop: np.ndarray = field(repr=False, compare=False)
    faces: int = 1

    def to_dict(self) -> dict[str, Any]:
        quality = {"sharpness": 1.0, "size": None, "turn": None, "light": 0.5, "contrast": 0.2}
        blank = {"box": None, "landmarks": None, "probability": None, "turned": 0}
        return {"name": self.name, **blank, "faces": self.faces, "quality": quality}


class Decision(SimpleNamespace):
    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "faces": [face.to_dict() for face in self.faces]}

    def sentence(self) -> str:
        return f"The score is {self.score:.3f}."


class StandIn:
    """See the module."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[int] = []
        self.gate = threading.Event()  # slow photos wait for it
        self.looking = 0
        points = tuple(
            OperatingPoint(far, far, tar, threshold, False, 4000, round(4000 * far))
            for far, tar, threshold in ((0.1, 0.99, 0.2), (0.01, 0.9, 0.5), (0.001, 0.7, 0.8))
        )
        self.record = SimpleNamespace(
            name="stand-in",
            fingerprint="00" * 32,
            licence="MIT",
            dimension=SIDE * SIDE * 3,
            input_spec=InputSpec(32, crop=Crop("whole")),
            operating_points=points,
            measured_on="4,000 pairs of nobody",
            meaning=None,
            quality={},
        )

    def find(self, photo: Image.Image, name: str | None = None, several: str | None = None) -> list[Face]:
        self.looking += 1
        if photo.width == NO_FACE:
            raise NoDecision(f"No face was found on {name}: use another.", "no_face")
        if photo.width == BROKEN:
            raise RuntimeError("secret of the client")
        if photo.width == SLOW:
            self.gate.wait(20)
        faces = 2 if photo.width == SEVERAL else 1
        if faces > 1 and several in (None, "refuse"):
            raise NoDecision(f"2 faces were found on {name}: crop it.", "several_faces")
        crop = np.asarray(photo.resize((32, 32)))
        return [Face(str(name), crop, faces)] * (faces if several == "any" else 1)

    def embed_crops(self, crops: np.ndarray) -> np.ndarray:
        self.batches.append(len(crops))
        time.sleep(self.seconds)
        rows = crops.reshape(len(crops), SIDE, 2, SIDE, 2, 3).mean(axis=(2, 4)).reshape(len(crops), -1)
        rows = rows - rows.mean(axis=1, keepdims=True)
        unit: np.ndarray = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)
        return unit

    def decide(
        self,
        score: float,
        faces: Any = (),
        *,
        far: float | None = None,
        threshold: float | None = None,
        decide: bool = False,
        comparisons: int = 1,
        milliseconds: dict[str, float] | None = None,
    ) -> Decision:
        if threshold is not None and not -1 <= threshold <= 1:
            raise InputError(f"A threshold is a cosine between -1 and 1, got {threshold}.")
        if far is not None and far not in (0.1, 0.01, 0.001):
            raise InputError(f"No threshold for {far} was measured: use 0.001, 0.01, 0.1.")
        limit = threshold if threshold is not None else {0.1: 0.2, 0.01: 0.5, 0.001: 0.8}[far or 0.01]
        unsure = abs(score - limit) < 0.02 and not decide
        return Decision(
            same=None if unsure else score >= limit,
            score=score,
            threshold=limit,
            threshold_interval=(limit - 0.02, limit + 0.02),
            far=far or 0.01,
            one_in=max(1, int(1 / max(1e-4, 1 - score))),
            probability=0.5 * (1 + math.tanh(score - limit)),
            evidence=score - limit,
            impostors=4000,
            insufficient=False,
            measured_on="4,000 pairs of nobody",
            model="stand-in",
            strangers="",
            faces=tuple(faces),
            reasons=["It is close to the threshold."] if unsure else [],
            warnings=[],
            milliseconds=milliseconds or {},
        )


def serve(arguments: list[str]) -> None:
    """Serve a stand-in as a process of its own; the arguments are fields of `Settings`, as in `rate=0`."""
    from siamese_verify.serving.api_keys import KeyFile, hash_of
    from siamese_verify.serving.app import create_app
    from siamese_verify.serving.server import listen, run
    from siamese_verify.serving.settings import Settings

    given = dict(argument.split("=") for argument in arguments)
    keys = KeyFile([hash_of(given.pop("key"))]) if "key" in given else None
    stand_in = StandIn(float(given.pop("seconds", 0)))
    settings = Settings(port=0, **{name: float(value) if "." in value else int(value) for name, value in given.items()})  # type: ignore[arg-type]
    run(create_app(stand_in, settings, keys=keys), settings, listen(settings), ready=lambda url: print(url, flush=True))


if __name__ == "__main__":
    import sys

    serve(sys.argv[1:])
