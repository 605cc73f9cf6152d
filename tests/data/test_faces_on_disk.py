from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_verify.data import FacesOnDisk
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.faces import crop_face
from siamese_verify.structures import Crop, InputSpec

SPEC = InputSpec(16, crop=Crop("whole"))
PHOTOS = SyntheticFaces(identities=3, images=4, size=24)
ROWS = np.array([0, 1, 2, 5, 6, 8], dtype=np.int32)


class Damaged(SyntheticFaces):
    rows = (1, 5, 6)

    def __getitem__(self, row: int) -> Image.Image:
        if row in self.rows:
            raise InputError(f"row {row} is damaged.")
        return super().__getitem__(row)


def cut(row: int) -> torch.Tensor:
    return torch.from_numpy(np.asarray(crop_face(PHOTOS[row], SPEC)).copy()).permute(2, 0, 1)


def test_faces_are_read_by_rows_and_by_slices() -> None:
    faces = FacesOnDisk(PHOTOS, ROWS, SPEC)
    assert len(faces) == 6
    found = faces[[3, 0, 3]]
    assert torch.equal(found, torch.stack([cut(5), cut(0), cut(5)]))
    assert torch.equal(faces[2:9], torch.stack([cut(row) for row in (2, 5, 6, 8)]))


def test_a_damaged_photo_gives_way_to_the_next_of_the_same_person(caplog: pytest.LogCaptureFixture) -> None:
    faces = FacesOnDisk(Damaged(identities=3, images=4, size=24), ROWS, SPEC, max_damaged=3)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(faces[[1, 1, 0]], torch.stack([cut(2), cut(2), cut(0)]))
    assert [record.getMessage() for record in caplog.records] == [
        "row 1 is damaged. Another photo of the same identity takes its place."
    ]
    with pytest.raises(InputError, match="No photo of person 0001 photo 01's identity can be read"):
        faces[[3]]


def test_more_damaged_photos_than_allowed_are_an_error() -> None:
    faces = FacesOnDisk(Damaged(identities=3, images=4, size=24), ROWS, SPEC, max_damaged=0)
    with pytest.raises(InputError, match=r"More than 0 photos cannot be read .max_damaged., the last: row 1"):
        faces[[1]]
