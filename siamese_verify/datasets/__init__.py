"""Data sets: photos and the identity of each."""

from siamese_verify.datasets.archive import unpack_once
from siamese_verify.datasets.arrays import ArrayFile, ArrayPairs, pack_side
from siamese_verify.datasets.choices import ItemChoices, ItemRanking
from siamese_verify.datasets.folder import FilePhotos, FolderPhotos
from siamese_verify.datasets.generated import GeneratedSet
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
from siamese_verify.datasets.pedestrians import Pedestrians
from siamese_verify.datasets.prepared import Preparation, PreparedFaces
from siamese_verify.datasets.products import Products
from siamese_verify.datasets.recordio import RecordPhotos
from siamese_verify.datasets.sentences import Sentences, hash_words
from siamese_verify.datasets.signatures import Signatures
from siamese_verify.datasets.synthetic import SyntheticFaces
from siamese_verify.datasets.voices import Voices, log_mel

__all__ = [
    "IMAGE_FOLDERS",
    "AllOfLFW",
    "ArrayFile",
    "ArrayPairs",
    "FilePhotos",
    "FolderPhotos",
    "GeneratedSet",
    "ItemChoices",
    "ItemRanking",
    "LFWPhotos",
    "ListedPhotos",
    "MNISTDigits",
    "Pedestrians",
    "Preparation",
    "PreparedFaces",
    "Products",
    "RecordPhotos",
    "Sentences",
    "Signatures",
    "SmallDigits",
    "SyntheticFaces",
    "Voices",
    "fetch_lfw",
    "has_training_people",
    "hash_words",
    "identity_name",
    "lfw_category",
    "lfw_people",
    "log_mel",
    "pack_side",
    "unpack_once",
]
