"""Photos -> FaceBatch: sources, crops, pairs, triplets, the datamodule and protocols."""

from siamese_verify.data.crops import FaceCropper
from siamese_verify.data.datamodule import FaceDataModule, FaceDataset, split_by_identity
from siamese_verify.data.lfw import LFWPhotos, has_training_people, lfw_all_pairs, lfw_category, lfw_pairs, lfw_people
from siamese_verify.data.pairs import PairSampler
from siamese_verify.data.protocol import Protocol, all_pairs
from siamese_verify.data.synthetic import SyntheticFaces
from siamese_verify.data.triplets import TripletSampler

__all__ = [
    "FaceCropper",
    "FaceDataModule",
    "FaceDataset",
    "LFWPhotos",
    "PairSampler",
    "Protocol",
    "SyntheticFaces",
    "TripletSampler",
    "all_pairs",
    "has_training_people",
    "lfw_all_pairs",
    "lfw_category",
    "lfw_pairs",
    "lfw_people",
    "split_by_identity",
]
