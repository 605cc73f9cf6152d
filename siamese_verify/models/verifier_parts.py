"""Load what a verifier consists of: metadata, engine, detector and the integrity check of its files."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from siamese_verify.errors import InputError
from siamese_verify.faces import DETECTORS, FaceDetector, load_detector
from siamese_verify.models.bundle import DETECTOR, NETWORK, Bundle
from siamese_verify.models.engines import Engine, OnnxEngine, TorchEngine
from siamese_verify.models.exported_network import network_of
from siamese_verify.models.loading import find_bundle, load_model
from siamese_verify.models.metadata import PRETRAINED, ModelMetadata
from siamese_verify.models.optimized_network import QuickEngine, optimized_network
from siamese_verify.onnx_runtime import gpu_number, import_onnxruntime

if TYPE_CHECKING:
    from siamese_verify.encoders import Encoder

MAX_THREADS = 256


class VerifierParts(NamedTuple):
    """Parts of a verifier."""

    metadata: ModelMetadata
    engine: Engine
    detector: FaceDetector | None  # None for that of this machine's cache
    integrity: Future[None] | None  # integrity check of the bundle's files, None without a bundle


def load_parts(
    name: str | Path,
    engine: Literal["auto", "onnx", "torch"],
    device: str = "auto",
    threads: int | None = None,
    trust_code: str | Collection[str] = (),
    encoder: Encoder | None = None,
    quick_start: bool = False,
) -> VerifierParts:
    """Load the parts of a verifier, see `Verifier.load`."""
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"A model is a name or a path, got {type(name).__name__}: give one such as 'sface'.")
    if engine not in ("auto", "onnx", "torch"):
        raise InputError(f"engine must be 'auto', 'onnx' or 'torch', got {engine!r}.")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise InputError(f"ONNX Runtime takes 1 to {MAX_THREADS} threads, got {threads}.")
    if engine == "onnx" and encoder is not None:
        raise InputError("The engine onnx runs the bundle's own network: leave encoder out, or use the engine torch.")
    on_torch = Path(name).is_file() or device not in ("auto", "cpu") or encoder is not None
    if engine == "torch" or (engine == "auto" and on_torch):
        from siamese_verify.models.export import with_weights_hash

        model = with_weights_hash(load_model(name, device, trust_code, encoder))
        return VerifierParts(model.metadata, TorchEngine(model.encoder), None, None)
    bundle = find_bundle(name)
    metadata = replace(bundle.metadata, name=str(name)) if str(name) in PRETRAINED else bundle.metadata
    if device == "auto" and metadata.quantization != "none":
        device = "cpu"  # int8 is made for it
    runs, integrity = _start_engine(bundle, device, threads, trust_code, quick_start)
    return VerifierParts(metadata, runs, _own_detector(bundle), integrity)


def _start_engine(
    bundle: Bundle, device: str, threads: int | None, trust_code: str | Collection[str], quick_start: bool
) -> tuple[Engine, Future[None]]:
    """The engine of a bundle's network, and the integrity check of its files, which goes on meanwhile.

    Where an optimized network runs, that of the bundle is checked only if it is opened after all.
    """
    try:
        network = network_of(bundle, trust_code)
        optimized = _optimized(network, bundle, device) if quick_start else None
    except InputError:
        bundle.check(bundle.files)  # a changed file is the better explanation
        raise
    unopened = [NETWORK] if optimized and NETWORK in bundle.files else []
    pool = ThreadPoolExecutor(1)
    integrity = pool.submit(bundle.check, [name for name in bundle.files if name not in unopened])
    pool.shutdown(wait=False)
    place = str(network if isinstance(network, Path) else bundle.folder / NETWORK)
    kind = bundle.metadata.input_spec.array_type

    def open_itself() -> OnnxEngine:
        bundle.check(unopened)
        return OnnxEngine(network, place, threads, kind, device)

    try:
        return QuickEngine(optimized, threads, kind, open_itself) if optimized else open_itself(), integrity
    except InputError:
        integrity.result()  # a changed file is the better explanation
        raise


def _optimized(network: Path | bytes, bundle: Bundle, device: str) -> Path | None:
    """The network of a bundle as ONNX Runtime optimizes it for this machine, see `optimized_network`."""
    if isinstance(network, bytes) or gpu_number(device, import_onnxruntime().get_available_providers()):
        return None
    return optimized_network(network, bundle.files.get(NETWORK) or network.stem.rpartition("-")[2])


def _own_detector(bundle: Bundle) -> FaceDetector | None:
    """The detector whose files are in a bundle; None where its faces are not detected."""
    crop = bundle.metadata.input_spec.crop
    if not crop.needs_face:
        return None
    files = {name: bundle.read(f"{DETECTOR}/{name}") for name in DETECTORS[crop.detector].files}
    return load_detector(crop.detector, files)
