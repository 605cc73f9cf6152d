"""All genuine pairs and the hardest impostors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.geometry import Identities
from siamese_verify.mining.search import Sets, check_sets, exact_distance, impostor_tiles
from siamese_verify.types import Pairs


@torch.no_grad()
def hard_pairs(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    ratio: float = 1.0,
) -> Pairs:
    """Take all genuine pairs, and of all impostor pairs the nearest: `ratio` for each genuine pair.

    Args:
        embeddings: (B, D) floating point; distances are Euclidean.
        labels: (B,) identities, of any integer type.
        references: (R, D) to pair the embeddings with; None pairs them with each other, every pair once (i < j).
        reference_labels: (R,) their identities.
        ratio: > 0; the number of impostors is rounded up, and ends with those there are.

    Returns:
        Genuine pairs by row, then column; then impostors from the nearest on, ties by row, then column.

    Raises:
        InputError: a ratio that is not above 0; a batch that is none, see `siamese_verify.geometry.check_batch`.
    """
    check_ratio(ratio)
    sets = check_sets(embeddings, labels, references, reference_labels)
    anchor, other = Identities(sets.column_labels).pairs(sets.labels, itself=sets.itself)
    if sets.itself:
        once = anchor < other
        anchor, other = anchor[once], other[once]
    wanted = math.ceil(ratio * len(anchor))
    row, column = nearest_impostors(sets, wanted)
    same = torch.arange(len(anchor) + len(row), device=row.device) < len(anchor)
    return Pairs(torch.cat([anchor, row]), torch.cat([other, column]), same)


def nearest_impostors(sets: Sets, wanted: int) -> tuple[Tensor, Tensor]:
    """(K,) rows and columns of the nearest impostor pairs, K <= wanted, from the nearest on."""
    if wanted == 0:
        return sets.labels.new_empty(0), sets.labels.new_empty(0)
    row = column = sets.labels.new_empty(0)
    squared = sets.rows.new_empty(0)
    bound: Tensor | float = torch.finfo(squared.dtype).max  # below inf, which stands for genuine pairs
    for tile in impostor_tiles(sets):
        eligible = tile.squared <= bound
        if sets.itself and tile.rows == tile.columns:
            eligible = eligible.triu(1)  # every pair once
        found = eligible.nonzero(as_tuple=True)
        row, column = torch.cat([row, found[0] + tile.rows.start]), torch.cat([column, found[1] + tile.columns.start])
        squared = torch.cat([squared, tile.squared[found]])
        if len(row) > wanted:  # whatever may be among the nearest, within rounding
            bound = squared.kthvalue(wanted).values + 2 * tile.slack
            close = squared <= bound
            row, column, squared = row[close], column[close], squared[close]
    place = (row * len(sets.columns) + column).argsort()
    row, column = row[place], column[place]
    order = exact_distance(sets, row, column).sort(stable=True).indices[:wanted]
    return row[order], column[order]


class HardPairs:
    """`hard_pairs` as a miner.

    Args:
        ratio: > 0; impostors for each genuine pair.

    Raises:
        InputError: a ratio that is not above 0.
    """

    def __init__(self, ratio: float = 1.0) -> None:
        check_ratio(ratio)
        self.ratio = ratio

    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Pairs:
        """Choose pairs among (B, D) embeddings with (B,) labels; see `hard_pairs`."""
        return hard_pairs(embeddings, labels, references, reference_labels, self.ratio)


def check_ratio(ratio: float) -> None:
    """Refuse a ratio that leaves no impostors."""
    if not 0 < ratio < math.inf:
        raise InputError(f"ratio is {ratio}, but must be a number above 0: the impostors for each genuine pair.")
