"""All genuine pairs and the hardest impostors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.miners.miner import Miner
from siamese_verify.pairwise import Identities
from siamese_verify.pairwise.nearest import CROWDED, Sets, Tile, exact_distance, impostor_tiles
from siamese_verify.structures import Pairs

WAITING = 1 << 16  # candidates beyond twice the wanted that may wait


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
        InputError: a ratio that is not above 0; a batch that is none, see `siamese_verify.pairwise.check_batch`.
    """
    return HardPairs(ratio)(embeddings, labels, references, reference_labels)


def nearest_impostors(sets: Sets, wanted: int) -> tuple[Tensor, Tensor]:
    """(K,) rows and columns of the nearest impostor pairs, K <= wanted, from the nearest on."""
    nearest = _Nearest(sets, wanted)
    for tile in impostor_tiles(sets) if wanted else ():
        nearest.look(tile)
    nearest.settle()
    return nearest.row, nearest.column


class _Nearest:
    """Pairs that may be among the nearest while the tiles pass by."""

    def __init__(self, sets: Sets, wanted: int) -> None:
        self.sets, self.wanted = sets, wanted
        self.row = self.column = sets.labels.new_empty(0)
        self.squared = sets.rows.new_empty(0)
        self.exact = sets.labels.new_empty(0, dtype=torch.bool)  # whether it is the exact squared distance
        self.limit: Tensor | float = torch.finfo(sets.rows.dtype).max  # below inf, which stands for genuine pairs
        self.last: tuple[Tensor, Tensor] | None = None  # exact squared distance and place of the last that is wanted

    def look(self, tile: Tile) -> None:
        """Let those wait that may be among the nearest."""
        close = tile.squared <= self.limit
        if self.sets.itself and tile.rows == tile.columns:
            close = close.triu_(1)  # every pair once
        squared = tile.squared
        if self.last is None and int(close.count_nonzero()) > self.wanted:
            close &= squared <= squared[close].kthvalue(self.wanted).values + 2 * tile.slack
        crowded = int(close.count_nonzero()) > CROWDED * squared.numel()
        if crowded:  # too many to measure one by one
            squared = tile.exact(self.sets, squared=True)
            if self.last is not None:
                close &= self.ahead(squared, tile)
        row, column = close.nonzero(as_tuple=True)
        squared = squared[row, column]
        row, column = row + tile.rows.start, column + tile.columns.start
        self.row, self.column = torch.cat([self.row, row]), torch.cat([self.column, column])
        self.squared = torch.cat([self.squared, squared])
        self.exact = torch.cat([self.exact, torch.full_like(row, crowded, dtype=torch.bool)])
        if len(self.row) > self.wanted:  # whatever may be among the nearest, within rounding
            self.limit = self.squared.kthvalue(self.wanted).values + 2 * tile.slack
            self.keep(self.squared <= self.limit)
        if len(self.row) > 2 * self.wanted + WAITING:
            self.settle()
            self.limit = self.squared[-1] + tile.slack

    def settle(self) -> None:
        """Decide by exact distances: keep what is wanted, from the nearest on."""
        doubtful = (~self.exact).nonzero().flatten()
        self.squared[doubtful] = exact_distance(self.sets, self.row[doubtful], self.column[doubtful], squared=True)
        self.exact.fill_(True)
        self.keep(self.place(self.row, self.column).argsort())
        self.keep(self.squared.sort(stable=True).indices[: self.wanted])
        if len(self.row):
            self.last = self.squared[-1], self.place(self.row[-1], self.column[-1])

    def keep(self, chosen: Tensor) -> None:
        """Keep some of those that wait, in this order."""
        self.row, self.column = self.row[chosen], self.column[chosen]
        self.squared, self.exact = self.squared[chosen], self.exact[chosen]

    def ahead(self, exact: Tensor, tile: Tile) -> Tensor:
        """(n, m) bool: which pairs of a tile come before the last that is wanted."""
        assert self.last is not None
        distance, last = self.last
        device = exact.device
        row, column = (torch.arange(part.start, part.stop, device=device) for part in (tile.rows, tile.columns))
        return (exact < distance) | ((exact == distance) & (self.place(row[:, None], column) < last))

    def place(self, row: Tensor, column: Tensor) -> Tensor:
        """What decides between equals."""
        return row * len(self.sets.columns) + column


class HardPairs(Miner[Pairs]):
    """`hard_pairs` as a miner.

    Args:
        ratio: > 0; impostors for each genuine pair.

    Raises:
        InputError: a ratio that is not above 0.
    """

    gives = Pairs

    def __init__(self, ratio: float = 1.0) -> None:
        check_ratio(ratio)
        self.ratio = ratio

    def choose(self, sets: Sets) -> Pairs:
        """See `hard_pairs`."""
        anchor, other = Identities(sets.column_labels).pairs(sets.labels, itself=sets.itself)
        if sets.itself:
            once = anchor < other
            anchor, other = anchor[once], other[once]
        wanted = math.ceil(self.ratio * len(anchor))
        row, column = nearest_impostors(sets, wanted)
        same = torch.arange(len(anchor) + len(row), device=row.device) < len(anchor)
        return Pairs(torch.cat([anchor, row]), torch.cat([other, column]), same)


def check_ratio(ratio: float) -> None:
    """Refuse a ratio that leaves no impostors."""
    if not 0 < ratio < math.inf:
        raise InputError(f"ratio is {ratio}, but must be a number above 0: the impostors for each genuine pair.")
