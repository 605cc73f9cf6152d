"""facenet-pytorch's MTCNN -> ONNX files."""

from __future__ import annotations

from siamese_verify.faces.networks import FILES
from siamese_verify.onnx_network import OPSET, onnx_network

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
