"""Miners of hard negatives: the nearest one of each anchor or genuine pair, or the nearest of the batch."""

from __future__ import annotations

import math

import torch

from siamese_verify.errors import InputError, check_numbers
from siamese_verify.miners.miner import Miner
from siamese_verify.pairwise import Identities
from siamese_verify.pairwise.distances import places
from siamese_verify.pairwise.nearest import (
    ComparedRows,
    exact_distance,
    farthest_positives,
    first_best,
    nearest_by_kernel,
    nearest_negative_pairs,
    nearest_negatives,
)
from siamese_verify.pairwise.small_search import farthest_and_nearest, nearest_beyond_positives
from siamese_verify.pairwise.tiles import fused
from siamese_verify.structures import Pairs, Triplets


class BatchHard(Miner[Triplets]):
    """The farthest positive and the nearest negative of each anchor, by Euclidean distance.

    Gives at most B triplets, anchors ascending. Anchors without a positive or without a negative are left out; ties
    take the lowest row.

    Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, eq. 5.
    """

    gives = Triplets

    def choose(self, compared: ComparedRows) -> Triplets:
        """See the class."""
        farthest = farthest_positives(compared) if fused(compared.rows) and len(compared.columns) else None
        found = None if farthest is None else (farthest, nearest_by_kernel(compared)[:, 0])
        found = found or farthest_and_nearest(compared)
        if found is not None:
            anchor = places(torch.minimum(*found) >= 0)
            return Triplets(anchor, *(column.index_select(0, anchor) for column in found))
        row, column = compared.genuine_pairs()
        positive = first_best(row, column, -exact_distance(compared, row, column), len(compared.labels))  # (B,)
        anchor = (positive >= 0).nonzero().flatten()
        negative = nearest_negatives(compared, anchor, numbers=self.numbers)
        complete = negative >= 0
        return Triplets(anchor[complete], positive[anchor][complete], negative[complete])


class SemiHard(Miner[Triplets]):
    """For each ordered genuine pair (a, p) the nearest negative n with d_ap < d_an < d_ap + margin.

    Gives triplets ordered by anchor, then positive. Pairs without such a negative are left out; ties take the lowest
    row.

    Args:
        margin: width of the band, > 0, in the unit of the distance: the margin of the loss that follows.
        squared: compare squared Euclidean distances, as the loss that follows does.

    Raises:
        InputError: a margin that is not above 0.

    Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, section 3.2.
    """

    gives = Triplets

    def __init__(self, margin: float = 0.2, squared: bool = False) -> None:
        check_numbers(finite=False, margin=margin)
        if not margin > 0:
            raise InputError(f"margin is {margin}, but must be above 0, or there are no semi-hard negatives.")
        self.margin, self.squared = margin, squared

    def choose(self, compared: ComparedRows) -> Triplets:
        """See the class."""
        small = nearest_beyond_positives(compared, self.margin, self.squared)
        if small is not None:
            chosen = places(small[2] >= 0)
            return Triplets(*(field.index_select(0, chosen) for field in small))
        anchor, positive = compared.genuine_pairs()
        inner = exact_distance(compared, anchor, positive, self.squared)  # (M,)
        negative = nearest_negatives(compared, anchor, inner, inner + self.margin, self.squared, self.numbers)
        chosen = negative >= 0
        return Triplets(anchor[chosen], positive[chosen], negative[chosen])


class HardPairs(Miner[Pairs]):
    """All genuine pairs, and of the impostor pairs the nearest: `ratio` for each genuine pair.

    Gives the genuine pairs by row, then column; then the impostors, nearest first, ties by row, then column. Two rows
    of the batch are one pair, the lower row first. Distances are Euclidean.

    Args:
        ratio: > 0; the number of impostors is rounded up, and at most all are taken.

    Raises:
        InputError: a ratio that is not above 0.
    """

    gives = Pairs

    def __init__(self, ratio: float = 1.0) -> None:
        check_numbers(finite=False, ratio=ratio)
        if not 0 < ratio < math.inf:
            raise InputError(f"ratio is {ratio}, but must be a number above 0: impostor pairs for each genuine pair.")
        self.ratio = ratio

    def choose(self, compared: ComparedRows) -> Pairs:
        """See the class."""
        anchor, other = Identities(compared.column_labels).pairs(compared.labels, itself=compared.itself)
        if compared.itself:
            once = anchor < other
            anchor, other = anchor[once], other[once]
        row, column = nearest_negative_pairs(compared, math.ceil(self.ratio * len(anchor)), self.numbers)
        same = torch.arange(len(anchor) + len(row), device=row.device) < len(anchor)
        pairs = Pairs(torch.cat([anchor, row]), torch.cat([other, column]), same)
        if compared.own is None:
            return pairs
        first, last = compared.own.start, compared.own.stop
        mine = (pairs.anchor >= first) & (pairs.anchor < last)
        if compared.itself:
            mine |= (pairs.other >= first) & (pairs.other < last)
        return Pairs(*(field[mine] for field in pairs))
