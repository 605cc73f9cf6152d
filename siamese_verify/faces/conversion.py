"""facenet-pytorch's MTCNN -> ONNX files."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

from siamese_verify.faces.networks import FILES

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
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
        network.eval()
        free = {0: several, 2: several, 3: several} if name == FILES[0] else {0: several}
        pixels = torch.zeros(2, 3, *sides)
        files[name] = onnx_of(network, (pixels,), {"pixels": free})
    files[FILES[3]] = suppression()
    return files


def onnx_of(network: nn.Module, inputs: tuple[object, ...], free: dict[str, dict[int, object]]) -> bytes:
    """Trace a network in evaluation mode.

    Args:
        network: a torch module.
        inputs: an example of each.
        free: by the names of the inputs, the dimensions whose lengths may differ.
    """
    import torch

    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own inside
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                network,
                inputs,
                input_names=list(free),
                dynamo=True,
                dynamic_shapes=tuple(free.values()),
                external_data=False,
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            content: bytes = program.model_proto.SerializeToString()
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
    return content


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
