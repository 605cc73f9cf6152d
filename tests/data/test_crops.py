"""FaceCropper: crops as the encoder wants them, an account of what was skipped, and boxes that are found only once."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_verify.data import FaceCropper
from siamese_verify.data import face_crops as crops_module
from siamese_verify.datasets import LFWPhotos
from siamese_verify.errors import InputError
from siamese_verify.faces import Face, FaceDetector, choose_face, crop_face
from siamese_verify.structures import Crop, InputSpec

LFW = Path(__file__).resolve().parents[2].parent / "shared/data/lfw"
WHOLE = InputSpec(16, crop=Crop("whole"))
BOX = InputSpec(16, crop=Crop("box"))


class Album:
    """Photos of noise, some of them damaged, some black: the stand-in for a detector sees no face on those."""

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


LEVEL = ((12.0, 8.0), (20.0, 8.0), (16.0, 12.0), (13.0, 16.0), (19.0, 16.0))  # landmarks of a face that is not tilted


class Detector:
    """Finds two faces on every photo that is not black."""

    identifier = "stand-in-1"
    built = 0
    searched = 0

    def __init__(self) -> None:
        Detector.built += 1

    def detect(self, photo: Image.Image, finer: bool = False) -> list[Face]:
        black = photo.getextrema() == ((0, 0),) * 3
        Detector.searched += not black  # black ones are tried on their other sides and more closely as well
        return [] if black else [Face((0, 0, 4, 4), 0.99, LEVEL), Face((8, 4, 24, 20), 0.95, LEVEL)]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[Detector]:
    Detector.built = Detector.searched = 0
    monkeypatch.setattr(crops_module, "FaceDetector", Detector)
    return Detector


def crops_of(cropper: FaceCropper, photos: Any) -> torch.Tensor:
    rows, images = cropper(photos, range(len(photos)), "Faces")
    assert rows == list(range(len(photos)))
    return images


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_crops_are_those_of_crop_face_in_the_order_of_the_rows(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops_module, "CHUNK", chunk)
    album = Album(7)
    rows, images = FaceCropper(WHOLE)(album, [5, 0, 6, 2], "Faces")
    assert rows == [5, 0, 6, 2]
    assert images.dtype == torch.uint8
    assert images.shape == (4, 3, 16, 16)
    for row, image in zip(rows, images, strict=True):
        torch.testing.assert_close(image, as_tensor(crop_face(album[row], WHOLE)))


def test_a_stream_gives_the_same_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops_module, "CHUNK", 3)
    album = Album(8, damaged=[1, 6, 7])
    chunks = list(FaceCropper(WHOLE, max_damaged=3).stream(album, range(8), "Faces"))
    assert [rows for rows, _ in chunks] == [[0, 2], [3, 4, 5]]  # nothing of the last chunk can be read
    rows, images = FaceCropper(WHOLE, max_damaged=3)(album, range(8), "Faces")
    assert rows == [0, 2, 3, 4, 5]
    torch.testing.assert_close(torch.cat([part for _, part in chunks]), images)


def test_damaged_photos_up_to_the_limit_are_skipped_and_listed(tmp_path: Path) -> None:
    cropper = FaceCropper(WHOLE, max_damaged=2)
    rows, images = cropper(Album(5, damaged=[1, 3]), range(5), "Faces")
    assert rows == [0, 2, 4]
    assert len(images) == 3
    assert [name for name, _ in cropper.damaged] == ["photo 1", "photo 3"]
    cropper.save_account(tmp_path)
    with (tmp_path / "skipped.csv").open(newline="") as table:
        assert list(csv.reader(table)) == [
            ["photo", "reason"],
            ["photo 1", "photo 1 is damaged: it was left in the rain."],
            ["photo 3", "photo 3 is damaged: it was left in the rain."],
        ]


def test_one_damaged_photo_more_is_an_error_that_names_the_first_five() -> None:
    with pytest.raises(InputError) as raised:
        FaceCropper(WHOLE, max_damaged=6)(Album(2000, damaged=range(3, 10)), range(2000), "Faces")
    message = str(raised.value)
    assert "More than 6 of 2,000 photos" in message
    assert "max_damaged" in message
    assert [row for row in range(2000) if f"photo {row} is" in message] == [3, 4, 5, 6, 7]


def test_the_limit_counts_all_photos_that_a_cropper_met() -> None:
    cropper = FaceCropper(WHOLE, max_damaged=1)
    album = Album(4, damaged=[0, 2])
    assert cropper(album, [0, 1], "Training")[0] == [1]
    with pytest.raises(InputError, match="More than 1"):
        cropper(album, [2, 3], "Validation")


@pytest.mark.parametrize(("count", "damaged"), [(0, []), (2, [0, 1])])
def test_no_photos_at_all_is_an_error(count: int, damaged: list[int]) -> None:
    with pytest.raises(InputError, match=rf"no photos to crop \({count} given, {len(damaged)} damaged\)"):
        FaceCropper(WHOLE, max_damaged=5)(Album(count, damaged), range(count), "Faces")


def test_without_anything_to_account_for_there_is_no_list(tmp_path: Path) -> None:
    cropper = FaceCropper(WHOLE)
    crops_of(cropper, Album(2))
    cropper.save_account(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_most_central_face_is_cropped(stand_in: type[Detector]) -> None:
    album = Album(2)
    for row, image in enumerate(crops_of(FaceCropper(BOX), album)):
        torch.testing.assert_close(image, as_tensor(crop_face(album[row], BOX, Face((8, 4, 24, 20), 0.95, ()))))


def test_a_photo_without_a_face_gives_its_central_square_and_is_listed(
    stand_in: type[Detector], tmp_path: Path
) -> None:
    cropper, album = FaceCropper(BOX), Album(3, faceless=[1])
    images = crops_of(cropper, album)
    torch.testing.assert_close(images[1], as_tensor(crop_face(album[1], InputSpec(16, crop=Crop("center")))))
    assert cropper.faceless == ["photo 1"]
    cropper.save_account(tmp_path)
    assert "photo 1,no face found" in (tmp_path / "skipped.csv").read_text()


@pytest.mark.parametrize("kind", ["whole", "center"])
def test_only_box_crops_search_for_faces(kind: Any, stand_in: type[Detector], tmp_path: Path) -> None:
    crops_of(FaceCropper(InputSpec(16, crop=Crop(kind)), tmp_path), Album(2))
    assert stand_in.built == 0
    assert not list(tmp_path.iterdir())


def test_boxes_are_searched_once_and_found_in_the_cache_afterwards(stand_in: type[Detector], tmp_path: Path) -> None:
    album = Album(5, faceless=[2])
    first = FaceCropper(BOX, tmp_path)
    images = crops_of(first, album)
    assert (stand_in.built, stand_in.searched) == (1, 4)
    second = FaceCropper(BOX, tmp_path)
    torch.testing.assert_close(crops_of(second, album), images)
    assert (stand_in.built, stand_in.searched) == (1, 4)  # the photo without a face is remembered too
    assert second.faceless == first.faceless == ["photo 2"]
    assert second.digest == first.digest


def test_only_new_photos_are_searched(stand_in: type[Detector], tmp_path: Path) -> None:
    crops_of(FaceCropper(BOX, tmp_path), Album(3))
    crops_of(FaceCropper(BOX, tmp_path), Album(5))  # the first three are the same
    assert stand_in.searched == 5


def test_a_photo_that_changed_is_searched_again(stand_in: type[Detector], tmp_path: Path) -> None:
    album = Album(3)
    crops_of(FaceCropper(BOX, tmp_path), album)
    album.pixels[1, 0, 0, 0] ^= 1
    crops_of(FaceCropper(BOX, tmp_path), album)
    assert stand_in.searched == 4


def test_without_a_cache_nothing_is_written_and_one_detector_serves(
    stand_in: type[Detector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cropper = FaceCropper(BOX)
    crops_of(cropper, Album(3))
    crops_of(cropper, Album(5))
    assert (stand_in.built, stand_in.searched) == (1, 5)
    assert not list(tmp_path.iterdir())


def test_the_cache_holds_boxes_and_no_photos_nor_names(stand_in: type[Detector], tmp_path: Path) -> None:
    crops_of(FaceCropper(BOX, tmp_path), Album(2, faceless=[1]))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files == [tmp_path / "faces/stand-in-1-central.json"]
    stored = json.loads(files[0].read_text())
    landmarks = [list(point) for point in LEVEL]
    assert list(stored.values()) == [[[[8, 4, 24, 20], 0.95, landmarks], 2, 0], [None, 0, 0]]
    assert all(len(key) == 64 for key in stored)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"[1, 2]",
        lambda whole: b'{"a": [1, 2]}',
        lambda whole: b'{"a": ["x", 1, 2, 3]}',
        lambda whole: b'{"a": 7}',
        lambda whole: b"\xff\xfe\x00",
    ],
    ids=["empty", "truncated", "a list", "half a box", "no number", "no box", "no text"],
)
def test_a_damaged_cache_is_searched_anew_and_mended(
    damage: Callable[[bytes], bytes], stand_in: type[Detector], tmp_path: Path
) -> None:
    images = crops_of(FaceCropper(BOX, tmp_path), Album(3))
    file = tmp_path / "faces/stand-in-1-central.json"
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    torch.testing.assert_close(crops_of(FaceCropper(BOX, tmp_path), Album(3)), images)
    assert stand_in.searched == 6
    assert file.read_bytes() == whole


def test_boxes_that_another_run_saved_in_the_meantime_are_kept(stand_in: type[Detector], tmp_path: Path) -> None:
    slow, fast = FaceCropper(BOX, tmp_path), FaceCropper(BOX, tmp_path)
    fast(Album(4), [0, 1], "Faces")
    slow(Album(4), [2, 3], "Faces")
    assert len(json.loads((tmp_path / "faces/stand-in-1-central.json").read_text())) == 4


def test_boxes_are_saved_when_a_damaged_photo_ends_the_run(
    stand_in: type[Detector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops_module, "CHUNK", 2)
    with pytest.raises(InputError):
        FaceCropper(BOX, tmp_path)(Album(6, damaged=[5]), range(6), "Faces")
    assert len(json.loads((tmp_path / "faces/stand-in-1-central.json").read_text())) == 4


def test_a_cache_in_the_home_folder_can_be_given_with_a_tilde(
    stand_in: type[Detector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    crops_of(FaceCropper(BOX, "~/faces"), Album(1))
    assert (tmp_path / "faces/faces/stand-in-1-central.json").is_file()


def digest_of(album: Album, spec: InputSpec = WHOLE, rows: Sequence[int] = range(3)) -> str:
    cropper = FaceCropper(spec, max_damaged=9)
    cropper(album, rows, "Faces")
    return cropper.digest


def test_the_digest_is_that_of_the_data_alone() -> None:
    assert digest_of(Album(3)) == digest_of(Album(3))
    assert len(digest_of(Album(3))) == 64


@pytest.mark.parametrize("change", ["a pixel", "a name", "a damaged photo", "the order", "the crop"])
def test_the_digest_changes_with(change: str) -> None:
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
    else:
        spec = InputSpec(32, crop=Crop("center", fraction=0.8))
    assert digest_of(album, spec, rows) != before


def test_faces_of_lfw_are_cut_as_the_detector_sees_them(tmp_path: Path) -> None:
    if not (LFW / "lfw-deepfunneled").is_dir():
        pytest.skip(f"LFW is not in {LFW}: see data/README.md")
    photos, spec = LFWPhotos(LFW, [("AJ_Cook", 1), ("Abdullah_Gul", 1)]), InputSpec(64, crop=Crop("box", margin=10))
    cropper = FaceCropper(spec, tmp_path)
    images = crops_of(cropper, photos)
    assert not cropper.faceless
    detector = FaceDetector()
    for row, image in enumerate(images):
        faces = detector.detect(photos[row])
        expected = as_tensor(crop_face(photos[row], spec, choose_face(faces, 250, 250)))
        assert (image.int() - expected.int()).abs().float().mean() < 1
