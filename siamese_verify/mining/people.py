"""Who is on which rows of a data set, in little memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from siamese_verify.errors import InputError

BLOCK = 1 << 19  # rows that are brought into order at once


class People:
    """The rows of a data set by person; people are numbered 0 ... P - 1 in the ascending order of their identities.

    Rows that lie together by ascending identity are only counted: this needs 8 bytes for a person. Rows in disorder
    need another 4 bytes each, and as much again as the identities while they are brought into order.

    Args:
        identities: (N,) integers, the person on each row.

    Attributes:
        identities: (P,) the different ones, ascending.
        offsets: (P + 1,) int64; person p has the places offsets[p] ... offsets[p + 1] - 1 of `order`.
        order: (N,) rows by person, ascending within a person; None where that is 0 ... N - 1.
        counts: (P,) int64 photos of each person.

    Raises:
        InputError: identities that are no vector of integers.
    """

    def __init__(self, identities: ArrayLike) -> None:
        rows = vector(identities)
        self.order: np.ndarray | None = None
        in_order = not (rows[1:] < rows[:-1]).any()
        ordered = rows if in_order else np.sort(rows)
        starts = _starts(ordered)
        self.identities = ordered[starts]
        self.offsets = np.append(starts, len(rows))
        self.counts = np.diff(self.offsets)
        if not in_order:
            del ordered
            self.order = self._ordered(rows)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def photos(self) -> int:
        """N, how many rows there are."""
        return int(self.offsets[-1])

    @property
    def repeated(self) -> np.ndarray:
        """People with two photos or more, ascending."""
        return np.flatnonzero(self.counts > 1)

    @property
    def single(self) -> np.ndarray:
        """People with one photo, ascending."""
        return np.flatnonzero(self.counts == 1)

    def at(self, person: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Find rows, for any shapes that broadcast: the `place`-th photo, from 0, of each person."""
        places: np.ndarray = self.offsets[person] + place
        return places if self.order is None else self.order[places]

    def rows(self, person: int) -> np.ndarray:
        """(n,) rows of one person, ascending."""
        first, last = self.offsets[person : person + 2]
        return np.arange(first, last) if self.order is None else self.order[first:last]

    def person_of_row(self) -> np.ndarray:
        """(N,) the person on each row; made anew at every call."""
        by_person = np.repeat(np.arange(len(self), dtype=index_type(len(self))), self.counts)
        if self.order is None:
            return by_person
        person = np.empty_like(by_person)
        person[self.order] = by_person
        return person

    def _ordered(self, rows: np.ndarray) -> np.ndarray:
        """Rows by person: a counting sort in blocks, because an argsort of all rows takes several times the memory."""
        order = np.empty(len(rows), dtype=index_type(len(rows)))
        free = self.offsets[:-1].copy()  # where the next row of each person goes
        for first in range(0, len(rows), BLOCK):
            block = rows[first : first + BLOCK]
            local = np.argsort(block, kind="stable")
            starts = _starts(block[local])
            counts = np.diff(starts, append=len(block))
            person = np.searchsorted(self.identities, block[local[starts]])
            order[np.arange(len(block)) + np.repeat(free[person] - starts, counts)] = local + first
            free[person] += counts
        return order


def vector(identities: ArrayLike) -> np.ndarray:
    """Check (N,) identities.

    Raises:
        InputError: they are no vector of integers.
    """
    rows = np.asarray(identities)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise InputError(
            f"identities must be one integer for each row, but have shape {rows.shape} and type {rows.dtype}."
        )
    return rows


def index_type(size: int) -> type[np.signedinteger]:
    """Choose the type of indices of `size` things: a third of all memory lies in such arrays."""
    return np.int32 if size <= np.iinfo(np.int32).max else np.int64


def _starts(ordered: np.ndarray) -> np.ndarray:
    """Where runs of equal values begin: (R,) int64."""
    return np.concatenate([np.arange(min(len(ordered), 1)), np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
