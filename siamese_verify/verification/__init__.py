"""Two photos -> Verification; the model bundle. A name is imported when it is used: verifying needs no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_verify.verification.decision import DetectedFace, NoDecision, Verification, undecided
    from siamese_verify.verification.protocol_scoring import embed_faces, embed_photos, score_pairs
    from siamese_verify.verification.verifier import Embedded, Verifier

__all__ = [
    "DetectedFace",
    "Embedded",
    "NoDecision",
    "Verification",
    "Verifier",
    "embed_faces",
    "embed_photos",
    "score_pairs",
    "undecided",
]

_MODULES = {
    "decision": (
        "NoDecision",
        "DetectedFace",
        "Verification",
        "undecided",
    ),
    "protocol_scoring": (
        "embed_faces",
        "embed_photos",
        "score_pairs",
    ),
    "verifier": (
        "Embedded",
        "Verifier",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module of a name when it is first used."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
