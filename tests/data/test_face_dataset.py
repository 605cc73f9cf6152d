"""FaceDataset: whole batches, augmented by seed and rows alone, from memory or from disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from siamese_verify.data import FaceCropper, FaceDataset, FacesInMemory, FacesOnDisk
from siamese_verify.data.face_dataset import as_array
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.faces import crop_face
from siamese_verify.samplers import TupleBatch
from siamese_verify.structures import Crop, InputSpec, Pairs

SPEC = InputSpec(16, crop=Crop("whole"))
PHOTOS = SyntheticFaces(identities=3, images=4, size=24)
ROWS = np.array([0, 1, 2, 5, 6, 8], dtype=np.int32)
PAIR = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([True]))


def numbered(count: int) -> Tensor:
    """(N,3,2,2) images of the colors 0, 1, 2, ..."""
    return torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 3, 2, 2).clone()


def noise(images: Tensor) -> Tensor:
    return torch.randint(0, 256, images.shape).to(torch.uint8)


def test_an_item_is_a_whole_batch() -> None:
    data = FaceDataset(FacesInMemory(numbered(5)), torch.tensor([7, 7, 8, 8, 9]))
    assert len(data) == 5
    batch = data[[4, 0, 0]]
    assert torch.equal(batch.images, numbered(5)[[4, 0, 0]])
    assert batch.labels.tolist() == [9, 7, 7]
    assert batch.tuples is None
    assert data[TupleBatch([2, 3], PAIR)].tuples is PAIR


def test_a_batch_is_transformed_and_the_stored_images_stay() -> None:
    faces = FacesInMemory(numbered(3))
    data = FaceDataset(faces, torch.zeros(3, dtype=torch.int64), lambda batch: batch.add_(100))
    assert data[[2, 0]].images[:, 0, 0, 0].tolist() == [102, 100]
    assert torch.equal(faces.images, numbered(3))


def test_views_of_an_image_are_augmented_each_by_itself_and_labeled_alike() -> None:
    labels = torch.tensor([5, 5, 6, 6])
    batch = FaceDataset(FacesInMemory(numbered(4)), labels, noise, views=3)[[3, 1]]
    assert batch.labels.tolist() == [6, 5] * 3
    assert len({image.numpy().tobytes() for image in batch.images}) == 6
    by_image = FaceDataset(FacesInMemory(numbered(4)), labels, views=2, instances=True)[[3, 1]]
    assert by_image.labels.tolist() == [3, 1, 3, 1]
    assert by_image.images[:, 0, 0, 0].tolist() == [3, 1, 3, 1]


def test_views_of_pairs_are_refused() -> None:
    data = FaceDataset(FacesInMemory(numbered(4)), torch.zeros(4), views=2)
    with pytest.raises(InputError, match="2 views go with batches of images: set sampler=identity"):
        data[TupleBatch([2, 3], PAIR)]


def test_augmentation_depends_on_seed_and_rows_alone() -> None:
    def augmented(seed: int, rows: list[int]) -> Tensor:
        return FaceDataset(FacesInMemory(numbered(6)), torch.zeros(6), noise, seed=seed)[rows].images

    torch.manual_seed(5)
    first = augmented(0, [1, 2])
    after = torch.rand(3)
    assert torch.equal(augmented(0, [1, 2]), first)
    assert not torch.equal(augmented(1, [1, 2]), first)
    assert not torch.equal(augmented(0, [2, 1]), first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after), "the generator of dropout is left alone"


@pytest.mark.parametrize("value", [0.2, 300, -1, float("nan")])
def test_arrays_of_small_whole_numbers_alone_are_given_as_uint8(value: float) -> None:
    spec = InputSpec.of_arrays((2,), dtype="uint8")
    for whole in (np.array([0.0, 255.0]), torch.tensor([0, 255])):
        array = as_array(whole, spec)
        assert array.dtype == np.uint8 and array.tolist() == [0, 255]
    with pytest.raises(InputError, match=r"whole numbers in 0 \.\.\. 255, .* set encoder\.dtype=float32"):
        as_array(np.array([1, value]), spec)


class Arrays(SyntheticFaces):
    """A data set that gives arrays."""

    def __getitem__(self, row: int) -> Any:
        return np.zeros((16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("crop", [Crop("whole"), Crop("box")])
def test_arrays_are_refused_where_the_encoder_takes_photos(crop: Crop) -> None:
    arrays, spec = Arrays(identities=3, images=4, size=24), InputSpec(16, crop=crop)
    with pytest.raises(InputError, match="takes photos, but the data are arrays: set encoder=array_resnet or"):
        FacesOnDisk(arrays, ROWS, spec)[[0]]
    with pytest.raises(InputError, match="takes photos, but the data are arrays: set encoder=array_resnet or"):
        FaceCropper(spec)(arrays, [0, 1], "Crops")


class Damaged(SyntheticFaces):
    """Synthetic people, some of whose photos cannot be opened."""

    def __init__(self, identities: int, images: int, size: int, rows: Sequence[int] = (1, 5, 6)) -> None:
        super().__init__(identities, images, size)
        self.rows = rows

    def __getitem__(self, row: int) -> Image.Image:
        if row in self.rows:
            raise InputError(f"row {row} is damaged.")
        photo: Image.Image = super().__getitem__(row)
        return photo


def cropped(*rows: int) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(crop_face(PHOTOS[row], SPEC))).permute(2, 0, 1) for row in rows])


def test_faces_on_disk_are_read_by_rows_and_by_slices() -> None:
    faces = FacesOnDisk(PHOTOS, ROWS, SPEC)
    assert len(faces) == 6
    assert torch.equal(faces[[3, 0, 3]], cropped(5, 0, 5))
    assert torch.equal(faces[2:9], cropped(2, 5, 6, 8))


def test_a_damaged_photo_is_replaced_by_the_next_of_the_same_person(caplog: pytest.LogCaptureFixture) -> None:
    faces = FacesOnDisk(Damaged(identities=3, images=4, size=24), ROWS, SPEC, max_damaged=3)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(faces[[1, 1, 0]], cropped(2, 2, 0))
    assert [record.getMessage() for record in caplog.records] == [
        "row 1 is damaged. Another photo of the same identity takes its place."
    ]
    with pytest.raises(InputError, match="No photo of person 0001 photo 01's identity can be read"):
        faces[[3]]


def test_more_damaged_photos_than_allowed_are_an_error() -> None:
    faces = FacesOnDisk(Damaged(identities=3, images=4, size=24), ROWS, SPEC, max_damaged=0)
    with pytest.raises(InputError, match=r"More than 0 photos cannot be read .max_damaged., the last: row 1"):
        faces[[1]]
