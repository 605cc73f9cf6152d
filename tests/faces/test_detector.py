"""FaceDetector: facenet-pytorch's boxes, for photos of any sizes, with and without faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.faces import (
    Choice,
    Face,
    FaceDetector,
    ambiguous,
    choose_face,
    crop_face,
    find_subject,
    find_subjects,
    open_photo,
    rotate_photo,
)
from siamese_verify.faces import detector as detector_module
from siamese_verify.faces import mtcnn as mtcnn_module
from siamese_verify.faces.detector import part, rotated_size, to_photo, to_rotated
from siamese_verify.faces.finder import TILT
from siamese_verify.faces.mtcnn import AreaSums, Detections, outermost
from siamese_verify.faces.quality import roll_of
from siamese_verify.structures import Crop, InputSpec

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


def test_boxes_landmarks_and_probabilities_are_those_of_facenet_pytorch(
    detector: FaceDetector, portraits: list[Image.Image]
) -> None:
    from facenet_pytorch import MTCNN

    mtcnn = MTCNN(select_largest=False)
    several = Image.new("RGB", (500, 250))
    several.paste(portraits[0], (0, 0))
    several.paste(portraits[1], (250, 0))
    for photo in [*portraits, several, portraits[2].resize((140, 120)), portraits[1].resize((411, 360))]:
        boxes, probabilities, landmarks = (part.astype(float) for part in mtcnn.detect(photo, landmarks=True))
        faces = detector.detect(photo)
        order = np.argsort(-probabilities, kind="stable")
        np.testing.assert_allclose([face.probability for face in faces], probabilities[order], atol=1e-4)
        np.testing.assert_allclose([face.box for face in faces], boxes[order], atol=1e-2)
        np.testing.assert_allclose([face.landmarks for face in faces], landmarks[order], atol=1e-2)


@pytest.mark.parametrize("shade", ["black", "white", "red"])
def test_a_plain_photo_has_no_face(detector: FaceDetector, shade: str) -> None:
    assert detector.detect(Image.new("RGB", (60, 60), shade)) == []


def test_sums_over_areas_are_those_of_adaptive_pooling() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    pixels = (torch.from_numpy(photo).permute(2, 0, 1).float() - 127.5) / 128
    sums = AreaSums(photo)
    for height, width in [(37, 53), (20, 31), (50, 60), (1, 1)]:
        expected = F.adaptive_avg_pool2d(pixels[None], (height, width))
        np.testing.assert_allclose(sums.whole(height, width), expected, atol=1e-5)
    corners = np.array([[0, 0, 53, 37], [5, 7, 9, 30], [52, 36, 53, 37]])
    for (left, top, right, bottom), window in zip(corners, sums.windows(corners, 24), strict=True):
        expected = F.adaptive_avg_pool2d(pixels[:, top:bottom, left:right], (24, 24))
        np.testing.assert_allclose(window, expected, atol=1e-5)


def naive_suppression(boxes: np.ndarray, most: float, by_smaller: bool) -> list[int]:
    kept: list[int] = []
    edge = 1 if by_smaller else 0
    for row in np.argsort(-boxes[:, 4], kind="stable"):
        overlaps = []
        for other in kept:
            sides = np.minimum(boxes[row, 2:4], boxes[other, 2:4]) - np.maximum(boxes[row, :2], boxes[other, :2]) + edge
            both = np.prod(sides.clip(min=0))
            areas = [np.prod(boxes[one, 2:4] - boxes[one, :2] + edge) for one in (row, other)]
            overlaps.append(both / (min(areas) if by_smaller else sum(areas) - both))
        if all(overlap <= most for overlap in overlaps):
            kept.append(int(row))
    return kept


@pytest.mark.parametrize("count", [0, 1, 200])
def test_boxes_are_kept_apart_as_by_a_naive_loop(detector: FaceDetector, count: int) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (count, 2)), rng.random((count, 1))], axis=1)
    boxes = boxes.astype(np.float32)
    assert detector.networks.apart(boxes[:, :4], boxes[:, 4], 0.4).tolist() == naive_suppression(boxes, 0.4, False)
    assert outermost(boxes, 0.6).tolist() == naive_suppression(boxes, 0.6, True)


@pytest.mark.parametrize("size", [(1, 1), (19, 19), (19, 300), (300, 19), (20, 20)])
def test_a_tiny_photo_has_no_face(detector: FaceDetector, size: tuple[int, int]) -> None:
    assert detector.detect(Image.new("RGB", size, "grey")) == []


@pytest.mark.parametrize("smallest", [20, 46, 47, 94])  # 47 * (12 / 47) is less than 12 in floating point
def test_a_photo_as_small_as_the_smallest_face_can_be_searched(smallest: int) -> None:
    detector = FaceDetector(smallest=smallest)
    sizes = [(smallest, smallest), (smallest + 1, smallest), (smallest - 1, smallest)]
    assert [detector.detect(Image.new("RGB", size)) for size in sizes] == [[], [], []]


def test_a_large_photo_is_searched_smaller_and_answered_in_its_own_pixels(
    detector: FaceDetector, portraits: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = detector.detect(portraits[0])[0]
    monkeypatch.setattr(detector_module, "LONGEST_SIDE", 250)
    face = detector.detect(portraits[0].resize((1000, 1000)))[0]
    np.testing.assert_allclose(face.box, 4 * np.array(expected.box), atol=20)
    np.testing.assert_allclose(face.landmarks, 4 * np.array(expected.landmarks), atol=20)


def test_faces_come_as_the_cascade_gives_them(detector: FaceDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    def three_faces(*_: object) -> Detections:
        corners = 10 * np.arange(3, dtype=np.float32)
        boxes = np.stack([corners, corners, corners + 30, corners + 30], axis=1)
        probabilities = np.array([0.99, 0.9, 0.8], dtype=np.float32)
        return Detections(boxes, probabilities, np.repeat(corners, 10).reshape(3, 5, 2))

    monkeypatch.setattr(detector_module, "find_faces", three_faces)
    faces = detector.detect(Image.new("RGB", (60, 60)))
    assert [face.box for face in faces] == [(0, 0, 30, 30), (10, 10, 40, 40), (20, 20, 50, 50)]
    assert [round(face.probability, 4) for face in faces] == [0.99, 0.9, 0.8]
    assert [face.landmarks for face in faces] == [((corner, corner),) * 5 for corner in (0, 10, 20)]


def face_at(left: float, top: float, side: float, probability: float = 0.9) -> Face:
    return Face((left, top, left + side, top + side), probability, ())


def test_the_only_face_is_the_subject() -> None:
    assert choose_face([face_at(0, 0, 5)], 100, 100) == face_at(0, 0, 5)


def test_of_equal_faces_the_one_nearest_to_the_centre_is_the_subject() -> None:
    faces = [face_at(0, 0, 20, 0.99), face_at(45, 40, 20), face_at(80, 80, 20)]
    assert choose_face(faces, 100, 100) == faces[1]


def test_of_faces_as_far_from_the_centre_the_larger_is_the_subject() -> None:
    faces = [face_at(10, 45, 10), face_at(75, 40, 20)]
    assert choose_face(faces, 100, 100) == faces[1]


def test_a_large_passer_by_at_the_border_is_not_the_subject() -> None:
    faces = [face_at(0, 0, 60), face_at(80, 80, 40)]
    assert choose_face(faces, 200, 200) == faces[1]


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
        np.testing.assert_array_equal(choose_face(faces, *photo.size).box, np.ravel(chosen))


@pytest.mark.parametrize(("choice", "number"), [("largest", 0), ("central", 1), ("probable", 2)])
def test_the_subject_can_be_chosen_in_other_ways(choice: Choice, number: int) -> None:
    faces = [face_at(0, 0, 60, 0.8), face_at(80, 80, 40, 0.9), face_at(10, 150, 30, 0.99)]
    assert choose_face(faces, 200, 200, choice) == faces[number]


def test_another_choice_is_refused() -> None:
    with pytest.raises(InputError, match="not 'best'"):
        choose_face([face_at(0, 0, 5)], 100, 100, "best")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("degrees", "turn"),
    [
        (90, Image.Transpose.ROTATE_270),
        (180, Image.Transpose.ROTATE_180),
        (270, Image.Transpose.ROTATE_90),
    ],
)
def test_a_photo_on_its_side_is_turned(
    detector: FaceDetector, portraits: list[Image.Image], degrees: int, turn: Image.Transpose
) -> None:
    sideways = portraits[2].transpose(turn)
    subject = find_subject(detector, sideways)
    assert (subject.turned, subject.faces) == (degrees, 1)
    assert rotate_photo(sideways, subject.turned).tobytes() == portraits[2].tobytes()
    assert subject.face is not None
    np.testing.assert_allclose(subject.face.box, detector.detect(portraits[2])[0].box, atol=1e-2)


def test_a_subject_does_not_depend_on_threads_or_neighbours(
    detector: FaceDetector, portraits: list[Image.Image]
) -> None:
    black = Image.new("RGB", (90, 60))
    photos = [*portraits, black, portraits[0]]
    found = [find_subjects(detector, photos, threads=number) for number in (1, 2, 3)]
    alone = [find_subject(detector, photo) for photo in photos]
    assert found == [alone, alone, alone]
    assert alone[3].face is None


def test_an_unlikely_face_does_not_count(detector: FaceDetector, portraits: list[Image.Image]) -> None:
    assert find_subject(detector, portraits[0], least=1.01) == (None, 0, 0)


def test_a_face_too_small_for_the_first_look_is_found_in_a_finer_one(
    detector: FaceDetector, portraits: list[Image.Image]
) -> None:
    photo = Image.new("RGB", (200, 200), "grey")
    photo.paste(portraits[1].resize((23, 23), Image.Resampling.LANCZOS), (80, 80))
    assert detector.detect(photo) == []
    subject = find_subject(detector, photo)
    assert subject.faces == 1
    assert subject.face is not None
    left, top, right, bottom = subject.face.box
    assert 80 < left < right < 103
    assert 80 < top < bottom < 103


def test_of_boxes_that_are_equally_probable_the_last_is_kept_as_by_facenet_pytorch() -> None:
    from facenet_pytorch.models.utils.detect_face import nms_numpy

    boxes = np.array([[0, 0, 90, 90, 0.9], [2, 3, 95, 99, 0.9], [200, 0, 260, 70, 0.8]], dtype=np.float32)
    assert outermost(boxes, 0.7).tolist() == [1, 2]
    assert nms_numpy(boxes[:, :4], boxes[:, 4], 0.7, "Min").tolist() == [1, 2]


@pytest.mark.parametrize("degrees", [25, -50, 100, 165])
def test_a_tilted_face_is_levelled_and_cut_as_if_it_had_never_been(
    detector: FaceDetector, portraits: list[Image.Image], degrees: float
) -> None:
    spec = InputSpec(64, crop=Crop("box", margin=10))
    for portrait in portraits:
        straight = find_subject(detector, portrait)
        tilted = rotate_photo(portrait, -degrees)
        subject = find_subject(detector, tilted)
        assert straight.turned == 0
        assert straight.face is not None
        assert subject.face is not None
        assert abs(roll_of(subject.face.landmarks)) <= TILT
        assert abs((subject.turned - degrees + 180) % 360 - 180) < 2 * TILT
        corners = to_photo(subject.face.landmarks, tilted.size, subject.turned)
        expected = to_rotated(straight.face.landmarks, portrait.size, -degrees)
        np.testing.assert_allclose(corners, expected, atol=8)
        one, other = (
            np.asarray(crop_face(photo, spec, found.face, found.turned), dtype=float)
            for photo, found in ((portrait, straight), (tilted, subject))
        )
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.6


def test_a_face_is_cut_from_a_turned_photo_without_turning_all_of_it() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    photo = Image.fromarray(colours).resize((160, 120), Image.Resampling.BICUBIC)
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
    far = part(photo, 37.5, (-100_000, -100_000, 100_000, 100_000), (40, 40))  # most of it lies beyond the photo
    assert far.size == (40, 40)
    small = np.asarray(part(photo, 37.5, (20, 20, 140, 140), (40, 40)), dtype=int)
    assert np.abs(small - np.asarray(whole.crop((20, 20, 140, 140)).reduce(3), dtype=int)).mean() < 5


def test_large_levels_of_the_pyramid_are_searched_in_bands_with_the_same_result(
    detector: FaceDetector, portraits: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    several = Image.new("RGB", (501, 503))
    for place, portrait in zip(((0, 0), (251, 0), (100, 253)), portraits, strict=True):
        several.paste(portrait, place)
    expected = detector.detect(several, finer=True)
    assert len(expected) >= 3
    for band in (8000, 12_345):
        monkeypatch.setattr(mtcnn_module, "BAND", band)
        found = detector.detect(several, finer=True)
        np.testing.assert_allclose([face.box for face in found], [face.box for face in expected], atol=1e-3)


def test_the_windows_that_noise_proposes_are_bounded(detector: FaceDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        seen.append(len(pixels))
        return detector.networks.refine(pixels)

    monkeypatch.setattr(mtcnn_module, "LIKELY", 50)
    monkeypatch.setattr(mtcnn_module, "CANDIDATES", (70, 5))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8))
    FaceDetector(detector.networks._replace(refine=counted)).detect(noise, finer=True)
    assert 0 < sum(seen) <= 70
    assert max(seen) <= mtcnn_module.WINDOWS


@pytest.mark.parametrize(
    ("others", "open_question"),
    [
        ([], False),
        ([(150, 80, 19)], False),  # smaller than half
        ([(100, 80, 25)], True),
        ([(140, 80, 25)], False),  # farther off by more than half a side of the face in the middle
        ([(160, 80, 60)], True),  # larger than the one in the middle
        ([(0, 0, 10), (5, 190, 10)], False),
    ],
)
def test_several_faces_are_ambiguous_if_another_is_as_good(
    others: list[tuple[int, int, int]], open_question: bool
) -> None:
    faces = [face_at(80, 80, 40), *[face_at(*other) for other in others]]
    for order in (faces, faces[::-1]):
        assert ambiguous(order, 200, 200) is open_question
