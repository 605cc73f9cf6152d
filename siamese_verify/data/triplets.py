"""Feeding by triplets: the batch says which of its rows are anchor, positive and negative."""

from __future__ import annotations

import numpy as np
import torch

from siamese_verify.data.draw import Draw, RandomDraws
from siamese_verify.errors import InputError
from siamese_verify.types import Triplets


class TripletSampler(RandomDraws):
    """Batches of random triplets: a genuine pair, and a photo of somebody else.

    Args:
        identities: (N,) integers.
        triplets: in a batch.
        batches: in an epoch; by default as many as read each photo once on average.
        seed: of the draws.
        rank: of this process.
        world_size: number of processes.

    Raises:
        InputError: there is no triplet in a batch.
    """

    def __init__(
        self,
        identities: np.ndarray,
        triplets: int = 48,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if triplets < 1:
            raise InputError(f"A batch needs one triplet or more, got {triplets}.")
        super().__init__(identities, 3 * triplets, batches, seed, rank, world_size)
        self.triplets = triplets

    def draw(self, rng: np.random.Generator) -> Draw:
        """One batch."""
        rows: list[int] = []
        for _ in range(self.triplets):
            person, anchor, positive = self.people.genuine(rng)
            rows += [anchor, positive, self.people.other(rng, person)]
        anchors = torch.arange(0, 3 * self.triplets, 3)
        return Draw(rows, Triplets(anchors, anchors + 1, anchors + 2))
