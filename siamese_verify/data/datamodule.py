"""The LightningDataModule: photos -> the batches that training and validation see."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from siamese_verify.data.data_loaders import (
    held_on,
    ignore_signals,
    in_order,
    refuse_replacement,
    room_on,
    training_gpu,
)
from siamese_verify.data.face_crops import FaceCropper
from siamese_verify.data.face_dataset import FaceDataset, FacesInMemory, FacesOnDisk
from siamese_verify.data.identity_split import Split, hold_out, label_rows, rows_of_person, split_by_identity
from siamese_verify.errors import InputError
from siamese_verify.faces import SelectOneFace
from siamese_verify.faces.alignment import spec_for
from siamese_verify.pairwise.blocks import copied_ahead
from siamese_verify.protocols import HeldOutShare, PhotoSubset, Protocol, TrainingSubset, find_leak
from siamese_verify.samplers import UNLABELED
from siamese_verify.samplers.epoch import EpochSampler
from siamese_verify.structures import FaceBatch, InputSpec, Photos

log = logging.getLogger(__name__)
MEMORY = 2 * 2**30  # bytes of faces that are held in memory by default


def check_views(
    multi_view: int, instances: bool, workers: int, local_views: int = 0, local_transform: object = None
) -> None:
    """Check arguments of `FaceDataModule`.

    Raises:
        InputError: a number out of range, images that are labeled by themselves without a second view, or local views
            without an augmentation of their own.
    """
    if multi_view < 1:
        raise InputError(f"multi_view must be 1 or more views of an image, got {multi_view}.")
    if instances and multi_view < 2:
        raise InputError("instances=true needs positives of each image: set multi_view to 2 or more.")
    if workers < 0:
        raise InputError(f"workers must be a number of processes, or 0 for the training process, got {workers}.")
    if local_views < 0 or (local_views and not local_transform):
        raise InputError(
            f"local_views must be 0 or more views by a local_transform of their own, got {local_views}: add "
            "+augmentation@datamodule.local_transform=local."
        )


def check_device(device: str, accelerator: str = "auto") -> None:
    """Check where faces are to live.

    Raises:
        InputError: an unknown place, or a GPU where the CPU trains.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise InputError(f"datamodule.device must be auto, cpu or gpu, got {device!r}.")
    if device == "gpu" and accelerator == "cpu":
        raise InputError("datamodule.device=gpu keeps faces on the GPU that trains: set trainer=gpu, or leave it out.")


class FaceDataModule(pl.LightningDataModule):
    """Training photos in the batches of a sampler, and photos of other people for validation and testing.

    Faces that a detector has to find are cropped once and held in memory: align large sets by `siamese-verify prepare`.
    Other faces are held in memory if they are few, else decoded when a batch asks for them.

    Its `state_dict` is all that a resumed run needs to see the batches that the stopped run would have seen, also from
    within an epoch.

    Args:
        photos: of the people to train on and to hold out.
        input_spec: of the encoder.
        sampler: makes an `EpochSampler` from `identities`, `seed`, `rank` and `world_size`.
        transform: random augmentation of (n,3,S,S) uint8 images or (n,*shape) arrays, for training only.
        validation: photos of other people to validate on, instead of holding out some of those of `photos`.
        validation_share: of the people to hold out.
        validation_max_samples_per_identity: photos of a held-out person, at most.
        validation_max_identities: people to hold out, at most; None = no limit.
        multi_view: augmented views of each image in a batch, for losses that compare them.
        instances: label every image by itself instead of by its identity, for self-supervised losses.
        local_views: further views of each image, behind the others in a batch.
        local_transform: random augmentation of those, such as crops of a small part of the image.
        labeled_identities: identities whose labels may be learned from, chosen by `split_seed`; None = all.
        labeled_samples: samples of each of them that are labeled, likewise, 2 or more; None = all.
        unlabeled: train on all other photos too, without labels; their identity is -1 for the sampler. By default they
            are left out.
        unlabeled_identity: name of a person, such as a folder, whose photos are of anyone and have no label.
        in_memory: hold the faces in memory; None = up to 2 GB of them.
        max_damaged: photos that may be unreadable; read from disk, for each process.
        on_multiple_faces: `error`, `central` or `largest`, see `siamese_verify.faces.finder`.
        cache: folder for the places of faces, or None.
        workers: processes that read and augment; 0 = the training process. The batches are the same. Where the faces
            live in one tensor, see `device`, they only fill it.
        device: where the training faces live. `gpu`: on the GPU that trains, in one tensor. `cpu`: likewise in the
            computer's memory. `auto`: on the GPU where they take a quarter of its free memory or less, else as
            `in_memory` says. On a GPU faces are augmented there, wherever they come from: with the same random numbers,
            and results that differ by roundings.
        seed: of the sampler and the augmentation.
        split_seed: of the choice of people to validate on: the same for all seeds whose runs are compared.
        test: people to hold out for testing before some are held out for validation; None = nobody.

    Attributes:
        split: rows of `photos` before damaged ones were left out.
        cropper: what `setup` crops faces with; it lists damaged photos.
        earlier: what earlier stages of training have seen, empty at first.
        people: identities in training, by their numbers in `photos`; a training label is a place among them. Ascending,
            first those with labels.
        num_identities: how many have labels.
        digest: SHA-256 of what is trained and validated on, after `setup`: of the crops where they are in memory, else
            of the sources' own digests.
    """

    def __init__(
        self,
        photos: Photos,
        input_spec: InputSpec,
        sampler: Callable[..., EpochSampler[Any]],
        transform: Callable[[Tensor], Tensor] | None = None,
        validation: Photos | None = None,
        validation_share: float = 0.1,
        validation_max_samples_per_identity: int = 5,
        validation_max_identities: int | None = 2000,
        multi_view: int = 1,
        instances: bool = False,
        local_views: int = 0,
        local_transform: Callable[[Tensor], Tensor] | None = None,
        labeled_identities: int | None = None,
        labeled_samples: int | None = None,
        unlabeled: bool = False,
        unlabeled_identity: str | None = None,
        in_memory: bool | None = None,
        max_damaged: int = 10,
        on_multiple_faces: SelectOneFace = "central",
        cache: str | Path | None = None,
        workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        test: HeldOutShare | None = None,
        device: Literal["auto", "cpu", "gpu"] = "auto",
    ) -> None:
        super().__init__()
        check_views(multi_view, instances, workers, local_views, local_transform)
        check_device(device)
        self.photos = photos
        self.validation_source = photos if validation is None else validation
        self.make_sampler = sampler
        self.transform = transform or None  # an empty config means none
        self.multi_view, self.instances = multi_view, instances
        self.local_views, self.local_transform = local_views, local_transform or None
        self.in_memory, self.max_damaged = in_memory, max_damaged
        self.workers, self.seed, self.test, self.device = workers, seed, test, device
        identities, self.of_anyone = photos.identities, rows_of_person(photos, unlabeled_identity)
        rest = np.delete(np.arange(len(identities), dtype=np.int32), self.of_anyone)
        known = identities[rest] if len(self.of_anyone) else identities
        if validation is None:
            limits = validation_share, validation_max_samples_per_identity, split_seed, validation_max_identities
            split = split_by_identity(known, *limits, test)
            split = Split(*(rest[rows] for rows in split))
        else:
            none = np.empty(0, dtype=np.int32)
            train, tested = hold_out(known, **test.choice) if test else (np.arange(len(known), dtype=np.int32), none)
            split = Split(rest[train], np.arange(len(validation), dtype=np.int32), rest[tested])
        others = self.of_anyone if unlabeled else None
        chosen = label_rows(identities, split.train, others, labeled_identities, labeled_samples, split_seed)
        self.split = split._replace(train=chosen.rows)
        self.labeled_rows = chosen.rows[chosen.labeled]
        self.people, self.num_identities = chosen.people, chosen.num_identities
        # What cannot work fails before the cropping.
        sampler(identities=with_labels(identities[chosen.rows], chosen.labeled), seed=seed)
        self.earlier: list[TrainingSubset] = []
        self.spec = spec_for(photos, input_spec)
        spec_for(self.validation_source, input_spec)
        self.cropper = FaceCropper(input_spec, cache, max_damaged, on_multiple_faces)
        self.digest = ""
        self.train_set: FaceDataset | None = None
        self.validation_set: FaceDataset | None = None
        self.sampler: EpochSampler[Any] | None = None
        self._resumed: dict[str, Any] = {}

    @property
    def seen(self) -> list[TrainingSubset]:
        """What training and validation see, and whatever is chosen by them."""
        return [
            TrainingSubset.from_photos(self.photos, self.split.train),
            TrainingSubset.from_photos(self.validation_source, self.split.validation),
        ]

    @cached_property
    def test_photos(self) -> PhotoSubset:
        """Photos of the people held out for testing, without those whose files a stage of the training has seen."""
        tested = PhotoSubset(self.photos, self.split.test)
        earlier = find_leak(self.earlier, tested)
        known = [] if earlier.people else earlier.rows  # people whom an earlier stage has seen are refused later
        twice = sorted({*find_leak(self.seen, tested).rows, *known})  # under two names, as sets from the web have some
        if twice:
            log.warning("%s test photos are also training photos, of another name, and are left out.", len(twice))
            tested = PhotoSubset(self.photos, np.delete(self.split.test, twice))
        return tested

    def test_protocol(self, name: str) -> Protocol:
        """What is measured on the people held out for testing: all pairs, or what `test` makes of `test_photos`.

        Args:
            name: of the data set.
        """
        return (self.test or HeldOutShare()).protocol(self.test_photos, name)

    def setup(self, stage: str | None = None) -> None:
        """Crop the faces into memory, or prepare to decode them from disk, once."""
        if self.train_set is not None:
            return
        faces, rows = self._faces(self.photos, self.split.train, "Training faces")
        order = np.argsort(self.people)
        labels = order[np.searchsorted(self.people, self.photos.identities[rows], sorter=order)].astype(np.int32)
        labels[np.isin(rows, self.of_anyone)] = UNLABELED
        hidden = len(self.labeled_rows) < len(self.split.train)
        self.train_set = FaceDataset(
            faces,
            torch.from_numpy(labels),
            self.transform,
            self.multi_view,
            self.instances,
            self.seed,
            self.local_views,
            self.local_transform,
            torch.from_numpy(np.isin(rows, self.labeled_rows)) if hidden else None,
        )
        faces, rows = self._faces(self.validation_source, self.split.validation, "Validation faces")
        labels = self.validation_source.identities[rows].astype(np.int64)
        self.validation_set = FaceDataset(faces, torch.from_numpy(labels))
        self.digest = self.cropper.digest
        if self.cropper.failures:
            log.warning("%s photos without a face are left out of training.", f"{len(self.cropper.failures):,}")
        on_disk = [part.faces for part in (self.train_set, self.validation_set) if isinstance(part.faces, FacesOnDisk)]
        if on_disk:
            digest = hashlib.sha256(self.digest.encode())
            for part in on_disk:
                digest.update(f"{getattr(part.photos, 'digest', '')}".encode() + part.rows.astype(np.int64).tobytes())
            self.digest = digest.hexdigest()

    def _faces(self, photos: Photos, rows: np.ndarray, title: str) -> tuple[FacesInMemory | FacesOnDisk, np.ndarray]:
        spec = spec_for(photos, self.cropper.spec)
        size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize * len(self.split.train)
        few = self.in_memory if self.in_memory is not None else size <= MEMORY
        if few or spec.crop.needs_face:
            readable, images = self.cropper(photos, rows.tolist(), title)
            return FacesInMemory(images), np.array(readable)
        return FacesOnDisk(photos, rows, spec, self.max_damaged), rows

    def train_dataloader(self) -> DataLoader[FaceBatch]:
        """Batches of the sampler."""
        assert self.train_set is not None
        refuse_replacement(self.trainer)
        rank, world_size = self._ranks
        if self.sampler is None:
            self.sampler = self.make_sampler(
                identities=with_labels(self.train_set.labels.numpy(), self.train_set.labeled),
                seed=self.seed,
                rank=rank,
                world_size=world_size,
            )
        # Workers draw their first batches at once, which Lightning tells the epoch only later.
        if self._resumed:
            self.sampler.load_state_dict(self._resumed)
            self._resumed = {}
        elif self.trainer:
            self.sampler.set_epoch(self.trainer.current_epoch)
        workers = 0 if self._is_held() else self.workers
        return DataLoader(
            self.train_set,
            batch_size=None,  # the sampler's items are whole batches
            sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=training_gpu(self.trainer) is not None and not self.train_set.faces.on_gpu,
            worker_init_fn=ignore_signals,
            generator=torch.Generator(),  # of its own, so that torch's has the same state in a resumed run
        )

    def _is_held(self) -> bool:
        """Bring the training faces where they live; return whether that is a tensor which this process alone has.

        Raises:
            InputError: a GPU that there is not, or that has no room.
        """
        assert self.train_set is not None
        gpu, data = training_gpu(self.trainer), self.train_set
        transforms = [one for one in (self.transform, self.local_transform) if one is not None]
        movable = all(getattr(one, "on_any_device", False) for one in transforms)
        data.augments_later = gpu is not None and movable
        if self.device == "gpu" and gpu is None:
            check_device(self.device, "cpu")
        device = torch.device("cpu") if self.device == "cpu" else gpu
        if device is None or (self.device == "auto" and not movable):
            return False
        if isinstance(data.faces, FacesInMemory) and data.faces.images.device == device:
            return True
        size = math.prod(self.spec.shape) * np.dtype(self.spec.dtype).itemsize * len(data)
        if size > room_on(device):
            if self.device == "auto":
                return False
            raise InputError(
                f"{size / 1e9:.1f} GB of faces are more than a quarter of the free memory of {device}: leave out "
                "datamodule.device=gpu."
            )
        data.faces = held_on(data, device, self.workers if isinstance(data.faces, FacesOnDisk) else 0)
        return True

    def transfer_batch_to_device(self, batch: FaceBatch, device: torch.device, dataloader_idx: int) -> FaceBatch:
        """The batch on the device that trains, augmented there if it was not before."""
        moved: FaceBatch = tree_map_only(torch.Tensor, partial(copied_ahead, device=device), batch)
        moved = moved._replace(labeled=batch.labeled)
        later = self.train_set is not None and self.train_set.augments_later
        if not later or self.trainer is None or not self.trainer.training:
            return moved
        assert batch.rows is not None
        assert self.train_set is not None
        return moved._replace(images=self.train_set.augmented(moved.images, batch.rows.tolist()))

    def val_dataloader(self) -> DataLoader[FaceBatch]:
        """Every validation photo once; each rank has its share of them, and no photo is added to fill it up.

        Raises:
            InputError: fewer photos than ranks, of which some would then wait for the others forever.
        """
        assert self.validation_set is not None
        refuse_replacement(self.trainer)
        rank, world_size = self._ranks
        if len(self.validation_set) < world_size:
            raise InputError(
                f"{world_size} processes cannot share {len(self.validation_set)} validation photos: raise "
                "datamodule.validation_share, or train with fewer processes."
            )
        return in_order(self.validation_set, rank, world_size)

    def embedding_dataloader(self) -> DataLoader[FaceBatch]:
        """Every training photo once and without augmentation, in the order of the sampler's rows."""
        assert self.train_set is not None
        faces = self.train_set.faces
        return in_order(FaceDataset(faces, self.train_set.labels), workers=0 if faces.on_gpu else self.workers)

    def state_dict(self) -> dict[str, Any]:
        """State of the sampler, at the batch that comes next."""
        if self.sampler is None:
            return {}
        state = self.sampler.state_dict()
        if self.trainer:
            loop: Any = self.trainer.fit_loop
            epoch = max(0, loop.epoch_progress.current.started - 1)
            done = loop.epoch_loop.batch_progress.current.processed
            state["epoch"], state["start"] = (epoch, done) if done < loop.max_batches else (epoch + 1, 0)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state for the sampler, which is made later."""
        self._resumed = state_dict

    @property
    def _ranks(self) -> tuple[int, int]:
        """Rank and world size."""
        return (int(self.trainer.global_rank), int(self.trainer.world_size)) if self.trainer else (0, 1)


def with_labels(identities: np.ndarray, labeled: np.ndarray | Tensor | None) -> np.ndarray:
    """(N,) identities, -1 of those rows whose label may not be learned from; `labeled` is None where all may."""
    chosen = None if labeled is None else np.asarray(labeled)
    return identities if chosen is None or chosen.all() else np.where(chosen, identities, UNLABELED)
