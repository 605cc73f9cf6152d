"""Batches of a few labeled identities and of many images without labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from siamese_verify.errors import InputError
from siamese_verify.samplers.epoch import EpochSampler, check_identities
from siamese_verify.samplers.identity import IdentityBatchSampler
from siamese_verify.samplers.images import ImageSampler

UNLABELED = -1  # identity of an image without a label


class SemiSupervisedSampler(EpochSampler[list[int]]):
    """Batches of P labeled identities with K samples each, followed by images without labels.

    An epoch shows every image without a label once, and labeled identities as often as that takes. See
    `IdentityBatchSampler` and `ImageSampler` for both parts, `EpochSampler` for epochs and ranks.

    Args:
        identities: (N,) integers, the identity of each row, or -1 without a label.
        identities_per_batch: P, >= 2.
        samples_per_identity: K, >= 2.
        images: without labels in a batch, >= 2.
        batches: of an epoch over all ranks; None = one pass over the images without labels.
        seed: of the epochs' order.
        rank: of this process.
        world_size: number of processes.

    Raises:
        InputError: too few labeled identities or images without labels, or an argument out of range.
    """

    def __init__(
        self,
        identities: ArrayLike,
        identities_per_batch: int = 8,
        samples_per_identity: int = 4,
        images: int = 96,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        known = check_identities(identities)
        self.labeled_rows = np.flatnonzero(known != UNLABELED)
        self.other_rows = np.flatnonzero(known == UNLABELED)
        if not len(self.other_rows):
            raise InputError(
                "Semi-supervised learning needs images without labels: set datamodule.unlabeled=true and "
                "datamodule.labeled_identities, labeled_samples or unlabeled_identity."
            )
        ranks = {"seed": seed, "rank": rank, "world_size": world_size}
        self.others = ImageSampler(known[self.other_rows], images, batches=batches, **ranks)
        self.labeled = IdentityBatchSampler(
            known[self.labeled_rows],
            identities_per_batch,
            samples_per_identity,
            visits_per_epoch=None,
            batches=self.others.batches,
            **ranks,
        )
        super().__init__(len(known), self.others.batches, seed, rank, world_size)

    def __iter__(self) -> Iterator[list[int]]:
        for labeled, others in zip(self.labeled, self.others, strict=True):
            yield [*self.labeled_rows[labeled].tolist(), *self.other_rows[others].tolist()]

    def resume(self, epoch: int, start: int) -> None:
        """See `EpochSampler.resume`."""
        super().resume(epoch, start)
        for part in (self.labeled, self.others):
            part.seed = self.seed
            part.resume(epoch, start)
