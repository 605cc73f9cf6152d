"""What the server needs of a gallery of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from PIL.Image import Image


class People(Protocol):
    """Enrolled people; it may be used from several threads."""

    def enroll(self, name: str, photos: Sequence[Image]) -> Any:
        """Keep templates of a person; raises InputError."""

    def identify(self, photo: Image, *, far: float | None = None) -> Any:
        """Say who is on a photo, if anybody; raises InputError."""

    def people(self) -> Sequence[Any]:
        """Say who is enrolled."""

    def forget(self, name: str) -> Any:
        """Remove a person; raises InputError for a stranger."""
