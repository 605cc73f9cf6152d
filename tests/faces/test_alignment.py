"""crop_face: pixel for pixel facenet-pytorch's, since pretrained weights depend on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from facenet_pytorch.models.utils.detect_face import extract_face
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces import Face, crop_face
from siamese_verify.faces.alignment import (
    BASE_OF_NOSE,
    EYES_AND_NOSE,
    TEMPLATE,
    central_square,
    eyes_and_nose,
    five_point,
    similarity,
)
from siamese_verify.faces.rotation import Box
from siamese_verify.structures import Crop, InputSpec

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
BOXES = {
    "inside": (30.0, 20.0, 80.0, 70.0),
    "fractions": (30.4, 20.6, 61.9, 63.2),
    "wide": (10.0, 30.0, 100.0, 50.0),
    "small": (50.2, 40.1, 58.7, 51.3),
    "over the left and upper border": (-12.5, -7.1, 40.0, 33.0),
    "over the right and lower border": (85.0, 60.0, 131.4, 97.7),
    "over all borders": (-3.0, -4.0, 125.0, 96.0),
    "the photo": (0.0, 0.0, 120.0, 90.0),
}


def face_in(box: Box) -> Face:
    return Face(box, 1.0, ())


@pytest.mark.parametrize("size", [64, 160])
@pytest.mark.parametrize("margin", [0, 14, 32])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_box_crops_equal_those_of_facenet_pytorch(box: Box, margin: int, size: int) -> None:
    expected = extract_face(PHOTO, np.array(box), image_size=size, margin=margin).permute(1, 2, 0).numpy()
    crop = crop_face(PHOTO, InputSpec(size, crop=Crop("box", margin)), face_in(box))
    assert (crop.mode, crop.size) == ("RGB", (size, size))
    np.testing.assert_array_equal(np.asarray(crop), expected)


def test_a_margin_is_counted_in_pixels_of_the_finished_crop() -> None:
    photo = Image.new("RGB", (200, 200))
    photo.paste((255, 255, 255), (80, 80, 120, 120))
    crop = crop_face(photo, InputSpec(100, crop=Crop("box", margin=20)), face_in((80, 80, 120, 120)))
    white = np.flatnonzero(np.asarray(crop)[50, :, 0] > 127)
    assert (white[0], white[-1]) == (10, 89)  # 20 of 100 pixels are margin, half of it at each side


def test_a_whole_photo_is_scaled_as_it_is() -> None:
    crop = crop_face(PHOTO, InputSpec(32, crop=Crop("whole")), face_in(BOXES["inside"]))
    assert crop.tobytes() == PHOTO.resize((32, 32), Image.Resampling.BILINEAR).tobytes()


def test_a_whole_photo_of_the_right_size_keeps_its_pixels() -> None:
    square = PHOTO.crop((0, 0, 48, 48))
    assert crop_face(square, InputSpec(48, crop=Crop("whole"))).tobytes() == square.tobytes()


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.31])
def test_a_center_crop_leaves_the_same_on_both_sides(fraction: float) -> None:
    side = round(90 * fraction)
    left, top = (120 - side) // 2, (90 - side) // 2
    expected = PHOTO.crop((left, top, left + side, top + side)).resize((24, 24), Image.Resampling.BILINEAR)
    crop = crop_face(PHOTO, InputSpec(24, crop=Crop("center", fraction=fraction)), face_in(BOXES["inside"]))
    assert crop.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", ["box", "five_point", "eyes_and_nose"])
def test_a_crop_of_a_face_is_never_made_without_one(kind: Any) -> None:
    with pytest.raises(InputError, match=f"A {kind} crop needs a detected face"):
        crop_face(PHOTO, InputSpec(40, crop=Crop(kind)))


@pytest.mark.parametrize(
    ("width", "height", "fraction", "square"),
    [
        (10, 10, 1.0, (0, 0, 10, 10)),
        (20, 10, 1.0, (5, 0, 15, 10)),
        (10, 21, 1.0, (0, 5, 10, 15)),
        (250, 250, 0.4, (75, 75, 175, 175)),
        (1, 1, 0.1, (0, 0, 1, 1)),
        (3, 1000, 0.01, (1, 499, 2, 500)),
    ],
)
def test_the_central_square_has_whole_pixels_and_at_least_one(
    width: int, height: int, fraction: float, square: Box
) -> None:
    assert central_square(width, height, fraction) == square


def test_a_square_crop_keeps_the_proportions_of_the_face() -> None:
    photo = Image.new("RGB", (200, 200))
    photo.paste((255, 255, 255), (90, 60, 110, 140))  # 20 x 80
    spec = InputSpec(80, crop=Crop("box", square=True))
    white = np.asarray(crop_face(photo, spec, face_in((90, 60, 110, 140))))[:, :, 0] > 127
    assert (white.all(axis=0).sum(), white.any(axis=1).sum()) == (20, 80)


@pytest.mark.parametrize("resample", ["bicubic", "box", "hamming", "lanczos"])
def test_the_filter_that_scales_is_that_of_the_crop(resample: str) -> None:
    crop = Crop("whole", resample=resample)  # type: ignore[arg-type]
    expected = PHOTO.resize((32, 32), Image.Resampling[resample.upper()])
    assert crop_face(PHOTO, InputSpec(32, crop=crop)).tobytes() == expected.tobytes()


def moved(points: np.ndarray, angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(scale * points @ rotation.T + shift)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.4, 2.5), (-2.8, 0.3), (np.pi, 1.0)])
def test_a_similarity_finds_the_rotation_the_scale_and_the_shift(angle: float, scale: float) -> None:
    points = np.random.default_rng(1).normal(0, 30, (5, 2))
    matrix = similarity(points, moved(points, angle, scale, (7, -3)))
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], moved(points, angle, scale, (7, -3)), atol=1e-9)


def test_a_similarity_is_the_least_squares_one_and_never_a_reflection() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        source, target = rng.normal(0, 10, (5, 2)), rng.normal(0, 10, (5, 2))
        # a, b, x, y of [[a, -b, x], [b, a, y]]: linear least squares over exactly the similarities without reflection
        rows = np.concatenate(
            [
                np.stack([source[:, 0], -source[:, 1], np.ones(5), np.zeros(5)], axis=1),
                np.stack([source[:, 1], source[:, 0], np.zeros(5), np.ones(5)], axis=1),
            ]
        )
        a, b, x, y = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)[0]
        np.testing.assert_allclose(similarity(source, target), [[a, -b, x], [b, a, y]], atol=1e-9)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.5, 2.0), (-0.7, 3.3), (0.2, 0.5)])
@pytest.mark.parametrize("size", [112, 56])
def test_five_points_come_to_lie_on_the_template(angle: float, scale: float, size: int) -> None:
    landmarks = moved(np.array(TEMPLATE) - 56, angle, scale, (200, 190))
    x, y = np.meshgrid(np.arange(400), np.arange(400))
    for number, (px, py) in enumerate(landmarks):  # a soft dot at each landmark in turn, and its center of mass
        dot = 255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (3 * scale) ** 2))
        photo = Image.fromarray(np.repeat(dot.astype(np.uint8)[..., None], 3, axis=2))
        crop = np.asarray(five_point(photo, [tuple(point) for point in landmarks.tolist()], size), dtype=float)[..., 0]
        rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
        found = ((crop * columns).sum() / crop.sum(), (crop * rows).sum() / crop.sum())
        expected = (np.array(TEMPLATE[number]) + 0.5) * size / 112 - 0.5
        np.testing.assert_allclose(found, expected, atol=0.15)


def test_a_five_point_crop_of_a_large_face_averages_its_pixels() -> None:
    noise = np.random.default_rng(3).integers(0, 2, (1120, 1120, 1), dtype=np.uint8).repeat(3, axis=2) * 255
    landmarks = [(10 * x, 10 * y) for x, y in TEMPLATE]
    crop = np.asarray(five_point(Image.fromarray(noise), landmarks, 112), dtype=float)
    assert crop.std() < 30  # 127 if pixels were skipped


def test_a_five_point_crop_is_black_beyond_the_photo() -> None:
    crop = np.asarray(five_point(Image.new("RGB", (60, 112), "white"), list(TEMPLATE), 112))
    assert (crop[:, 65:] == 0).all()
    assert (crop[:, :55] == 255).all()


@pytest.mark.parametrize("shear", [0.0, 0.4])
def test_eyes_and_base_of_the_nose_come_to_lie_on_openfaces_template(shear: float) -> None:
    linear = np.array([[2.1, shear], [-0.3, 1.7]])
    landmarks = (np.array(TEMPLATE) - 56) @ linear.T + (200, 190)
    tip, mouth = landmarks[2], landmarks[3:].mean(axis=0)
    marks = [landmarks[0], landmarks[1], tip + BASE_OF_NOSE * (mouth - tip)]
    x, y = np.meshgrid(np.arange(400), np.arange(400))
    for (px, py), target in zip(marks, EYES_AND_NOSE, strict=True):  # a soft dot at each, and its center of mass
        dot = 255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 6**2))
        photo = Image.fromarray(np.repeat(dot.astype(np.uint8)[..., None], 3, axis=2))
        crop = np.asarray(eyes_and_nose(photo, [tuple(point) for point in landmarks.tolist()], 96), dtype=float)[..., 0]
        rows, columns = np.meshgrid(np.arange(96), np.arange(96), indexing="ij")
        found = ((crop * columns).sum() / crop.sum(), (crop * rows).sum() / crop.sum())
        np.testing.assert_allclose(found, np.array(target) * 96, atol=0.2)
