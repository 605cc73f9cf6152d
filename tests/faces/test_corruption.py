from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.faces import CORRUPTIONS, corrupt, describe_corruption

EVERY = [(kind, severity) for kind, one in CORRUPTIONS.items() for severity in one.severities]


def faces(count: int = 3, side: int = 64) -> Tensor:
    """Smooth shapes with an edge and a texture."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = [
        100 + 60 * torch.sin(rows / (5 + n)) + 40 * torch.cos(columns / 3) + 30 * (columns > 20 + n)
        for n in range(count)
    ]
    images = (
        torch.stack([torch.stack([wave, wave - 20, wave + 10]) for wave in waves])
        if count
        else torch.empty(0, 3, side, side)
    )
    return images.clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_more_severe_is_further_from_the_face(kind: str) -> None:
    images = faces()
    found = [corrupt(images, kind, severity) for severity in CORRUPTIONS[kind].severities]
    assert all(one.dtype == torch.uint8 and one.shape == images.shape and one.is_contiguous() for one in found)
    distance = [(one.float() - images.float()).abs().mean().item() for one in found]
    assert 0 < distance[0] < distance[1] < distance[2]


@pytest.mark.parametrize(("kind", "severity"), EVERY)
def test_a_face_is_damaged_alike_in_any_batch(kind: str, severity: float) -> None:
    images = faces(4)
    whole = corrupt(images, kind, severity, seed=3)
    parts = [corrupt(images[:1], kind, severity, 3), corrupt(images[1:], kind, severity, 3, first=1)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole, corrupt(images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2), kind, severity, 3))


def test_noise_is_of_the_seed_and_of_the_place() -> None:
    images = faces(1).expand(2, -1, -1, -1)
    dark = corrupt(images, "low light", 32)
    assert not torch.equal(dark[0], dark[1])
    assert not torch.equal(dark, corrupt(images, "low light", 32, seed=1))


def test_jpeg_is_what_a_file_would_hold() -> None:
    image = faces(1)[0]
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=20)
    expected = np.asarray(Image.open(file)).astype(int)
    found = corrupt(image[None], "jpeg", 20)[0].permute(1, 2, 0).numpy().astype(int)
    np.testing.assert_array_equal(found, expected)


def test_light_falls_as_the_curve_of_srgb_says() -> None:
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    for factor in (8, 32):
        linear = 1 / factor
        expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
        assert corrupt(white, "low light", factor).float().mean().item() == pytest.approx(expected, rel=0.02)


def test_what_is_covered_is_as_large_as_said() -> None:
    images = torch.full((1, 3, 100, 100), 200, dtype=torch.uint8)
    assert (corrupt(images, "mask", 35) == 128).float().mean().item() == pytest.approx(0.35)
    assert (corrupt(images, "mask", 35)[..., 65:, :] == 128).all()
    assert (corrupt(images, "glasses", 20) == 20).float().mean().item() == pytest.approx(0.2)


def test_an_even_face_stays_even_however_small_or_turned() -> None:
    images = torch.full((1, 3, 33, 33), 90, dtype=torch.uint8)
    for kind in ("blur", "resolution", "rotation"):
        assert torch.equal(corrupt(images, kind, CORRUPTIONS[kind].severities[0]), images)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    images = faces(1)
    assert torch.equal(corrupt(images, "rotation", 90), torch.rot90(images, 1, (2, 3)))


def test_no_face_is_no_trouble() -> None:
    assert corrupt(faces(0), "blur", 2).shape == (0, 3, 64, 64)


def test_it_is_said_what_was_done() -> None:
    assert describe_corruption("blur", 4) == "Gaussian blur, sigma 4 % of the side"
    assert describe_corruption("jpeg", 10) == "JPEG of quality 10"


@pytest.mark.parametrize(
    ("images", "kind", "severity", "message"),
    [
        (faces(1), "rain", 1, "no damage 'rain': choose one of blur"),
        (faces(1).float(), "blur", 1, "torch.float32 of shape"),
        (faces(1)[0], "blur", 1, r"of shape \(3, 64, 64\)"),
        (faces(1), "blur", 0, "severity of 0 is none"),
        (faces(1), "blur", float("nan"), "severity of nan is none"),
    ],
)
def test_what_cannot_be_damaged_is_said(images: Tensor, kind: str, severity: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        corrupt(images, kind, severity)
