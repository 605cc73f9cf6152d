"""What all samplers share: epochs of numbered batches, and the index of each identity's rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

from siamese_verify.errors import InputError

Batch_co = TypeVar("Batch_co", covariant=True)


class EpochSampler(Sampler[Batch_co]):
    """Base class of samplers whose batches are a function of the seed, the epoch and the number of the batch.

    Rank r of w yields the batches r, r + w, r + 2w, ... No batch depends on those before it, so that an epoch can be
    resumed anywhere.

    Args:
        rows: of the data set.
        batches: of an epoch over all ranks, >= 1; rounded up to a multiple of `world_size`.
        seed: of the epochs' order, >= 0.
        rank: of this process.
        world_size: number of processes.

    Raises:
        InputError: a number out of range.
    """

    def __init__(self, rows: int, batches: int, seed: int, rank: int, world_size: int) -> None:
        check_whole(batches=(batches, 1), seed=(seed, 0), world_size=(world_size, 1))
        if not 0 <= rank < world_size:
            raise InputError(f"rank must be in 0 ... {world_size - 1} for a world size of {world_size}, got {rank}.")
        self.batches = -(-batches // world_size) * world_size
        self.rows, self.seed, self.rank, self.world_size = rows, seed, rank, world_size
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank, those that a resumed epoch skips included."""
        return self.batches // self.world_size

    @abstractmethod
    def __iter__(self) -> Iterator[Batch_co]:
        """Yield this rank's batches of the current epoch from `start` on."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; it starts at its first batch, unless it is the one that `resume` set."""
        if epoch != self.epoch:
            self.resume(epoch, 0)

    def resume(self, epoch: int, start: int) -> None:
        """Choose the epoch, and how many of this rank's batches of it to skip.

        Raises:
            InputError: a negative number, or a start beyond the end.
        """
        check_whole(epoch=(epoch, 0), start=(start, 0))
        if start > len(self):
            raise InputError(f"start must be at most {len(self)}, the batches of an epoch on a rank, got {start}.")
        self.epoch, self.start = epoch, start

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to continue: numbers and tensors."""
        state = {"rows": self.rows, "batches": self.batches, "world_size": self.world_size}
        return {**state, "seed": self.seed, "epoch": self.epoch, "start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the sampler that wrote `state_dict`, made with the same arguments.

        Raises:
            InputError: the state is of another number of rows, or of the middle of an epoch of other batches or ranks.
        """
        if state["rows"] != self.rows:
            raise InputError(
                f"The saved sampler chose among {state['rows']} rows, but there are {self.rows} now: "
                "resume with the photos that the run started with."
            )
        if state["start"] and (state["batches"], state["world_size"]) != (self.batches, self.world_size):
            raise InputError(
                f"The saved sampler stopped within an epoch of {state['batches']} batches on {state['world_size']} "
                f"ranks, but now there are {self.batches} on {self.world_size}: resume with as many, or from the end "
                "of an epoch."
            )
        self.seed = int(state["seed"])
        self.resume(int(state["epoch"]), int(state["start"]))

    def numbers(self) -> range:
        """Numbers of the batches that this rank yields."""
        return range(self.rank + self.start * self.world_size, self.batches, self.world_size)

    def generator(self, *key: int) -> np.random.Generator:
        """Return a generator of its own for each seed, epoch and key; keys that differ in length only may clash."""
        return np.random.default_rng((self.seed, self.epoch, *key))


class IdentityIndex:
    """Rows of a data set grouped by identity: arrays of 4 bytes for a row and 24 for an identity.

    Args:
        identities: (N,) integers, the identity of each row.

    Attributes:
        identities: (I,) different identities, ascending; the other attributes and methods number them 0 ... I - 1.
        order: (N,) int32 rows, grouped by identity and ascending within each.
        starts: (I,) int64 places in `order` where the identities' rows start.
        counts: (I,) int64 rows of each identity.

    Raises:
        InputError: identities that are not a vector of integers.
    """

    def __init__(self, identities: ArrayLike) -> None:
        values = check_identities(identities)
        if (values[1:] >= values[:-1]).all():  # as in most data sets
            self.order, ordered = np.arange(len(values), dtype=np.int32), values
        else:
            self.order = np.argsort(values, kind="stable").astype(np.int32)
            ordered = values[self.order]
        new = np.ones(len(values), dtype=bool)
        new[1:] = ordered[1:] != ordered[:-1]
        self.starts = np.flatnonzero(new)
        self.identities = ordered[self.starts]
        self.counts = np.diff(self.starts, append=len(values))

    def __len__(self) -> int:
        return len(self.counts)

    def rows(self, identity: np.ndarray | int, place: np.ndarray) -> np.ndarray:
        """Rows of identities, by their places 0 ... count - 1 in each; the arguments broadcast."""
        rows: np.ndarray = self.order[self.starts[identity] + place]
        return rows

    def numbers(self) -> np.ndarray:
        """(N,) int32 number of each row's identity."""
        number = np.empty_like(self.order)
        number[self.order] = np.repeat(np.arange(len(self), dtype=np.int32), self.counts)
        return number


def check_identities(identities: ArrayLike) -> np.ndarray:
    """Return identities as an array.

    Raises:
        InputError: they are not a vector of integers.
    """
    values = np.asarray(identities)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(
            f"identities must be one integer for each row, got an array of shape {values.shape} and type "
            f"{values.dtype}."
        )
    return values


def check_whole(**bounds: tuple[Any, int]) -> None:
    """Check that arguments are whole numbers of at least their bound, given as `name=(value, least)`.

    Raises:
        InputError: one of them is not.
    """
    for name, (value, least) in bounds.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} must be a whole number of {least} or more, got {value}.")
