"""ONNX Runtime: sessions on the CPU or a GPU without telemetry, and export of torch networks to ONNX."""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import Tensor, nn

log = logging.getLogger(__name__)
OPSET = 18
ERRORS = 3  # severity of ONNX Runtime's log: these only, and they are raised
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Full precision, as thresholds were measured with; no search for the fastest convolution anew for each size of a batch.
ON_GPU = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
}
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime with its telemetry disabled, and without its warnings, on which no user could act."""
    first = "onnxruntime" not in sys.modules
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import, and too late afterwards
    import onnxruntime

    if first:
        onnxruntime.set_default_logger_severity(ERRORS)
    module: ModuleType = onnxruntime
    return module


def open_session(
    model: bytes | Path,
    name: str,
    threads: int = 0,
    arena: bool = False,
    device: str = "cpu",
    optimized: bool = False,
) -> InferenceSession:
    """Open a session that runs an ONNX model.

    Args:
        model: ONNX file, or its path, which takes less memory.
        name: of the model, for errors.
        threads: that share the work of one run on the CPU; 0 for one per core.
        arena: keep the memory of the largest run for the next, which is faster for runs of about the same size.
        device: `cpu`; `cuda` or `cuda:1` for a GPU; `auto` for a GPU if there is one that the installed ONNX Runtime
            can use, as that of the package onnxruntime-gpu can. Where it has GPUs but cannot start on one, `auto` logs
            one sentence and takes the CPU.
        optimized: it was saved as ONNX Runtime optimized it on this machine, see
            `siamese_verify.models.optimized_network`, and is opened as it is.

    Raises:
        InputError: it is not an ONNX model, or needs what this version of ONNX Runtime lacks; a GPU is asked for that
            cannot be used.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS
    options.intra_op_num_threads = threads
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # idle threads would take the cores of others
    if threads == 1:
        options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = False  # batches differ in size
    if optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")  # weights stay in the file, which is mapped
    reason = ""
    if number := gpu_number(device, onnxruntime.get_available_providers()):
        try:
            return _open_on_gpu(onnxruntime, model, options, number)
        except Exception as error:  # ONNX Runtime's errors have no common class
            reason = first_line(error)
        if device != "auto":
            raise InputError(f"{name} cannot be run on {device}: {reason}.") from None
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[CPU])
    except Exception as error:
        raise InputError(f"{name} cannot be run: {first_line(error)}.") from None
    if reason:
        log.warning("%s runs on the CPU, since ONNX Runtime cannot use a GPU here: %s.", name, reason)
    return session


def gpu_number(device: str, available: Sequence[str]) -> str:
    """Number of the GPU that ONNX Runtime shall use, "" for the CPU.

    Args:
        device: see `open_session`.
        available: what this ONNX Runtime can use, see `onnxruntime.get_available_providers`.

    Raises:
        InputError: another name, or a GPU without an ONNX Runtime that can use one.
    """
    found = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if found is None:
        raise InputError(f"The device {device!r} cannot be used by the engine onnx: give cpu, cuda, cuda:1 or auto.")
    if device == "cpu" or (device == "auto" and CUDA not in available):
        return ""
    if CUDA not in available:
        raise InputError(
            f"The device {device!r} cannot be used: the ONNX Runtime that is installed computes on the CPU only. Put "
            "the package onnxruntime-gpu in the place of onnxruntime, or use the engine torch."
        )
    return found[1] or "0"


def _open_on_gpu(onnxruntime: ModuleType, model: bytes | Path, options: Any, number: str) -> InferenceSession:
    onnxruntime.set_default_logger_severity(4)  # a library that is missing is an error here, not lines on the terminal
    try:
        if hasattr(onnxruntime, "preload_dlls"):  # those of CUDA that torch brought along
            with redirect_stdout(StringIO()):
                onnxruntime.preload_dlls()
        providers = [(CUDA, {**ON_GPU, "device_id": number}), CPU]
        session: InferenceSession = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    finally:
        onnxruntime.set_default_logger_severity(ERRORS)
    if CUDA not in session.get_providers():
        raise RuntimeError("a library of CUDA or cuDNN, or the GPU itself, is missing")
    return session


def first_line(error: BaseException) -> str:
    """First line of an error, without the dot at its end."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


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
