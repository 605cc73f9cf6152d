"""P x K batch sampling: a few identities per batch, a few samples of each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from siamese_verify.errors import InputError
from siamese_verify.samplers.epoch import EpochSampler, IdentityIndex, check_whole

PASS, SAMPLES, FILL, SINGLES = range(4)  # what a random generator is for


class IdentityBatchSampler(EpochSampler[list[int]]):
    """Batches of `identities_per_batch` identities with `samples_per_identity` rows each.

    A pass visits every identity with two samples or more, in random order: once, or with a larger `visits_per_epoch` up
    to that many times, if the identity has samples for them. Visits of an identity are spread over the pass, and no two
    are in one batch: an identity with samples for more visits than there are batches is in each batch once. A few
    identities have one more visit, so that all batches are full.

    A visit shows `samples_per_identity` random samples, and later visits in the pass show others until all were shown;
    an identity with fewer samples repeats some. Identities with one sample are left out, as they have no genuine pair,
    unless `singles_per_batch` asks for some: each is in the batch twice, and random augmentation makes two views of it.

    Use it as `batch_sampler` of a DataLoader; see `EpochSampler` for epochs and ranks.

    Args:
        identities: (N,) integers, the identity of each row.
        identities_per_batch: P, >= 2, at most the number of identities with two rows or more.
        samples_per_identity: K, >= 2.
        visits_per_epoch: visits of an identity in a pass, at most; None = as many as its samples take.
        batches: of an epoch over all ranks; None = one pass. More start further passes, fewer cut the pass short.
        seed: of the epochs' order.
        rank: of this process.
        world_size: number of processes.
        singles_per_batch: further identities of a batch, of those with one sample; others in the next batch, until all
            were shown.

    Raises:
        InputError: too few identities for a batch, or an argument out of range.

    Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, section 2.
    """

    def __init__(
        self,
        identities: ArrayLike,
        identities_per_batch: int = 32,
        samples_per_identity: int = 4,
        visits_per_epoch: int | None = 1,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        singles_per_batch: int = 0,
    ) -> None:
        check_whole(singles_per_batch=(singles_per_batch, 0))
        check_whole(identities_per_batch=(identities_per_batch, 2), samples_per_identity=(samples_per_identity, 2))
        self.index = IdentityIndex(identities)
        self.repeated = np.flatnonzero(self.index.counts > 1)  # (E,) places in the index; below, these are 0 ... E - 1
        if (found := len(self.repeated)) < identities_per_batch:
            lower = f"set sampler.identities_per_batch={found}, or " if found > 1 else ""
            raise InputError(
                f"identities_per_batch is {identities_per_batch}, but only {found} of {len(self.index)} identities "
                f"have two samples or more: {lower}add samples."
            )
        self.singles = self.index.order[self.index.starts[self.index.counts == 1]]  # rows
        if len(self.singles) < singles_per_batch:
            raise InputError(
                f"singles_per_batch is {singles_per_batch}, but only {len(self.singles)} of {len(self.index)} "
                "identities have one sample: lower it."
            )
        self.singles_per_batch = singles_per_batch
        self.identities_per_batch, self.samples_per_identity = identities_per_batch, samples_per_identity
        visits = -(-self.index.counts[self.repeated] // samples_per_identity)
        if visits_per_epoch is not None:
            check_whole(visits_per_epoch=(visits_per_epoch, 1))
            visits = np.minimum(visits, visits_per_epoch)
        self.visits, self.batches_per_pass = plan_pass(visits, self.seeds_per_batch)
        super().__init__(
            len(self.index.order), self.batches_per_pass if batches is None else batches, seed, rank, world_size
        )

    @property
    def seeds_per_batch(self) -> int:
        """Identities of a batch that are drawn from the pass."""
        return self.identities_per_batch

    def __iter__(self) -> Iterator[list[int]]:
        draw_pass = lru_cache(maxsize=1)(self._draw_pass)
        for number in self.numbers():
            pass_number, place = divmod(number, self.batches_per_pass)
            identities, visits = (table[place] for table in draw_pass(pass_number))
            yield self._rows(identities, visits, pass_number) + self._single_rows(number)

    def _draw_pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the identities of all batches, and the number of each one's visit: (batches_per_pass, seeds) both."""
        rng, shape = self.generator(PASS, number), (self.seeds_per_batch, self.batches_per_pass)
        visits = self.visits.copy()
        while missing := shape[0] * shape[1] - int(visits.sum()):
            visits[rng.permutation(np.flatnonzero(visits < self.batches_per_pass))[:missing]] += 1
        order = rng.permutation(len(visits)).astype(np.int32)
        visits = visits[order]
        identity = np.repeat(order, visits).reshape(shape)
        visit = np.arange(identity.size, dtype=np.int32) - np.repeat(np.cumsum(visits, dtype=np.int32) - visits, visits)
        batch = assign_batches(identity, rng)
        tables = np.empty((2, *shape), dtype=np.int32)
        np.put_along_axis(tables[0], batch, identity, axis=1)
        np.put_along_axis(tables[1], batch, visit.reshape(shape), axis=1)
        return tables[0].T, tables[1].T

    def _rows(self, identities: np.ndarray, visits: np.ndarray, pass_number: int) -> list[int]:
        """Rows that visits of identities show in a pass."""
        rows: list[int] = []
        for identity, visit in zip(self.repeated[identities].tolist(), visits.tolist(), strict=True):
            count = self.index.counts[identity]
            order = self.generator(SAMPLES, pass_number, identity).permutation(count)
            place = np.arange(visit * self.samples_per_identity, (visit + 1) * self.samples_per_identity) % count
            rows += self.index.rows(identity, order[place]).tolist()
        return rows

    def _single_rows(self, number: int) -> list[int]:
        """Rows of identities with one sample in a batch, each twice."""
        if not self.singles_per_batch:
            return []
        turn, place = divmod(number, len(self.singles) // self.singles_per_batch)
        order = self.generator(SINGLES, turn).permutation(self.singles)
        chosen: list[int] = order[place * self.singles_per_batch :][: self.singles_per_batch].tolist()
        return chosen + chosen


def plan_pass(visits: np.ndarray, per_batch: int) -> tuple[np.ndarray, int]:
    """Limit (E,) visits of identities to the number of batches that all visits take; return both."""
    while True:
        batches = -(-int(visits.sum()) // per_batch)
        if visits.max() <= batches:
            return visits, batches
        visits = np.minimum(visits, batches)


def assign_batches(identity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Assign visits to batches at random, so that no identity is twice in a batch.

    Args:
        identity: (P, B) identities of visits, those of an identity one after the other in C order, B at most of each.
        rng: source of the assignment.

    Returns:
        (P, B) numbers of batches, a permutation of 0 ... B - 1 in each row: each batch gets one visit of each row.
    """
    batch = np.empty_like(identity)
    for row in range(len(identity)):
        batch[row] = rng.permutation(identity.shape[1])
        if row and identity[row, 0] == identity[row - 1, -1]:  # has visits in both rows
            taken = batch[row - 1, identity[row - 1] == identity[row, 0]]
            count = np.count_nonzero(identity[row] == identity[row, 0])
            first = batch[row, np.isin(batch[row], taken, invert=True)][:count]
            rest = batch[row, np.isin(batch[row], first, invert=True)]
            batch[row] = np.concatenate([first, rng.permutation(rest)])
    return batch
