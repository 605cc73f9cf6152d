"""torch network -> ONNX file."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 18
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


def onnx_network(network: nn.Module, inputs: tuple[Tensor, ...], free: dict[str, dict[int, object]]) -> bytes:
    """Trace a network as it evaluates, on the CPU; the network itself stays as it is.

    Args:
        network: any.
        inputs: an example of each.
        free: by the names of the inputs, the dimensions whose lengths may differ.
    """
    import torch

    plain = copy.deepcopy(network).cpu().eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
    replace_prelu(plain)
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own inside
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                plain,
                inputs,
                input_names=list(free),
                dynamo=True,
                dynamic_shapes=tuple(free.values()),
                external_data=False,
                opset_version=OPSET,
                verbose=False,
            )
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def replace_prelu(network: nn.Module) -> None:
    """Put sums for PReLUs: the same numbers, and on ONNX Runtime's CPU many times as fast."""
    from torch import nn

    class Sum(nn.Module):
        """`a x + (1 - a) max(0, x)`, where the runtime joins each product, and the maximum, to a convolution."""

        slope: Tensor
        rest: Tensor
        sign: Tensor

        def __init__(self, slope: Tensor) -> None:
            super().__init__()
            self.register_buffer("slope", slope.detach())
            self.register_buffer("rest", (1 - slope.detach()).abs())
            self.register_buffer("sign", (1 - slope.detach()).sign())
            self.steep = bool((slope > 1).any())

        def forward(self, x: Tensor) -> Tensor:
            shape = (-1, *[1] * (x.ndim - 2))
            rest = (self.rest.view(shape) * x).relu()
            return self.slope.view(shape) * x + (self.sign.view(shape) * rest if self.steep else rest)

    for name, part in network.named_children():
        if isinstance(part, nn.PReLU):
            setattr(network, name, Sum(part.weight))
        else:
            replace_prelu(part)
