"""Quality of faces: numbers that can be checked by hand or by turning a head."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from siamese_verify.faces import Quality, quality_of, quality_scores, ranges_of, sharpness
from siamese_verify.faces.quality import AVERAGE_FACE, noise, roll_of, turn_of


def head(yaw: float = 0, pitch: float = 0, roll: float = 0, scale: float = 0.7) -> list[tuple[float, float]]:
    """Landmarks of the average face, turned by degrees and seen from afar."""
    y, p, r = (math.radians(angle) for angle in (yaw, pitch, roll))
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    seen = np.array(AVERAGE_FACE) @ (about_z @ about_x @ about_y).T
    return [(float(x), float(y)) for x, y in scale * seen[:, :2] + 100]


def test_a_flat_picture_has_no_sharpness_and_blur_takes_it_away() -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert sharpness(Image.new("RGB", (9, 9), "red")) == 0
    assert sharpness(picture) > sharpness(picture.reduce(2).resize((64, 64))) > 0


def test_sharpness_is_the_variance_of_the_laplacian_by_a_naive_loop() -> None:
    gray = np.random.default_rng(1).integers(0, 256, (7, 9))
    picture = Image.fromarray(np.repeat(gray[..., None], 3, axis=2).astype(np.uint8))
    seen = np.asarray(picture.convert("L"), dtype=float)
    found = [
        seen[r - 1, c] + seen[r + 1, c] + seen[r, c - 1] + seen[r, c + 1] - 4 * seen[r, c]
        for r in range(1, 6)
        for c in range(1, 8)
    ]
    assert sharpness(picture) == pytest.approx(np.var(found))


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (30, 0), (-30, 0), (0, 25), (0, -25), (60, 0), (20, 20)])
@pytest.mark.parametrize("roll", [0, 40, 180])
def test_the_turn_of_a_head_is_the_angle_it_was_turned_by(yaw: float, pitch: float, roll: float) -> None:
    expected = math.degrees(math.acos(math.cos(math.radians(yaw)) * math.cos(math.radians(pitch))))
    assert turn_of(head(yaw, pitch, roll)) == pytest.approx(expected, abs=1e-4)


def test_landmarks_in_one_place_or_on_a_line_are_no_frontal_face() -> None:
    assert turn_of([(5.0, 5.0)] * 5) == 90
    assert turn_of([(0.0, float(y)) for y in range(5)]) == pytest.approx(90, abs=1e-3)


def test_light_and_contrast_are_mean_and_deviation_of_the_gray_levels() -> None:
    half = np.zeros((10, 10, 3), np.uint8)
    half[:5] = 255
    quality = quality_of(Image.fromarray(half))
    assert (quality.light, quality.contrast) == pytest.approx((0.5, 0.5))
    assert (quality.size, quality.turn) == (None, None)
    assert quality_of(Image.fromarray(half), (1.0, 2.0, 31.0, 42.0), head()).size == 30


def test_ranges_leave_one_in_a_thousand_outside() -> None:
    values = np.random.default_rng(0).permutation(100_001) / 100_000
    ranges = ranges_of([Quality(x, x, x, x, x, x, x) for x in values.tolist()])
    for names, low, high in (
        (("sharpness", "size", "contrast"), 0.001, None),
        (("turn", "roll"), None, 0.999),
        (("light",), 0.001, 0.999),
    ):
        for name in names:
            assert ranges[name] == pytest.approx((low, high))


def test_what_no_detector_measured_has_no_range() -> None:
    assert set(ranges_of([Quality(1.0, None, None, 0.5, 0.1)])) == {"sharpness", "light", "contrast", "noise"}
    assert ranges_of([]) == {}


@pytest.mark.parametrize("roll", [-170, -60, -10, 0, 45, 120])
@pytest.mark.parametrize("yaw", [0, 30])
def test_the_roll_of_a_head_is_the_angle_it_was_tilted_by(yaw: float, roll: float) -> None:
    assert roll_of(head(yaw, 0, roll)) == pytest.approx(roll, abs=3)
    gray = Image.new("RGB", (20, 20))
    assert quality_of(gray, (0, 0, 9, 9), head(yaw, 0, roll)).roll == pytest.approx(abs(roll), abs=3)


def drawn(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.repeat(levels.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("strength", [3.0, 8.0, 20.0])
def test_noise_is_the_deviation_of_grain_wherever_it_is_calm(strength: float) -> None:
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(160), np.arange(160))
    scene = 90 + 60 * np.sin(x / 25) + 30 * np.cos(y / 40)  # smooth, with a sharp edge and a patch of fine detail
    scene[60:, 80:] += 30
    scene[:40, :40] += rng.choice([-40, 40], (40, 40))
    assert noise(drawn(scene)) < 0.5
    assert noise(drawn(scene + rng.normal(0, strength, scene.shape))) == pytest.approx(strength, rel=0.15)
    assert noise(Image.new("RGB", (9, 9))) == 0


def test_a_sharpened_picture_is_sharp_and_not_grainy() -> None:
    blobs = np.random.default_rng(0).normal(128, 60, (20, 20))
    soft = drawn(blobs).resize((160, 160), Image.Resampling.BICUBIC)
    sharpened = soft.filter(ImageFilter.UnsharpMask(2, 150, 0))
    assert sharpness(sharpened) > 2 * sharpness(soft)
    limit = ranges_of([quality_of(soft)])["noise"][1]
    assert limit is not None
    assert (
        noise(sharpened)
        < limit
        < noise(drawn(np.asarray(soft)[..., 0] + np.random.default_rng(0).normal(0, 25, (160, 160))))
    )


@pytest.mark.filterwarnings("error")
def test_as_scores_higher_qualities_are_better() -> None:
    faces = [
        Quality(sharpness, 80, turn, light, 0.2, 1.0, None)
        for sharpness, turn, light in ((5, 0, 0.5), (9, 40, 0.1), (1, 9, 0.9))
    ]
    found = quality_scores(faces)
    assert np.argsort(found["sharpness"]).tolist() == [2, 0, 1]
    assert np.argsort(found["turn"]).tolist() == [1, 2, 0]
    assert found["light"] == pytest.approx([0, -0.4, -0.4])
    assert np.isnan(found["roll"]).all()
    assert set(map(len, quality_scores([]).values())) == {0}
