"""Batch samplers: which rows of a data set make a batch."""

from siamese_verify.samplers.hard import HardMiningSampler
from siamese_verify.samplers.identity import IdentityBatchSampler
from siamese_verify.samplers.images import ImageSampler
from siamese_verify.samplers.semi_supervised_batches import UNLABELED, SemiSupervisedSampler
from siamese_verify.samplers.tuples import PairSampler, TripletSampler, TupleBatch

__all__ = [
    "UNLABELED",
    "HardMiningSampler",
    "IdentityBatchSampler",
    "ImageSampler",
    "PairSampler",
    "SemiSupervisedSampler",
    "TripletSampler",
    "TupleBatch",
]
