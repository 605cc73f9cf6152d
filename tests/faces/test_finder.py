"""FaceFinder: which face of a photo is compared, in which rotation, and what happens without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces import Face, FaceFinder, Mtcnn, OnMultipleFaces, SelectedFace, crop_face, rotate_photo
from siamese_verify.faces.finder import MAX_FACES, MAX_TILT, central_face, select_faces
from siamese_verify.faces.quality import roll_of
from siamese_verify.faces.rotation import crop_rotated, overlap, rotated_size, to_photo, to_rotated
from siamese_verify.structures import Crop, InputSpec


@pytest.fixture(scope="session")
def finder(detector: Mtcnn) -> FaceFinder:
    return FaceFinder(lambda: detector)


def only(finder: FaceFinder, photo: Image.Image) -> SelectedFace:
    (selected,) = finder.find(photo).selected
    return selected


def face_at(left: float, top: float, side: float, probability: float = 0.9) -> Face:
    return Face((left, top, left + side, top + side), probability, ())


@pytest.mark.parametrize(
    ("faces", "selected"),
    [
        ([face_at(0, 0, 5)], 0),  # the only one
        ([face_at(0, 0, 20, 0.99), face_at(90, 90, 20), face_at(180, 180, 20)], 1),  # of equal size the nearest
        ([face_at(60, 95, 10), face_at(125, 90, 20)], 1),  # of equal distance the largest
        ([face_at(0, 0, 60), face_at(80, 80, 40)], 1),  # before a large passer-by at the border
    ],
)
def test_the_central_face_is_large_and_near_the_center(faces: list[Face], selected: int) -> None:
    for order in (faces, faces[::-1]):
        assert select_faces(order, (200, 200), "central") == [faces[selected]]


def test_the_central_face_is_that_of_facenet_pytorch() -> None:
    from facenet_pytorch import MTCNN

    rng = np.random.default_rng(0)
    photo = Image.new("RGB", (250, 180))
    for _ in range(50):
        corners, sides = rng.uniform(0, 180, (4, 2)), rng.uniform(20, 120, 4)
        faces = [face_at(x, y, side) for (x, y), side in zip(corners, sides, strict=True)]
        boxes, probabilities = np.array([face.box for face in faces]), np.full(4, 0.9)
        chosen = MTCNN.select_boxes(
            None, boxes, probabilities, np.zeros((4, 5, 2)), photo, method="center_weighted_size"
        )[0]
        np.testing.assert_array_equal(central_face(faces, photo.size).box, np.ravel(chosen))


@pytest.mark.parametrize(
    ("others", "unclear"),
    [
        ([], False),
        ([(150, 80, 19)], False),  # smaller than half
        ([(100, 80, 25)], True),
        ([(140, 80, 25)], False),  # farther off by more than half a side of the face in the center
        ([(160, 80, 60)], True),  # larger than the one in the center
        ([(0, 0, 10), (5, 190, 10)], False),
    ],
)
def test_error_selects_the_central_face_or_none(others: list[tuple[int, int, int]], unclear: bool) -> None:
    faces = [face_at(80, 80, 40), *[face_at(*other) for other in others]]
    for order in (faces, faces[::-1]):
        central = select_faces(order, (200, 200), "central")
        assert select_faces(order, (200, 200), "error") == ([] if unclear else central)


def test_largest_and_any_select_as_they_say() -> None:
    faces = [face_at(80, 80, 40), face_at(0, 0, 60), face_at(10, 150, 30)]
    assert select_faces(faces, (200, 200), "largest") == [faces[1]]
    assert select_faces(faces, (200, 200), "any") == faces
    assert select_faces(faces * MAX_FACES, (200, 200), "any") == []
    with pytest.raises(InputError, match=r"on_multiple_faces must be one of 'error', .* got 'best'"):
        select_faces(faces, (200, 200), "best")  # type: ignore[arg-type]


def test_a_photo_without_a_face_is_a_failure_to_acquire(finder: FaceFinder, portraits: list[Image.Image]) -> None:
    assert finder.find(Image.new("RGB", (90, 60))).failure == "no_face"
    two = Image.new("RGB", (500, 250))
    for column, portrait in enumerate(portraits[:2]):
        two.paste(portrait, (250 * column, 0))
    found = finder.find(two, "error")
    assert (found.failure, found.detected) == ("multiple_faces", 2)
    assert len(finder.find(two, "any").selected) == 2


@pytest.mark.parametrize(
    ("degrees", "rotation"),
    [
        (90, Image.Transpose.ROTATE_270),
        (180, Image.Transpose.ROTATE_180),
        (270, Image.Transpose.ROTATE_90),
    ],
)
def test_a_photo_on_its_side_is_rotated(
    finder: FaceFinder, portraits: list[Image.Image], degrees: int, rotation: Image.Transpose
) -> None:
    sideways = portraits[2].transpose(rotation)
    face, rotated_by = only(finder, sideways)
    assert rotated_by == degrees
    assert rotate_photo(sideways, rotated_by).tobytes() == portraits[2].tobytes()
    np.testing.assert_allclose(face.box, only(finder, portraits[2]).face.box, atol=1e-2)


def test_a_face_too_small_for_the_first_search_is_found_in_the_finer_one(
    finder: FaceFinder, portraits: list[Image.Image]
) -> None:
    photo = Image.new("RGB", (200, 200), "gray")
    photo.paste(portraits[1].resize((23, 23), Image.Resampling.LANCZOS), (80, 80))
    assert finder.detector.detect(photo) == []
    left, top, right, bottom = only(finder, photo).face.box
    assert 80 < left < right < 103
    assert 80 < top < bottom < 103


@pytest.mark.parametrize("degrees", [25, -50, 100, 165])
def test_a_tilted_face_is_leveled_and_cut_like_an_upright_one(
    finder: FaceFinder, portraits: list[Image.Image], degrees: float
) -> None:
    spec = InputSpec(64, crop=Crop("box", margin=10))
    for portrait in portraits:
        upright = only(finder, portrait)
        photo = rotate_photo(portrait, -degrees)
        leveled = only(finder, photo)
        assert upright.rotated_by == 0
        assert abs(roll_of(leveled.face.landmarks)) <= MAX_TILT
        assert abs((leveled.rotated_by - degrees + 180) % 360 - 180) < 2 * MAX_TILT
        landmarks = to_photo(leveled.face.landmarks, photo.size, leveled.rotated_by)
        expected = to_rotated(upright.face.landmarks, portrait.size, -degrees)
        np.testing.assert_allclose(landmarks, expected, atol=8)
        one, other = (
            np.asarray(crop_face(source, spec, *found), dtype=float)
            for source, found in ((portrait, upright), (photo, leveled))
        )
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.6


def test_a_face_is_cut_from_a_rotated_photo_without_rotating_all_of_it() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    photo = Image.fromarray(colors).resize((160, 120), Image.Resampling.BICUBIC)
    whole = rotate_photo(photo, 37.5)
    assert whole.size == rotated_size(photo.size, 37.5)
    landmarks = ((70.0, 80.0), (90.0, 82.0), (80.0, 95.0), (72.0, 110.0), (90.0, 108.0))
    face = Face((60.0, 70.0, 100.0, 121.0), 1.0, landmarks)
    for kind in ("box", "five_point", "center", "whole"):
        spec = InputSpec(40, crop=Crop(kind))
        once, twice = (
            np.asarray(crop_face(*given), dtype=int) for given in ((photo, spec, face, 37.5), (whole, spec, face))
        )
        assert np.abs(once - twice).mean() < 5, kind
    np.testing.assert_allclose(to_rotated(to_photo(landmarks, (160, 120), 200), (160, 120), 200), landmarks)
    far = crop_rotated(photo, 37.5, (-100_000, -100_000, 100_000, 100_000), (40, 40))  # most of it outside of the photo
    assert far.size == (40, 40)
    small = np.asarray(crop_rotated(photo, 37.5, (20, 20, 140, 140), (40, 40)), dtype=int)
    assert np.abs(small - np.asarray(whole.crop((20, 20, 140, 140)).reduce(3), dtype=int)).mean() < 5


def test_a_search_does_not_depend_on_threads_or_other_photos(
    finder: FaceFinder, portraits: list[Image.Image], detector: Mtcnn
) -> None:
    photos = [*portraits, Image.new("RGB", (90, 60)), portraits[0]]
    alone = [finder.find(photo) for photo in photos]
    for threads in (1, 2, 3):
        assert FaceFinder(lambda: detector).find_many(photos, threads=threads) == alone


LEVEL = ((12.0, 8.0), (20.0, 8.0), (16.0, 12.0), (13.0, 16.0), (19.0, 16.0))  # landmarks of a face without tilt


class StandIn(Mtcnn):
    """Finds two faces on every photo that is not black, and counts its searches of upright photos."""

    def __init__(self) -> None:
        super().__init__(networks=object())  # type: ignore[arg-type]
        self.searches = 0

    def detect(self, photo: Image.Image, finer: bool = False) -> list[Face]:
        if photo.getextrema() == ((0, 0),) * 3:
            self.searches += finer  # once for each photo without a face
            return []
        self.searches += 1
        return [Face((0, 0, 4, 4), 0.99, LEVEL), Face((8, 4, 24, 20), 0.95, LEVEL)]


def noise(count: int) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(1, 256, (count, 24, 32, 3), dtype=np.uint8)
    pixels[2:3] = 0
    return [Image.fromarray(photo) for photo in pixels]


def test_found_faces_and_failures_are_cached_by_photo_and_selection(tmp_path: Path) -> None:
    detector = StandIn()
    first = FaceFinder(lambda: detector, tmp_path)
    found = first.find_many(noise(4))
    assert detector.searches == 4
    assert found[2].failure == "no_face"
    first.save()
    later = FaceFinder(lambda: detector, tmp_path)
    assert later.find_many(noise(6))[:4] == found
    assert detector.searches == 6  # only the new ones
    later.find_many(noise(4), "largest")
    assert detector.searches == 10


def test_the_cache_holds_boxes_and_neither_photos_nor_names(tmp_path: Path) -> None:
    finder = FaceFinder(StandIn, tmp_path)
    finder.find_many(noise(3))
    finder.save()
    (file,) = (file for file in tmp_path.rglob("*") if file.is_file())
    stored = json.loads(file.read_text())
    face = [[[8, 4, 24, 20], 0.95, [list(point) for point in LEVEL]], 0]
    assert list(stored.values()) == [[face, 2], [face, 2], [None, 0]]
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
def test_a_damaged_cache_is_replaced(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    def found() -> tuple[list[object], Path]:
        finder = FaceFinder(StandIn, tmp_path)
        searches = finder.find_many(noise(3))
        finder.save()
        (file,) = (tmp_path / "faces").iterdir()
        return [*searches], file

    searches, file = found()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert found() == (searches, file)
    assert file.read_bytes() == whole


def test_faces_that_another_run_saved_in_the_meantime_are_kept(tmp_path: Path) -> None:
    slow, fast = FaceFinder(StandIn, tmp_path), FaceFinder(StandIn, tmp_path)
    slow.find_many(noise(2))
    fast.find_many(noise(4))
    fast.save()
    slow.save()
    detector = StandIn()
    FaceFinder(lambda: detector, tmp_path).find_many(noise(4))
    assert detector.searches == 0


def test_without_a_cache_nothing_is_written_and_nothing_searched_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    detector = StandIn()
    finder = FaceFinder(lambda: detector)
    finder.find_many(noise(4))
    finder.find_many(noise(4))
    finder.save()
    assert detector.searches == 4
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_does_not_end_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    finder = FaceFinder(StandIn, tmp_path / "file")
    selections: tuple[OnMultipleFaces, ...] = ("central", "largest")
    for selection in selections:
        finder.find_many(noise(2), selection)
    finder.save()
    assert "cannot be cached" in caplog.text


def test_overlap_of_boxes() -> None:
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == 1 / 7
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 1
