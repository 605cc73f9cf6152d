"""Corruptions of face images in graded severities, to measure how robust a verifier is.

The kinds follow Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions", ICLR 2019, as
far as they occur in photos of faces; severities are in physical units.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from siamese_verify.errors import InputError

WHITE_PHOTONS = 4000  # counted by a pixel at white: a small sensor in good light
READ_NOISE = 3  # photons, standard deviation of the sensor's electronics
EYE_LEVEL = 0.4  # of the height, from above


class Corruption(NamedTuple):
    """A kind of corruption."""

    severities: tuple[float, ...]  # from mild to severe
    text: str  # description, with a placeholder for the severity
    lowest: float  # severity
    highest: float
    whole: bool  # the severity is a whole number
    apply: Callable[[Tensor, float, list[np.random.Generator]], Tensor]  # may overwrite the images


def linear_light(values: Tensor) -> Tensor:
    """Linear light in [0, 1] of sRGB values in [0, 1] (IEC 61966-2-1)."""
    return torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_values(light: Tensor) -> Tensor:
    """SRGB values in [0, 1] of linear light in [0, 1], the inverse of `linear_light`."""
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _blurred(images: Tensor, percent: float, _: list[np.random.Generator]) -> Tensor:
    sigma, side = percent / 100 * images.shape[-1], images.shape[-1]
    width = 2 * min(round(3 * sigma), side - 1) + 1  # the border is mirrored, up to one side
    blurred: Tensor = F.gaussian_blur(images, [width, width], [sigma, sigma])
    return blurred


def _compressed(images: Tensor, quality: float, _: list[np.random.Generator]) -> Tensor:
    found = []
    for image in images:
        file = io.BytesIO()
        F.to_pil_image(image).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as compressed:
            found.append(F.pil_to_tensor(compressed))
    return torch.stack(found)


def _standard_normal(images: Tensor, rngs: list[np.random.Generator]) -> Tensor:
    return torch.from_numpy(np.stack([rng.standard_normal(images.shape[1:]) for rng in rngs]))


def _darkened(images: Tensor, factor: float, rngs: list[np.random.Generator]) -> Tensor:
    """Divide the light, then count the remaining photons with shot noise and read noise."""
    photons = linear_light(images.double() / 255) / factor * WHITE_PHOTONS
    photons = photons + _standard_normal(images, rngs) * (photons + READ_NOISE**2).sqrt()
    return (255 * srgb_values((photons / WHITE_PHOTONS).clamp(0, 1))).round().to(torch.uint8)


def _noisy(images: Tensor, sigma: float, rngs: list[np.random.Generator]) -> Tensor:
    return (images + sigma * _standard_normal(images, rngs)).round().clamp(0, 255).to(torch.uint8)


def _masked(images: Tensor, percent: float, _: list[np.random.Generator]) -> Tensor:
    side = images.shape[-1]
    images[..., side - round(percent / 100 * side) :, :] = 128
    return images


def _behind_glasses(images: Tensor, percent: float, _: list[np.random.Generator]) -> Tensor:
    side = images.shape[-1]
    height = round(percent / 100 * side)
    top = max(0, round(EYE_LEVEL * side - height / 2))
    images[..., top : top + height, :] = 20
    return images


def _shrunk(images: Tensor, side: float, _: list[np.random.Generator]) -> Tensor:
    if side >= images.shape[-1]:
        return images
    small = F.resize(images, [int(side), int(side)], InterpolationMode.BILINEAR, antialias=True)
    restored: Tensor = F.resize(small, list(images.shape[-2:]), InterpolationMode.BICUBIC, antialias=True)
    return restored


def _rotated(images: Tensor, degrees: float, _: list[np.random.Generator]) -> Tensor:
    side = images.shape[-1]
    padded = F.pad(images, [side // 2] * 4, padding_mode="edge")  # as far as corners can move
    rotated: Tensor = F.center_crop(F.rotate(padded, degrees, InterpolationMode.BILINEAR), [side, side])
    return rotated


CORRUPTIONS = {
    "blur": Corruption((1, 2, 3, 4), "Gaussian blur, sigma {:g} % of the side", 0, 100, False, _blurred),
    "jpeg": Corruption((50, 30, 20, 10, 5), "JPEG of quality {:g}", 1, 95, True, _compressed),
    "low light": Corruption((2, 4, 8, 16), "light divided by {:g}, with the sensor's noise", 1, 1000, False, _darkened),
    "noise": Corruption((5, 10, 20, 40), "Gaussian noise, sigma {:g} of 255", 0, 255, False, _noisy),
    "mask": Corruption((25, 35, 45), "lowest {:g} % covered", 0, 100, False, _masked),
    "glasses": Corruption((10, 20, 30), "band of {:g} % over the eyes covered", 0, 100, False, _behind_glasses),
    "resolution": Corruption((64, 32, 24, 16), "shrunk to {:g} pixels and back", 2, math.inf, True, _shrunk),
    "rotation": Corruption((5, 10, 20, 30), "turned by {:g} degrees", -180, 180, False, _rotated),
}


def _checked(kind: str, severity: float) -> Corruption:
    """Look up a kind, and check its severity; zero is always valid."""
    if kind not in CORRUPTIONS:
        raise InputError(f"The corruption must be one of {', '.join(CORRUPTIONS)}, got {kind!r}.")
    found = CORRUPTIONS[kind]
    fits = found.lowest <= severity <= found.highest and not (found.whole and severity % 1)
    if severity != 0 and not fits:
        numbers = "a whole number" if found.whole else "a number"
        limit = (
            f"of {found.lowest:g} or more" if math.isinf(found.highest) else f"{found.lowest:g} ... {found.highest:g}"
        )
        raise InputError(f"The severity of {kind} must be {numbers} {limit}, or 0 for none, got {severity}.")
    return found


def corrupt(images: Tensor, kind: str, severity: float, seed: int = 0, first: int = 0) -> Tensor:
    """Corrupt faces; a face in one place of the data set is corrupted alike in any batch.

    Args:
        images: (N,3,S,S) uint8; they are not changed.
        kind: one of `CORRUPTIONS`.
        severity: in the unit of the kind; zero changes nothing.
        seed: of the noise, >= 0.
        first: place of the first image in the data set, >= 0; the noise of an image depends on `seed` and its place.

    Returns:
        (N,3,S,S) uint8, a contiguous copy.

    Raises:
        InputError: an unknown kind, a severity outside its range, images of another type or shape, a negative seed or
            place.
    """
    corruption = _checked(kind, severity)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise InputError(f"The faces are {images.dtype} of shape {tuple(images.shape)}: give (N,3,S,S) uint8.")
    if min(seed, first) < 0:
        raise InputError(f"The seed is {seed} and the first place {first}: give numbers of 0 or more.")
    faces = images.clone(memory_format=torch.contiguous_format)
    if severity == 0 or not faces.numel():
        return faces
    # A pair of numbers seeds without collisions, which a sum of both would have.
    rngs = [np.random.default_rng((seed, first + row)) for row in range(len(faces))]
    return corruption.apply(faces, severity, rngs).contiguous()


def describe_corruption(kind: str, severity: float) -> str:
    """Describe a corruption, for tables.

    Raises:
        InputError: an unknown kind, or a severity outside its range.
    """
    return _checked(kind, severity).text.format(severity) if severity else "undamaged"
