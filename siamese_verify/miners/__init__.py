"""Miners: pairs or triplets of a batch, chosen from its embeddings and labels."""

from siamese_verify.miners.all_tuples import AllPairs, AllTriplets, all_pairs, all_triplets
from siamese_verify.miners.batch_hard import BatchHard, batch_hard
from siamese_verify.miners.distance_weighted import DistanceWeighted, distance_weighted
from siamese_verify.miners.hard_pairs import HardPairs, hard_pairs
from siamese_verify.miners.semi_hard import SemiHard, semi_hard

__all__ = [
    "AllPairs",
    "AllTriplets",
    "BatchHard",
    "DistanceWeighted",
    "HardPairs",
    "SemiHard",
    "all_pairs",
    "all_triplets",
    "batch_hard",
    "distance_weighted",
    "hard_pairs",
    "semi_hard",
]
