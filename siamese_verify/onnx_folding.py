"""Fold ONNX networks: constants computed once, batch norms within convolutions, PReLUs as sums.

What ONNX Runtime would do at every start, or not at all, is done once: weights stored in blocks of int8 become float32,
and each batch norm becomes part of the convolution or matrix product beside it. The result computes the same function,
up to rounding.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.onnx_runtime import OPSET

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = NDArray[Any]


class Graph:
    """Nodes and constants of an ONNX network while it is rewritten.

    Args:
        model: in float32, or with weights in blocks of int8; of one input that is no constant.
    """

    def __init__(self, model: ModelProto) -> None:
        from onnx import numpy_helper

        self.constants: dict[str, Array] = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        self.nodes: list[NodeProto] = []
        for node in model.graph.node:
            if node.op_type == "Constant":
                (value,) = attributes(node).values()
                self.constants[node.output[0]] = numpy_helper.to_array(value)
            elif node.op_type == "DequantizeLinear" and all(name in self.constants for name in node.input):
                self.constants[node.output[0]] = self._dequantized(node)
            elif node.op_type == "Reshape" and all(name in self.constants for name in node.input):
                weight, shape = (self.constants[name] for name in node.input)
                self.constants[node.output[0]] = weight.reshape(shape)
            else:
                self.nodes.append(copy.deepcopy(node))
        taken = {name for node in self.nodes for name in node.input if name not in self.constants}
        self.inputs = [one for one in model.graph.input if one.name in taken]  # some files list their weights, too
        self.outputs = list(model.graph.output)

    def _dequantized(self, node: NodeProto) -> Array:
        """Float32 weights of a DequantizeLinear node: (quantized - zero point) * scale of its block."""
        quantized, scale, zero = (self.constants[name] for name in node.input)
        known = attributes(node)
        axis, block = known.get("axis", 1), known.get("block_size", 0)
        if block:
            rows = np.arange(quantized.shape[axis]) // block
            scale, zero = scale.take(rows, axis), zero.take(rows, axis)
        elif scale.size > 1:
            shape = [-1 if one == axis else 1 for one in range(quantized.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        weights: Array = (quantized.astype(np.float32) - zero.astype(np.float32)) * scale
        return weights

    def consumers(self, name: str) -> list[NodeProto]:
        """Nodes that take a value."""
        return [node for node in self.nodes if name in node.input]

    def producer(self, name: str) -> NodeProto | None:
        """The node that gives a value; None for an input or a constant."""
        return next((node for node in self.nodes if name in node.output), None)

    def remove(self, node: NodeProto) -> None:
        """Remove a node that passes its first input on: those that take its output then take that input."""
        self.nodes.remove(node)
        source, gone = node.input[0], node.output[0]
        if any(one.name == gone for one in self.outputs):
            before = self.producer(source)
            assert before is not None
            before.output[list(before.output).index(source)] = gone
            source, gone = gone, source
        for consumer in self.consumers(gone):
            for place, name in enumerate(consumer.input):
                if name == gone:
                    consumer.input[place] = source

    def replace(self, node: NodeProto, *others: NodeProto) -> None:
        """Replace a node by others, the last of which gives its output."""
        place = self.nodes.index(node)
        self.nodes[place : place + 1] = others

    def to_bytes(self, name: str) -> bytes:
        """The network as an ONNX file, without the constants that no node takes; equal graphs give equal bytes."""
        from onnx import helper, numpy_helper

        used = dict.fromkeys(name for node in self.nodes for name in node.input if name in self.constants)
        constants = [numpy_helper.from_array(np.ascontiguousarray(self.constants[one]), one) for one in used]
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes of a node by name."""
    from onnx import helper

    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def scale_and_shift(graph: Graph, norm: NodeProto) -> tuple[Array, Array]:
    """A batch norm as `scale * x + shift`, (C,) float64 each.

    Ioffe & Szegedy, "Batch Normalization", ICML 2015, algorithm 2.
    """
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in norm.input[1:])
    scale = gamma / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
    return scale, beta - mean * scale


def fold_batch_norms(graph: Graph) -> None:
    """Fold each batch norm into the Conv or Gemm before it, else into the Gemm behind it, past Dropout and Flatten.

    Raises:
        InputError: a batch norm has neither, or a Gemm's weights are not transposed.
    """
    for dropout in [node for node in graph.nodes if node.op_type == "Dropout"]:
        graph.remove(dropout)
    for norm in [node for node in graph.nodes if node.op_type == "BatchNormalization"]:
        before = graph.producer(norm.input[0])
        scale, shift = scale_and_shift(graph, norm)
        if before is not None and before.op_type in ("Conv", "Gemm") and len(graph.consumers(norm.input[0])) == 1:
            weight = graph.constants[before.input[1]].astype(np.float64)
            bias = graph.constants[before.input[2]] if len(before.input) > 2 else np.zeros(len(weight))
            _set_weights(graph, before, weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias * scale + shift)
            graph.remove(norm)
            continue
        behind = graph.consumers(norm.output[0])
        behind += graph.consumers(behind[0].output[0]) if behind else []
        if [node.op_type for node in behind] != ["Flatten", "Gemm"]:
            raise InputError(f"The batch norm {norm.name or norm.output[0]} has no Conv or Gemm to be folded into.")
        product = behind[1]
        _check_transposed(product)
        weight, bias = (graph.constants[name].astype(np.float64) for name in product.input[1:])
        by_channel = weight.reshape(len(weight), len(scale), -1)  # (D,C,pixels)
        bias = bias + np.einsum("dcp,c->d", by_channel, shift)
        _set_weights(graph, product, (by_channel * scale[:, None]).reshape(weight.shape), bias)
        graph.remove(norm)


def _check_transposed(node: NodeProto) -> None:
    if node.op_type == "Gemm" and attributes(node).get("transB", 0) != 1:
        raise InputError(f"The Gemm {node.name or node.output[0]} has no transposed weights: only those are folded.")


def _set_weights(graph: Graph, node: NodeProto, weight: Array, bias: Array) -> None:
    _check_transposed(node)
    for place, (kind, value) in enumerate((("weight", weight), ("bias", bias)), start=1):
        name = f"{node.output[0]}_folded_{kind}"
        graph.constants[name] = value.astype(np.float32)
        if place < len(node.input):
            node.input[place] = name
        else:
            node.input.append(name)


def split_prelus(graph: Graph) -> None:
    """Write each PReLU as `a x + (1 - a) max(0, x)`, as `siamese_verify.onnx_runtime.replace_prelu` does."""
    from onnx import helper

    for node in [node for node in graph.nodes if node.op_type == "PRelu"]:
        x, y = node.input[0], node.output[0]
        slope = graph.constants[node.input[1]].reshape(-1, 1, 1)
        scaled, rest, positive, signed = (f"{y}_{part}" for part in ("scaled", "rest", "positive", "signed"))
        graph.constants |= {f"{y}_slope": slope, f"{y}_rest_of_slope": abs(1 - slope)}
        parts = [
            helper.make_node("Mul", [f"{y}_slope", x], [scaled]),
            helper.make_node("Mul", [f"{y}_rest_of_slope", x], [rest]),
            helper.make_node("Relu", [rest], [positive]),
        ]
        if (slope > 1).any():
            graph.constants[f"{y}_sign"] = np.sign(1 - slope)
            parts.append(helper.make_node("Mul", [f"{y}_sign", positive], [signed]))
        graph.replace(node, *parts, helper.make_node("Add", [scaled, parts[-1].output[0]], [y]))
