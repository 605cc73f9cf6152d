"""Every pair of embeddings, as blocks of matrix products that are never all there at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from siamese_verify.evaluation.score_cells import SCALE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

ROWS, COLUMNS = 512, 1024  # of a block of impostors: product and cells stay in the processor's cache
BAND = 256  # rows of a block of genuine pairs, which lie along the diagonal


class Block(NamedTuple):
    """A range of rows with a range of columns."""

    top: int
    bottom: int
    left: int
    right: int


class Sorted(NamedTuple):
    """Embeddings in the order of their identities."""

    rows: Tensor  # (N,D)
    people: NDArray[np.int64]  # (N,) ascending
    order: NDArray[np.int64]  # (N,) where the row stood before


class PairBlocks:
    """Scores of all pairs i < j of one set, or of all pairs of a probe with a gallery row, block by block.

    Rows are sorted by identity: genuine pairs lie along the diagonal and all other blocks hold impostors only. The
    blocks depend on the set alone, so that whoever computes one finds the same bits.

    Args:
        rows: (N,D) of unit length.
        people: (N,) numbers of their identities.
        gallery: (M,D) of unit length, or None for the set with itself.
        gallery_people: (M,) numbers of their identities.
    """

    def __init__(
        self,
        rows: NDArray[np.floating],
        people: NDArray[np.int64],
        gallery: NDArray[np.floating] | None = None,
        gallery_people: NDArray[np.int64] | None = None,
    ) -> None:
        self.probes = _sorted(rows, people)
        self.alone = gallery is None or gallery_people is None
        self.gallery = self.probes if gallery is None or gallery_people is None else _sorted(gallery, gallery_people)
        height, width = len(self.probes.rows), len(self.gallery.rows)
        self.blocks = [
            Block(top, min(top + ROWS, height), left, min(left + COLUMNS, width))
            for top in range(0, height, ROWS)
            for left in range(top if self.alone else 0, width, COLUMNS)
        ]

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        height, width = len(self.probes.rows), len(self.gallery.rows)
        return height * (height - 1) // 2 if self.alone else height * width

    def sample(self, share: int, seed: int = 0) -> PairBlocks:
        """One of `share` rows, drawn at random, as a set of its own."""
        rng = np.random.default_rng(seed)

        def some(of: Sorted) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
            rows = rng.choice(len(of.rows), -(-len(of.rows) // share), replace=False)
            return of.rows.numpy()[rows], of.people[rows]

        return PairBlocks(*some(self.probes)) if self.alone else PairBlocks(*some(self.probes), *some(self.gallery))

    def product(self, block: Block, out: Tensor | None = None) -> Tensor:
        """Return the scores of a block times `SCALE`, (bottom - top, right - left); `out` is memory for it."""
        top, bottom, left, right = block
        shape = (bottom - top, right - left)
        rows, columns = self.probes.rows[top:bottom], self.gallery.rows[left:right]
        memory = rows.new_empty(shape) if out is None else out[: shape[0] * shape[1]].view(shape)
        return torch.addmm(memory, rows, columns.T, beta=0, alpha=SCALE, out=memory)  # a power of two rounds nothing

    def impostors(self, block: Block) -> Tensor | None:
        """Return a mask of the pairs of two people in a block, or None where all are."""
        top, bottom, left, right = block
        rows, columns = self.probes.people[top:bottom], self.gallery.people[left:right]
        later = self.alone and left < bottom  # the block meets the diagonal
        if not later and (rows[-1] < columns[0] or rows[0] > columns[-1]):
            return None
        mask = torch.from_numpy(rows[:, None] != columns)
        return mask.triu_(top - left + 1) if later else mask

    def genuine(self) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Give the genuine pairs: (K,) scores times `SCALE` and the pairs' numbers."""
        height = len(self.probes.rows)
        for top in range(0, height, BAND):
            bottom = min(top + BAND, height)
            people = self.probes.people[top:bottom]
            first = top if self.alone else int(np.searchsorted(self.gallery.people, people[0]))
            last = int(np.searchsorted(self.gallery.people, people[-1], side="right"))
            starts = np.searchsorted(self.gallery.people, people) if not self.alone else np.arange(top, bottom) + 1
            ends = np.searchsorted(self.gallery.people, people, side="right")
            for left in range(first, last, COLUMNS):
                right = min(left + COLUMNS, last)
                begin = np.clip(starts, left, right)
                counts = np.maximum(np.clip(ends, left, right) - begin, 0)  # of columns of the same person in a row
                rows = np.repeat(np.arange(bottom - top), counts)
                columns = np.arange(len(rows)) + np.repeat(begin - left - (np.cumsum(counts) - counts), counts)
                if len(rows):
                    scores = self.product(Block(top, bottom, left, right)).numpy()[rows, columns]
                    yield torch.from_numpy(scores), self.number(top + rows, left + columns)

    def number(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return i * M + j for pairs of sorted rows, by where they stood before; within one set i < j."""
        first, second = self.probes.order[rows], self.gallery.order[columns]
        if self.alone:
            first, second = np.minimum(first, second), np.maximum(first, second)
        return first * len(self.gallery.rows) + second

    def early(self, block: Block, number: int) -> Tensor:
        """Return a mask of the pairs in a block that may have a number up to `number`: by the rows of the first."""
        last = number // len(self.gallery.rows)
        rows, columns = self.probes.order[block.top : block.bottom], self.gallery.order[block.left : block.right]
        return torch.from_numpy((rows <= last)[:, None] | (self.alone & (columns <= last)))


def _sorted(rows: NDArray[np.floating], people: NDArray[np.int64]) -> Sorted:
    order = np.argsort(people, kind="stable")
    return Sorted(torch.from_numpy(np.ascontiguousarray(rows[order])), people[order], order)
