"""YuNet: the faces that OpenCV finds, decoded as a naive loop does."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_verify.faces import FaceFinder, YuNet, rotate_photo
from siamese_verify.faces.yunet import MAX_OVERLAP, decode, suppress
from siamese_verify.opencv_zoo import YUNET, folded

SHARED = Path(__file__).resolve().parents[2].parent / "shared/weights/opencv_zoo"


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    if not SHARED.is_dir():
        pytest.skip(f"the files of OpenCV's model zoo are not in {SHARED}")
    return YuNet(folded(YUNET, [SHARED]))


def test_the_faces_are_those_of_opencv(yunet: YuNet, portraits: list[Image.Image]) -> None:
    cv2 = pytest.importorskip("cv2")
    theirs = cv2.FaceDetectorYN.create(str(SHARED / YUNET.name), "", (1, 1), yunet.min_probability, MAX_OVERLAP)
    for photo in [*portraits, portraits[0].resize((317, 203))]:
        theirs.setInputSize(photo.size)
        expected = theirs.detect(np.ascontiguousarray(np.asarray(photo)[:, :, ::-1]))[1]
        found = yunet.detect(photo)
        assert len(found) == len(expected) > 0
        for face, row in zip(found, expected, strict=True):
            left, top, right, bottom = face.box
            ours = [left, top, right - left, bottom - top, *np.ravel(face.landmarks), face.probability]
            np.testing.assert_allclose(ours, row, atol=1e-3)


def test_outputs_are_decoded_as_by_a_loop() -> None:
    rng = np.random.default_rng(0)
    classes, objects = rng.uniform(-0.1, 1.1, (2, 12, 1)).astype(np.float32)
    boxes, points = rng.normal(size=(12, 4)).astype(np.float32), rng.normal(size=(12, 10)).astype(np.float32)
    probabilities, corners, landmarks = decode(classes, objects, boxes, points, 16, 64)
    for cell in range(12):
        row, column = divmod(cell, 4)
        both = [min(1.0, max(0.0, float(one[cell, 0]))) for one in (classes, objects)]
        assert probabilities[cell] == pytest.approx(math.sqrt(both[0] * both[1]), abs=1e-6)
        x, y = (column + boxes[cell, 0]) * 16, (row + boxes[cell, 1]) * 16
        width, height = math.exp(boxes[cell, 2]) * 16, math.exp(boxes[cell, 3]) * 16
        expected = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        np.testing.assert_allclose(corners[cell], expected, rtol=1e-5, atol=1e-4)
        for point in range(5):
            place = [(column + points[cell, 2 * point]) * 16, (row + points[cell, 2 * point + 1]) * 16]
            np.testing.assert_allclose(landmarks[cell, point], place, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_suppression_is_that_of_a_loop(count: int) -> None:
    rng = np.random.default_rng(count)
    corner = rng.uniform(0, 50, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (count, 2))], axis=1).astype(np.float32)

    def overlap(one: np.ndarray, two: np.ndarray) -> float:
        sides = [min(one[2 + k], two[2 + k]) - max(one[k], two[k]) for k in (0, 1)]
        both = max(0.0, sides[0]) * max(0.0, sides[1])
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
        return float(both / (sum(areas) - both))

    kept: list[int] = []
    for row in range(count):
        if all(overlap(boxes[row], boxes[earlier]) <= 0.3 for earlier in kept):
            kept.append(row)
    assert suppress(boxes, 0.3).tolist() == kept


@pytest.mark.parametrize("side", [60, 250, 1000])
@pytest.mark.parametrize("degrees", [0, 180])
def test_a_face_is_found_at_any_size_and_rotation(
    yunet: YuNet, portraits: list[Image.Image], side: int, degrees: int
) -> None:
    finder = FaceFinder(lambda: yunet, name="yunet")
    photo = portraits[0].crop((60, 60, 190, 190)) if side == 1000 else portraits[0]  # the face fills most of it
    (found,), _ = finder.find(rotate_photo(photo.resize((side, side)), degrees))
    assert found.rotated_by == pytest.approx(degrees, abs=10)
    left, top, right, bottom = found.face.box
    assert (right - left) / side == pytest.approx(0.75 if side == 1000 else 0.4, abs=0.15)
    assert left < side / 2 < right
    assert top < side / 2 < bottom


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (64, 64)])
def test_a_plain_photo_of_any_size_has_no_face(yunet: YuNet, size: tuple[int, int]) -> None:
    for finer in (False, True):
        assert yunet.detect(Image.new("RGB", size, "gray"), finer) == []
