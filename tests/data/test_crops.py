"""FaceCropper: crops as the encoder wants them, and a list of what was left out."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_verify.data import FaceCropper
from siamese_verify.data.data_loaders import drawn_ahead
from siamese_verify.datasets import LFWPhotos, SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.faces import Face, FaceFinder, Mtcnn, crop_face
from siamese_verify.structures import Crop, InputSpec

LFW = Path(__file__).resolve().parents[2].parent / "shared/data/lfw"
WHOLE = InputSpec(16, crop=Crop("whole"))
BOX = InputSpec(16, crop=Crop("box"))


class Album:
    """Photos of noise, some of them damaged, some black: the stand-in for a detector finds no face on those."""

    def __init__(self, count: int, damaged: Sequence[int] = (), faceless: Sequence[int] = ()) -> None:
        self.identities = np.arange(count)
        self.names = [f"photo {row}" for row in range(count)]
        self.pixels = np.random.default_rng(0).integers(1, 256, (count, 24, 32, 3), dtype=np.uint8)
        self.pixels[list(faceless)] = 0
        self.damaged = set(damaged)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Image.Image:
        if row in self.damaged:
            raise InputError(f"photo {row} is damaged: it was left in the rain.")
        return Image.fromarray(self.pixels[row])


LEVEL = ((12.0, 8.0), (20.0, 8.0), (16.0, 12.0), (13.0, 16.0), (19.0, 16.0))  # landmarks of a face without tilt


class TwoFaces(Mtcnn):
    """Finds two faces on every photo that is not black."""

    def __init__(self) -> None:
        super().__init__(networks=object())  # type: ignore[arg-type]

    def detect(self, photo: Image.Image, finer: bool = False) -> list[Face]:
        black = photo.getextrema() == ((0, 0),) * 3
        return [] if black else [Face((0, 0, 10, 10), 0.99, LEVEL), Face((8, 4, 24, 20), 0.95, LEVEL)]


class TwoCloseFaces(TwoFaces):
    """Finds two faces of one size in the middle of a photo."""

    def detect(self, photo: Image.Image, finer: bool = False) -> list[Face]:
        return [Face((4, 4, 20, 20), 0.99, LEVEL), Face((8, 4, 24, 20), 0.95, LEVEL)]


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_crops_are_those_of_crop_face_in_the_order_of_the_rows(chunk: int) -> None:
    album = Album(7)
    rows, images = FaceCropper(WHOLE)(album, [5, 0, 6, 2], "Faces", chunk)
    assert rows == [5, 0, 6, 2]
    assert images.dtype == torch.uint8
    assert images.shape == (4, 3, 16, 16)
    for row, image in zip(rows, images, strict=True):
        torch.testing.assert_close(image, as_tensor(crop_face(album[row], WHOLE)))


def test_a_stream_gives_the_same_in_chunks() -> None:
    album = Album(8, damaged=[1, 6, 7])
    chunks = list(FaceCropper(WHOLE, max_damaged=3).stream(album, range(8), "Faces", 3))
    assert [rows for rows, _ in chunks] == [[0, 2], [3, 4, 5]]  # nothing of the last chunk can be read
    rows, images = FaceCropper(WHOLE, max_damaged=3)(album, range(8), "Faces")
    assert rows == [0, 2, 3, 4, 5]
    torch.testing.assert_close(torch.cat([part for _, part in chunks]), images)


def test_damaged_and_faceless_photos_are_left_out_and_listed(tmp_path: Path) -> None:
    cropper = FaceCropper(BOX, max_damaged=2, finder=FaceFinder(TwoFaces))
    album = Album(5, damaged=[3], faceless=[1])
    rows, images = cropper(album, range(5), "Faces")
    assert rows == [0, 2, 4]
    for row, image in zip(rows, images, strict=True):  # of two faces the central one
        torch.testing.assert_close(image, as_tensor(crop_face(album[row], BOX, Face((8, 4, 24, 20), 0.95, ()))))
    assert len(cropper.qualities) == 3
    assert cropper.failures == [("photo 1", "no face was found")]
    cropper.save_left_out(tmp_path)
    with (tmp_path / "left_out.csv").open(newline="") as table:
        assert list(csv.reader(table)) == [
            ["photo", "reason"],
            ["photo 3", "photo 3 is damaged: it was left in the rain."],
            ["photo 1", "no face was found"],
        ]


def test_a_photo_of_multiple_faces_is_a_failure_where_that_is_an_error() -> None:
    cropper = FaceCropper(BOX, on_multiple_faces="error", finder=FaceFinder(TwoCloseFaces))
    with pytest.raises(InputError, match=r"no photos to crop \(2 given, 0 damaged, 2 without a face\)"):
        cropper(Album(2), range(2), "Faces")
    assert [reason for _, reason in cropper.failures] == ["multiple faces, and it is unclear which one is meant"] * 2
    with pytest.raises(InputError, match="on_multiple_faces must be one of 'error', 'largest', 'central', got 'any'"):
        FaceCropper(BOX, on_multiple_faces="any")  # type: ignore[arg-type]


def test_one_damaged_photo_more_is_an_error_that_names_the_first_five() -> None:
    with pytest.raises(InputError) as raised:
        FaceCropper(WHOLE, max_damaged=6)(Album(2000, damaged=range(3, 10)), range(2000), "Faces")
    message = str(raised.value)
    assert "More than 6 of 2,000 photos" in message
    assert "max_damaged" in message
    assert [row for row in range(2000) if f"photo {row} is" in message] == [3, 4, 5, 6, 7]


def test_the_limit_counts_all_photos_of_a_cropper() -> None:
    cropper = FaceCropper(WHOLE, max_damaged=1)
    album = Album(4, damaged=[0, 2])
    assert cropper(album, [0, 1], "Training")[0] == [1]
    with pytest.raises(InputError, match="More than 1"):
        cropper(album, [2, 3], "Validation")


@pytest.mark.parametrize(("count", "damaged"), [(0, []), (2, [0, 1])])
def test_no_photos_at_all_is_an_error(count: int, damaged: list[int]) -> None:
    with pytest.raises(InputError, match=rf"no photos to crop \({count} given, {len(damaged)} damaged"):
        FaceCropper(WHOLE, max_damaged=5)(Album(count, damaged), range(count), "Faces")


def test_without_anything_left_out_there_is_no_list(tmp_path: Path) -> None:
    cropper = FaceCropper(WHOLE)
    cropper(Album(2), range(2), "Faces")
    cropper.save_left_out(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["whole", "center"])
def test_crops_without_a_face_need_no_detector(kind: Any, tmp_path: Path) -> None:
    def no_detector() -> Mtcnn:
        raise AssertionError("a detector was built")

    finder = FaceFinder(no_detector, tmp_path)
    rows, _ = FaceCropper(InputSpec(16, crop=Crop(kind)), finder=finder)(Album(2, faceless=[1]), range(2), "Faces")
    assert rows == [0, 1]
    assert not list(tmp_path.iterdir())


def test_found_faces_are_saved_when_a_damaged_photo_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        FaceCropper(BOX, finder=FaceFinder(TwoFaces, tmp_path))(Album(6, damaged=[5]), range(6), "Faces", 2)
    assert list((tmp_path / "faces").iterdir())


def digest_of(album: Album, spec: InputSpec = WHOLE, rows: Sequence[int] = range(3)) -> str:
    cropper = FaceCropper(spec, max_damaged=9)
    cropper(album, rows, "Faces")
    return cropper.digest


@pytest.mark.parametrize("change", ["nothing", "a pixel", "a name", "a damaged photo", "the order", "the crop"])
def test_the_digest_changes_with_the_data_alone(change: str) -> None:
    album, spec, rows = Album(3), InputSpec(32, crop=Crop("center")), [0, 1, 2]
    before = digest_of(album, spec, rows)
    if change == "a pixel":
        album.pixels[1, 12, 16, 2] ^= 64
    elif change == "a name":
        album.names[1] = "another"
    elif change == "a damaged photo":
        album.damaged = {1}
    elif change == "the order":
        rows = [0, 2, 1]
    elif change == "the crop":
        spec = InputSpec(32, crop=Crop("center", fraction=0.8))
    assert (digest_of(album, spec, rows) == before) is (change == "nothing")


def test_faces_of_lfw_are_found_as_by_the_finder(tmp_path: Path) -> None:
    if not (LFW / "lfw-deepfunneled").is_dir():
        pytest.skip(f"LFW is not in {LFW}: see data/README.md")
    photos, spec = LFWPhotos(LFW, [("AJ_Cook", 1), ("Abdullah_Gul", 1)]), InputSpec(64, crop=Crop("box", margin=10))
    rows, images = FaceCropper(spec, tmp_path)(photos, range(2), "Faces")
    finder = FaceFinder()
    for row, image in zip(rows, images, strict=True):
        (selected,) = finder.find(photos[row]).selected
        torch.testing.assert_close(image, as_tensor(crop_face(photos[row], spec, *selected)))


def test_generated_samples_are_the_same_whoever_draws_them() -> None:
    faces, rows, state = SyntheticFaces(33, 16, 16), list(range(527)), torch.get_rng_state()
    croppers = [FaceCropper(WHOLE) for _ in range(2)]
    alone = croppers[0](faces, rows, "one process")
    torch.set_num_threads(2)
    try:
        assert drawn_ahead(faces, [rows[:400]]) is None  # too few
        assert drawn_ahead(faces, [rows[:300], rows[300:]]) is not None
        together = croppers[1](faces, rows, "two processes")
    finally:
        torch.set_num_threads(1)
    assert together[0] == alone[0] == rows
    assert torch.equal(together[1], alone[1])
    assert croppers[0].digest == croppers[1].digest
    assert torch.equal(torch.get_rng_state(), state)
