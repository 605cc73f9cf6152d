"""Which rows of a batch are compared, and which rows make a batch. One strategy a file."""

from siamese_verify.mining.all_pairs import AllPairs, all_pairs
from siamese_verify.mining.all_triplets import AllTriplets, all_triplets
from siamese_verify.mining.batch_hard import BatchHard, batch_hard
from siamese_verify.mining.distance_weighted import DistanceWeighted, distance_weighted
from siamese_verify.mining.hard_pairs import HardPairs, hard_pairs
from siamese_verify.mining.hard_sampler import HardMiningSampler
from siamese_verify.mining.identity_sampler import IdentityBatchSampler
from siamese_verify.mining.semi_hard import SemiHard, semi_hard
from siamese_verify.types import Pairs, Triplets

__all__ = [
    "AllPairs",
    "AllTriplets",
    "BatchHard",
    "DistanceWeighted",
    "HardMiningSampler",
    "HardPairs",
    "IdentityBatchSampler",
    "Pairs",
    "SemiHard",
    "Triplets",
    "all_pairs",
    "all_triplets",
    "batch_hard",
    "distance_weighted",
    "hard_pairs",
    "semi_hard",
]
