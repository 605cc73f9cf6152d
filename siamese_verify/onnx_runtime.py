"""ONNX Runtime: sessions on the CPU without telemetry, and export of torch networks to ONNX."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import Tensor, nn

OPSET = 18
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime with its telemetry disabled."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import, and too late afterwards
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def open_session(model: bytes | Path, name: str, threads: int = 0, arena: bool = False) -> InferenceSession:
    """Open a session that runs an ONNX model on the CPU.

    Args:
        model: ONNX file, or its path, which takes less memory.
        name: of the model, for errors.
        threads: that share the work of one run; 0 for one per core.
        arena: keep the memory of the largest run for the next, which is faster for runs of about the same size.

    Raises:
        InputError: it is not an ONNX model, or needs what this version of ONNX Runtime lacks.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only, and those are raised
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads would take the cores of others
    if threads == 1:
        options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = False  # batches differ in size
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name} cannot be run: {reason}.") from None


def export_onnx(network: nn.Module, inputs: tuple[Tensor, ...], dynamic: dict[str, dict[int, object]]) -> bytes:
    """Export a network as it evaluates to an ONNX file; the network itself is not changed.

    Args:
        network: on any device.
        inputs: an example of each.
        dynamic: dimensions of variable length, by the names of the inputs.
    """
    import torch

    plain = copy.deepcopy(network).cpu().eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
    replace_prelu(plain)
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's internals
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                plain,
                inputs,
                input_names=list(dynamic),
                dynamo=True,
                dynamic_shapes=tuple(dynamic.values()),
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
    """Replace PReLUs by equal sums, which are many times as fast on ONNX Runtime's CPU."""
    from torch import nn

    class PReLUAsSum(nn.Module):
        """`a x + (1 - a) max(0, x)`; ONNX Runtime fuses its products and the maximum with the convolution."""

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
            setattr(network, name, PReLUAsSum(part.weight))
        else:
            replace_prelu(part)
