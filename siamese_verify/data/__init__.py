"""The LightningDataModule: loading, cropping, augmentation and corruption of faces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from siamese_verify.data.augmentation import EachImage, FaceAugmentation
from siamese_verify.data.corruption import CORRUPTIONS, corrupt, describe_corruption
from siamese_verify.data.face_crops import FaceCropper
from siamese_verify.data.face_dataset import FaceDataset, FacesInMemory, FacesOnDisk
from siamese_verify.data.identity_split import split_by_identity

if TYPE_CHECKING:
    from siamese_verify.data.datamodule import FaceDataModule

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


def __getattr__(name: str) -> Any:
    """Import the data module when it is first used: only training needs Lightning."""
    if name == "FaceDataModule":
        from siamese_verify.data.datamodule import FaceDataModule

        return FaceDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
