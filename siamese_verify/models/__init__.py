"""Trained models on disk: bundles, metadata, loading, registry, export and quantization."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_verify.models.bundle import Bundle, open_bundle
    from siamese_verify.models.engines import OnnxEngine, TorchEngine, embed_faces, embed_photos
    from siamese_verify.models.export import export_bundle, export_network, save_bundle
    from siamese_verify.models.loading import FaceModel, load_bundle, load_checkpoint, load_model, read_origin
    from siamese_verify.models.metadata import (
        PRETRAINED,
        ModelMetadata,
        code_of_others,
        read_operating_points,
        training_of,
    )
    from siamese_verify.models.registry import ships_thresholds, store_thresholds

_MODULES = {  # imported when a name is first used: verifying with a bundle needs no torch
    "Bundle": "bundle",
    "open_bundle": "bundle",
    "OnnxEngine": "engines",
    "TorchEngine": "engines",
    "embed_faces": "engines",
    "embed_photos": "engines",
    "export_bundle": "export",
    "export_network": "export",
    "save_bundle": "export",
    "FaceModel": "loading",
    "load_bundle": "loading",
    "load_checkpoint": "loading",
    "load_model": "loading",
    "read_origin": "loading",
    "PRETRAINED": "metadata",
    "ModelMetadata": "metadata",
    "code_of_others": "metadata",
    "read_operating_points": "metadata",
    "training_of": "metadata",
    "ships_thresholds": "registry",
    "store_thresholds": "registry",
}
__all__ = [
    "PRETRAINED",
    "Bundle",
    "FaceModel",
    "ModelMetadata",
    "OnnxEngine",
    "TorchEngine",
    "code_of_others",
    "embed_faces",
    "embed_photos",
    "export_bundle",
    "export_network",
    "load_bundle",
    "load_checkpoint",
    "load_model",
    "open_bundle",
    "read_operating_points",
    "read_origin",
    "save_bundle",
    "ships_thresholds",
    "store_thresholds",
    "training_of",
]


def __getattr__(name: str) -> Any:
    """Import the module of a name when the name is first used."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
