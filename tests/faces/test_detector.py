"""FaceDetector: facenet-pytorch's boxes, for photos of any sizes, with and without faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_verify.faces import Face, FaceDetector, most_central, open_photo
from siamese_verify.faces import detector as detector_module

LFW = Path(__file__).resolve().parents[2].parent / "shared/data/lfw/lfw-deepfunneled"
SUBJECTS = ["AJ_Cook", "Abdullah_Gul", "George_W_Bush"]


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def portraits() -> list[Image.Image]:
    files = [LFW / name / f"{name}_0001.jpg" for name in SUBJECTS]
    if not all(file.is_file() for file in files):
        pytest.skip(f"the photos of LFW are not in {LFW}: see data/README.md")
    return [open_photo(file) for file in files]


def assert_equal_faces(found: list[Face], expected: list[Face]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.box, other.box, atol=1e-2)
        np.testing.assert_allclose(one.landmarks, other.landmarks, atol=1e-2)
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_boxes_landmarks_and_probabilities_are_those_of_facenet_pytorch(
    detector: FaceDetector, portraits: list[Image.Image]
) -> None:
    from facenet_pytorch import MTCNN

    mtcnn = MTCNN(select_largest=False)
    for photo in portraits:
        boxes, probabilities, landmarks = mtcnn.detect(photo, landmarks=True)
        faces = detector.detect([photo])[0]
        assert [face.probability for face in faces] == sorted(probabilities.tolist(), reverse=True)
        order = np.argsort(-probabilities.astype(np.float64), kind="stable")
        np.testing.assert_array_equal([face.box for face in faces], boxes[order])
        np.testing.assert_array_equal([face.landmarks for face in faces], landmarks[order])


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_batch_finds_what_one_photo_at_a_time_finds(
    detector: FaceDetector, portraits: list[Image.Image], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    black, noise = Image.new("RGB", (250, 250)), np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8)
    several = Image.new("RGB", (500, 250))
    several.paste(portraits[0], (0, 0))
    several.paste(portraits[1], (250, 0))
    photos = [
        portraits[0],
        black,
        portraits[1].resize((140, 120)),
        Image.fromarray(noise),
        several,
        Image.new("RGB", (8, 8)),
        portraits[2],
        black,
        several.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    ]
    alone = [detector.detect([photo])[0] for photo in photos]
    assert [len(faces) for faces in alone] == [1, 0, 1, 0, 2, 0, 1, 0, 2]
    monkeypatch.setattr(detector, "batch_size", batch_size)
    for found, expected in zip(detector.detect(photos), alone, strict=True):
        assert_equal_faces(found, expected)


def test_faceless_photos_alone_make_a_batch(detector: FaceDetector) -> None:
    assert detector.detect([Image.new("RGB", (60, 60), shade) for shade in ("black", "white", "red")]) == [[], [], []]


def test_no_photos_have_no_faces(detector: FaceDetector) -> None:
    assert detector.detect([]) == []


@pytest.mark.parametrize("size", [(1, 1), (19, 19), (19, 300), (300, 19), (20, 20)])
def test_a_tiny_photo_has_no_face(detector: FaceDetector, size: tuple[int, int]) -> None:
    assert detector.detect([Image.new("RGB", size, "grey")]) == [[]]


@pytest.mark.parametrize("smallest", [20, 46, 47, 94])  # 47 * (12 / 47) is less than 12 in floating point
def test_a_photo_as_small_as_the_smallest_face_can_be_searched(smallest: int) -> None:
    detector = FaceDetector(smallest)
    sizes = [(smallest, smallest), (smallest + 1, smallest), (smallest - 1, smallest)]
    assert detector.detect([Image.new("RGB", size) for size in sizes]) == [[], [], []]


def test_a_large_photo_is_searched_smaller_and_answered_in_its_own_pixels(
    detector: FaceDetector, portraits: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = detector.detect([portraits[0]])[0][0]
    monkeypatch.setattr(detector_module, "LONGEST_SIDE", 250)
    face = detector.detect([portraits[0].resize((1000, 1000))])[0][0]
    np.testing.assert_allclose(face.box, 4 * np.array(expected.box), atol=20)
    np.testing.assert_allclose(face.landmarks, 4 * np.array(expected.landmarks), atol=20)


def test_the_most_probable_face_comes_first(detector: FaceDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    def three_faces(*_: object) -> tuple[np.ndarray, np.ndarray]:
        probabilities = np.array([0.8, 0.99, 0.9], dtype=np.float32)
        corners = 10 * np.arange(3, dtype=np.float32)
        boxes = np.stack([corners, corners, corners + 30, corners + 30, probabilities], axis=1)
        return boxes[None], np.repeat(corners, 10).reshape(1, 3, 5, 2)

    monkeypatch.setattr("facenet_pytorch.models.utils.detect_face.detect_face", three_faces)
    faces = detector.detect([Image.new("RGB", (60, 60))])[0]
    assert [face.box for face in faces] == [(10, 10, 40, 40), (20, 20, 50, 50), (0, 0, 30, 30)]
    assert [round(face.probability, 4) for face in faces] == [0.99, 0.9, 0.8]
    assert [face.landmarks for face in faces] == [((corner, corner),) * 5 for corner in (10, 20, 0)]


def face_at(left: float, top: float, side: float, probability: float = 0.9) -> Face:
    return Face((left, top, left + side, top + side), probability, ())


def test_the_only_face_is_the_subject() -> None:
    assert most_central([face_at(0, 0, 5)], 100, 100) == face_at(0, 0, 5)


def test_of_equal_faces_the_one_nearest_to_the_centre_is_the_subject() -> None:
    faces = [face_at(0, 0, 20, 0.99), face_at(45, 40, 20), face_at(80, 80, 20)]
    assert most_central(faces, 100, 100) == faces[1]


def test_of_faces_as_far_from_the_centre_the_larger_is_the_subject() -> None:
    faces = [face_at(10, 45, 10), face_at(75, 40, 20)]
    assert most_central(faces, 100, 100) == faces[1]


def test_a_large_passer_by_at_the_border_is_not_the_subject() -> None:
    faces = [face_at(0, 0, 60), face_at(80, 80, 40)]
    assert most_central(faces, 200, 200) == faces[1]


def test_the_subject_is_that_of_facenet_pytorch() -> None:
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
        np.testing.assert_array_equal(most_central(faces, *photo.size).box, np.ravel(chosen))
