"""Feeding by triplets: the batch says which of its rows are anchor, positive and negative."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from siamese_verify.data.draw import Draw, RandomDraws
from siamese_verify.mining.epoch_sampler import check_whole
from siamese_verify.types import Triplets


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
