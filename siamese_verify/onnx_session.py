"""ONNX Runtime sessions, set up as everything here wants them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


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
