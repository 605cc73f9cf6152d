"""Data sets: photos and the identity of each."""

from siamese_verify.datasets.arrays import ArrayFile, ArrayPairs, pack_side
from siamese_verify.datasets.download import unpack_once
from siamese_verify.datasets.folder import FilePhotos, FolderPhotos
from siamese_verify.datasets.lfw import (
    IMAGE_FOLDERS,
    AllOfLFW,
    LFWPhotos,
    fetch_lfw,
    has_training_people,
    lfw_category,
    lfw_people,
)
from siamese_verify.datasets.listing import ListedPhotos, identity_name
from siamese_verify.datasets.mnist import MNISTDigits, SmallDigits
from siamese_verify.datasets.prepared import Preparation, PreparedFaces
from siamese_verify.datasets.recordio import RecordPhotos
from siamese_verify.datasets.synthetic import SyntheticFaces

__all__ = [
    "IMAGE_FOLDERS",
    "AllOfLFW",
    "ArrayFile",
    "ArrayPairs",
    "FilePhotos",
    "FolderPhotos",
    "LFWPhotos",
    "ListedPhotos",
    "MNISTDigits",
    "Preparation",
    "PreparedFaces",
    "RecordPhotos",
    "SmallDigits",
    "SyntheticFaces",
    "fetch_lfw",
    "has_training_people",
    "identity_name",
    "lfw_category",
    "lfw_people",
    "pack_side",
    "unpack_once",
]
