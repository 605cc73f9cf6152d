"""Who is on which rows of a data set, in little memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

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


Batch_co = TypeVar("Batch_co", covariant=True)


class EpochSampler(Sampler[Batch_co]):
    """An epoch of batches that are a function of the arguments, `seed`, the epoch and their position in it.

    The positions are dealt out in turn: a rank yields those at rank, rank + world_size, ... Nothing depends on what was
    drawn before, so a run can be resumed anywhere. Call `set_epoch` before each epoch, or all epochs are the same.

    Args:
        rows: N, of the data set.
        batches: of an epoch, over all ranks together, >= 1. Rounded up to a multiple of `world_size`, so that each rank
            gets the same number.
        seed: >= 0.
        rank: which of the processes this one is.
        world_size: number of processes that train together.

    Attributes:
        batches: of an epoch, over all ranks together, rounded up.
        epoch: that the next iteration yields.
        start: batches of this rank that it leaves out.

    Raises:
        InputError: a number out of range.
    """

    def __init__(self, rows: int, batches: int, seed: int, rank: int, world_size: int) -> None:
        super().__init__()
        check_whole(batches=(batches, 1), seed=(seed, 0), world_size=(world_size, 1))
        if not 0 <= rank < world_size:
            raise InputError(f"rank is {rank}, but must be in 0 ... {world_size - 1} for a world size of {world_size}.")
        self.batches = -(-batches // world_size) * world_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch, self.start = 0, 0
        self._rows = rows

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        return self.batches // self.world_size

    @abstractmethod
    def __iter__(self) -> Iterator[Batch_co]:
        """Yield this rank's batches of the current epoch, from `start` on."""

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose what the next iteration yields.

        Args:
            epoch: >= 0; the same epoch yields the same batches.
            start: batches of this rank to leave out at the beginning of the epoch, because a run that stopped within
                it has trained on them. `len` does not change.

        Raises:
            InputError: an epoch below 0, or more batches to leave out than there are.
        """
        check_whole(epoch=(epoch, 0), start=(start, 0))
        if start > len(self):
            raise InputError(f"start is {start}, but an epoch has {len(self)} batches on each rank: start within it.")
        self.epoch, self.start = epoch, start

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to draw what the uninterrupted one would have drawn."""
        state = {"rows": self._rows, "batches": self.batches, "world_size": self.world_size}
        return {**state, "seed": self.seed, "epoch": self.epoch, "start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the sampler that wrote `state_dict`, made with the same identities and sizes.

        Raises:
            InputError: the state comes from another number of rows, or from within an epoch of another number of
                batches or of ranks.
        """
        if state["rows"] != self._rows:
            raise InputError(
                f"the saved sampler drew from {state['rows']} rows, but there are {self._rows} now: "
                f"resume on the photos the run began with."
            )
        if state["start"] and (state["batches"], state["world_size"]) != (self.batches, self.world_size):
            raise InputError(
                f"the saved sampler stopped within an epoch of {state['batches']} batches on {state['world_size']} "
                f"ranks, but now there are {self.batches} on {self.world_size}: resume with as many, or from the end "
                f"of an epoch."
            )
        self.seed = int(state["seed"])
        self.set_epoch(int(state["epoch"]), int(state["start"]))

    def positions(self) -> range:
        """This rank's places among the batches of all ranks, from `start` on."""
        return range(self.rank + self.start * self.world_size, self.batches, self.world_size)

    def generator(self, *purpose: int) -> np.random.Generator:
        """Make a generator for one purpose in the current epoch, independent of the order of use."""
        return np.random.default_rng((self.seed, self.epoch, *purpose))


def check_whole(**bounds: tuple[Any, int]) -> None:
    """Check that settings are whole numbers of at least their bound, given as `name=(value, least)`.

    Raises:
        InputError: one of them is not.
    """
    for name, (value, least) in bounds.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} is {value}, but must be a whole number of {least} or more.")
