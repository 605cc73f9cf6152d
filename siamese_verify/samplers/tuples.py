"""Batches of random pairs or triplets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from siamese_verify.errors import InputError
from siamese_verify.samplers.epoch import EpochSampler, IdentityIndex, check_whole
from siamese_verify.structures import Pairs, Triplets


class TupleBatch(NamedTuple):
    """Rows of the data set, and which of them belong together."""

    rows: list[int]
    tuples: Pairs | Triplets


class RandomTuples(EpochSampler[TupleBatch]):
    """Base class of samplers that draw identities and samples at random; see `EpochSampler` for epochs and ranks.

    Args:
        identities: (N,) integers, the identity of each row.
        samples: rows in a batch.
        batches: of an epoch over all ranks; None = as many as show N samples.
        seed: of the draws.
        rank: of this process.
        world_size: number of processes.
        weight: identities are drawn in proportion to (number of samples) ** weight, in [0, 1]: 0 draws evenly over
            identities, 1 evenly over samples.

    Raises:
        InputError: no identity has two samples, or there is one identity only; an argument out of range.
    """

    def __init__(
        self,
        identities: ArrayLike,
        samples: int,
        batches: int | None,
        seed: int,
        rank: int,
        world_size: int,
        weight: float,
    ) -> None:
        if not 0 <= weight <= 1:
            raise InputError(f"weight must be in 0 ... 1 (evenly over identities ... over samples), got {weight}.")
        self.index = index = IdentityIndex(identities)
        self.repeated = np.flatnonzero(index.counts > 1)
        rows = len(index.order)
        if len(index) < 2 or not len(self.repeated):
            missing = "no impostor pair" if len(index) < 2 else "no genuine pair"
            raise InputError(
                f"{rows} samples of {len(index)} identities give {missing}: add identities with two samples or more."
            )
        super().__init__(rows, max(1, rows // samples) if batches is None else batches, seed, rank, world_size)
        self.weight = weight
        self.ends = np.append(0, np.cumsum(index.counts**weight))  # (I + 1,) cumulative weights
        self.repeated_ends = np.cumsum(index.counts[self.repeated] ** weight)

    def __iter__(self) -> Iterator[TupleBatch]:
        for number in self.numbers():
            yield self.draw(self.generator(number))

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> TupleBatch:
        """Draw one batch."""

    def genuine_pairs(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw identities with two samples or more, and two samples of each.

        Returns:
            (count,) numbers of the identities in the index, rows and other rows.
        """
        at = rng.random(count) * self.repeated_ends[-1]
        identity = self.repeated[np.searchsorted(self.repeated_ends, at, side="right")]
        first, second = rng.integers(self.index.counts[identity]), rng.integers(self.index.counts[identity] - 1)
        return identity, self.index.rows(identity, first), self.index.rows(identity, second + (second >= first))

    def negatives(self, rng: np.random.Generator, identity: np.ndarray) -> np.ndarray:
        """Draw for each of (M,) identities a row of another identity: (M,)."""
        start, end = self.ends[identity], self.ends[identity + 1]
        at = rng.random(len(identity)) * (start + (self.ends[-1] - end))
        at = np.where(at < start, at, end + (at - start))  # on the scale without the identity, then with it
        other = np.minimum(np.searchsorted(self.ends, at, side="right") - 1, len(self.index) - 1)
        return self.index.rows(other, rng.integers(self.index.counts[other]))


class PairSampler(RandomTuples):
    """Batches of random pairs, a fixed share of them genuine.

    The anchors are samples of identities with two samples or more; a genuine pair has another sample of the same
    identity, an impostor pair one of any other identity.

    Args:
        identities: (N,) integers, the identity of each row.
        pairs: in a batch.
        genuine: share of the pairs that are genuine, in (0, 1).
        batches: see `RandomTuples`, also for the arguments that are not listed here.

    Raises:
        InputError: the share leaves no genuine or no impostor pair in a batch; see also `RandomTuples`.
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
        check_whole(pairs=(pairs, 2))
        self.pairs, self.genuine = pairs, round(pairs * genuine)
        if not 0 < self.genuine < pairs:
            raise InputError(
                f"genuine is {genuine}, which makes {self.genuine} of {pairs} pairs genuine: a batch needs genuine and "
                "impostor pairs."
            )
        super().__init__(identities, 2 * pairs, batches, seed, rank, world_size, weight)

    def draw(self, rng: np.random.Generator) -> TupleBatch:
        """Draw one batch, its genuine pairs first."""
        identity, first, second = self.genuine_pairs(rng, self.pairs)
        second[self.genuine :] = self.negatives(rng, identity[self.genuine :])
        anchor = torch.arange(0, 2 * self.pairs, 2)
        tuples = Pairs(anchor, anchor + 1, torch.arange(self.pairs) < self.genuine)
        return TupleBatch(np.stack([first, second], axis=1).ravel().tolist(), tuples)


class TripletSampler(RandomTuples):
    """Batches of random triplets: two samples of an identity with two or more, and one of any other identity.

    Args:
        identities: (N,) integers, the identity of each row.
        triplets: in a batch.
        batches: see `RandomTuples`, also for the arguments that are not listed here.

    Raises:
        InputError: see `RandomTuples`.
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
        self.triplets = triplets
        super().__init__(identities, 3 * triplets, batches, seed, rank, world_size, weight)

    def draw(self, rng: np.random.Generator) -> TupleBatch:
        """Draw one batch."""
        identity, anchor, positive = self.genuine_pairs(rng, self.triplets)
        rows = np.stack([anchor, positive, self.negatives(rng, identity)], axis=1)
        anchors = torch.arange(0, 3 * self.triplets, 3)
        return TupleBatch(rows.ravel().tolist(), Triplets(anchors, anchors + 1, anchors + 2))
