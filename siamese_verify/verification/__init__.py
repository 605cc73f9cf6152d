"""Two photos -> Verification; the model bundle. A name is imported when it is used: verifying needs no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_verify.verification.bundle import Bundle, open_bundle
    from siamese_verify.verification.checkpoint import load_checkpoint
    from siamese_verify.verification.export import Faces, load_bundle, save_bundle
    from siamese_verify.verification.loading import load_model
    from siamese_verify.verification.model import FaceModel, encoder_class
    from siamese_verify.verification.record import PRETRAINED, ModelRecord, read_operating_points
    from siamese_verify.verification.result import NoDecision, SeenFace, Verification, undecided
    from siamese_verify.verification.scoring import embed_faces, embed_photos, score_pairs
    from siamese_verify.verification.thresholds_file import ships_thresholds, store_thresholds
    from siamese_verify.verification.torch_engine import TorchEngine
    from siamese_verify.verification.verifier import Embedded, Verifier

__all__ = [
    "PRETRAINED",
    "Bundle",
    "Embedded",
    "FaceModel",
    "Faces",
    "ModelRecord",
    "NoDecision",
    "SeenFace",
    "TorchEngine",
    "Verification",
    "Verifier",
    "embed_faces",
    "embed_photos",
    "encoder_class",
    "load_bundle",
    "load_checkpoint",
    "load_model",
    "open_bundle",
    "read_operating_points",
    "save_bundle",
    "score_pairs",
    "ships_thresholds",
    "store_thresholds",
    "undecided",
]

_MODULES = {
    "bundle": ("Bundle", "open_bundle"),
    "checkpoint": ("load_checkpoint",),
    "export": ("Faces", "load_bundle", "save_bundle"),
    "loading": ("load_model",),
    "model": ("FaceModel", "encoder_class"),
    "record": ("PRETRAINED", "ModelRecord", "read_operating_points"),
    "result": ("NoDecision", "SeenFace", "Verification", "undecided"),
    "scoring": ("embed_faces", "embed_photos", "score_pairs"),
    "thresholds_file": ("ships_thresholds", "store_thresholds"),
    "torch_engine": ("TorchEngine",),
    "verifier": ("Embedded", "Verifier"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module that a name lives in."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
