"""Distances and similarities between all rows of a batch or set, block by block."""

from siamese_verify.pairwise.batch import (
    Batch,
    GenuinePairs,
    Identities,
    both_ways,
    check_batch,
    each_once,
    every_triplet,
)
from siamese_verify.pairwise.blocks import DistanceTile, Piece, Spread, bands, expands, pieces, steps
from siamese_verify.pairwise.distances import (
    Metric,
    chunks,
    directions_of,
    first_order,
    identical,
    row_distance,
    row_product,
    through_directions_,
    unit,
)

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
