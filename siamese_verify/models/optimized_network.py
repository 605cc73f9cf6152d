"""Networks as ONNX Runtime optimizes them for this machine, kept in the user's cache.

To open a network, ONNX Runtime fuses its nodes and orders its weights for the vector units of the processor. For a
network of some size that takes longer than to embed two faces, so the result is kept: nodes in one file, weights in
another, which is mapped into memory instead of being read. It computes what the network itself computes, to rounding.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from siamese_verify.atomic_write import cache_folder
from siamese_verify.errors import InputError
from siamese_verify.onnx_runtime import import_onnxruntime, open_session

NODES, WEIGHTS = "network.onnx", "weights.bin"
LEAST_BYTES = 8 * 2**20  # of a network: a smaller one is opened as fast
KEPT = 4  # in the cache
AGREEMENT = 1e-5  # of an embedding's largest number: how far it may be from the network's own
PROCESSOR = Path("/proc/cpuinfo")
NAMING = {"vendor_id", "cpu family", "model", "model name", "flags", "CPU implementer", "CPU part", "Features"}


def optimized_network(network: Path, sha256: str) -> Path | None:
    """Path of a network as ONNX Runtime optimizes it for this machine, made at its first use.

    It is opened with `optimized` of `siamese_verify.onnx_runtime.open_session`, and compared with its hash by
    `check_optimized`. It is made anew for another version of ONNX Runtime and for another processor.

    Args:
        network: ONNX file.
        sha256: that it should have.

    Returns:
        None for a small network, where the processor is not known (not on Linux), and where it cannot be made or kept:
        the network itself is then to be opened.
    """
    processor = processor_name()
    if not processor or network.stat().st_size < LEAST_BYTES:
        return None
    runtime = import_onnxruntime()
    made_of = [sha256, runtime.__version__, runtime.get_build_info(), processor, NODES, WEIGHTS]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]
    place = cache_folder() / "optimized"
    for folder in place.glob(f"{key}-*"):  # named by its hash
        with suppress(OSError):
            folder.touch()  # those used last are kept
        return folder / NODES
    import shutil

    unfinished = place / f".{os.urandom(8).hex()}.part"
    try:
        unfinished.mkdir(parents=True)
        content = network.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            return None  # the check of the bundle says so
        _optimize(content, unfinished)
        if not _agree(content, unfinished / NODES):
            return None
        folder = place / f"{key}-{_digest(unfinished)}"
        unfinished.rename(folder)
        for old in sorted(place.glob("*-*"), key=lambda one: -one.stat().st_mtime)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, InputError):
        return None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / NODES


def check_optimized(nodes: Path) -> None:
    """Integrity check of an optimized network: a damaged one is removed.

    Args:
        nodes: see `optimized_network`.

    Raises:
        InputError: a file is missing, or differs from when it was made.
    """
    with suppress(OSError):
        if nodes.parent.name.endswith(f"-{_digest(nodes.parent)}"):
            return
    forget_optimized(nodes)
    raise InputError(f"The network in {nodes.parent} was damaged, and is removed: start again.")


def forget_optimized(nodes: Path) -> None:
    """Remove an optimized network from the cache."""
    import shutil

    shutil.rmtree(nodes.parent, ignore_errors=True)


def processor_name() -> str:
    """What decides how ONNX Runtime orders weights: the processor's name and instructions; empty if not known."""
    try:
        with PROCESSOR.open("rb", buffering=0) as file:
            first = file.read(8192).decode(errors="replace").partition("\n\n")[0]
    except OSError:
        return ""
    lines = [line for line in first.splitlines() if line.partition(":")[0].strip() in NAMING]
    return "\n".join(lines) if any(line.startswith(("flags", "Features")) for line in lines) else ""


def _optimize(content: bytes, folder: Path) -> None:
    """Write a network as ONNX Runtime optimizes it to `NODES` and `WEIGHTS` of a folder."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a warning that it is for this machine only
    options.optimized_model_filepath = str(folder / NODES)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise InputError(str(error)) from None


def _agree(content: bytes, nodes: Path) -> bool:
    """Whether an optimized network computes what the network itself computes."""
    session, optimized = open_session(content, NODES, 1), open_session(nodes, NODES, 1, optimized=True)
    (taken,) = session.get_inputs()
    shape = [side if isinstance(side, int) else 2 for side in taken.shape]
    random = np.random.default_rng(0).integers(0, 256, shape)
    inputs = {taken.name: random.astype(np.uint8 if "uint8" in taken.type else np.float32)}
    (theirs,), (ours,) = session.run(None, inputs), optimized.run(None, inputs)
    return bool(np.abs(ours - theirs).max() <= AGREEMENT * np.abs(theirs).max())


def _digest(folder: Path) -> str:
    """SHA-256 of the files of an optimized network."""
    total = hashlib.sha256()
    for name in (NODES, WEIGHTS):
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
