"""The LightningDataModule: loading, cropping, augmentation and corruption of faces."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_verify.data.augmentation import EachImage, FaceAugmentation
    from siamese_verify.data.corruption import CORRUPTIONS, corrupt, describe_corruption
    from siamese_verify.data.datamodule import FaceDataModule, FaceDataset, split_by_identity
    from siamese_verify.data.face_crops import FaceCropper
    from siamese_verify.data.face_dataset import FacesInMemory, FacesOnDisk

__all__ = [
    "CORRUPTIONS",
    "EachImage",
    "FaceAugmentation",
    "FaceCropper",
    "FaceDataModule",
    "FaceDataset",
    "FacesInMemory",
    "FacesOnDisk",
    "corrupt",
    "describe_corruption",
    "split_by_identity",
]

_MODULES = {
    "augmentation": (
        "EachImage",
        "FaceAugmentation",
    ),
    "corruption": (
        "CORRUPTIONS",
        "corrupt",
        "describe_corruption",
    ),
    "datamodule": (
        "FaceDataModule",
        "FaceDataset",
        "split_by_identity",
    ),
    "face_crops": ("FaceCropper",),
    "face_dataset": (
        "FacesInMemory",
        "FacesOnDisk",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module of a name when it is first used."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
