"""Trained models on disk: bundles, metadata, loading, registry, export and quantization."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_verify.models.bundle import Bundle, open_bundle
    from siamese_verify.models.export import Faces, load_bundle, save_bundle
    from siamese_verify.models.face_model import FaceModel, encoder_class, load_checkpoint
    from siamese_verify.models.loading import load_model
    from siamese_verify.models.metadata import PRETRAINED, ModelMetadata, read_operating_points
    from siamese_verify.models.registry import ships_thresholds, store_thresholds
    from siamese_verify.models.torch_engine import TorchEngine

__all__ = [
    "PRETRAINED",
    "Bundle",
    "FaceModel",
    "Faces",
    "ModelMetadata",
    "TorchEngine",
    "encoder_class",
    "load_bundle",
    "load_checkpoint",
    "load_model",
    "open_bundle",
    "read_operating_points",
    "save_bundle",
    "ships_thresholds",
    "store_thresholds",
]

_MODULES = {
    "bundle": (
        "Bundle",
        "open_bundle",
    ),
    "export": (
        "Faces",
        "load_bundle",
        "save_bundle",
    ),
    "face_model": (
        "FaceModel",
        "encoder_class",
        "load_checkpoint",
    ),
    "loading": ("load_model",),
    "metadata": (
        "ModelMetadata",
        "PRETRAINED",
        "read_operating_points",
    ),
    "registry": (
        "ships_thresholds",
        "store_thresholds",
    ),
    "torch_engine": ("TorchEngine",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module of a name when it is first used."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
