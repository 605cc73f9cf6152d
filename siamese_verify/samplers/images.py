"""Batches of different images, whoever is on them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from siamese_verify.errors import InputError
from siamese_verify.samplers.epoch import EpochSampler, IdentityIndex, check_identities, check_whole


class ImageSampler(EpochSampler[list[int]]):
    """Batches of `images` different rows, for losses that compare several views of each image.

    A pass shows every image, or `max_samples_per_identity` of each identity, drawn anew in each pass. Its last batch is
    filled up with images of the same pass. See `EpochSampler` for epochs and ranks.

    Args:
        identities: (N,) integers, the identity of each row; without `max_samples_per_identity` only N matters.
        images: in a batch, >= 2.
        max_samples_per_identity: images of an identity in a pass, at most; None = all.
        batches: of an epoch over all ranks; None = one pass. More start further passes, fewer cut the pass short.
        seed: of the epochs' order.
        rank: of this process.
        world_size: number of processes.

    Raises:
        InputError: too few images for a batch, or an argument out of range.
    """

    def __init__(
        self,
        identities: ArrayLike,
        images: int = 128,
        max_samples_per_identity: int | None = None,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_whole(images=(images, 2))
        self.images, self.limit = images, max_samples_per_identity
        self.identities = check_identities(identities)
        self.index, self.images_per_pass = None, len(self.identities)
        if self.limit is not None:
            check_whole(max_samples_per_identity=(self.limit, 1))
            self.index = IdentityIndex(self.identities)
            self.images_per_pass = int(np.minimum(self.index.counts, self.limit).sum())
        if self.images_per_pass < images:
            some = "" if self.limit is None else f", {self.images_per_pass} with at most {self.limit} of an identity"
            raise InputError(f"images is {images}, but there are only {len(self.identities)} images{some}: lower it.")
        self.batches_per_pass = -(-self.images_per_pass // images)
        wanted = self.batches_per_pass if batches is None else batches
        super().__init__(len(self.identities), wanted, seed, rank, world_size)

    def __iter__(self) -> Iterator[list[int]]:
        draw_pass = lru_cache(maxsize=1)(self._draw_pass)
        for number in self.numbers():
            pass_number, place = divmod(number, self.batches_per_pass)
            places = range(place * self.images, (place + 1) * self.images)
            yield draw_pass(pass_number).take(places, mode="wrap").tolist()

    def _draw_pass(self, number: int) -> np.ndarray:
        """Rows of a pass in random order."""
        rng = self.generator(number)
        rows: np.ndarray = np.arange(self.rows, dtype=np.int32)
        if self.index is not None and self.limit is not None:
            order = np.lexsort((rng.random(self.rows, dtype=np.float32), self.identities))  # random within an identity
            place = rows - np.repeat(self.index.starts, self.index.counts)
            rows = order[place < self.limit].astype(np.int32)
        rng.shuffle(rows)
        return rows
