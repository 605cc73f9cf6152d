"""Networks as ONNX Runtime optimizes them for this machine, kept in the user's cache.

To open a network, ONNX Runtime fuses its nodes and orders its weights for the vector units of the processor. For a
network of some size that takes longer than to embed two faces, so the result is kept: nodes in one file, weights in
another, which is mapped into memory instead of being read. It computes what the network itself computes, to rounding.
Networks of matrix products take longer for a face: weights that stay in the file are not ordered for these.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_verify.atomic_write import cache_folder
from siamese_verify.errors import InputError
from siamese_verify.models.engines import OnnxEngine
from siamese_verify.onnx_runtime import import_onnxruntime, open_session

log = logging.getLogger(__name__)
NODES, WEIGHTS, HASH = "network.onnx", "weights.bin", "sha256"
ABANDONED = 3600.0  # seconds after which nobody makes what has no end
LEAST_BYTES = 8 * 2**20  # of a network: a smaller one is opened as fast
KEPT = 4  # in the cache
AGREEMENT = 1e-5  # of an embedding's largest number: how far it may be from the network's own
PROCESSOR = Path("/proc/cpuinfo")
NAMING = {"vendor_id", "cpu family", "model", "model name", "flags", "CPU implementer", "CPU part", "Features"}


def optimized_network(network: Path, sha256: str) -> Path | None:
    """Path of a network as ONNX Runtime optimizes it for this machine, made at its first use.

    `QuickEngine` runs it. It is made anew for another version of ONNX Runtime and for another processor.

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
    place = cache_folder() / "optimized"
    folder = place / hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]
    if os.path.lexists(folder):
        with suppress(OSError):
            os.utime(folder)  # those used last are kept
        return folder / NODES
    import shutil

    unfinished = place / f".{os.urandom(8).hex()}.part"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in place.glob(".*.part"):
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > ABANDONED:
                    shutil.rmtree(old)
        unfinished.mkdir()
        content = network.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            return None  # the check of the bundle says so
        _optimize(content, unfinished)
        if not _agree(content, unfinished / NODES):
            return None
        (unfinished / HASH).write_text(_digest(unfinished))
        with suppress(OSError):  # another process was first: its folder is not empty, and stays
            unfinished.rename(folder)
        for old in sorted(place.glob("[!.]*"), key=lambda one: -one.lstat().st_mtime)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, InputError):
        return None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / NODES


class QuickEngine:
    """Runs a network as it is optimized for this machine, which is compared with its hash while the first faces run.

    Where it is damaged, it is removed from the cache as far as that can be done, and the network itself runs instead.

    Args:
        nodes: see `optimized_network`.
        threads: see `OnnxEngine`.
        arrays: likewise.
        open_itself: opens the network itself, whose hash was compared.

    Raises:
        InputError: as `open_itself`.
    """

    def __init__(
        self, nodes: Path, threads: int | None, arrays: str | None, open_itself: Callable[[], OnnxEngine]
    ) -> None:
        pool = ThreadPoolExecutor(1)
        self._folder, self._open_itself = nodes.parent, open_itself
        self._intact = pool.submit(_is_intact, nodes.parent)
        pool.shutdown(wait=False)
        self._itself: OnnxEngine | None = None
        try:
            self._optimized = OnnxEngine(nodes, str(nodes), threads, arrays, optimized=True)
        except InputError:
            self._replace()

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `siamese_verify.models.engines.Engine`."""
        if self._itself:
            return self._itself(crops)
        try:
            embeddings = self._optimized(crops)
        except InputError:
            if self._intact.result():
                raise
        else:
            if self._intact.result():
                return embeddings
        return self._replace()(crops)

    def _replace(self) -> OnnxEngine:
        """Open the network itself, which runs from now on, and forget the damaged one."""
        itself = self._itself = self._open_itself()
        import shutil

        for remove in (Path.unlink, shutil.rmtree):  # a file or link; a folder
            with suppress(OSError):  # a cache that cannot be written to
                remove(self._folder)
        if os.path.lexists(self._folder):
            log.warning("%s is damaged, and cannot be removed: remove it, for starts to be quick.", self._folder)
        return itself


def _is_intact(folder: Path) -> bool:
    """Whether an optimized network has the hash that it had when it was made."""
    with suppress(OSError, ValueError):
        return (folder / HASH).read_text() == _digest(folder)
    return False


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
    try:
        (taken,) = session.get_inputs()
        shape = [side if isinstance(side, int) else 2 for side in taken.shape]
        random = np.random.default_rng(0).integers(0, 256, shape)
        inputs = {taken.name: random.astype(np.uint8 if "uint8" in taken.type else np.float32)}
        (theirs,), (ours,) = session.run(None, inputs), optimized.run(None, inputs)
    except Exception:  # several inputs or outputs; ONNX Runtime's errors have no common class
        return False
    return bool(np.abs(ours - theirs).max() <= AGREEMENT * np.abs(theirs).max())


def _digest(folder: Path) -> str:
    """SHA-256 of the files of an optimized network."""
    total = hashlib.sha256()
    for name in (NODES, WEIGHTS):
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
