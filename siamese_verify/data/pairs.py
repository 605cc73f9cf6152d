"""Feeding by pairs: the batch says which of its rows belong together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from siamese_verify.data.draw import Draw, RandomDraws
from siamese_verify.errors import InputError
from siamese_verify.mining.epoch_sampler import check_whole
from siamese_verify.types import Pairs


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
        mined = Pairs(anchor, anchor + 1, torch.arange(self.pairs) < self.genuine_pairs)
        return Draw(np.stack([first, second], axis=1).ravel().tolist(), mined)
