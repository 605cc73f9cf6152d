"""ONNX Runtime sessions, set up as everything here wants them."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import Tensor, nn


def runtime() -> ModuleType:
    """ONNX Runtime, silent: by itself it would keep a number of this device and report to its maker."""
    import os

    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when it is imported, and too late afterwards
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def session_of(model: bytes | Path, name: str, threads: int = 0, arena: bool = False) -> InferenceSession:
    """Make a model ready to run on the CPU.

    Args:
        model: an ONNX file, or where it lies: then it is never held in memory twice.
        name: what to call it in errors.
        threads: that share the work of one run; 0 for one per core.
        arena: keep the memory of the largest run for the next: faster, for runs of about one size.

    Raises:
        InputError: it is no ONNX model, or needs what this version of ONNX Runtime lacks.
    """
    onnxruntime = runtime()
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
    except Exception as error:  # its own classes, which have no common one
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name} cannot be run: {reason}.") from None


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
