"""Batches of a few people with a few photos each, so that every batch holds genuine pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from siamese_verify.errors import InputError
from siamese_verify.samplers.deck import STEP, allotted, mixed, numbered, rounds, shuffled, spread
from siamese_verify.samplers.epoch import EpochSampler, People, check_whole

Turns = Literal["once", "photos"]


class Hands(NamedTuple):
    """All batches of an epoch before their photos are drawn."""

    people: np.ndarray  # (B, people) places among those with two photos or more
    singles: np.ndarray  # (B, singles) places among those with one


class IdentityBatchSampler(EpochSampler[list[int]]):
    """Yield rows of `people` people x `photos` photos, and of `singles` people with one photo as further impostors.

    Each batch has `people * photos + singles` rows: the people one after the other, then the singles.

    - `turns="once"`: everyone with two photos or more is drawn once before anyone is drawn again, however many photos
      he has. So an epoch covers them all, unless `batches` cuts it short; where their number is no multiple of
      `people`, the last batch is filled up with a second turn.
    - `turns="photos"`: a person with n photos has ceil(min(n, `cap`) / `photos`) turns, spread at random over the
      epoch. So an epoch covers every photo, or `cap` photos of a person, drawn anew in each epoch, unless `batches`
      cuts it short. Some people have a turn more, to fill up all batches. Nobody is in a batch twice, unless he has
      more turns than there are batches.
    - In each turn `photos` different photos are drawn at random; who has fewer gives all of them, then repeats. Further
      turns in an epoch go on with photos that were not drawn yet, until all were, and then start over in a new order.
    - People with one photo have no genuine pair. They serve as singles only, in turn over the epoch.

    Give it to a DataLoader as `batch_sampler`; for seeds, epochs and ranks see `EpochSampler`. At millions of rows it
    holds what `People` holds, and an epoch's people while it is iterated.

    Args:
        identities: (N,) integers, the person on each row.
        people: people per batch, drawn from those with two photos or more.
        photos: rows of each of them, >= 2.
        batches: batches of an epoch, over all ranks together; None = as many as everyone's turns take. Rounded up to
            a multiple of `world_size`.
        seed: >= 0.
        singles: people with exactly one photo added to each batch.
        rank: which of the processes this one is.
        world_size: number of processes that train together.
        turns: how often a person comes in an epoch.
        cap: with `turns="photos"`, photos of a person that count, >= `photos`; None = all.

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
        turns: Turns = "once",
        cap: int | None = None,
    ) -> None:
        check_whole(people=(people, 1), photos=(photos, 2), singles=(singles, 0))
        if people + singles < 2:
            raise InputError(
                "a batch of 1 person holds no impostors: set people to 2 or more, or singles to 1 or more."
            )
        self._check_turns(turns, cap, photos)
        self._everyone = everyone = People(identities)
        self._pairable, self._single = everyone.repeated, everyone.single  # (E,), (S,)
        if len(everyone) < 2:
            raise InputError(
                f"the {everyone.photos} rows show {len(everyone)} different people, but verification is learnt from "
                f"2 or more: add photos of others."
            )
        if len(self._pairable) < people:
            raise InputError(
                f"people is {people}, but only {len(self._pairable)} of {len(everyone)} people have two photos or "
                f"more: lower people or add photos."
            )
        if len(self._single) < singles:
            raise InputError(
                f"singles is {singles}, but only {len(self._single)} of {len(everyone)} people have a single photo: "
                f"lower singles."
            )
        self.people, self.photos, self.singles, self.turns, self.cap = people, photos, singles, turns, cap
        wanted = -(-int(self._due().sum()) // people) if batches is None else batches
        super().__init__(everyone.photos, wanted, seed, rank, world_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's batches of the current epoch, from `start` on."""
        yield from self._drawn(self._deal(), self.positions())

    @staticmethod
    def _check_turns(turns: str, cap: int | None, photos: int) -> None:
        if turns not in ("once", "photos"):
            raise InputError(f"turns is {turns!r}, but must be once or photos.")
        if cap is None:
            return
        if turns == "once":
            raise InputError(f"cap is {cap}, but limits nothing where everyone has one turn: it needs turns=photos.")
        check_whole(cap=(cap, 1))
        if cap < photos:
            raise InputError(f"cap is {cap}, but a turn shows {photos} photos: raise cap, or lower photos.")

    def _photos_of(self, people: np.ndarray) -> np.ndarray:
        """How many photos count, in the shape of the people."""
        counts: np.ndarray = self._everyone.counts[people]
        return counts if self.cap is None else np.minimum(counts, self.cap)

    def _due(self) -> np.ndarray:
        """(E,) turns that everyone has in an epoch."""
        if self.turns == "once":
            return np.ones(len(self._pairable), dtype=np.int64)
        turns: np.ndarray = -(-self._photos_of(self._pairable) // self.photos)
        return turns

    def _deal(self) -> Hands:
        """Deal the people of all batches of all ranks."""
        generator = self.generator(0)
        if self.turns == "once":
            people = rounds(len(self._pairable), self.batches, self.people, generator)
        else:
            people = spread(allotted(self._due(), self.batches, self.people, generator), self.batches, generator)
        return Hands(people, rounds(len(self._single), self.batches, self.singles, self.generator(1)))

    def _drawn(self, hands: Hands, positions: range) -> Iterator[list[int]]:
        """Draw the photos of some batches."""
        everyone = self._everyone
        number = numbered(hands.people)  # (B, people)
        keys = self.generator(2).integers(2**64, size=2, dtype=np.uint64)
        for batch in positions:
            people = self._pairable[hands.people[batch], None]  # (people, 1)
            key = people.astype(np.uint64) * STEP
            counted = self._photos_of(people)
            lap, turn = np.divmod(number[batch, :, None], -(-counted // self.photos))
            place = (turn * self.photos + np.arange(self.photos)) % counted  # (people, photos)
            place = shuffled(place, counted, mixed(mixed(keys[:1] + key) + lap.astype(np.uint64)))
            if self.cap is not None:  # of the photos that count in this epoch
                place = shuffled(place, everyone.counts[people], mixed(keys[1:] + key))
            singles = everyone.at(self._single[hands.singles[batch]], np.array(0))
            yield [*everyone.at(people, place).ravel().tolist(), *singles.tolist()]
