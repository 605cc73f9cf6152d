"""Albums: all faces of many photos, embedded, searched, grouped by person and cleaned."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from siamese_verify.albums.face_table import FaceTable

if TYPE_CHECKING:
    from siamese_verify.albums.grouping import FALSE_MERGE_RATE, Grouping, PersonModel, group_faces

_MODULES = dict.fromkeys(("FALSE_MERGE_RATE", "Grouping", "PersonModel", "group_faces"), "grouping")
__all__ = ["FALSE_MERGE_RATE", "FaceTable", "Grouping", "PersonModel", "group_faces"]


def __getattr__(name: str) -> Any:
    """Import the module of a name when the name is first used: the processes that embed need no torch."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
