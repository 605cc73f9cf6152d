"""Photos -> FaceBatch: sources, crops, pairs, triplets, the datamodule and protocols."""

from siamese_verify.data.crops import FaceCropper
from siamese_verify.data.datamodule import FaceDataModule, FaceDataset, split_by_identity
from siamese_verify.data.files import FilePhotos, FolderPhotos, folder_pairs
from siamese_verify.data.insightface import insightface_bin
from siamese_verify.data.lfw import LFWPhotos, has_training_people, lfw_all_pairs, lfw_category, lfw_pairs, lfw_people
from siamese_verify.data.pair_file import pair_file
from siamese_verify.data.pairs import PairSampler
from siamese_verify.data.protocol import Listed, Protocol, all_pairs, sampled_pairs
from siamese_verify.data.synthetic import SyntheticFaces
from siamese_verify.data.triplets import TripletSampler

__all__ = [
    "FaceCropper",
    "FaceDataModule",
    "FaceDataset",
    "FilePhotos",
    "FolderPhotos",
    "LFWPhotos",
    "Listed",
    "PairSampler",
    "Protocol",
    "SyntheticFaces",
    "TripletSampler",
    "all_pairs",
    "folder_pairs",
    "has_training_people",
    "insightface_bin",
    "lfw_all_pairs",
    "lfw_category",
    "lfw_pairs",
    "lfw_people",
    "pair_file",
    "sampled_pairs",
    "split_by_identity",
]
