"""The templates of a gallery in memory, searched one and all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FLOAT32_DOUBT = 1e-4  # more than a product of unit rows of 4,096 dimensions is ever off in float32


class Hit(NamedTuple):
    """A person among the best of a search."""

    person: int  # number in the gallery
    score: float  # best cosine of her templates, in [-1, 1]


@dataclass(frozen=True)
class Templates:
    """Unit rows and whose they are. Never changed: `grown` and `without` return others, so a search needs no lock.

    Attributes:
        rows: (N,D) float32 of unit length, contiguous.
        people: (N,) int64, whose they are.
        room: rows and people with room for more behind the N; shared with what it grows into.
    """

    rows: NDArray[np.float32]
    people: NDArray[np.int64]
    room: tuple[NDArray[np.float32], NDArray[np.int64]]

    @classmethod
    def empty(cls, dimension: int) -> Templates:
        """None yet."""
        rows, people = np.empty((0, dimension), dtype=np.float32), np.empty(0, dtype=np.int64)
        return cls(rows, people, (rows, people))

    def __len__(self) -> int:
        return len(self.rows)

    def grown(self, rows: NDArray[np.float32], people: Sequence[int]) -> Templates:
        """Append rows, in place where there is room. Only the latest may grow, and one caller at a time."""
        held, total = len(self), len(self) + len(rows)
        wide, owners = self.room
        if total > len(wide):
            capacity = max(total, held + held // 2)
            wide = np.empty((capacity, self.rows.shape[1]), dtype=np.float32)
            owners = np.empty(capacity, dtype=np.int64)
            wide[:held], owners[:held] = self.rows, self.people
        wide[held:total], owners[held:total] = rows, people
        return Templates(wide[:total], owners[:total], (wide, owners))

    def without(self, people: Collection[int]) -> Templates:
        """Leave people out, in memory of its own."""
        keep = ~np.isin(self.people, list(people))
        rows, owners = self.rows[keep], self.people[keep]
        return Templates(rows, owners, (rows, owners))

    def best(self, probe: NDArray[np.float32], top: int) -> list[Hit]:
        """Search all templates for the people who are most alike.

        One product of the matrix with the probe finds the few that matter; their scores are then taken in float64, so
        that they depend neither on the machine nor on what else the gallery holds.

        Args:
            probe: (D,) of unit length.
            top: people to return, 1 or more.

        Returns:
            Up to `top` people, best first; those who score alike in the order of their enrolment.
        """
        if not len(self):
            return []
        scores = self.rows @ probe  # (N,)
        wanted = min(len(self), 4 * top)
        while True:
            least = np.partition(scores, len(scores) - wanted)[-wanted] if wanted < len(scores) else -np.inf
            near = np.flatnonzero(scores >= least - FLOAT32_DOUBT)
            if wanted == len(self) or len(np.unique(self.people[near])) >= top:
                break
            wanted = min(len(self), 4 * wanted)  # a person with many templates fills the places
        return ranked(self.rows[near], self.people[near], probe)[:top]


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
