"""ONNX networks of bundles; where a bundle has none, exported at its first use and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

from siamese_verify import __version__
from siamese_verify.atomic_write import atomic_write, cache_folder
from siamese_verify.models.bundle import NETWORK, WEIGHTS, Bundle, load_bundle
from siamese_verify.models.metadata import ModelMetadata

log = logging.getLogger(__name__)
KEPT_NETWORKS = 16  # in the cache


def network_of(bundle: Bundle, trust_code: str | Collection[str] = ()) -> Path | bytes:
    """Path of the ONNX network of a bundle, or its content where it cannot be kept.

    The bundle of a training has none, as most runs of a sweep never verify: it is exported at the first use, compared
    with torch, and kept in the user's cache under its hash, whoever may write to the bundle's folder. `siamese-verify
    export` puts it into a bundle.

    Raises:
        InputError: a file is missing or damaged; the network cannot be exported, see `load_model`.
    """
    if NETWORK in bundle.files or WEIGHTS not in bundle.files:
        return bundle.path(NETWORK)
    folder, stem = cache_folder() / "networks", _origin_digest(bundle.metadata)[:32]
    if kept := _kept_network(folder, stem):
        return kept
    log.warning("Exporting the network of %s to ONNX, at its first use ...", bundle.folder)
    from siamese_verify.models.export import compared_network

    network, _ = compared_network(load_bundle(bundle.folder, trust_code))
    path = folder / f"{stem}-{hashlib.sha256(network).hexdigest()}.onnx"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(path, network)
        for old in sorted(folder.glob("*.onnx"), key=lambda one: -one.stat().st_mtime)[KEPT_NETWORKS:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("It cannot be kept (%s), and is exported each time: make room below $XDG_CACHE_HOME.", error)
        return network
    return path


def may_wait(metadata: ModelMetadata) -> bool:
    """Whether the ONNX network of a bundle may be exported at its first use: it needs this package and no other.

    Networks of arrays are compared on arrays of the validation set, which are there only after training.
    """
    return not metadata.needs_code and not metadata.needs_timm and metadata.input_spec.is_photo


def _kept_network(folder: Path, stem: str) -> Path | None:
    """The network of the cache whose name is this stem and its own hash; those of another hash are removed."""
    for path in folder.glob(f"{stem}-*.onnx"):
        with suppress(OSError):
            if path.stem == f"{stem}-{hashlib.sha256(path.read_bytes()).hexdigest()}":
                with suppress(OSError):
                    path.touch()  # those used last are kept
                return path
            path.unlink()
    return None


def _origin_digest(metadata: ModelMetadata) -> str:
    """SHA-256 of what decides about an exported network: weights, encoder and software."""
    from importlib.metadata import version  # not at the top: it takes 10 ms

    made_by = [__version__, version("torch"), _exporting_code()]
    made_of = [metadata.weights_sha256, metadata.configuration, asdict(metadata.input_spec)]
    return hashlib.sha256(json.dumps([*made_by, *made_of], sort_keys=True).encode()).hexdigest()


@cache
def _exporting_code() -> str:
    """SHA-256 of the modules that make an ONNX network of weights: a checkout changes without its version."""
    package = Path(__file__).parents[1]
    files = [package / "onnx_runtime.py", package / "models" / "export.py", *(package / "encoders").glob("*.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()
