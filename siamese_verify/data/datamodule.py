"""Photos -> the batches that training and validation see."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from siamese_verify.data.face_crops import FaceCropper
from siamese_verify.data.face_dataset import FacesInMemory, FacesOnDisk
from siamese_verify.errors import InputError
from siamese_verify.faces import Choice
from siamese_verify.faces.alignment import spec_for
from siamese_verify.protocols import HeldOutShare, PhotoSubset, Protocol, TrainingSubset, all_pairs, find_leak
from siamese_verify.samplers.epoch import People, index_type
from siamese_verify.samplers.tuples import Draw
from siamese_verify.structures import FaceBatch, InputSpec, Photos

log = logging.getLogger(__name__)
IN_ORDER = 256  # photos of a batch where nothing is learned
MEMORY = 2 * 2**30  # bytes of faces that are held in memory unless asked otherwise


class Split(NamedTuple):
    """Rows for training, for validation and for testing; no person is in two of them."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray = np.empty(0, dtype=np.int64)


def split_by_identity(
    identities: np.ndarray, share: float, most: int, seed: int, most_people: int | None = None
) -> Split:
    """Hold people out, in the same share of those with one photo and of those with several.

    Args:
        identities: (N,) integers.
        share: of the people to hold out, in (0, 1).
        most: photos of a held-out person that are kept, >= 2, so that a few people do not decide a validation; the
            others are in neither part.
        seed: of the choice.
        most_people: to hold out, so that a validation over all pairs stays short; None = no limit.

    Raises:
        InputError: a share outside (0, 1), `most` below 2, or too few people to have genuine pairs in both parts.
    """
    if not 0 < share < 1:
        raise InputError(f"The validation share must lie between 0 and 1, got {share}.")
    if most < 2:
        raise InputError(f"A held-out person needs two photos or more to have genuine pairs, got {most}.")
    if most_people is not None and most_people < 2:
        raise InputError(f"Two people or more must be held out to have impostors, got {most_people}.")
    people = People(identities)
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(people), dtype=bool)
    limit = 1.0 if most_people is None else min(1.0, most_people / max(1, round(share * len(people))))
    for group in (people.repeated, people.single):
        least = 2 if people.counts[group].max(initial=0) > 1 else 0  # two with a genuine pair, to have impostors too
        held_out[rng.permutation(group)[: max(least, round(limit * share * len(group)))]] = True
    repeated = people.counts > 1
    if (repeated & ~held_out).sum() < 2 or (repeated & held_out).sum() < 2:
        raise InputError(
            f"{len(identities)} photos of {len(people)} people, {int(repeated.sum())} of them with two photos or "
            f"more, cannot be split with a validation share of {share}: each part needs two such people."
        )
    validation = [rng.permutation(people.rows(int(person)))[:most] for person in np.flatnonzero(held_out)]
    train = np.flatnonzero(~held_out[people.person_of_row()]).astype(index_type(people.photos))
    return Split(train, np.sort(np.concatenate(validation)))


def split_in_three(
    identities: np.ndarray, test: HeldOutShare, share: float, most: int, seed: int, people: int | None
) -> Split:
    """Hold people out for testing, whatever the seed of the run, and of the others some for validation.

    Args:
        identities: (N,) integers.
        test: whom to hold out for testing.
        share: of the others to hold out for validation, see `split_by_identity`.
        most: likewise.
        seed: likewise.
        people: likewise.

    Raises:
        InputError: see `split_by_identity`; too few people for three parts.
    """
    repeated = int((np.unique(identities, return_counts=True)[1] > 1).sum())
    if repeated < 6:
        raise InputError(
            f"{len(identities)} photos hold {repeated} people with two photos or more, but training, validation and "
            "testing need two such people each: add people, or test on other photos by protocol=folder "
            "protocol.root=... ."
        )
    rest, _, tested = split_for_testing(identities, test)
    train, validation, _ = split_by_identity(identities[rest], share, most, seed, people)
    return Split(rest[train], rest[validation], tested)


def split_for_testing(identities: np.ndarray, test: HeldOutShare) -> Split:
    """Hold people out for testing alone.

    Raises:
        InputError: see `split_by_identity`.
    """
    rest, tested, _ = split_by_identity(identities, test.share, test.photos, test.seed, test.people)
    return Split(rest, np.empty(0, dtype=np.int64), tested)


class FaceDataset(Dataset[FaceBatch]):
    """Faces, read a whole batch at a time.

    Args:
        faces: N faces, by rows.
        labels: (N,) integers.
        transform: augments (n,3,S,S) uint8 images at random.
        views: of each image in a batch, one block of the batch after the other.
        instances: label an image by its row, so that only its own views are its partners.
        seed: of the augmentation: what a batch looks like depends on it, the epoch and the batch's rows alone.
    """

    def __init__(
        self,
        faces: FacesInMemory | FacesOnDisk,
        labels: Tensor,
        transform: Callable[[Tensor], Tensor] | None = None,
        views: int = 1,
        instances: bool = False,
        seed: int = 0,
    ) -> None:
        self.faces, self.labels, self.transform = faces, labels, transform
        self.views, self.instances, self.seed = views, instances, seed
        self.sampler: Any = None  # that knows the epoch

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, batch: list[int] | Draw) -> FaceBatch:
        rows, tuples = batch if isinstance(batch, Draw) else (batch, None)
        if tuples is not None and self.views > 1:
            raise InputError(f"{self.views} views go with batches of images: set sampler=identity or images.")
        images = self.faces[rows]
        labels = torch.as_tensor(rows) if self.instances else self.labels[rows].long()
        if self.transform is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self._seed(rows))
                images = self.transform(images if self.views == 1 else images.repeat(self.views, 1, 1, 1))
        elif self.views > 1:
            images = images.repeat(self.views, 1, 1, 1)
        return FaceBatch(images, labels.repeat(self.views), tuples)

    def _seed(self, rows: list[int]) -> int:
        epoch = self.sampler.epoch if self.sampler is not None else 0
        return hash((self.seed, epoch, *(int(row) for row in rows))) % 2**63


class ResumableLoader(DataLoader[FaceBatch]):
    """A loader that a checkpoint within an epoch remembers the place of."""

    given = 0  # batches of the running epoch
    skipped = 0  # that a resumed run leaves out
    trainer: Any = None  # that may take fewer batches than there are

    def __iter__(self) -> Any:
        sampler: Any = self.sampler
        if self.skipped:
            sampler.set_epoch(sampler.epoch, self.skipped)
        self.given, self.skipped = self.skipped, 0
        for batch in super().__iter__():
            self.given += 1
            yield batch

    @property
    def ended(self) -> bool:
        """The epoch is over."""
        return self.given >= min(len(self), getattr(self.trainer, "num_training_batches", len(self)))

    def state_dict(self) -> dict[str, Any]:
        """How far the running epoch has come."""
        return {"given": 0 if self.ended else self.given}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin the next epoch where the stopped run was."""
        self.skipped = int(state_dict["given"])


def in_order(faces: FaceDataset, rank: int = 0, world_size: int = 1, workers: int = 0) -> DataLoader[FaceBatch]:
    """Each photo once, on one of the ranks, in batches too small to fill a memory."""
    bounds = np.linspace(0, len(faces), world_size + 1).astype(int)
    starts = range(bounds[rank], bounds[rank + 1], IN_ORDER)
    chunks = [list(range(start, min(start + IN_ORDER, bounds[rank + 1]))) for start in starts]
    return DataLoader(faces, batch_size=None, sampler=chunks, num_workers=workers)


def refuse_replacement(trainer: Any) -> None:
    """See that Lightning leaves the samplers as they are: it would share out once more what a rank is given.

    Raises:
        InputError: a trainer of several processes that would replace them, as Lightning's do unless told otherwise.
    """
    connector = getattr(trainer, "_accelerator_connector", None)
    if connector is not None and connector.use_distributed_sampler and trainer.world_size > 1:
        raise InputError(
            "Lightning would put its own sampler in place of one that knows its rank, and each process would train on "
            "a part of its part: set trainer.use_distributed_sampler=false."
        )


class FaceDataModule(pl.LightningDataModule):
    """Training photos, split by person, fed by a batch sampler.

    Faces that a detector has to find are cut once, and held in memory; align large sets by `siamese-verify prepare`.
    Others are held in memory if they are few, else decoded when a batch asks for them.

    Args:
        photos: of the people to train on and to hold out.
        input_spec: of the encoder.
        sampler: makes the batch sampler from `identities`, `seed`, `rank` and `world_size`; the kind of sampler is
            the kind of feeding: identity batches, images, pairs or triplets.
        transform: random augmentation of (n,3,S,S) uint8 images; only training images get it.
        validation: photos of other people to validate on, instead of holding out some of those of `photos`.
        validation_share: of the people to hold out.
        validation_photos: of a held-out person, at most.
        validation_people: to hold out, at most; None = no limit.
        multi_view: augmented views of each image in a batch, for objectives that compare them.
        instances: label every image by itself instead of by its identity, as self-supervised objectives want it.
        in_memory: hold the faces in memory; None = up to 2 GB of them.
        max_damaged: photos that may be unreadable; read from disk, for each process.
        choice: which of several faces is a photo's subject.
        test: how many people are held out for testing, before anybody is for validation; None = none.
        cache: folder for the places of faces, or None.
        workers: processes that read and augment; 0 does it in the training process. The batches are the same.
        seed: of the split, the sampler and the augmentation.

    Attributes:
        split: rows of `photos` before damaged ones were left out.
        cropper: its account of damaged photos, after `setup`.
        people: whom training sees, by their numbers in `photos`, ascending; a training label is a place among them.
        digest: SHA-256 of what is trained and validated on, after `setup`: of the crops where they are in memory, else
            of the sources' own digests.
    """

    def __init__(
        self,
        photos: Photos,
        input_spec: InputSpec,
        sampler: Callable[..., Sampler[Any]],
        transform: Callable[[Tensor], Tensor] | None = None,
        validation: Photos | None = None,
        validation_share: float = 0.1,
        validation_photos: int = 5,
        validation_people: int | None = 2000,
        multi_view: int = 1,
        instances: bool = False,
        in_memory: bool | None = None,
        max_damaged: int = 10,
        choice: Choice = "central",
        cache: str | Path | None = None,
        workers: int = 0,
        seed: int = 0,
        test: HeldOutShare | None = None,
    ) -> None:
        super().__init__()
        if multi_view < 1:
            raise InputError(f"A batch needs one view of an image or more, got multi_view={multi_view}.")
        if instances and multi_view < 2:
            raise InputError("Images that are labelled by themselves need partners: set multi_view to 2 or more.")
        if workers < 0:
            raise InputError(f"So many processes cannot read photos: workers={workers}; 0 = the training process does.")
        self.photos = photos
        self.validation_source = photos if validation is None else validation
        self.make_sampler = sampler
        self.transform = transform or None  # what a config without any gives is empty
        self.multi_view, self.instances = multi_view, instances
        self.in_memory, self.max_damaged = in_memory, max_damaged
        self.workers = workers
        self.seed = seed
        identities = photos.identities
        limits = (validation_share, validation_photos, seed, validation_people)
        if validation is None:
            self.split = split_in_three(identities, test, *limits) if test else split_by_identity(identities, *limits)
        else:
            count = index_type(len(photos))
            everybody = Split(np.arange(len(photos), dtype=count), np.empty(0, dtype=count))
            kept = split_for_testing(identities, test) if test else everybody
            self.split = kept._replace(validation=np.arange(len(validation), dtype=count))
        self.people = np.unique(identities[self.split.train])
        # What cannot work fails before the cropping.
        sampler(identities=identities[self.split.train], seed=seed)
        self.spec = spec_for(photos, input_spec)
        spec_for(self.validation_source, input_spec)
        self.cropper = FaceCropper(input_spec, cache, max_damaged, choice)
        self.digest = ""
        self.train_set: FaceDataset | None = None
        self.validation_set: FaceDataset | None = None
        self.sampler: Any = None
        self._loader: ResumableLoader | None = None
        self._sampler_state: dict[str, Any] = {}
        self._loader_state = {"given": 0}
        self._first_epoch = 0

    @property
    def seen(self) -> list[TrainingSubset]:
        """What training and validation see, and whatever is chosen by them."""
        return [
            TrainingSubset.from_photos(self.photos, self.split.train),
            TrainingSubset.from_photos(self.validation_source, self.split.validation),
        ]

    def test_protocol(self, name: str) -> Protocol:
        """All pairs of the people held out for testing, without photos whose files are in another part as well.

        Args:
            name: of the data set.
        """
        tested = PhotoSubset(self.photos, self.split.test)
        twice = find_leak(self.seen, tested).rows  # one photo under two names, as sets from the web have some
        if twice:
            log.warning("%s test photos are also training photos, of another name, and are left out.", len(twice))
            tested = PhotoSubset(self.photos, np.delete(self.split.test, twice))
        people = len(np.unique(tested.identities))
        return all_pairs(tested, f"{name}, all pairs of {people:,} people held out for testing")

    def setup(self, stage: str | None = None) -> None:
        """Cut the faces into memory, or see where they are, once."""
        if self.train_set is not None:
            return
        faces, rows = self._faces(self.photos, self.split.train, "Training faces")
        labels = np.searchsorted(self.people, self.photos.identities[rows]).astype(np.int32)
        views = (self.multi_view, self.instances, self.seed)
        self.train_set = FaceDataset(faces, torch.from_numpy(labels), self.transform, *views)
        faces, rows = self._faces(self.validation_source, self.split.validation, "Validation faces")
        labels = self.validation_source.identities[rows].astype(np.int64)
        self.validation_set = FaceDataset(faces, torch.from_numpy(labels))
        self.digest = self.cropper.digest
        lazy = [part.faces for part in (self.train_set, self.validation_set) if isinstance(part.faces, FacesOnDisk)]
        if lazy:
            told = hashlib.sha256(self.digest.encode())
            for one in lazy:
                told.update(f"{getattr(one.photos, 'digest', '')}".encode() + one.rows.astype(np.int64).tobytes())
            self.digest = told.hexdigest()

    def _faces(self, photos: Photos, rows: np.ndarray, title: str) -> tuple[FacesInMemory | FacesOnDisk, np.ndarray]:
        spec = spec_for(photos, self.cropper.spec)
        few = self.in_memory if self.in_memory is not None else 3 * spec.size**2 * len(self.split.train) <= MEMORY
        if few or spec.crop.needs_face:
            readable, images = self.cropper(photos, rows.tolist(), title)
            return FacesInMemory(images), np.array(readable)
        return FacesOnDisk(photos, rows, spec, self.max_damaged), rows

    def train_dataloader(self) -> DataLoader[FaceBatch]:
        """Batches as the sampler composes them."""
        assert self.train_set is not None
        refuse_replacement(self.trainer)
        if self.sampler is None:
            self.sampler = self.make_sampler(
                identities=self.train_set.labels.numpy(), seed=self.seed, rank=self._rank, world_size=self._world_size
            )
            if self._sampler_state and hasattr(self.sampler, "load_state_dict"):
                self.sampler.load_state_dict(self._sampler_state)
        # Workers draw their first batches before Lightning tells a resumed sampler, or itself, which epoch it is.
        self.sampler.set_epoch(max(self._first_epoch, self.trainer.current_epoch if self.trainer else 0))
        self.train_set.sampler = self.sampler
        self._loader = ResumableLoader(
            self.train_set,
            batch_size=None,  # the sampler's items are whole batches
            sampler=self.sampler,
            num_workers=self.workers,
        )
        self._loader.trainer = self.trainer
        self._loader.load_state_dict(self._loader_state)  # Lightning forgets to, where a schedule asks for its length
        self._loader_state = {"given": 0}
        return self._loader

    def val_dataloader(self) -> DataLoader[FaceBatch]:
        """Every validation photo once; under DDP each rank has its share of them, and no photo is added to fill up."""
        assert self.validation_set is not None
        refuse_replacement(self.trainer)
        return in_order(self.validation_set, self._rank, self._world_size)

    def embedding_dataloader(self) -> DataLoader[FaceBatch]:
        """Every training photo once, as it is, for miners that look at all of them."""
        assert self.train_set is not None
        return in_order(FaceDataset(self.train_set.faces, self.train_set.labels), workers=self.workers)

    def state_dict(self) -> dict[str, Any]:
        """The epoch that a resumed run is in, and what the sampler has learned about confusable people."""
        sampler = self.sampler.state_dict() if hasattr(self.sampler, "state_dict") else {}
        if sampler:
            sampler["start"] = 0  # the loader knows it
        epoch = self.trainer.current_epoch if self.trainer else 0
        if self._loader is not None and self._loader.ended:
            epoch += 1
        given = self._loader.state_dict() if self._loader is not None else {"given": 0}
        return {"epoch": epoch, "sampler": sampler, "loader": given}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give a resumed run the sampler it stopped with; the sampler itself is made later."""
        self._sampler_state = state_dict["sampler"]
        self._loader_state = state_dict["loader"]
        self._first_epoch = state_dict["epoch"]

    @property
    def _rank(self) -> int:
        return int(self.trainer.global_rank) if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return int(self.trainer.world_size) if self.trainer else 1
