"""What objectives and miners share: a checked batch, who is who in it, and exact distances within little memory."""

from siamese_verify.geometry.batch import Batch, check_batch
from siamese_verify.geometry.distance import Metric, row_distance, row_product, unit
from siamese_verify.geometry.identities import GenuinePairs, Identities, every_triplet
from siamese_verify.geometry.tiles import DistanceTile, Spread, bands, expands, steps

__all__ = [
    "Batch",
    "DistanceTile",
    "GenuinePairs",
    "Identities",
    "Metric",
    "Spread",
    "bands",
    "check_batch",
    "every_triplet",
    "expands",
    "row_distance",
    "row_product",
    "steps",
    "unit",
]
