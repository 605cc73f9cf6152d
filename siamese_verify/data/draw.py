"""One batch before its images are read, and how random batches of any kind are laid out over epochs and ranks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from siamese_verify.errors import InputError
from siamese_verify.types import Pairs, Triplets


class Draw(NamedTuple):
    """Rows of the data set, and which of them belong together."""

    rows: list[int]
    mined: Pairs | Triplets


class People:
    """Rows of a data set by person, for drawing genuine and impostor photos.

    Args:
        identities: (N,) integers.

    Raises:
        InputError: nobody has two photos, or all photos are of one person.
    """

    def __init__(self, identities: np.ndarray) -> None:
        identities = np.asarray(identities)
        self.people, counts = np.unique(identities, return_counts=True)
        self.rows = np.split(np.argsort(identities, kind="stable"), np.cumsum(counts)[:-1])  # by person
        self.repeated = np.flatnonzero(counts > 1)  # persons with a genuine pair
        if len(self.people) < 2 or not len(self.repeated):
            raise InputError(
                f"{len(identities)} photos of {len(self.people)} people give no "
                f"{'impostors' if len(self.people) < 2 else 'genuine pair'}: add people with two photos or more."
            )

    def genuine(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """A person drawn uniformly from those with two photos, and two rows of theirs."""
        person = int(rng.choice(self.repeated))
        first, second = rng.choice(self.rows[person], 2, replace=False)
        return person, int(first), int(second)

    def other(self, rng: np.random.Generator, person: int) -> int:
        """A row of somebody else, drawn uniformly from the people."""
        stranger = int(rng.integers(len(self.people) - 1))
        return int(rng.choice(self.rows[stranger + (stranger >= person)]))


class RandomDraws(Sampler[Draw]):
    """An epoch of random draws, fixed by (seed, epoch, position), the positions dealt out to the ranks in turn.

    Args:
        identities: (N,) integers.
        photos: rows in a draw; an epoch draws as many photos as the data set holds, unless `batches` says otherwise.
        batches: draws in an epoch, over all ranks.
        seed: of the draws.
        rank: of this process.
        world_size: number of processes; each gets the same number of draws.

    Raises:
        InputError: no batches; see also `People`.
    """

    def __init__(
        self, identities: np.ndarray, photos: int, batches: int | None, seed: int, rank: int, world_size: int
    ) -> None:
        if batches is not None and batches < 1:
            raise InputError(f"An epoch needs one batch or more, got {batches}.")
        self.people = People(identities)
        self.batches = max(1, (len(identities) // photos if batches is None else batches) // world_size)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Draw]:
        for batch in range(self.batches):
            position = batch * self.world_size + self.rank
            yield self.draw(np.random.default_rng([self.seed, self.epoch, position]))

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Draw:
        """One batch."""
