"""FaceDataModule: people split once, photos cropped once, and the batches of any sampler."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import RunningStage
from torch import Tensor

from siamese_verify.data import FaceAugmentation, FaceDataModule, FaceDataset, FacesInMemory
from siamese_verify.data import datamodule as data_loading
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.samplers import HardMiningSampler, IdentityBatchSampler, PairSampler, TripletSampler
from siamese_verify.structures import Crop, FaceBatch, InputSpec, Pairs, Triplets
from tests.data.test_face_dataset import Damaged

SPEC = InputSpec(16, crop=Crop("whole"))
IDENTITY = partial(IdentityBatchSampler, identities_per_batch=3, samples_per_identity=2)
HARD = partial(HardMiningSampler, identities_per_batch=3, samples_per_identity=2)
PAIRS = partial(PairSampler, pairs=4)
TRIPLETS = partial(TripletSampler, triplets=4)
SAMPLERS = pytest.mark.parametrize(
    ("sampler", "rows", "tuples"),
    [(IDENTITY, 6, type(None)), (PAIRS, 8, Pairs), (TRIPLETS, 12, Triplets)],
    ids=["identity", "pairs", "triplets"],
)


def datamodule(sampler: Any = IDENTITY, photos: Any = None, **options: Any) -> FaceDataModule:
    photos = photos or SyntheticFaces(identities=10, images=4, size=16, first=100)
    module = FaceDataModule(
        photos, SPEC, sampler, **{"validation_share": 0.3, "validation_max_samples_per_identity": 3} | options
    )
    module.setup()
    return module


def sets_of(module: FaceDataModule) -> tuple[FaceDataset, FaceDataset]:
    assert module.train_set is not None
    assert module.validation_set is not None
    return module.train_set, module.validation_set


def in_memory(data: FaceDataset) -> Tensor:
    assert isinstance(data.faces, FacesInMemory)
    return data.faces.images


def trainer_at(epoch: int, batches: int = 0, of: int = 100, rank: int = 0, world_size: int = 1) -> SimpleNamespace:
    """What the data module reads of a trainer that has done some batches of an epoch."""
    loop = SimpleNamespace(
        max_batches=of,
        epoch_progress=SimpleNamespace(current=SimpleNamespace(started=epoch + 1)),
        epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(processed=batches))),
    )
    return SimpleNamespace(current_epoch=epoch, fit_loop=loop, global_rank=rank, world_size=world_size)


def noise(images: Tensor) -> Tensor:
    return torch.randint(0, 256, images.shape).to(torch.uint8)


@SAMPLERS
@pytest.mark.parametrize("workers", [0, 2])
def test_every_sampler_gives_face_batches(sampler: Any, rows: int, tuples: type, workers: int) -> None:
    module = datamodule(sampler, workers=workers)
    batches = list(module.train_dataloader())
    assert module.sampler is not None
    assert len(batches) == len(module.sampler) > 0
    train, _ = sets_of(module)
    for batch in batches:
        assert isinstance(batch, FaceBatch)
        assert (batch.images.shape, batch.images.dtype) == ((rows, 3, 16, 16), torch.uint8)
        assert (batch.labels.shape, batch.labels.dtype) == ((rows,), torch.int64)
        assert isinstance(batch.tuples, tuples)
        assert set(batch.labels.tolist()) <= set(train.labels.tolist())
        if isinstance(batch.tuples, Pairs):
            same = batch.labels[batch.tuples.anchor] == batch.labels[batch.tuples.other]
            torch.testing.assert_close(same, batch.tuples.same)
        elif isinstance(batch.tuples, Triplets):
            anchor, positive, negative = (batch.labels[places] for places in batch.tuples)
            assert bool((anchor == positive).all())
            assert bool((anchor != negative).all())


def batches_of(device: Any, later: bool = False, **options: Any) -> list[FaceBatch]:
    """The batches of one epoch, as a training step gets them."""
    given: list[FaceBatch] = []

    class Recorder(pl.LightningModule):
        def training_step(self, batch: FaceBatch, _: int) -> None:
            given.append(batch)

        def validation_step(self, batch: FaceBatch, _: int) -> None:
            assert len(batch.images) == len(batch.labels)

        def configure_optimizers(self) -> None:
            return None

    module = datamodule(transform=FaceAugmentation(blur=0.5), multi_view=2, device=device, **options)
    if later:
        make = module.train_dataloader

        def loader() -> Any:
            found = make()
            sets_of(module)[0].augments_later = True  # as on a GPU
            return found

        module.train_dataloader = loader  # type: ignore[method-assign]
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Recorder(), datamodule=module)
    held = module.train_set is not None and isinstance(module.train_set.faces, FacesInMemory)
    assert held or (device, options.get("in_memory")) == ("auto", False)
    return given


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("later", "workers"), [(False, 0), (True, 0), (False, 1)])
def test_the_batches_are_the_same_wherever_faces_live_and_are_augmented(
    in_memory: bool, later: bool, workers: int
) -> None:
    expected = batches_of("auto")
    found = batches_of("cpu", later, in_memory=in_memory, workers=workers)
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.images.is_contiguous(memory_format=torch.channels_last)


def test_faces_of_a_gpu_that_does_not_train_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = datamodule(device="gpu")
    with pytest.raises(InputError, match=r"on the GPU that trains: set trainer=gpu"):
        module.train_dataloader()
    with pytest.raises(InputError, match=r"datamodule\.device must be auto, cpu or gpu, got 'cuda'"):
        datamodule(device="cuda")


def test_faces_and_augmentation_are_all_on_the_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("meta")  # stands for a GPU: tensors of a CPU cannot be mixed with its own
    monkeypatch.setattr(data_loading, "training_gpu", lambda _: gpu)
    transforms = {
        "transform": FaceAugmentation(blur=0.5, jpeg=0.5),
        "local_transform": FaceAugmentation(scale=(0.2, 0.5)),
    }
    module = datamodule(in_memory=False, workers=2, multi_view=2, local_views=1, **transforms)
    loader, (train, _) = module.train_dataloader(), sets_of(module)
    assert loader.num_workers == 0
    batch = next(iter(loader))
    assert (batch.images.device, len(batch.images)) == (gpu, 6)
    images = train.augmented(batch.images, batch.rows.tolist())
    assert (images.device, images.dtype, images.shape) == (gpu, torch.uint8, (18, 3, 16, 16))
    assert [len(each.images) for each in module.embedding_dataloader()] == [28]
    own = datamodule(transform=noise)
    assert next(iter(own.train_dataloader())).images.device.type == "cpu", "a transform of any kind runs on the CPU"


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set")
def test_faces_without_room_on_the_gpu_stay_or_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 28 * 3 * 16 * 16
    monkeypatch.setattr(data_loading, "training_gpu", lambda _: torch.device("meta"))
    monkeypatch.setattr(data_loading, "room_on", lambda _: size - 1)
    module = datamodule()
    loader = module.train_dataloader()
    assert loader.pin_memory
    assert next(iter(loader)).images.device.type == "cpu"
    assert sets_of(module)[0].augments_later, "on the GPU all the same"
    with pytest.raises(InputError, match="more than a quarter of the free memory of meta: leave out"):
        datamodule(device="gpu").train_dataloader()
    monkeypatch.setattr(data_loading, "room_on", lambda _: size)
    assert next(iter(datamodule(device="gpu").train_dataloader())).images.device.type == "meta"


def test_nobody_is_in_training_and_in_validation() -> None:
    module = datamodule()
    train, validation = sets_of(module)
    held_out = set(validation.labels.tolist())
    assert held_out.isdisjoint(module.people.tolist())
    assert held_out | set(module.people.tolist()) == set(range(100, 110))
    assert set(train.labels.tolist()) == set(range(len(module.people)))  # as a margin softmax needs them
    assert [len(train), len(validation)] == [7 * 4, 3 * 3]


def test_images_stand_with_their_labels() -> None:
    photos = SyntheticFaces(identities=10, images=4, size=16, first=100)
    known = {np.asarray(photos[row]).tobytes(): person for row, person in enumerate(photos.identities.tolist())}
    module = datamodule(photos=photos)
    train, validation = sets_of(module)
    for data, people in ((train, module.people[train.labels]), (validation, validation.labels.numpy())):
        for image, person in zip(in_memory(data), people.tolist(), strict=True):
            assert known[image.permute(1, 2, 0).contiguous().numpy().tobytes()] == person


def test_validation_and_mining_see_every_photo_once_and_as_it_is() -> None:
    photos = SyntheticFaces(identities=200, images=4, size=16)
    module = datamodule(PAIRS, photos, transform=noise, validation_share=0.5, validation_max_samples_per_identity=4)
    train, validation = sets_of(module)
    for loader, data in ((module.val_dataloader(), validation), (module.embedding_dataloader(), train)):
        batches = list(loader)
        assert len(batches) == 2  # of 400 photos
        torch.testing.assert_close(torch.cat([batch.images for batch in batches]), in_memory(data))
        torch.testing.assert_close(torch.cat([batch.labels for batch in batches]), data.labels.long())
        assert all(batch.tuples is None for batch in batches)


def test_ranks_share_the_validation_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    module, found = datamodule(), []
    for rank in range(2):
        monkeypatch.setattr(module, "trainer", trainer_at(0, rank=rank, world_size=2))
        found.append(torch.cat([batch.labels for batch in module.val_dataloader()]))
    assert [len(labels) for labels in found] == [4, 5]
    torch.testing.assert_close(torch.cat(found), sets_of(module)[1].labels)


def test_more_ranks_than_validation_photos_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = datamodule()
    monkeypatch.setattr(module, "trainer", trainer_at(0, rank=0, world_size=10))
    with pytest.raises(InputError, match="10 processes cannot share 9 validation photos"):
        module.val_dataloader()


def test_a_second_setup_crops_nothing_again_and_the_digest_tells_data_apart() -> None:
    module = datamodule()
    sets, digest = sets_of(module), module.digest
    module.setup("validate")
    assert sets_of(module) == sets
    assert module.digest == digest == datamodule().digest != datamodule(split_seed=1).digest


@SAMPLERS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_can_be_repeated_and_another_epoch_or_seed_differs(
    sampler: Any, rows: int, tuples: type, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images(epoch: int, seed: int) -> Tensor:
        module = datamodule(sampler, transform=noise, workers=workers, seed=seed)
        monkeypatch.setattr(module, "trainer", trainer_at(epoch))
        return torch.cat([batch.images for batch in module.train_dataloader()])

    first = images(3, 0)
    torch.testing.assert_close(images(3, 0), first)
    assert not torch.equal(images(3, 1)[:8], first[:8])
    assert not torch.equal(images(4, 0)[:8], first[:8])


def test_a_sampler_is_made_once_with_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def sampler(**arguments: Any) -> IdentityBatchSampler:
        made.append(arguments)
        return IDENTITY(**arguments)

    module = datamodule(sampler, seed=4)
    monkeypatch.setattr(module, "trainer", trainer_at(0, rank=1, world_size=3))
    module.train_dataloader()
    module.train_dataloader()
    _, arguments = made  # the first is only to see that it can be made
    np.testing.assert_array_equal(arguments.pop("identities"), sets_of(module)[0].labels.numpy())
    assert arguments == {"seed": 4, "rank": 1, "world_size": 3}


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_lightning_does_not_replace_a_sampler_that_knows_its_rank(
    loader: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def trainer(**options: Any) -> pl.Trainer:
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", default_root_dir=tmp_path, **quiet, **options)

    module = datamodule()
    monkeypatch.setattr(module, "trainer", trainer())
    with pytest.raises(InputError, match=r"a part of its part: set trainer\.use_distributed_sampler=false"):
        getattr(module, loader)()
    ours = trainer(use_distributed_sampler=False)
    monkeypatch.setattr(module, "trainer", ours)
    made = getattr(module, loader)()
    assert ours._data_connector._prepare_dataloader(made, shuffle=True, mode=RunningStage.TRAINING) is made


@pytest.mark.parametrize("sampler", [HARD, PAIRS])
@pytest.mark.parametrize(("batches", "epoch", "start"), [(0, 2, 0), (1, 2, 1), (3, 3, 0)])
def test_a_resumed_run_has_the_batches_that_the_stopped_run_would_have_had(
    sampler: Any, batches: int, epoch: int, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, resumed = datamodule(sampler, transform=noise), datamodule(sampler, transform=noise)
    stopped.train_dataloader()
    assert stopped.sampler is not None
    if isinstance(stopped.sampler, HardMiningSampler):
        stopped.sampler.update(torch.randn(28, 4, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(stopped, "trainer", trainer_at(2, batches, of=3))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    loader = resumed.train_dataloader()
    assert resumed.sampler is not None
    assert (resumed.sampler.epoch, resumed.sampler.start) == (epoch, start)
    stopped.sampler.resume(epoch, start)
    assert sets_of(stopped)[0][next(iter(stopped.sampler))].images.equal(next(iter(loader)).images)


def test_before_training_there_is_no_state() -> None:
    assert datamodule(HARD).state_dict() == {}


def damaged() -> Damaged:
    return Damaged(identities=10, images=4, size=16, rows=(2, 17, 33))


def test_damaged_photos_are_left_out_with_their_labels() -> None:
    module = datamodule(photos=damaged(), validation_max_samples_per_identity=4, max_damaged=3)
    train, validation = sets_of(module)
    assert len(train) + len(validation) == 37
    assert {name for name, _ in module.cropper.damaged} == {damaged().names[row] for row in damaged().rows}
    people = (module.people[train.labels], validation.labels.numpy())
    for found, rows in zip(people, module.split[:2], strict=True):
        readable = [row for row in rows.tolist() if row not in damaged().rows]
        np.testing.assert_array_equal(found, damaged().identities[readable])


def test_more_damaged_photos_than_the_limit_end_the_setup() -> None:
    with pytest.raises(InputError, match="max_damaged"):
        datamodule(photos=damaged(), validation_max_samples_per_identity=4, max_damaged=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photos": SyntheticFaces(identities=1, images=9, size=16)}, "9 photos of 1 people"),
        ({"sampler": partial(IdentityBatchSampler, identities_per_batch=50)}, "identities_per_batch is 50, but only"),
        ({"multi_view": 0}, "multi_view must be 1 or more views of an image, got 0"),
        ({"instances": True}, "needs positives of each image: set multi_view to 2 or more"),
        ({"workers": -1}, "workers must be a number of processes"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_cropped(options: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"photos": SyntheticFaces(10, 4, 16), "input_spec": SPEC, "sampler": IDENTITY}
    with pytest.raises(InputError, match=message):
        FaceDataModule(**settings | options)
