"""Feeding by images: batches without regard to who is on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from siamese_verify.errors import InputError
from siamese_verify.samplers.deck import rounds
from siamese_verify.samplers.epoch import EpochSampler, People, check_whole, index_type, vector

BLOCK = 1 << 18  # photos among which are chosen at once


class ImageSampler(EpochSampler[list[int]]):
    """Yield rows of `images` different images, for objectives that compare several views of each image.

    An epoch covers each image once, or `cap` images of each person, drawn anew in each epoch, unless `batches` cuts it
    short. The last batches are filled up from a second shuffle of the same images, so that all have the same size.
    For seeds, epochs and ranks see `EpochSampler`.

    Args:
        identities: (N,) integers, the person on each row; without `cap` only their number matters.
        images: in a batch, >= 2.
        cap: images of a person in an epoch, at most, >= 1; None = all.
        batches: in an epoch, over all ranks together, rounded up to a multiple of `world_size`; None = as many as cover
            all images.
        seed: of the order, >= 0.
        rank: of this process.
        world_size: number of processes.

    Raises:
        InputError: identities that are no vector of integers, too few images for one batch, a number out of range.
    """

    def __init__(
        self,
        identities: ArrayLike,
        images: int = 128,
        cap: int | None = None,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_whole(images=(images, 2), cap=(1 if cap is None else cap, 1))
        rows = vector(identities)
        self.images, self.cap = images, cap
        self._people, self._size = None, len(rows)
        if cap is not None:
            self._people = People(rows)
            self._size = int(np.minimum(self._people.counts, cap).sum())
        if self._size < images:
            some = "" if cap is None else f", {self._size} with at most {cap} of a person"
            raise InputError(f"images is {images}, but there are only {len(rows)} images{some}: lower images.")
        super().__init__(len(rows), -(-self._size // images) if batches is None else batches, seed, rank, world_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's batches of the current epoch, from `start` on."""
        chosen = None if self._people is None else self._chosen(self._people)
        batches = rounds(self._size, self.batches, self.images, self.generator(0))
        for position in self.positions():
            rows = batches[position] if chosen is None else chosen[batches[position]]
            yield rows.tolist()

    def _chosen(self, people: People) -> np.ndarray:
        """Choose `cap` images of each person at random, or all where there are fewer: (size,) rows."""
        chosen = np.empty(self._size, dtype=index_type(people.photos))
        generator, filled, first = self.generator(1), 0, 0
        while first < len(people):  # whole people, about a block of rows
            last = max(first + 1, int(np.searchsorted(people.offsets, people.offsets[first] + BLOCK, side="right")) - 1)
            counts = people.counts[first:last]
            person = np.repeat(np.arange(first, last), counts)
            place = np.arange(people.offsets[first], people.offsets[last]) - people.offsets[person]
            kept = place < self.cap
            key = (person - first << 40) + generator.integers(1 << 40, size=len(person))
            order = np.argsort(key, kind="stable")  # everyone's photos shuffled
            drawn = place[order[kept]]
            rows = people.at(person[kept], drawn)
            chosen[filled : filled + len(rows)] = rows
            filled, first = filled + len(rows), last
        return chosen
