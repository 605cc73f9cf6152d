"""Verification: two photos, or tables of pairs -> decisions. Modules are imported when they are used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_verify.verification.decision import DetectedFace, NoDecision, Verification, undecided
    from siamese_verify.verification.verifier import Embedded, Verifier

_MODULES = {  # verifying with a bundle needs no torch
    "DetectedFace": "decision",
    "NoDecision": "decision",
    "Verification": "decision",
    "undecided": "decision",
    "Embedded": "verifier",
    "Verifier": "verifier",
}
__all__ = [
    "DetectedFace",
    "Embedded",
    "NoDecision",
    "Verification",
    "Verifier",
    "undecided",
]


def __getattr__(name: str) -> Any:
    """Import the module of a name when the name is first used."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
