"""What objectives and miners share: a checked batch, who is who in it, and exact distances within little memory."""

from siamese_verify.geometry.batch import Batch, check_batch
from siamese_verify.geometry.distance import (
    Metric,
    chunks,
    directions_of,
    row_distance,
    row_product,
    through_directions_,
    unit,
)
from siamese_verify.geometry.gradient import first_order
from siamese_verify.geometry.identical import identical
from siamese_verify.geometry.identities import GenuinePairs, Identities, every_triplet
from siamese_verify.geometry.pairs import both_ways, each_once
from siamese_verify.geometry.tiles import DistanceTile, Piece, Spread, bands, expands, pieces, steps

__all__ = [
    "Batch",
    "DistanceTile",
    "GenuinePairs",
    "Identities",
    "Metric",
    "Piece",
    "Spread",
    "bands",
    "both_ways",
    "check_batch",
    "chunks",
    "directions_of",
    "each_once",
    "every_triplet",
    "expands",
    "first_order",
    "identical",
    "pieces",
    "row_distance",
    "row_product",
    "steps",
    "through_directions_",
    "unit",
]
