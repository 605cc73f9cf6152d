"""Batches of a few people with a few photos each, so that every batch holds genuine pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

from siamese_verify.errors import InputError
from siamese_verify.mining.deck import Deck

Hand = tuple[list[int], list[int]]  # a batch before its photos are drawn: people, and people with a single photo


class IdentityBatchSampler(Sampler[list[int]]):
    """Yield rows of `people` people x `photos` photos, and of `singles` people with one photo as further impostors.

    Each batch has `people * photos + singles` rows: the people one after the other, then the singles.

    - Everyone with two photos or more is drawn once before anyone is drawn again. So an epoch covers them all, unless
      `batches` cuts it short; where their number is no multiple of `people`, the last batch is filled up with a second
      turn.
    - Of each, `photos` different photos are drawn at random; who has fewer gives all of them, then repeats.
    - People with one photo have no genuine pair. They serve as singles only, in turn over the epoch.

    The batches are a function of the arguments, `seed` and the epoch: nothing depends on what was drawn before.
    Give it to a DataLoader as `batch_sampler`, and call `set_epoch` before each epoch, or all epochs are the same.

    Args:
        identities: (N,) integers, the person on each row.
        people: people per batch, drawn from those with two photos or more.
        photos: rows of each of them, >= 2.
        batches: batches of an epoch, over all ranks together; None = as many as everyone's turn takes. Rounded up to
            a multiple of `world_size`, so that each rank gets the same number.
        seed: >= 0.
        singles: people with exactly one photo added to each batch.
        rank: which of the processes this one is; each yields batches of its own: rank, rank + world_size, ...
        world_size: number of processes that train together.

    Raises:
        InputError: identities that are no vector of integers, too few people for one batch, a number out of range.

    Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, section 2 (PK batches).
    """

    def __init__(
        self,
        identities: ArrayLike,
        people: int,
        photos: int,
        batches: int | None = None,
        seed: int = 0,
        singles: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        rows = np.asarray(identities)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise InputError(
                f"identities must be one integer for each row, but have shape {rows.shape} and type {rows.dtype}."
            )
        smallest = {"people": (people, 1), "photos": (photos, 2), "singles": (singles, 0), "seed": (seed, 0)}
        for name, (value, least) in {**smallest, "batches": (1 if batches is None else batches, 1)}.items():
            if not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} is {value}, but batches of people need a whole number of {least} or more.")
        if not 0 <= rank < world_size:
            raise InputError(f"rank is {rank}, but must be in 0 ... {world_size - 1} for a world size of {world_size}.")
        if people + singles < 2:
            raise InputError(
                "a batch of 1 person holds no impostors: set people to 2 or more, or singles to 1 or more."
            )

        _, self._person_of_row, counts = np.unique(rows, return_inverse=True, return_counts=True)
        self._rows_of_person = np.split(np.argsort(self._person_of_row, kind="stable"), np.cumsum(counts)[:-1])
        self._pairable = np.flatnonzero(counts >= 2)  # (E,) people who have a genuine pair
        self._single = np.flatnonzero(counts == 1)  # (S,)
        if len(counts) < 2:
            raise InputError(
                f"the {len(rows)} rows show {len(counts)} different people, but verification is learnt from 2 or more: "
                f"add photos of others."
            )
        if len(self._pairable) < people:
            raise InputError(
                f"people is {people}, but only {len(self._pairable)} of {len(counts)} people have two photos or more: "
                f"lower people or add photos."
            )
        if len(self._single) < singles:
            raise InputError(
                f"singles is {singles}, but only {len(self._single)} of {len(counts)} people have a single photo: "
                f"lower singles."
            )
        self.people, self.photos, self.singles = people, photos, singles
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch, self.start = 0, 0
        wanted = -(-len(self._pairable) // people) if batches is None else batches
        self._batches = -(-wanted // world_size) * world_size  # of all ranks

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        return self._batches // self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's batches of the current epoch, from `start` on."""
        hands = self._deal()
        for batch in self._positions():
            yield self._draw(batch, *hands[batch])

    def _positions(self) -> range:
        """This rank's places among the batches of all ranks, from `start` on."""
        return range(self.rank + self.start * self.world_size, self._batches, self.world_size)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose what the next iteration yields.

        Args:
            epoch: >= 0; the same epoch yields the same batches.
            start: batches of this rank to leave out at the beginning of the epoch, because a run that stopped within
                it has trained on them. `len` does not change.
        """
        self.epoch, self.start = epoch, start

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to draw what the uninterrupted one would have drawn."""
        return {"rows": len(self._person_of_row), "seed": self.seed, "epoch": self.epoch, "start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the sampler that wrote `state_dict`, made with the same identities and sizes.

        Raises:
            InputError: the state comes from another number of rows.
        """
        if state["rows"] != len(self._person_of_row):
            raise InputError(
                f"the saved sampler drew from {state['rows']} rows, but there are {len(self._person_of_row)} now: "
                f"resume on the photos the run began with."
            )
        self.seed, self.epoch, self.start = int(state["seed"]), int(state["epoch"]), int(state["start"])

    def _deal(self) -> list[Hand]:
        """Deal the people of all batches of all ranks, as indices into `_pairable` and `_single`."""
        people, singles = self._decks()
        return [(people.deal(self.people), singles.deal(self.singles)) for _ in range(self._batches)]

    def _decks(self) -> tuple[Deck, Deck]:
        return Deck(len(self._pairable), self._generator(0)), Deck(len(self._single), self._generator(1))

    def _draw(self, batch: int, people: list[int], singles: list[int]) -> list[int]:
        """Draw the photos of one batch."""
        generator = self._generator(2, batch)
        rows: list[int] = []
        for person in self._pairable[people]:
            shuffled = generator.permutation(self._rows_of_person[person])
            rows += np.resize(shuffled, self.photos).tolist()  # starts over where there are too few
        for person in self._single[singles]:
            rows += self._rows_of_person[person].tolist()
        return rows

    def _generator(self, *purpose: int) -> np.random.Generator:
        """A generator for one purpose in the current epoch, independent of the order of use."""
        return np.random.default_rng((self.seed, self.epoch, *purpose))
