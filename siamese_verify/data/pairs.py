"""Feeding by pairs: the batch says which of its rows belong together."""

from __future__ import annotations

import numpy as np
import torch

from siamese_verify.data.draw import Draw, RandomDraws
from siamese_verify.errors import InputError
from siamese_verify.types import Pairs


class PairSampler(RandomDraws):
    """Batches of random pairs, a fixed share of them genuine.

    Genuine pairs are drawn uniformly over the people who have two photos, then over their photos; impostors uniformly
    over pairs of people.

    Args:
        identities: (N,) integers.
        pairs: in a batch.
        genuine: share of the pairs that are genuine, in (0, 1).
        batches: in an epoch; by default as many as read each photo once on average.
        seed: of the draws.
        rank: of this process.
        world_size: number of processes.

    Raises:
        InputError: the share leaves no genuine or no impostor pair in a batch.
    """

    def __init__(
        self,
        identities: np.ndarray,
        pairs: int = 64,
        genuine: float = 0.5,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.genuine = round(pairs * genuine)
        if not 0 < self.genuine < pairs:
            raise InputError(
                f"{pairs} pairs with a genuine share of {genuine} give {self.genuine} genuine pairs: a batch needs "
                "genuine and impostor pairs."
            )
        super().__init__(identities, 2 * pairs, batches, seed, rank, world_size)
        self.pairs = pairs

    def draw(self, rng: np.random.Generator) -> Draw:
        """One batch: its genuine pairs first."""
        rows: list[int] = []
        for pair in range(self.pairs):
            person, first, second = self.people.genuine(rng)
            rows += [first, second if pair < self.genuine else self.people.other(rng, person)]
        anchor = torch.arange(0, 2 * self.pairs, 2)
        return Draw(rows, Pairs(anchor, anchor + 1, torch.arange(self.pairs) < self.genuine))
