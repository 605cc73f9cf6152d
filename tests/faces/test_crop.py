"""crop_face: pixel for pixel facenet-pytorch's, since pretrained weights depend on it."""

from __future__ import annotations

import numpy as np
import pytest
from facenet_pytorch.models.utils.detect_face import extract_face
from PIL import Image

from siamese_verify.faces import Box, crop_face
from siamese_verify.faces.crop import central_square
from siamese_verify.types import Crop, InputSpec

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


@pytest.mark.parametrize("size", [64, 160])
@pytest.mark.parametrize("margin", [0, 14, 32])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_box_crops_equal_those_of_facenet_pytorch(box: Box, margin: int, size: int) -> None:
    expected = extract_face(PHOTO, np.array(box), image_size=size, margin=margin).permute(1, 2, 0).numpy()
    crop = crop_face(PHOTO, InputSpec(size, crop=Crop("box", margin)), box)
    assert (crop.mode, crop.size) == ("RGB", (size, size))
    np.testing.assert_array_equal(np.asarray(crop), expected)


def test_a_margin_is_counted_in_pixels_of_the_finished_crop() -> None:
    photo = Image.new("RGB", (200, 200))
    photo.paste((255, 255, 255), (80, 80, 120, 120))
    crop = crop_face(photo, InputSpec(100, crop=Crop("box", margin=20)), (80, 80, 120, 120))
    white = np.flatnonzero(np.asarray(crop)[50, :, 0] > 127)
    assert (white[0], white[-1]) == (10, 89)  # 20 of 100 pixels are margin, half of it at each side


def test_a_whole_photo_is_scaled_as_it_is() -> None:
    crop = crop_face(PHOTO, InputSpec(32, crop=Crop("whole")), BOXES["inside"])
    assert crop.tobytes() == PHOTO.resize((32, 32), Image.Resampling.BILINEAR).tobytes()


def test_a_whole_photo_of_the_right_size_keeps_its_pixels() -> None:
    square = PHOTO.crop((0, 0, 48, 48))
    assert crop_face(square, InputSpec(48, crop=Crop("whole"))).tobytes() == square.tobytes()


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.31])
def test_a_centre_crop_leaves_the_same_on_both_sides(fraction: float) -> None:
    side = round(90 * fraction)
    left, top = (120 - side) // 2, (90 - side) // 2
    expected = PHOTO.crop((left, top, left + side, top + side)).resize((24, 24), Image.Resampling.BILINEAR)
    crop = crop_face(PHOTO, InputSpec(24, crop=Crop("center", fraction=fraction)), BOXES["inside"])
    assert crop.tobytes() == expected.tobytes()


def test_a_photo_without_a_face_gives_its_central_square() -> None:
    spec = InputSpec(40, crop=Crop("box", margin=14))
    assert crop_face(PHOTO, spec).tobytes() == crop_face(PHOTO, InputSpec(40, crop=Crop("center"))).tobytes()


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
