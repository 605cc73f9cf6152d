"""Photos -> FaceBatch: sources, preparation, crops, feeding, the datamodule and protocols.

What feeds a training works with torch, and is loaded at its first use: `prepare` and its processes start without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from siamese_verify.data.alignment import Alignment
from siamese_verify.data.archive import unpack, unpack_once
from siamese_verify.data.contact_sheet import Cell, contact_sheet, in_rows, save_sheet
from siamese_verify.data.drop_list import identity_name
from siamese_verify.data.files import FilePhotos, FolderPhotos, folder_pairs
from siamese_verify.data.held_out import (
    HeldOutShare,
    Seen,
    SomePhotos,
    held_out,
    read_past_run,
    refuse_leak,
    save_people,
)
from siamese_verify.data.insightface import insightface_bin
from siamese_verify.data.lfw import (
    IMAGE_FOLDERS,
    AllOfLFW,
    LFWPhotos,
    has_training_people,
    lfw_all_pairs,
    lfw_category,
    lfw_pairs,
    lfw_people,
)
from siamese_verify.data.lfw_files import fetch_lfw
from siamese_verify.data.listed import ListedPhotos
from siamese_verify.data.mnist import MNISTDigits
from siamese_verify.data.pair_file import pair_file
from siamese_verify.data.preparation import prepare_faces
from siamese_verify.data.prepared import Preparation, PreparedFaces
from siamese_verify.data.protocol import Listed, Protocol, all_pairs, sampled_pairs
from siamese_verify.data.record import RecordPhotos
from siamese_verify.data.synthetic import SyntheticFaces

if TYPE_CHECKING:
    from siamese_verify.data.augmentation import EachImage, FaceAugmentation
    from siamese_verify.data.corruption import CORRUPTIONS, corrupt, describe_corruption
    from siamese_verify.data.crops import FaceCropper
    from siamese_verify.data.datamodule import FaceDataModule, FaceDataset, split_by_identity
    from siamese_verify.data.faces import FacesInMemory, FacesOnDisk
    from siamese_verify.data.images import ImageSampler
    from siamese_verify.data.pairs import PairSampler
    from siamese_verify.data.triplets import TripletSampler

__all__ = [
    "CORRUPTIONS",
    "IMAGE_FOLDERS",
    "Alignment",
    "AllOfLFW",
    "Cell",
    "EachImage",
    "FaceAugmentation",
    "FaceCropper",
    "FaceDataModule",
    "FaceDataset",
    "FacesInMemory",
    "FacesOnDisk",
    "FilePhotos",
    "FolderPhotos",
    "HeldOutShare",
    "ImageSampler",
    "LFWPhotos",
    "Listed",
    "ListedPhotos",
    "MNISTDigits",
    "PairSampler",
    "Preparation",
    "PreparedFaces",
    "Protocol",
    "RecordPhotos",
    "Seen",
    "SomePhotos",
    "SyntheticFaces",
    "TripletSampler",
    "all_pairs",
    "contact_sheet",
    "corrupt",
    "describe_corruption",
    "fetch_lfw",
    "folder_pairs",
    "has_training_people",
    "held_out",
    "identity_name",
    "in_rows",
    "insightface_bin",
    "lfw_all_pairs",
    "lfw_category",
    "lfw_pairs",
    "lfw_people",
    "pair_file",
    "prepare_faces",
    "read_past_run",
    "refuse_leak",
    "sampled_pairs",
    "save_people",
    "save_sheet",
    "split_by_identity",
    "unpack",
    "unpack_once",
]

WITH_TORCH = {
    "CORRUPTIONS": "corruption",
    "corrupt": "corruption",
    "describe_corruption": "corruption",
    "EachImage": "augmentation",
    "FaceAugmentation": "augmentation",
    "FaceCropper": "crops",
    "FaceDataModule": "datamodule",
    "FaceDataset": "datamodule",
    "FacesInMemory": "faces",
    "FacesOnDisk": "faces",
    "ImageSampler": "images",
    "PairSampler": "pairs",
    "TripletSampler": "triplets",
    "split_by_identity": "datamodule",
}


def __getattr__(name: str) -> Any:
    """Load a class that works with torch at its first use."""
    if name not in WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{WITH_TORCH[name]}"), name)
