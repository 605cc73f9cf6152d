"""MTCNN's networks on ONNX Runtime, which needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from siamese_verify.atomic_write import cache_folder, write_whole
from siamese_verify.faces.mtcnn import Array, Network, Networks
from siamese_verify.onnx_runtime import OPSET, onnx_network, session_of

FILES = ("propose.onnx", "refine.onnx", "output.onnx", "apart.onnx")
CONVERTING = Lock()  # torch's exporter is not made for two threads
VERSION = 2  # of the files: to be counted up with any change of what `convert_detector` writes


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

        files = convert_detector()
        with suppress(OSError):  # a cache that cannot be written costs time, not the answer
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                write_whole(folder / name, content)
        return files


SIDES = ((61, 64), (24, 24), (48, 48))  # of the pictures that the networks are traced with


def convert_detector() -> dict[str, bytes]:
    """Write the networks of MTCNN, with the weights inside facenet-pytorch, as ONNX.

    Returns:
        The content of each of `FILES`.
    """
    import torch
    from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

    several = torch.export.Dim.DYNAMIC
    files = {}
    for name, network, sides in zip(FILES, (PNet(), RNet(), ONet()), SIDES, strict=False):
        free = {0: several, 2: several, 3: several} if name == FILES[0] else {0: several}
        pixels = torch.zeros(2, 3, *sides)
        files[name] = onnx_network(network, (pixels,), {"pixels": free})
    files[FILES[3]] = suppression()
    return files


def suppression() -> bytes:
    """Non-maximum suppression alone: what ONNX Runtime does faster than numpy can."""
    from onnx import TensorProto, helper

    float32, int64 = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", ["boxes", "scores", "count", "most"], ["kept"])],
        "apart",
        [
            helper.make_tensor_value_info("boxes", float32, [1, "n", 4]),
            helper.make_tensor_value_info("scores", float32, [1, 1, "n"]),
            helper.make_tensor_value_info("count", int64, [1]),
            helper.make_tensor_value_info("most", float32, [1]),
        ],
        [helper.make_tensor_value_info("kept", int64, ["m", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
