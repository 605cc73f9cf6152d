"""Folded networks of ONNX compute what they computed before, by ONNX's own reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, load_from_string, numpy_helper
from onnx.reference import ReferenceEvaluator

from siamese_verify.errors import InputError
from siamese_verify.onnx_folding import Graph, fold_batch_norms, split_prelus

RNG = np.random.default_rng(0)


def network(nodes: list[NodeProto], constants: dict[str, NDArray[Any]], shape: list[int]) -> ModelProto:
    """A network from `x` to `y` that lists its constants as inputs, too, as those of MXNet do."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    weights = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(one.shape)) for name, one in constants.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(one, name) for name, one in constants.items()]
    graph = helper.make_graph(nodes, "small", [image, *weights], [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def norm(name: str, channels: int) -> dict[str, NDArray[Any]]:
    values = {part: RNG.normal(size=channels).astype(np.float32) for part in ("gamma", "beta", "mean")}
    values["variance"] = RNG.uniform(0.1, 2, channels).astype(np.float32)
    return {f"{name}_{part}": value for part, value in values.items()}


def folded(model: ModelProto) -> ModelProto:
    graph = Graph(model)
    fold_batch_norms(graph)
    split_prelus(graph)
    return load_from_string(graph.to_bytes("folded"))


def run(model: ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    outputs: Any = ReferenceEvaluator(model).run(None, {"x": x})
    found: NDArray[np.float32] = outputs[0]
    return found


@pytest.mark.parametrize("steepest", [0.9, 1.5])
def test_a_folded_network_computes_the_same(steepest: float) -> None:
    parts = ("gamma", "beta", "mean", "variance")
    constants: dict[str, NDArray[Any]] = {
        "quantized": RNG.integers(-127, 128, (4, 27)).astype(np.int8),
        "scales": RNG.uniform(0.001, 0.01, (4, 3)).astype(np.float32),
        "zeros": RNG.integers(-9, 9, (4, 3)).astype(np.int8),
        "shape": np.array([4, 3, 3, 3]),
        "slope": np.array([0.2, -0.1, steepest, 0.0], np.float32).reshape(4, 1, 1),
        "matrix": RNG.normal(size=(5, 100)).astype(np.float32),
        "bias": RNG.normal(size=5).astype(np.float32),
        **norm("first", 4),
        **norm("second", 4),
        **norm("third", 5),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["quantized", "scales", "zeros"], ["flat"], axis=1, block_size=9),
        helper.make_node("Reshape", ["flat", "shape"], ["weight"]),
        helper.make_node("Conv", ["x", "weight"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", *(f"first_{part}" for part in parts)], ["b"], epsilon=1e-3),
        helper.make_node("PRelu", ["b", "slope"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *(f"second_{part}" for part in parts)], ["d"]),
        helper.make_node("Dropout", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "matrix", "bias"], ["g"], transB=1),
        helper.make_node("BatchNormalization", ["g", *(f"third_{part}" for part in parts)], ["y"], epsilon=2e-5),
    ]
    model = network(nodes, constants, [2, 3, 5, 5])
    small = folded(model)
    kinds = {node.op_type for node in small.graph.node}
    assert kinds == {"Conv", "Mul", "Relu", "Add", "Flatten", "Gemm"}
    assert [one.name for one in small.graph.input] == ["x"]
    x = RNG.normal(size=(2, 3, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(run(small, x), run(model, x), rtol=1e-4, atol=1e-4)
    assert folded(model).SerializeToString() == small.SerializeToString()


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        ([("Relu", ["a"], "y")], "The batch norm a has no Conv or Gemm to be folded into"),
        ([("Flatten", ["a"], "b"), ("Gemm", ["b", "matrix", "bias"], "y")], "The Gemm y has no transposed weights"),
    ],
)
def test_other_networks_are_refused(behind: list[tuple[str, list[str], str]], told: str) -> None:
    constants = {**norm("n", 2), "matrix": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
    nodes = [helper.make_node("BatchNormalization", ["x", "n_gamma", "n_beta", "n_mean", "n_variance"], ["a"])]
    nodes += [helper.make_node(kind, inputs, [output]) for kind, inputs, output in behind]
    with pytest.raises(InputError, match=told):
        folded(network(nodes, constants, [1, 2, 1, 1]))
