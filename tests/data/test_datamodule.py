"""The datamodule: people split once, photos cropped once, and three ways of feeding the same step."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.trainer.states import RunningStage
from torch import Tensor

from siamese_verify.data import FaceDataModule, FaceDataset, FacesInMemory, split_by_identity
from siamese_verify.data import datamodule as datamodule_module
from siamese_verify.datasets import SyntheticFaces, lfw_people
from siamese_verify.errors import InputError
from siamese_verify.samplers import HardMiningSampler, IdentityBatchSampler, PairSampler, TripletSampler
from siamese_verify.samplers.tuples import Draw
from siamese_verify.structures import Crop, FaceBatch, InputSpec, Pairs, Triplets

LFW = Path(__file__).resolve().parents[2].parent / "shared/data/lfw"
SPEC = InputSpec(16, crop=Crop("whole"))
BY_IDENTITY = partial(IdentityBatchSampler, people=3, photos=2)
BY_PAIRS = partial(PairSampler, pairs=4)
BY_TRIPLETS = partial(TripletSampler, triplets=4)
FEEDINGS = pytest.mark.parametrize(
    ("sampler", "rows", "tuples"),
    [(BY_IDENTITY, 6, type(None)), (BY_PAIRS, 8, Pairs), (BY_TRIPLETS, 12, Triplets)],
    ids=["identities", "pairs", "triplets"],
)


def datamodule(sampler: Any = BY_IDENTITY, photos: Any = None, **options: Any) -> FaceDataModule:
    photos = photos or SyntheticFaces(identities=10, images=4, size=16, first=100)
    module = FaceDataModule(photos, SPEC, sampler, **{"validation_share": 0.3, "validation_photos": 3} | options)
    module.setup()
    return module


def sets_of(module: FaceDataModule) -> tuple[FaceDataset, FaceDataset]:
    assert module.train_set is not None
    assert module.validation_set is not None
    return module.train_set, module.validation_set


def at_epoch(epoch: int, rank: int = 0, world_size: int = 1) -> SimpleNamespace:
    return SimpleNamespace(current_epoch=epoch, global_rank=rank, world_size=world_size)


def noise(image: Tensor) -> Tensor:
    return torch.randint(0, 256, image.shape).to(torch.uint8)


# The split


def counted(counts: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)) * 3 + 5, counts))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("most", [2, 5, 100])
def test_people_are_in_one_part_only_and_photos_are_capped(share: float, most: int, seed: int) -> None:
    counts = [7, 1, 2, 3, 1, 12, 2, 4, 1, 1, 5, 2, 9, 1, 2, 2]
    identities = counted(counts)
    split = split_by_identity(identities, share, most, seed)
    train, held_out = set(identities[split.train].tolist()), set(identities[split.validation].tolist())
    assert train.isdisjoint(held_out)
    assert train | held_out == set(identities.tolist())
    for number, count in enumerate(counts):
        person = number * 3 + 5
        assert (identities[split.train] == person).sum() == (count if person in train else 0)
        assert (identities[split.validation] == person).sum() == (min(count, most) if person in held_out else 0)
    for rows in split:
        assert len(set(rows.tolist())) == len(rows)
        assert (np.diff(rows) > 0).all()
    several = {number * 3 + 5 for number, count in enumerate(counts) if count > 1}
    assert len(held_out & several) == max(2, round(share * len(several)))
    assert len(held_out - several) == round(share * (len(counts) - len(several)))


def test_the_split_depends_on_the_seed_alone() -> None:
    identities = np.repeat(np.arange(40), 3)
    first, again, other = (split_by_identity(identities, 0.2, 2, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.validation, again.validation)
    np.testing.assert_array_equal(first.train, again.train)
    assert first.validation.tolist() != other.validation.tolist()


def test_people_of_lfw_are_in_one_part_only() -> None:
    if not (LFW / "peopleDevTrain.txt").is_file():
        pytest.skip(f"LFW is not in {LFW}: see data/README.md")
    photos = lfw_people(LFW)
    split = split_by_identity(photos.identities, 0.1, 5, seed=0)
    train, held_out = ({photos.names[row].split("/")[0] for row in rows} for rows in split[:2])
    assert train.isdisjoint(held_out)
    assert len(train) + len(held_out) == 4038
    assert len(held_out) == pytest.approx(404, abs=1)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_that_leaves_no_part_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=f"between 0 and 1, got {share}"):
        split_by_identity(np.repeat(np.arange(9), 3), share, 5, 0)


@pytest.mark.parametrize("most", [1, 0, -1])
def test_one_photo_of_a_held_out_person_is_refused(most: int) -> None:
    with pytest.raises(InputError, match=f"two photos or more to have genuine pairs, got {most}"):
        split_by_identity(np.repeat(np.arange(9), 3), 0.3, most, 0)


@pytest.mark.parametrize("counts", [[], [9], [1, 1, 1, 1, 1, 1], [2, 2, 2], [5, 5, 5, 1, 1, 1]])
def test_too_few_people_are_counted(counts: list[int]) -> None:
    with pytest.raises(InputError) as raised:
        split_by_identity(counted(counts), 0.5, 5, 0)
    several = sum(count > 1 for count in counts)
    assert f"{sum(counts)} photos of {len(counts)} people, {several} of them with two photos" in str(raised.value)


def test_four_people_with_two_photos_are_enough() -> None:
    split = split_by_identity(np.repeat(np.arange(4), 2), 0.1, 5, 0)
    assert [len(rows) for rows in split] == [4, 4, 0]


def in_memory(data: FaceDataset) -> Tensor:
    assert isinstance(data.faces, FacesInMemory)
    return data.faces.images


# The data set


def test_a_data_set_gives_whole_batches() -> None:
    images = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).view(5, 3, 2, 2)
    data = FaceDataset(FacesInMemory(images), torch.tensor([7, 7, 8, 8, 9]))
    assert len(data) == 5
    batch = data[[4, 0, 0]]
    torch.testing.assert_close(batch.images, images[[4, 0, 0]])
    assert batch.labels.tolist() == [9, 7, 7]
    assert batch.tuples is None
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([True]))
    assert data[Draw([2, 3], pairs)].tuples is pairs


def test_a_batch_is_transformed_and_the_stored_images_stay() -> None:
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 2).clone()
    faces = FacesInMemory(images)
    data = FaceDataset(faces, torch.zeros(3, dtype=torch.int64), lambda batch: batch.add_(100))
    assert data[[2, 0]].images[:, 0, 0, 0].tolist() == [102, 100]
    assert faces.images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_views_of_an_image_are_augmented_each_for_itself_and_labelled_alike() -> None:
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 2).clone()
    labels = torch.tensor([5, 5, 6, 6])
    batch = FaceDataset(FacesInMemory(images), labels, noise, views=3)[[3, 1]]
    assert batch.labels.tolist() == [6, 5] * 3
    assert len({image.numpy().tobytes() for image in batch.images}) == 6
    by_image = FaceDataset(FacesInMemory(images), labels, views=2, instances=True)[[3, 1]]
    assert by_image.labels.tolist() == [3, 1, 3, 1]
    assert by_image.images[:, 0, 0, 0].tolist() == [3, 1, 3, 1]


def test_views_of_pairs_are_refused() -> None:
    data = FaceDataset(FacesInMemory(torch.zeros(4, 3, 2, 2, dtype=torch.uint8)), torch.zeros(4), views=2)
    with pytest.raises(InputError, match="sampler=identity"):
        data[Draw([2, 3], Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([True])))]


def test_what_a_batch_looks_like_depends_on_seed_epoch_and_rows_alone() -> None:
    images = torch.full((6, 3, 4, 4), 100, dtype=torch.uint8)

    def look(seed: int, epoch: int, rows: list[int]) -> Tensor:
        torch.manual_seed(int(torch.randint(1000, (1,))))
        data = FaceDataset(FacesInMemory(images), torch.zeros(6), noise, seed=seed)
        data.sampler = SimpleNamespace(epoch=epoch)
        return data[rows].images

    first = look(0, 3, [1, 2])
    assert torch.equal(look(0, 3, [1, 2]), first)
    assert not torch.equal(look(1, 3, [1, 2]), first)
    assert not torch.equal(look(0, 4, [1, 2]), first)
    assert not torch.equal(look(0, 3, [2, 1]), first)


# The module


@FEEDINGS
@pytest.mark.parametrize("workers", [0, 2])
def test_every_feeding_gives_face_batches(sampler: Any, rows: int, tuples: type, workers: int) -> None:
    module = datamodule(sampler, workers=workers)
    batches = list(module.train_dataloader())
    assert len(batches) == len(module.sampler) > 0
    train, _ = sets_of(module)
    for batch in batches:
        assert isinstance(batch, FaceBatch)
        assert batch.images.shape == (rows, 3, 16, 16)
        assert batch.images.dtype == torch.uint8
        assert batch.labels.shape == (rows,)
        assert batch.labels.dtype == torch.int64
        assert isinstance(batch.tuples, tuples)
        assert set(batch.labels.tolist()) <= set(train.labels.tolist())
        if isinstance(batch.tuples, Pairs):
            same = batch.labels[batch.tuples.anchor] == batch.labels[batch.tuples.other]
            torch.testing.assert_close(same, batch.tuples.same)
        elif isinstance(batch.tuples, Triplets):
            anchor, positive, negative = (batch.labels[places] for places in batch.tuples)
            assert bool((anchor == positive).all())
            assert bool((anchor != negative).all())


def test_nobody_is_in_training_and_in_validation() -> None:
    module = datamodule()
    train, validation = sets_of(module)
    held_out = set(validation.labels.tolist())
    assert held_out.isdisjoint(module.people.tolist())
    assert held_out | set(module.people.tolist()) == set(range(100, 110))
    assert set(train.labels.tolist()) == set(range(len(module.people)))  # as losses with class weights need them
    assert [len(train), len(validation)] == [7 * 4, 3 * 3]


def test_images_stand_with_their_labels() -> None:
    photos = SyntheticFaces(identities=10, images=4, size=16, first=100)
    known = {np.asarray(photos[row]).tobytes(): person for row, person in enumerate(photos.identities.tolist())}
    module = datamodule(photos=photos)
    train, validation = sets_of(module)
    for data, people in ((train, module.people[train.labels]), (validation, validation.labels.numpy())):
        for image, person in zip(in_memory(data), people.tolist(), strict=True):
            assert known[image.permute(1, 2, 0).contiguous().numpy().tobytes()] == person


@pytest.mark.parametrize("chunk", [2, 256])
def test_validation_covers_every_photo_once_and_as_it_is(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule_module, "IN_ORDER", chunk)
    module = datamodule(BY_PAIRS, transform=noise)
    _, validation = sets_of(module)
    batches = list(module.val_dataloader())
    torch.testing.assert_close(torch.cat([batch.images for batch in batches]), in_memory(validation))
    torch.testing.assert_close(torch.cat([batch.labels for batch in batches]), validation.labels)
    assert all(batch.tuples is None for batch in batches)


@pytest.mark.parametrize("chunk", [5, 256])
def test_miners_see_every_training_photo_once_and_as_it_is(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule_module, "IN_ORDER", chunk)
    module = datamodule(transform=noise)
    train, _ = sets_of(module)
    batches = list(module.embedding_dataloader())
    torch.testing.assert_close(torch.cat([batch.images for batch in batches]), in_memory(train))
    torch.testing.assert_close(torch.cat([batch.labels for batch in batches]), train.labels.long())


def test_a_second_setup_crops_nothing_again() -> None:
    module = datamodule()
    sets, digest = sets_of(module), module.digest
    module.setup("validate")
    assert sets_of(module) == sets
    assert module.digest == digest


def test_the_digest_tells_data_apart() -> None:
    assert datamodule().digest == datamodule().digest
    assert datamodule().digest != datamodule(seed=1).digest


@FEEDINGS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_can_be_repeated_and_another_epoch_or_seed_differs(
    sampler: Any, rows: int, tuples: type, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images(epoch: int, seed: int) -> Tensor:
        module = datamodule(sampler, transform=noise, workers=workers, seed=seed)
        monkeypatch.setattr(module, "trainer", at_epoch(epoch))
        return torch.cat([batch.images for batch in module.train_dataloader()])

    first = images(3, 0)
    torch.testing.assert_close(images(3, 0), first)
    assert not torch.equal(images(3, 1)[:8], first[:8])
    assert not torch.equal(images(4, 0)[:8], first[:8])


def test_a_sampler_begins_at_the_epoch_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    module = datamodule()
    monkeypatch.setattr(module, "trainer", at_epoch(5))
    module.train_dataloader()
    assert module.sampler.epoch == 5


def test_a_sampler_is_made_once_and_told_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def sampler(**arguments: Any) -> IdentityBatchSampler:
        made.append(arguments)
        return BY_IDENTITY(**arguments)

    module = datamodule(sampler, seed=4)
    monkeypatch.setattr(module, "trainer", at_epoch(0, rank=1, world_size=3))
    module.train_dataloader()
    module.train_dataloader()
    train, _ = sets_of(module)
    _, arguments = made  # the first is only to see that it can be made
    np.testing.assert_array_equal(arguments.pop("identities"), train.labels.numpy())
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


HARD = partial(HardMiningSampler, people=3, photos=2, hardness=1.0, neighbours=2)


def test_a_resumed_run_has_the_hard_mining_sampler_it_stopped_with() -> None:
    module, resumed, fresh = datamodule(HARD), datamodule(HARD), datamodule(HARD)
    module.train_dataloader()
    train, _ = sets_of(module)
    module.sampler.update(torch.randn(len(train), 4, generator=torch.Generator().manual_seed(0)))
    checkpoint = io.BytesIO()
    torch.save(module.state_dict(), checkpoint)
    checkpoint.seek(0)
    resumed.load_state_dict(torch.load(checkpoint, weights_only=True))
    for other in (resumed, fresh):
        other.train_dataloader()
    epochs: dict[str, list[Any]] = {"module": [], "resumed": [], "fresh": []}
    for epoch in range(3):
        for name, each in {"module": module, "resumed": resumed, "fresh": fresh}.items():
            each.sampler.set_epoch(epoch)
            epochs[name].append(list(each.sampler))
    assert epochs["resumed"] == epochs["module"]
    assert epochs["fresh"] != epochs["module"]


@pytest.mark.parametrize("sampler", [BY_PAIRS, BY_TRIPLETS])
def test_a_sampler_that_learns_nothing_leaves_only_its_place_in_a_checkpoint(sampler: Any) -> None:
    module = datamodule(sampler)
    module.train_dataloader()
    state = module.state_dict()
    assert set(state["sampler"]) == {"rows", "batches", "world_size", "seed", "epoch", "start"}
    resumed = datamodule(sampler)
    resumed.load_state_dict({**state, "epoch": 3})
    assert list(resumed.train_dataloader())
    assert resumed.sampler.epoch == 3


def test_before_training_there_is_no_state() -> None:
    assert datamodule(HARD).state_dict() == {"epoch": 0, "sampler": {}, "loader": {"given": 0}}


class Damaged(SyntheticFaces):
    """Synthetic people, some of whose photos cannot be opened."""

    rows = (2, 17, 33)

    def __getitem__(self, row: int) -> Image.Image:
        if row in self.rows:
            raise InputError(f"row {row} is damaged.")
        return super().__getitem__(row)


def damaged() -> Damaged:
    return Damaged(identities=10, images=4, size=16)


def test_damaged_photos_are_left_out_with_their_labels() -> None:
    module = datamodule(photos=damaged(), validation_photos=4, max_damaged=3)
    train, validation = sets_of(module)
    assert len(train) + len(validation) == 37
    assert {name for name, _ in module.cropper.damaged} == {damaged().names[row] for row in Damaged.rows}
    people = (module.people[train.labels], validation.labels.numpy())
    for found, rows in zip(people, module.split[:2], strict=True):
        readable = [row for row in rows.tolist() if row not in Damaged.rows]
        np.testing.assert_array_equal(found, damaged().identities[readable])


def test_more_damaged_photos_than_the_limit_end_the_setup() -> None:
    with pytest.raises(InputError, match="max_damaged"):
        datamodule(photos=damaged(), validation_photos=4, max_damaged=2)


def unbuildable(make: Callable[[], FaceDataModule]) -> str:
    with pytest.raises(InputError) as raised:
        make()
    return str(raised.value)


def test_one_person_only_is_refused_before_anything_is_cropped() -> None:
    one = SyntheticFaces(identities=1, images=9, size=16)
    assert "9 photos of 1 people" in unbuildable(lambda: FaceDataModule(one, SPEC, BY_IDENTITY))


def test_a_batch_that_no_people_can_fill_is_refused() -> None:
    with pytest.raises(InputError, match="people is 50, but only"):
        datamodule(partial(IdentityBatchSampler, people=50, photos=2))
