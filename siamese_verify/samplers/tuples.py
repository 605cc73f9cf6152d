"""One batch of pairs or triplets before its images are read, and how its people and photos are drawn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from siamese_verify.errors import InputError
from siamese_verify.samplers.epoch import EpochSampler, People, check_whole
from siamese_verify.structures import Pairs, Triplets


class Draw(NamedTuple):
    """Rows of the data set, and which of them belong together."""

    rows: list[int]
    tuples: Pairs | Triplets


class RandomDraws(EpochSampler[Draw]):
    """An epoch of random draws, fixed by (seed, epoch, position); for epochs and ranks see `EpochSampler`.

    Args:
        identities: (N,) integers.
        photos: rows in a draw; an epoch draws as many photos as the data set holds, unless `batches` says otherwise.
        batches: draws in an epoch, over all ranks together, rounded up to a multiple of `world_size`.
        seed: of the draws, >= 0.
        rank: of this process.
        world_size: number of processes; each gets the same number of draws.
        weight: people are drawn in proportion to (number of photos) ** weight, in [0, 1]: 0 draws uniformly over the
            people, 1 uniformly over the photos.

    Raises:
        InputError: identities that are no vector of integers; nobody has two photos, or all photos are of one person;
            a number out of range.
    """

    def __init__(
        self,
        identities: ArrayLike,
        photos: int,
        batches: int | None,
        seed: int,
        rank: int,
        world_size: int,
        weight: float,
    ) -> None:
        if not 0 <= weight <= 1:
            raise InputError(f"weight is {weight}, but must be in 0 ... 1: 0 draws people evenly, 1 photos.")
        self.people = people = People(identities)
        self._repeated = people.repeated  # persons with a genuine pair
        if len(people) < 2 or not len(self._repeated):
            raise InputError(
                f"{people.photos} photos of {len(people)} people give no "
                f"{'impostors' if len(people) < 2 else 'genuine pair'}: add people with two photos or more."
            )
        wanted = max(1, people.photos // photos) if batches is None else batches
        super().__init__(people.photos, wanted, seed, rank, world_size)
        self.weight = weight
        self._below = np.append(0, np.cumsum(people.counts**weight))  # (P + 1,) weight of all earlier people
        self._repeated_up_to = np.cumsum(people.counts[self._repeated] ** weight)

    def __iter__(self) -> Iterator[Draw]:
        """Yield this rank's draws of the current epoch, from `start` on."""
        for position in self.positions():
            yield self.draw(self.generator(position))

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Draw:
        """One batch."""

    def genuine(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw people among those with two photos or more, and two photos of each.

        Returns:
            (count,) persons, rows and other rows.
        """
        where = rng.random(count) * self._repeated_up_to[-1]
        person = self._repeated[np.searchsorted(self._repeated_up_to, where, side="right")]
        photos = self.people.counts[person]
        first, second = rng.integers(photos), rng.integers(photos - 1)
        return person, self.people.at(person, first), self.people.at(person, second + (second >= first))

    def other(self, rng: np.random.Generator, person: np.ndarray) -> np.ndarray:
        """Draw for each of (M,) persons a row of somebody else: (M,)."""
        before, after = self._below[person], self._below[person + 1]
        where = rng.random(len(person)) * (before + (self._below[-1] - after))  # as if the person were not there
        where = np.where(where < before, where, after + (where - before))
        stranger = np.searchsorted(self._below, where, side="right") - 1
        stranger = np.minimum(stranger, len(self.people) - 1)
        return self.people.at(stranger, rng.integers(self.people.counts[stranger]))


class PairSampler(RandomDraws):
    """Batches of random pairs, a fixed share of them genuine.

    The anchor of every pair is a photo of a person drawn from those with two photos or more; a genuine pair takes
    another photo of hers, an impostor pair a photo of a person drawn from all others.

    Args:
        identities: (N,) integers.
        pairs: in a batch.
        genuine: share of the pairs that are genuine, in (0, 1).
        batches: in an epoch, over all ranks together, rounded up to a multiple of `world_size`; by default as many as
            read each photo once on average.
        seed: of the draws.
        rank: of this process.
        world_size: number of processes.
        weight: people are drawn in proportion to (number of photos) ** weight, in [0, 1]: 0 draws uniformly over the
            people, 1 uniformly over the photos.

    Raises:
        InputError: the share leaves no genuine or no impostor pair in a batch; see also `RandomDraws`.
    """

    def __init__(
        self,
        identities: ArrayLike,
        pairs: int = 64,
        genuine: float = 0.5,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        weight: float = 0.0,
    ) -> None:
        check_whole(pairs=(pairs, 0))
        self.genuine_pairs = round(pairs * genuine)
        if not 0 < self.genuine_pairs < pairs:
            raise InputError(
                f"{pairs} pairs with a genuine share of {genuine} give {self.genuine_pairs} genuine pairs: a batch "
                "needs genuine and impostor pairs."
            )
        super().__init__(identities, 2 * pairs, batches, seed, rank, world_size, weight)
        self.pairs = pairs

    def draw(self, rng: np.random.Generator) -> Draw:
        """One batch: its genuine pairs first."""
        person, first, second = self.genuine(rng, self.pairs)
        second[self.genuine_pairs :] = self.other(rng, person[self.genuine_pairs :])
        anchor = torch.arange(0, 2 * self.pairs, 2)
        tuples = Pairs(anchor, anchor + 1, torch.arange(self.pairs) < self.genuine_pairs)
        return Draw(np.stack([first, second], axis=1).ravel().tolist(), tuples)


class TripletSampler(RandomDraws):
    """Batches of random triplets: two photos of a person with two or more, and a photo of somebody else.

    Args:
        identities: (N,) integers.
        triplets: in a batch.
        batches: in an epoch, over all ranks together, rounded up to a multiple of `world_size`; by default as many as
            read each photo once on average.
        seed: of the draws.
        rank: of this process.
        world_size: number of processes.
        weight: people are drawn in proportion to (number of photos) ** weight, in [0, 1]: 0 draws uniformly over the
            people, 1 uniformly over the photos.

    Raises:
        InputError: there is no triplet in a batch; see also `RandomDraws`.
    """

    def __init__(
        self,
        identities: ArrayLike,
        triplets: int = 48,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        weight: float = 0.0,
    ) -> None:
        check_whole(triplets=(triplets, 1))
        super().__init__(identities, 3 * triplets, batches, seed, rank, world_size, weight)
        self.triplets = triplets

    def draw(self, rng: np.random.Generator) -> Draw:
        """One batch."""
        person, anchor, positive = self.genuine(rng, self.triplets)
        rows = np.stack([anchor, positive, self.other(rng, person)], axis=1)
        anchors = torch.arange(0, 3 * self.triplets, 3)
        return Draw(rows.ravel().tolist(), Triplets(anchors, anchors + 1, anchors + 2))
