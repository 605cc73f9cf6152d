"""Photos -> the batches that training and validation see."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from siamese_verify.data.crops import FaceCropper
from siamese_verify.data.draw import Draw
from siamese_verify.errors import InputError
from siamese_verify.types import FaceBatch, InputSpec, Photos

IN_ORDER = 256  # photos of a batch where nothing is learned


class Split(NamedTuple):
    """Rows for training and for validation; no person is in both."""

    train: np.ndarray
    validation: np.ndarray


def split_by_identity(identities: np.ndarray, share: float, most: int, seed: int) -> Split:
    """Hold people out, in the same share of those with one photo and of those with several.

    Args:
        identities: (N,) integers.
        share: of the people to hold out, in (0, 1).
        most: photos of a held-out person that are kept, >= 2, so that a few people do not decide a validation; the
            others are in neither part.
        seed: of the choice.

    Raises:
        InputError: a share outside (0, 1), `most` below 2, or too few people to have genuine pairs in both parts.
    """
    if not 0 < share < 1:
        raise InputError(f"The validation share must lie between 0 and 1, got {share}.")
    if most < 2:
        raise InputError(f"A held-out person needs two photos or more to have genuine pairs, got {most}.")
    people, person, counts = np.unique(identities, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(people), dtype=bool)
    for group in (np.flatnonzero(counts > 1), np.flatnonzero(counts == 1)):
        least = 2 if counts[group].max(initial=0) > 1 else 0  # two with a genuine pair, to have impostors as well
        held_out[rng.permutation(group)[: max(least, round(share * len(group)))]] = True
    if (counts[~held_out] > 1).sum() < 2 or (counts[held_out] > 1).sum() < 2:
        raise InputError(
            f"{len(identities)} photos of {len(people)} people, {int((counts > 1).sum())} of them with two photos or "
            f"more, cannot be split with a validation share of {share}: each part needs two such people."
        )
    validation = [rng.permutation(np.flatnonzero(person == number))[:most] for number in np.flatnonzero(held_out)]
    return Split(np.flatnonzero(~held_out[person]), np.sort(np.concatenate(validation)))


class FaceDataset(Dataset[FaceBatch]):
    """Crops in memory, read a whole batch at a time.

    Args:
        images: (N,3,S,S) uint8.
        labels: (N,) int64.
        transform: augments one (3,S,S) uint8 image at random.
    """

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, batch: list[int] | Draw) -> FaceBatch:
        rows, mined = batch if isinstance(batch, Draw) else (batch, None)
        images = self.images[rows]
        if self.transform is not None:
            images = torch.stack([self.transform(image) for image in images])
        return FaceBatch(images, self.labels[rows], mined)


def in_order(faces: FaceDataset, rank: int = 0, world_size: int = 1) -> DataLoader[FaceBatch]:
    """Each photo once, on one of the ranks, in batches too small to fill a memory."""
    rows = np.array_split(np.arange(len(faces)), world_size)[rank].tolist()
    chunks = [rows[start : start + IN_ORDER] for start in range(0, len(rows), IN_ORDER)]
    return DataLoader(faces, batch_size=None, sampler=chunks)


def seed_worker(seed: int, rank: int, sampler: Any, worker: int) -> None:
    """Make the augmentation of a worker process depend on the epoch, not on what was drawn before it started."""
    torch.manual_seed(hash((seed, sampler.epoch, rank, worker)) % 2**63)


class FaceDataModule(pl.LightningDataModule):
    """Training photos, split by person, cropped once, fed by a batch sampler.

    Args:
        photos: of the people to train on and to hold out.
        input_spec: of the encoder.
        sampler: makes the batch sampler from `identities`, `seed`, `rank` and `world_size`; the kind of sampler is
            the kind of feeding: identity batches, pairs or triplets.
        transform: random augmentation of one (3,S,S) uint8 image; only training images get it.
        validation_share: of the people.
        validation_photos: of a held-out person, at most.
        max_damaged: photos that may be unreadable.
        cache: folder for the boxes of faces, or None.
        workers: processes that augment; 0 augments in the training process.
        seed: of the split, the sampler and the augmentation.

    Attributes:
        split: rows of `photos` before damaged ones were left out, after `setup`.
        cropper: its account of damaged photos, after `setup`.
        people: whom training sees, by their numbers in `photos`, ascending; a training label is a place among them.
    """

    def __init__(
        self,
        photos: Photos,
        input_spec: InputSpec,
        sampler: Callable[..., Sampler[Any]],
        transform: Callable[[Tensor], Tensor] | None = None,
        validation_share: float = 0.1,
        validation_photos: int = 5,
        max_damaged: int = 10,
        cache: str | Path | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.photos = photos
        self.make_sampler = sampler
        self.transform = transform
        self.workers = workers
        self.seed = seed
        self.split = split_by_identity(photos.identities, validation_share, validation_photos, seed)
        self.people = np.unique(photos.identities[self.split.train])
        sampler(identities=photos.identities[self.split.train], seed=seed)  # what cannot work fails before the cropping
        self.cropper = FaceCropper(input_spec, cache, max_damaged)
        self.train_set: FaceDataset | None = None
        self.validation_set: FaceDataset | None = None
        self.sampler: Any = None
        self._sampler_state: dict[str, Any] = {}
        self._first_epoch = 0

    def setup(self, stage: str | None = None) -> None:
        """Crop all photos into memory, once."""
        if self.train_set is None:
            images, identities = self._crop(self.split.train, "Training faces")
            labels = torch.from_numpy(np.searchsorted(self.people, identities))
            self.train_set = FaceDataset(images, labels, self.transform)
            images, identities = self._crop(self.split.validation, "Validation faces")
            self.validation_set = FaceDataset(images, torch.from_numpy(identities))

    def _crop(self, rows: np.ndarray, title: str) -> tuple[Tensor, np.ndarray]:
        readable, images = self.cropper(self.photos, rows.tolist(), title)
        return images, self.photos.identities[readable]

    @property
    def digest(self) -> str:
        """SHA-256 of the training and validation crops, after `setup`."""
        return self.cropper.digest

    def train_dataloader(self) -> DataLoader[FaceBatch]:
        """Batches as the sampler composes them."""
        assert self.train_set is not None
        if self.sampler is None:
            self.sampler = self.make_sampler(
                identities=self.train_set.labels.numpy(), seed=self.seed, rank=self._rank, world_size=self._world_size
            )
            if self._sampler_state and hasattr(self.sampler, "load_state_dict"):
                self.sampler.load_state_dict(self._sampler_state)
        # Workers draw their first batches before Lightning tells a resumed sampler, or itself, which epoch it is.
        self.sampler.set_epoch(max(self._first_epoch, self.trainer.current_epoch if self.trainer else 0))
        return DataLoader(
            self.train_set,
            batch_size=None,  # the sampler's items are whole batches
            sampler=self.sampler,
            num_workers=self.workers,
            worker_init_fn=partial(seed_worker, self.seed, self._rank, self.sampler),
        )

    def val_dataloader(self) -> DataLoader[FaceBatch]:
        """Every validation photo once; under DDP each rank has its share of them, and no photo is added to fill up."""
        assert self.validation_set is not None
        return in_order(self.validation_set, self._rank, self._world_size)

    def embedding_dataloader(self) -> DataLoader[FaceBatch]:
        """Every training photo once, as it is, for miners that look at all of them."""
        assert self.train_set is not None
        return in_order(FaceDataset(self.train_set.images, self.train_set.labels))

    def state_dict(self) -> dict[str, Any]:
        """The epoch that comes next, and what the sampler has learned about confusable people."""
        sampler = self.sampler.state_dict() if hasattr(self.sampler, "state_dict") else {}
        return {"epoch": self.trainer.current_epoch + 1 if self.trainer else 0, "sampler": sampler}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give a resumed run the sampler it stopped with; the sampler itself is made later."""
        self._sampler_state = state_dict["sampler"]
        self._first_epoch = state_dict["epoch"]

    @property
    def _rank(self) -> int:
        return int(self.trainer.global_rank) if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return int(self.trainer.world_size) if self.trainer else 1
