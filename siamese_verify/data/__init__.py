"""Photos -> FaceBatch: sources, preparation, crops, feeding, the datamodule and protocols."""

from siamese_verify.data.archive import unpack
from siamese_verify.data.augmentation import EachImage, FaceAugmentation
from siamese_verify.data.contact_sheet import Cell, contact_sheet, in_rows, save_sheet
from siamese_verify.data.corruption import CORRUPTIONS, corrupt, describe_corruption
from siamese_verify.data.crops import FaceCropper
from siamese_verify.data.datamodule import FaceDataModule, FaceDataset, split_by_identity
from siamese_verify.data.faces import FacesInMemory, FacesOnDisk
from siamese_verify.data.files import FilePhotos, FolderPhotos, folder_pairs
from siamese_verify.data.images import ImageSampler
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
from siamese_verify.data.pairs import PairSampler
from siamese_verify.data.preparation import Alignment, identity_name, prepare_faces
from siamese_verify.data.prepared import Preparation, PreparedFaces
from siamese_verify.data.protocol import Listed, Protocol, all_pairs, sampled_pairs
from siamese_verify.data.record import RecordPhotos
from siamese_verify.data.synthetic import SyntheticFaces
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
    "SyntheticFaces",
    "TripletSampler",
    "all_pairs",
    "contact_sheet",
    "corrupt",
    "describe_corruption",
    "fetch_lfw",
    "folder_pairs",
    "has_training_people",
    "identity_name",
    "in_rows",
    "insightface_bin",
    "lfw_all_pairs",
    "lfw_category",
    "lfw_pairs",
    "lfw_people",
    "pair_file",
    "prepare_faces",
    "sampled_pairs",
    "save_sheet",
    "split_by_identity",
    "unpack",
]
