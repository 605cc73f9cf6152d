"""The templates of a gallery in memory, searched one and all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.gallery.approximate import CANDIDATES, ApproximateIndex

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

NOBODY = -1
FLOAT32_DOUBT = 1e-4  # more than a product of unit rows of 4,096 dimensions is ever off in float32


class Hit(NamedTuple):
    """A person among the best of a search."""

    person: int  # number in the gallery
    score: float  # best cosine of her templates, in [-1, 1]


class Room(NamedTuple):
    """Arrays with room for more rows at their end."""

    rows: NDArray[np.float32]  # (C,D)
    people: NDArray[np.int64]  # (C,)
    numbers: NDArray[np.int64]  # (C,)


@dataclass(frozen=True)
class Templates:
    """Unit rows and whose they are. Never changed: `grown` and `without` return others, so a search needs no lock.

    Attributes:
        rows: (N,D) float32 of unit length, contiguous; zeros in place of what was forgotten.
        people: (N,) int64, whose they are; `NOBODY` likewise.
        numbers: (N,) int64 ascending, their own.
        room: what these are the beginning of; shared with what it grows into.
        forgotten: how many rows are nobody's.
        index: that proposes templates, in place of looking at all; None for all.
    """

    rows: NDArray[np.float32]
    people: NDArray[np.int64]
    numbers: NDArray[np.int64]
    room: Room
    forgotten: int = 0
    index: ApproximateIndex | None = None

    @classmethod
    def of(cls, room: Room, count: int, forgotten: int = 0, index: ApproximateIndex | None = None) -> Templates:
        """The first `count` rows of some room."""
        return cls(room.rows[:count], room.people[:count], room.numbers[:count], room, forgotten, index)

    @classmethod
    def empty(cls, dimension: int) -> Templates:
        """None yet."""
        whose, own = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return cls.of(Room(np.empty((0, dimension), dtype=np.float32), whose, own), 0)

    def __len__(self) -> int:
        """Templates that are somebody's."""
        return len(self.rows) - self.forgotten

    def grown(self, rows: NDArray[np.float32], people: Sequence[int], numbers: Sequence[int]) -> Templates:
        """Append rows, in place where there is room. Only the latest may grow, and one caller at a time."""
        held, total = len(self.rows), len(self.rows) + len(rows)
        room = self.room
        if total > len(room.rows):
            capacity = max(total, held + held // 2)
            wide = np.empty((capacity, self.rows.shape[1]), dtype=np.float32)
            room = Room(wide, np.empty(capacity, dtype=np.int64), np.empty(capacity, dtype=np.int64))
            room.rows[:held], room.people[:held], room.numbers[:held] = self.rows, self.people, self.numbers
        room.rows[held:total], room.people[held:total], room.numbers[held:total] = rows, people, numbers
        return Templates.of(room, total, self.forgotten, self.index)

    def without(self, people: Collection[int]) -> Templates:
        """Leave people out. Their rows are overwritten, also for searches that run: those look up whom they found."""
        gone = np.isin(self.people, list(people))
        self.rows[gone] = 0
        count, forgotten = len(self.rows), self.forgotten + int(gone.sum())
        if forgotten <= count // 8:  # copying all of them would take longer than the next search may
            owners = self.room.people.copy()
            owners[:count][gone] = NOBODY
            return Templates.of(self.room._replace(people=owners), count, forgotten, self.index)
        keep = ~gone & (self.people != NOBODY)
        room = Room(self.rows[keep], self.people[keep], self.numbers[keep])
        return Templates.of(room, len(room.rows), 0, self.index)

    def best(self, probe: NDArray[np.float32], top: int) -> list[Hit]:
        """Search for the people who are most alike: all templates, or those that an index proposes.

        The scores are taken in float64, so that they depend neither on the machine nor on what else the gallery holds.

        Args:
            probe: (D,) of unit length.
            top: people to return, 1 or more.

        Returns:
            Up to `top` people, best first; those who score alike in the order of their enrolment.
        """
        if not len(self):
            return []
        near = self._proposed(probe, top) if self.index else self._nearest(probe, top)
        if not len(near):  # all that was proposed is forgotten
            near = self._nearest(probe, top)
        return ranked(self.rows[near], self.people[near], probe)[:top]

    def _nearest(self, probe: NDArray[np.float32], top: int) -> NDArray[np.int64]:
        """Rows that hold the best template of each of the best people: one product of the matrix with the probe."""
        scores = self.rows @ probe  # (N,)
        wanted = 4 * top
        while True:
            whole = wanted >= len(scores)
            least = -np.inf if whole else np.partition(scores, len(scores) - wanted)[-wanted]
            near = np.flatnonzero((scores >= least - FLOAT32_DOUBT) & (self.people != NOBODY))
            if whole or len(np.unique(self.people[near])) >= top:
                return near
            wanted *= 4  # a person with many templates fills the places

    def _proposed(self, probe: NDArray[np.float32], top: int) -> NDArray[np.int64]:
        """Rows that the index proposes, without those since forgotten, and the best of those enrolled since."""
        assert self.index is not None
        numbers = self.index.propose(probe, max(CANDIDATES, 8 * top))
        rows = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        known: NDArray[np.int64] = rows[(self.numbers[rows] == numbers) & (self.people[rows] != NOBODY)]
        start = int(np.searchsorted(self.numbers, self.index.last, side="right"))
        if start == len(self.numbers):
            return known
        since = Room(self.rows[start:], self.people[start:], self.numbers[start:])
        return np.concatenate([known, start + Templates.of(since, len(since.rows))._nearest(probe, top)])


def ranked(rows: NDArray[np.float32], people: NDArray[np.int64], probe: NDArray[np.float32]) -> list[Hit]:
    """Rank people by their best template, in float64.

    Args:
        rows: (K,D) of unit length.
        people: (K,) whose they are.
        probe: (D,) of unit length.
    """
    # Not a matrix product, whose last digit depends on how many rows there are.
    scores = np.clip((rows.astype(np.float64) * probe.astype(np.float64)).sum(axis=1), -1, 1)
    best: dict[int, float] = {}
    for person, score in zip(people.tolist(), scores.tolist(), strict=True):
        best[person] = max(score, best.get(person, -1.0))
    return [Hit(person, score) for person, score in sorted(best.items(), key=lambda one: (-one[1], one[0]))]


def unit_templates(embeddings: ArrayLike, dimension: int) -> NDArray[np.float32]:
    """Check embeddings and scale them to unit length.

    Args:
        embeddings: (N,D), or (D,) for one, of any non-zero length.
        dimension: D of the gallery.

    Returns:
        (N,D) float32.

    Raises:
        InputError: another shape, numbers that are not finite, or a row without a direction.
    """
    try:
        rows = np.atleast_2d(np.asarray(embeddings, dtype=np.float64))
    except (TypeError, ValueError):
        raise InputError(f"Embeddings are (N,{dimension}) numbers: give an array of one shape.") from None
    if rows.ndim != 2 or rows.shape[1] != dimension or not len(rows):
        raise InputError(f"Embeddings of this gallery are (N,{dimension}), got {rows.shape}: embed with its model.")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        place = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
        raise InputError(f"Embedding {place + 1} is NaN, infinite or zero: look for an empty or diverged one.")
    scaled: NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return scaled
