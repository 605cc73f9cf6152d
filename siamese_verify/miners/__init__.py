"""Miners: pairs or triplets of a batch, chosen from its embeddings and labels."""

from siamese_verify.miners.distance_weighted import DistanceWeighted
from siamese_verify.miners.hardest import BatchHard, HardPairs, SemiHard
from siamese_verify.miners.miner import AllPairs, AllTriplets

__all__ = ["AllPairs", "AllTriplets", "BatchHard", "DistanceWeighted", "HardPairs", "SemiHard"]
