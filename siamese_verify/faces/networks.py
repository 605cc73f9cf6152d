"""MTCNN's networks on ONNX Runtime, which needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from siamese_verify.faces.mtcnn import Array, Network, Networks
from siamese_verify.files import cache_folder, write_whole
from siamese_verify.onnx_session import session_of

FILES = ("propose.onnx", "refine.onnx", "output.onnx", "apart.onnx")
CONVERTING = Lock()  # torch's exporter is not made for two threads
VERSION = 1  # of the files: to be counted up with any change of what `convert_detector` writes


def load_networks(files: Mapping[str, bytes]) -> Networks:
    """Make the networks ready.

    Each runs in the thread that asks for it: a photo is too small to share, and its faces must not depend on the number
    of threads.

    Args:
        files: ONNX models by their names in `FILES`.

    Raises:
        InputError: one is missing or no ONNX model.
    """
    propose, refine, output = (_network(files, name) for name in FILES[:3])
    choose = session_of(files.get(FILES[3], b""), FILES[3], threads=1)

    def apart(boxes: Array, probabilities: Array, most: float) -> NDArray[np.int64]:
        if not len(boxes):
            return np.empty(0, dtype=np.int64)
        inputs = {
            "boxes": boxes[None],
            "scores": probabilities[None, None],
            "count": np.array([len(boxes)]),
            "most": np.array([most], dtype=np.float32),
        }
        kept: NDArray[np.int64] = choose.run(None, inputs)[0][:, 2]
        return kept

    return Networks(propose, refine, output, apart)


def _network(files: Mapping[str, bytes], name: str) -> Network:
    session = session_of(files.get(name, b""), name, threads=1)

    def run(pixels: Array) -> tuple[Array, ...]:
        return tuple(session.run(None, {"pixels": pixels}))

    return run


def detector_files() -> dict[str, bytes]:
    """The networks as ONNX files: from this machine's cache, else converted from facenet-pytorch's weights by torch."""
    folder = cache_folder() / f"mtcnn-onnx-{VERSION}"
    with CONVERTING:
        with suppress(OSError):
            return {name: (folder / name).read_bytes() for name in FILES}
        from siamese_verify.faces.conversion import convert_detector

        files = convert_detector()
        with suppress(OSError):  # a cache that cannot be written costs time, not the answer
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                write_whole(folder / name, content)
        return files
