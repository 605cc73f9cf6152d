"""Fixtures of the tests of models."""

from tests.verification.conftest import photos

__all__ = ["photos"]
