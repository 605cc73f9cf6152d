"""MTCNN: facenet-pytorch's boxes, for photos of any size, with and without faces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from siamese_verify.faces import Mtcnn
from siamese_verify.faces.mtcnn import AreaSums, Limits, find_faces, outermost


def side_by_side(portraits: list[Image.Image], size: tuple[int, int], *places: tuple[int, int]) -> Image.Image:
    photo = Image.new("RGB", size)
    for portrait, place in zip(portraits, places, strict=False):
        photo.paste(portrait, place)
    return photo


def test_boxes_landmarks_and_probabilities_are_those_of_facenet_pytorch(
    detector: Mtcnn, portraits: list[Image.Image]
) -> None:
    from facenet_pytorch import MTCNN

    mtcnn = MTCNN(select_largest=False)
    two = side_by_side(portraits, (500, 250), (0, 0), (250, 0))
    for photo in [*portraits, two, portraits[2].resize((140, 120)), portraits[1].resize((411, 360))]:
        boxes, probabilities, landmarks = (part.astype(float) for part in mtcnn.detect(photo, landmarks=True))
        faces = detector.detect(photo)
        order = np.argsort(-probabilities, kind="stable")
        np.testing.assert_allclose([face.probability for face in faces], probabilities[order], atol=1e-4)
        np.testing.assert_allclose([face.box for face in faces], boxes[order], atol=1e-2)
        np.testing.assert_allclose([face.landmarks for face in faces], landmarks[order], atol=1e-2)


@pytest.mark.parametrize("size", [(1, 1), (19, 19), (19, 300), (300, 19), (20, 20), (60, 60)])
@pytest.mark.parametrize("shade", ["black", "white", "red"])
def test_a_plain_photo_has_no_face(detector: Mtcnn, shade: str, size: tuple[int, int]) -> None:
    assert detector.detect(Image.new("RGB", size, shade)) == []


@pytest.mark.parametrize("smallest", [20, 46, 47, 94])  # 47 * (12 / 47) is less than 12 in floating point
def test_a_photo_as_small_as_the_smallest_face_can_be_searched(detector: Mtcnn, smallest: int) -> None:
    searching = Mtcnn(detector.networks, min_face_size=smallest)
    for size in [(smallest, smallest), (smallest + 1, smallest), (smallest - 1, smallest)]:
        assert searching.detect(Image.new("RGB", size)) == []


def test_a_large_photo_is_searched_smaller_and_answered_in_its_own_pixels(
    detector: Mtcnn, portraits: list[Image.Image]
) -> None:
    expected = detector.detect(portraits[0])[0]
    face = Mtcnn(detector.networks, longest_side=250).detect(portraits[0].resize((1000, 1000)))[0]
    np.testing.assert_allclose(face.box, 4 * np.array(expected.box), atol=20)
    np.testing.assert_allclose(face.landmarks, 4 * np.array(expected.landmarks), atol=20)


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


def naive_suppression(boxes: np.ndarray, max_overlap: float, by_smaller: bool) -> list[int]:
    kept: list[int] = []
    edge = 1 if by_smaller else 0
    for row in np.argsort(-boxes[:, 4], kind="stable"):
        overlaps = []
        for other in kept:
            sides = np.minimum(boxes[row, 2:4], boxes[other, 2:4]) - np.maximum(boxes[row, :2], boxes[other, :2]) + edge
            both = np.prod(sides.clip(min=0))
            areas = [np.prod(boxes[one, 2:4] - boxes[one, :2] + edge) for one in (row, other)]
            overlaps.append(both / (min(areas) if by_smaller else sum(areas) - both))
        if all(overlap <= max_overlap for overlap in overlaps):
            kept.append(int(row))
    return kept


@pytest.mark.parametrize("count", [0, 1, 200])
def test_suppression_is_that_of_a_naive_loop(detector: Mtcnn, count: int) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (count, 2)), rng.random((count, 1))], axis=1)
    boxes = boxes.astype(np.float32)
    assert detector.networks.apart(boxes[:, :4], boxes[:, 4], 0.4).tolist() == naive_suppression(boxes, 0.4, False)
    assert outermost(boxes, 0.6).tolist() == naive_suppression(boxes, 0.6, True)


def test_of_equally_probable_boxes_the_last_is_kept_as_by_facenet_pytorch() -> None:
    from facenet_pytorch.models.utils.detect_face import nms_numpy

    boxes = np.array([[0, 0, 90, 90, 0.9], [2, 3, 95, 99, 0.9], [200, 0, 260, 70, 0.8]], dtype=np.float32)
    assert outermost(boxes, 0.7).tolist() == [1, 2]
    assert nms_numpy(boxes[:, :4], boxes[:, 4], 0.7, "Min").tolist() == [1, 2]


@pytest.mark.parametrize("band", [8000, 12_345])
def test_levels_of_the_pyramid_cut_into_bands_give_the_same_faces(
    detector: Mtcnn, portraits: list[Image.Image], band: int
) -> None:
    photo = np.asarray(side_by_side(portraits, (501, 503), (0, 0), (251, 0), (100, 253)))
    expected = find_faces(photo, detector.networks, 10)
    assert len(expected.boxes) >= 3
    found = find_faces(photo, detector.networks, 10, Limits(band=band))
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


def test_the_windows_that_noise_proposes_are_bounded(detector: Mtcnn) -> None:
    batches: list[int] = []

    def counted(pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        batches.append(len(pixels))
        return detector.networks.refine(pixels)

    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    limits = Limits(batch=16, proposals=50, candidates=(70, 5))
    find_faces(noise, detector.networks._replace(refine=counted), 10, limits)
    assert 0 < sum(batches) <= 70
    assert max(batches) <= 16
