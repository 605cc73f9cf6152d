"""P x K batches around identities that the current model confuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize

from siamese_verify.errors import InputError
from siamese_verify.pairwise.neighbors import nearest_neighbors
from siamese_verify.samplers.identity import FILL, IdentityBatchSampler


class HardMiningSampler(IdentityBatchSampler):
    """P x K batches in which a share of the identities are nearest neighbors of the others.

    A batch starts from seed identities, which are drawn as `IdentityBatchSampler` draws all of them: each identity is a
    seed once in a pass. The seeds' nearest neighbors follow, nearest first, until the batch is full. Before the first
    `update`, random identities take their place.

    Args:
        identities: see `IdentityBatchSampler`, also for the arguments that are not listed here.
        hardness: share of a batch that is chosen among the seeds' neighbors, in [0, 1]; a batch has one seed or more.
        batches: None = one pass, which takes more batches than one of an `IdentityBatchSampler`.

    Raises:
        InputError: `hardness` out of range; see also `IdentityBatchSampler`.

    After Smirnov et al., "Doppelganger Mining for Face Representation Learning", ICCV Workshops 2017.
    """

    def __init__(
        self,
        identities: ArrayLike,
        identities_per_batch: int = 32,
        samples_per_identity: int = 4,
        hardness: float = 0.5,
        visits_per_epoch: int | None = 1,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        singles_per_batch: int = 0,
    ) -> None:
        if not 0 <= hardness <= 1:
            raise InputError(f"hardness must be a share in 0 ... 1, got {hardness}.")
        self.hardness = hardness
        self.neighbors: Tensor | None = None  # (E, P - 1) int32 of `repeated`, nearest first
        super().__init__(
            identities,
            identities_per_batch,
            samples_per_identity,
            visits_per_epoch,
            batches,
            seed,
            rank,
            world_size,
            singles_per_batch,
        )

    @property
    def seeds_per_batch(self) -> int:
        """Identities of a batch that are drawn from the pass."""
        return max(1, round(self.identities_per_batch * (1 - self.hardness)))

    @torch.no_grad()
    def update(self, embeddings: Tensor) -> None:
        """Find each identity's nearest neighbors, by the cosine of mean embeddings, for the batches from now on.

        Args:
            embeddings: (N,D) floating-point embeddings of the rows, on any device; all ranks must give the same.

        Raises:
            InputError: another shape or type, NaN or infinity.
        """
        if embeddings.ndim != 2 or len(embeddings) != self.rows or not embeddings.is_floating_point():
            raise InputError(
                f"Hard mining needs an embedding for each of {self.rows} rows, got a tensor of shape "
                f"{tuple(embeddings.shape)} and type {embeddings.dtype}."
            )
        number = torch.from_numpy(self.index.numbers()).to(embeddings.device)
        means = torch.zeros(len(self.index), embeddings.shape[1], device=embeddings.device)
        for rows, of in zip(torch.split(embeddings, 1 << 16), torch.split(number, 1 << 16), strict=True):
            means.index_add_(0, of, normalize(rows.float()))
        if not bool(means.isfinite().all()):
            raise InputError("The embeddings for hard mining hold NaN or infinity: lower the learning rate.")
        means = normalize(means[torch.from_numpy(self.repeated).to(means.device)])  # (E,D)
        self.neighbors = nearest_neighbors(means, None, self.identities_per_batch - 1).int().cpu()

    def _rows(self, identities: np.ndarray, visits: np.ndarray, pass_number: int) -> list[int]:
        rng = self.generator(FILL, pass_number, int(identities[0]), int(visits[0]))
        if self.neighbors is None:
            others = rng.choice(len(self.repeated), self.identities_per_batch, replace=False)
        else:
            others = self.neighbors.numpy()[identities].T.ravel()  # each seed's nearest, then each one's second, ...
        chosen = list(dict.fromkeys([*identities.tolist(), *others.tolist()]))[: self.identities_per_batch]
        more = rng.integers(1 << 20, size=len(chosen) - len(identities))  # any visits of the neighbors
        return super()._rows(np.array(chosen), np.concatenate([visits, more]), pass_number)

    def state_dict(self) -> dict[str, Any]:
        """As in `EpochSampler`, with the neighbors."""
        return {**super().state_dict(), "neighbors": self.neighbors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As in `EpochSampler`."""
        super().load_state_dict(state)
        self.neighbors = state["neighbors"]
