"""corrupt: corruptions of a known severity, the same for a face in any batch."""

from __future__ import annotations

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from siamese_verify.data import CORRUPTIONS, corrupt, describe_corruption
from siamese_verify.data.corruption import linear_light, srgb_values
from siamese_verify.errors import InputError

EVERY = [(kind, severity) for kind, one in CORRUPTIONS.items() for severity in one.severities]


def faces(count: int = 3, side: int = 96) -> Tensor:
    """Smooth shapes with an edge and a texture, unlike in each face, channel and direction."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    images = 12 * torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    for n in range(count):
        wave = 120 + 50 * torch.sin(rows / (5 + n)) + 30 * torch.cos(columns / 3) + 30 * (columns > 20 + n)
        images[n] += torch.stack([wave, wave - 20, wave + 10])
    return images.clamp(0, 255).to(torch.uint8)


def even(value: int, side: int = 100) -> Tensor:
    return torch.full((1, 3, side, side), value, dtype=torch.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_more_severe_is_further_from_the_face(kind: str) -> None:
    images = faces()
    found = [corrupt(images, kind, severity) for severity in (0, *CORRUPTIONS[kind].severities)]
    assert all(one.dtype == torch.uint8 and one.shape == images.shape and one.is_contiguous() for one in found)
    distances = [(one.float() - images.float()).abs().mean().item() for one in found]
    assert distances[0] == 0
    assert all(milder < worse for milder, worse in pairwise(distances))


@pytest.mark.parametrize(("kind", "severity"), EVERY)
def test_a_face_is_corrupted_alike_in_any_batch_and_memory_layout(kind: str, severity: float) -> None:
    images = faces(4)
    original = images.clone()
    whole = corrupt(images, kind, severity, seed=3)
    parts = [corrupt(images[:1], kind, severity, 3), corrupt(images[1:], kind, severity, 3, first=1)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole, corrupt(images.mT.contiguous().mT, kind, severity, 3))
    assert torch.equal(whole, corrupt(images.contiguous(memory_format=torch.channels_last), kind, severity, 3))
    assert torch.equal(images, original)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_severity_zero_gives_a_copy(kind: str) -> None:
    images = faces(2).mT
    found = corrupt(images, kind, 0)
    assert torch.equal(found, images)
    assert found.is_contiguous()
    found.zero_()
    assert images.any()


@pytest.mark.parametrize("kind", ["low light", "noise"])
def test_noise_is_of_the_seed_and_of_the_place_alone(kind: str) -> None:
    images = faces(1).expand(2, -1, -1, -1)
    severity = CORRUPTIONS[kind].severities[1]
    found = corrupt(images, kind, severity)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found, corrupt(images, kind, severity, seed=1))
    assert not torch.equal(corrupt(images, kind, severity, 0, 5), corrupt(images, kind, severity, 5, 0))


def test_jpeg_is_what_a_file_would_hold() -> None:
    for image in faces(2):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=20)
        found = corrupt(image[None], "jpeg", 20)[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(found, np.asarray(Image.open(file)))


def test_light_and_srgb_are_inverse_and_follow_the_standard() -> None:
    for value in range(256):
        encoded = value / 255
        light = encoded / 12.92 if encoded <= 0.04045 else math.pow((encoded + 0.055) / 1.055, 2.4)
        found = linear_light(torch.tensor(encoded, dtype=torch.float64))
        assert found.item() == pytest.approx(light, abs=1e-12)
        assert round(255 * srgb_values(found).item()) == value


@pytest.mark.parametrize("factor", [1, 2, 8, 16])
def test_low_light_has_the_mean_and_the_noise_of_photons_counted(factor: int) -> None:
    side, value = 200, 160
    light = ((value / 255 + 0.055) / 1.055) ** 2.4 / factor
    found = linear_light(corrupt(even(value, side), "low light", factor).double() / 255)
    # Four standard errors, and rounding to whole sRGB values on top of the noise.
    noise = math.sqrt(4000 * light + 9) / 4000
    step = 2.4 / 255 * light ** (1 - 1 / 2.4)
    assert found.mean().item() == pytest.approx(light, abs=4 * noise / math.sqrt(3 * side**2) + 0.02 * step)
    assert found.std().item() == pytest.approx(math.sqrt(noise**2 + step**2 / 12), rel=0.03)


def test_noise_has_the_sigma_that_was_asked_for() -> None:
    found = corrupt(even(128, 200), "noise", 10).double() - 128
    assert found.mean().item() == pytest.approx(0, abs=0.15)
    assert found.std().item() == pytest.approx(math.sqrt(100 + 1 / 12), rel=0.01)


def test_blur_is_a_weighted_mean_of_sigma_percent_of_the_side() -> None:
    side, sigma = 100, 2.0
    image = even(0, side)
    image[..., 50] = 255  # a line, which becomes the kernel
    weights = np.array([math.exp(-((place - 50) ** 2) / (2 * sigma**2)) for place in range(side)])
    weights[[place for place in range(side) if abs(place - 50) > 6]] = 0
    expected = 255 * weights / weights.sum()
    found = corrupt(image, "blur", 2)[0, 0, 40].numpy()
    np.testing.assert_allclose(found, expected, atol=0.51)


@pytest.mark.parametrize("percent", [1, 10, 25, 35, 50, 90, 100])
def test_what_is_covered_is_as_large_as_said(percent: int) -> None:
    mask = corrupt(even(200), "mask", percent)
    assert (mask[..., 100 - percent :, :] == 128).all()
    assert (mask[..., : 100 - percent, :] == 200).all()
    glasses = corrupt(even(200), "glasses", percent)
    assert ((glasses == 20) | (glasses == 200)).all()
    assert (glasses == 20).double().mean().item() == pytest.approx(percent / 100)


def test_glasses_cover_the_eyes() -> None:
    covered = (corrupt(even(200), "glasses", 20)[0, 0, :, 0] == 20).nonzero()
    assert (covered.min().item(), covered.max().item()) == (30, 49)


def test_resolution_is_lost_as_pillow_would_lose_it() -> None:
    image = faces(1)
    photo = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    expected = photo.resize((24, 24), Image.Resampling.BILINEAR).resize((96, 96), Image.Resampling.BICUBIC)
    found = corrupt(image, "resolution", 24)[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("side", [96, 97, 500])
def test_a_resolution_that_the_face_does_not_have_costs_nothing(side: int) -> None:
    assert torch.equal(corrupt(faces(1), "resolution", side), faces(1))


@pytest.mark.parametrize("side", [33, 64])
@pytest.mark.parametrize("kind", ["blur", "resolution", "rotation", "jpeg"])
def test_an_even_face_stays_even(kind: str, side: int) -> None:
    for severity in CORRUPTIONS[kind].severities:
        found = corrupt(even(90, side), kind, severity)
        assert (found.int() - 90).abs().max() <= (2 if kind == "jpeg" else 0)


@pytest.mark.parametrize("side", [63, 64])
def test_a_quarter_turn_is_a_quarter_turn(side: int) -> None:
    images = faces(1, side)
    assert torch.equal(corrupt(images, "rotation", 90), torch.rot90(images, 1, (2, 3)))
    assert torch.equal(corrupt(images, "rotation", -90), torch.rot90(images, -1, (2, 3)))


@pytest.mark.parametrize("side", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_smallest_faces_are_corrupted_too(kind: str, side: int) -> None:
    limits = [limit for limit in (CORRUPTIONS[kind].lowest, CORRUPTIONS[kind].highest) if math.isfinite(limit)]
    for severity in (*CORRUPTIONS[kind].severities, *limits):
        assert corrupt(faces(1, side), kind, severity).shape == (1, 3, side, side)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_no_faces_are_corrupted_to_none(kind: str) -> None:
    assert corrupt(faces(0), kind, CORRUPTIONS[kind].severities[0]).shape == (0, 3, 96, 96)


def test_corruptions_are_described() -> None:
    assert describe_corruption("blur", 4) == "Gaussian blur, sigma 4 % of the side"
    assert describe_corruption("jpeg", 10) == "JPEG of quality 10"
    assert describe_corruption("jpeg", 0) == "undamaged"
    assert len({describe_corruption(kind, severity) for kind, severity in EVERY}) == len(EVERY)
    with pytest.raises(InputError, match="got 'rain'"):
        describe_corruption("rain", 1)


@pytest.mark.parametrize(
    ("kind", "severity"),
    [
        ("blur", -1),
        ("blur", 101),
        ("blur", math.nan),
        ("jpeg", 0.5),
        ("jpeg", 12.5),
        ("jpeg", 96),
        ("low light", 0.5),
        ("low light", math.inf),
        ("noise", 256),
        ("mask", 101),
        ("glasses", -1),
        ("resolution", 1),
        ("resolution", 16.5),
        ("resolution", math.inf),
        ("rotation", 181),
    ],
)
def test_a_severity_out_of_range_is_refused(kind: str, severity: float) -> None:
    with pytest.raises(InputError, match=rf"severity of {kind} must be .* or 0 for none, got {severity}\.$"):
        corrupt(faces(1), kind, severity)


@pytest.mark.parametrize(
    ("images", "kind", "seed", "message"),
    [
        (faces(1), "rain", 0, "corruption must be one of blur, jpeg, .* got 'rain'"),
        (faces(1).float(), "blur", 0, "torch.float32 of shape"),
        (faces(1)[0], "blur", 0, r"of shape \(3, 96, 96\)"),
        (faces(1)[:, :1], "blur", 0, r"of shape \(1, 1, 96, 96\)"),
        (faces(1)[..., :80], "blur", 0, r"of shape \(1, 3, 96, 80\)"),
        (faces(1), "noise", -1, "seed is -1"),
    ],
)
def test_images_of_another_kind_are_refused(images: Tensor, kind: str, seed: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        corrupt(images, kind, 1, seed)
