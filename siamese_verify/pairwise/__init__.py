"""Distances and similarities between all rows of a batch or set, block by block."""

from siamese_verify.pairwise.batch import (
    Batch,
    GenuinePairs,
    Identities,
    Totals,
    both_directions,
    check_batch,
    every_triplet,
    without_duplicates,
)
from siamese_verify.pairwise.blocks import bands, in_bands
from siamese_verify.pairwise.distances import Metric, block_distance, row_distance, row_product, unit

__all__ = [
    "Batch",
    "GenuinePairs",
    "Identities",
    "Metric",
    "Totals",
    "bands",
    "block_distance",
    "both_directions",
    "check_batch",
    "every_triplet",
    "in_bands",
    "row_distance",
    "row_product",
    "unit",
    "without_duplicates",
]
