"""Siamese Verify: train, measure and use Siamese networks for face verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_verify.verification import Verification, Verifier

__version__ = "0.1.0"
__all__ = ["Verification", "Verifier", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the verifier, and with it torch, at its first use."""
    if name in ("Verification", "Verifier"):
        from siamese_verify import verification

        return getattr(verification, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
