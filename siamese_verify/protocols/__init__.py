"""Verification protocols: the pairs that an evaluation scores."""

from siamese_verify.protocols.held_out import HeldOutShare, held_out, read_training_run, save_people
from siamese_verify.protocols.insightface_bin import insightface_bin
from siamese_verify.protocols.leakage import TrainingSubset, find_leak, refuse_leak
from siamese_verify.protocols.lfw_pairs import lfw_all_pairs, lfw_pairs
from siamese_verify.protocols.pair_file import pair_file
from siamese_verify.protocols.protocol import (
    PairList,
    PhotoSubset,
    Protocol,
    all_pairs,
    claimed_pairs,
    folder_pairs,
    keep_photos,
    sampled_pairs,
)

__all__ = [
    "HeldOutShare",
    "PairList",
    "PhotoSubset",
    "Protocol",
    "TrainingSubset",
    "all_pairs",
    "claimed_pairs",
    "find_leak",
    "folder_pairs",
    "held_out",
    "insightface_bin",
    "keep_photos",
    "lfw_all_pairs",
    "lfw_pairs",
    "pair_file",
    "read_training_run",
    "refuse_leak",
    "sampled_pairs",
    "save_people",
]
