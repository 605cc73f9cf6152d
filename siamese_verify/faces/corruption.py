"""Faces damaged on purpose, to see what a verifier can bear.

The kinds follow Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions", ICLR 2019, as
far as they happen to photos of faces; severities are in units that can be imagined.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from siamese_verify.errors import InputError


class Corruption(NamedTuple):
    """A kind of damage."""

    severities: tuple[float, ...]  # from mild to severe
    text: str  # with a place for the severity
    damage: Callable[[Tensor, float, list[int]], Tensor]  # (N,3,S,S) uint8, a severity, a seed for each image


def _blurred(images: Tensor, percent: float, _: list[int]) -> Tensor:
    sigma = percent / 100 * images.shape[-1]
    width = 2 * int(3 * sigma + 0.5) + 1
    blurred: Tensor = F.gaussian_blur(images, [width, width], [sigma, sigma])
    return blurred


def _compressed(images: Tensor, quality: float, _: list[int]) -> Tensor:
    found = []
    for image in images:
        file = io.BytesIO()
        F.to_pil_image(image).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as compressed:
            found.append(F.pil_to_tensor(compressed))
    return torch.stack(found)


def _darkened(images: Tensor, factor: float, seeds: list[int]) -> Tensor:
    """Divide the light, then let the sensor count photons: 4,000 at white, and read noise of 3."""
    light = images.double() / 255
    light = torch.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4) / factor
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(images.shape[1:], generator=one, dtype=torch.float64) for one in generators])
    light = (light + noise * (light * 4000 + 9).sqrt() / 4000).clamp(0, 1)
    encoded = torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * encoded).round().to(torch.uint8)


def _masked(images: Tensor, percent: float, _: list[int]) -> Tensor:
    covered = images.clone()
    covered[..., images.shape[-2] - round(percent / 100 * images.shape[-2]) :, :] = 128
    return covered


def _behind_glasses(images: Tensor, percent: float, _: list[int]) -> Tensor:
    height = images.shape[-2]
    top = round(height * (0.4 - percent / 200))
    covered = images.clone()
    covered[..., max(0, top) : round(height * (0.4 + percent / 200)), :] = 20
    return covered


def _shrunk(images: Tensor, side: float, _: list[int]) -> Tensor:
    small = F.resize(images, [int(side), int(side)], InterpolationMode.BILINEAR, antialias=True)
    restored: Tensor = F.resize(small, list(images.shape[-2:]), InterpolationMode.BICUBIC, antialias=True)
    return restored


def _turned(images: Tensor, degrees: float, _: list[int]) -> Tensor:
    side = images.shape[-1]
    border = side // 2
    wide = F.pad(images, [border] * 4, padding_mode="edge")
    turned: Tensor = F.center_crop(F.rotate(wide, degrees, InterpolationMode.BILINEAR), [side, side])
    return turned


CORRUPTIONS = {
    "blur": Corruption((1, 2, 4), "Gaussian blur, sigma {:g} % of the side", _blurred),
    "jpeg": Corruption((40, 20, 10), "JPEG of quality {:g}", _compressed),
    "low light": Corruption((8, 32, 128), "light divided by {:g}, with the sensor's noise", _darkened),
    "mask": Corruption((25, 35, 45), "lowest {:g} % covered", _masked),
    "glasses": Corruption((10, 20, 30), "band of {:g} % over the eyes covered", _behind_glasses),
    "resolution": Corruption((48, 32, 16), "shrunk to {:g} pixels and back", _shrunk),
    "rotation": Corruption((10, 20, 30), "turned by {:g} degrees", _turned),
}


def corrupt(images: Tensor, kind: str, severity: float, seed: int = 0, first: int = 0) -> Tensor:
    """Damage faces; the same face at the same place is damaged alike in any batch.

    Args:
        images: (N,3,S,S) uint8.
        kind: one of `CORRUPTIONS`.
        severity: in the unit of the kind; those listed there go from mild to severe.
        seed: of the noise.
        first: place of the first image among all that are damaged; the noise of an image depends on its place.

    Returns:
        (N,3,S,S) uint8.

    Raises:
        InputError: an unknown kind, images of another type or shape, a severity that is not positive.
    """
    if kind not in CORRUPTIONS:
        raise InputError(f"There is no damage {kind!r}: choose one of {', '.join(CORRUPTIONS)}.")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"The faces are {images.dtype} of shape {tuple(images.shape)}, not (N,3,S,S) uint8.")
    if not severity > 0:
        raise InputError(f"A severity of {severity} is none: give one like {CORRUPTIONS[kind].severities[0]:g}.")
    if not len(images):
        return images
    seeds = [(seed * 1_000_003 + first + row) % 2**63 for row in range(len(images))]
    return CORRUPTIONS[kind].damage(images, severity, seeds).contiguous()


def describe_corruption(kind: str, severity: float) -> str:
    """Say what was done, for tables."""
    return CORRUPTIONS[kind].text.format(severity)
