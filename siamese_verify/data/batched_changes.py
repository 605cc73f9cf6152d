"""The changes of a `FaceAugmentation`, for whole batches on any device, without waiting for it.

Each takes and gives (N,3,S,S) float32 whole numbers in 0 ... 255, as the changes of single images do, whose roundings
they share: what comes out is the same to 3 of 255 levels, half a level in the mean. Behind JPEG a coefficient that lies
between two of its steps may be rounded to the other one: 1.5 levels in the mean, and in one pixel of ten more than 3.
"""

from __future__ import annotations

import functools
import io
import math
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)
BLOCK = 8  # pixels of a side, that JPEG transforms together
PASSES = 3  # of a box, which Pillow blurs with


def rounded(images: Tensor) -> Tensor:
    """The nearest levels."""
    return (images + 0.5).floor_().clamp_(0, 255)


def crop(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Enlarge a part of each image to its whole side by bilinear interpolation, and mirror some.

    Args:
        images: see above.
        boxes: (N,4) top, left, height and width in pixels.
        flipped: (N,) above 0 = mirrored.
    """
    side = images.shape[-1]
    steps = (torch.arange(side, device=images.device) + 0.5) / side  # (S,) shares of the box
    top, left, height, width = boxes[:, :, None].unbind(1)  # (N,1)
    places = torch.where(flipped[:, None] > 0, 1 - steps, steps)
    rows = torch.clamp(top + steps * height - 0.5, top, top + height - 1)  # (N,S), within the box
    columns = torch.clamp(left + places * width - 0.5, left, left + width - 1)
    shape = (len(images), side, side)
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=3)
    grid = grid * (2 / max(side - 1, 1)) - 1
    return rounded(F.grid_sample(images, grid, padding_mode="border", align_corners=True))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each image around its center, (N,) degrees clockwise, by bilinear interpolation."""
    sine, cosine = torch.sin(torch.deg2rad(degrees)), torch.cos(torch.deg2rad(degrees))
    zero = torch.zeros_like(sine)
    matrix = torch.stack([cosine, sine, zero, -sine, cosine, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return rounded(F.grid_sample(images, grid, padding_mode="border", align_corners=False))


def map_colors_of_each(images: Tensor, linear: Tensor, contrast: Tensor) -> Tensor:
    """Map colors by (N,3,3) matrices, then change the contrast, (N,), around the mean gray."""
    mean = images.mean(dim=(2, 3))  # (N,3)
    gray = torch.einsum("i,nij,nj->n", constant(LUMA, images.device), linear, mean)
    mapped = torch.einsum("nij,njhw->nihw", contrast[:, None, None] * linear, images)
    return rounded(mapped + ((1 - contrast) * gray)[:, None, None, None])


def blur(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur as Pillow does, with an extended box in three passes whose variance is that of a Gaussian.

    Args:
        images: see above.
        sigma: (N,) standard deviations in pixels, above 0.
        largest: none is larger.

    Gwosdek, Grewenig, Bruhn & Weickert, "Theoretical Foundations of Gaussian Convolution by Extended Box Filtering",
    SSVM 2011, eq. 7, 11 and 14.
    """
    side = images.shape[-1]
    variance = sigma**2 / PASSES
    whole = ((torch.sqrt(12 * variance + 1) - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    radius = (whole + part)[:, None, None]  # (N,1,1), of the box
    beyond = math.ceil((math.sqrt(4 * largest**2 + 1) + 1) / 2)  # the largest radius, rounded up
    place = torch.arange(side, device=images.device)
    source = torch.arange(-beyond, side + beyond, device=images.device)
    away = (place[:, None] - source).abs()  # (S,S+2R)
    weights = torch.clamp(radius + 1 - away, 0, 1) / (2 * radius + 1)  # (N,S,S+2R)
    box = weights[..., beyond:-beyond].clone()  # (N,S,S): the border is continued
    box[..., 0] += weights[..., :beyond].sum(dim=2)
    box[..., -1] += weights[..., -beyond:].sum(dim=2)
    kernel = (box @ box @ box)[:, None]  # (N,1,S,S)
    return rounded(kernel @ images @ kernel.mT)


def cover(images: Tensor, boxes: Tensor, gray: Tensor) -> Tensor:
    """Cover a rectangle of each image, (N,4) top, left, height and width, 0 for none, with a gray of (N,)."""
    place = torch.arange(images.shape[-1], device=images.device)
    top, left, height, width = boxes[:, :, None].unbind(1)  # (N,1)
    rows, columns = (place >= top) & (place < top + height), (place >= left) & (place < left + width)  # (N,S)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], gray[:, None, None, None], images)


def compress(images: Tensor, quality: Tensor) -> Tensor:
    """What JPEG of (N,) qualities in 1 ... 100 leaves of images: 8 x 8 blocks, colors of half the resolution.

    As libjpeg computes it, but for the last digit of its cosine transforms: ITU-T T.81, annexes A and K.
    """
    side = images.shape[-1]
    more = -side % (2 * BLOCK)
    planes = torch.einsum(
        "ij,njhw->nihw", constant(TO_YCC, images.device), F.pad(images, (0, more, 0, more), "replicate")
    )
    brightness, colors = (planes[:, :1]).round(), (planes[:, 1:] + 128).round()
    alternate = torch.arange(colors.shape[-1] // 2, device=images.device) % 2
    colors = (F.avg_pool2d(colors, 2) + (alternate + 1) / 4).floor()
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)[:, None, None]
    steps = ((quantization(images.device)[:, None] * scale + 50) / 100).floor().clamp(1, 255)  # (2,N,8,8)
    brightness, colors = quantized(brightness, steps[0]), quantized(colors, steps[1])
    half = -(-side // 2)
    colors = F.interpolate(colors[..., :half, :half], scale_factor=2, mode="bilinear")
    alternate = torch.arange(2 * half, device=images.device) % 2
    colors = (colors + (8 - alternate) / 16).floor() - 128
    planes = torch.cat([brightness[..., :side, :side], colors[..., :side, :side]], dim=1)
    return rounded(torch.einsum("ij,njhw->nihw", constant(FROM_YCC, images.device), planes))


def quantized(planes: Tensor, steps: Tensor) -> Tensor:
    """(N,C,H,W) planes whose cosine transform, in 8 x 8 blocks, is rounded to multiples of (N,8,8) steps."""
    count, channels, height, width = planes.shape
    cosines = cosine_transform(planes.device)
    blocks = (planes - 128).view(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    steps = steps[:, None, None, None]
    found = (cosines @ blocks @ cosines.T * 8).round() / 8 / steps  # libjpeg's are whole eighths
    found = found.sign() * (found.abs() + 0.5).floor() * steps  # halves away from zero
    return rounded((cosines.T @ found @ cosines).transpose(3, 4).reshape(planes.shape) + 128)


TO_YCC = (LUMA, (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
FROM_YCC = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


# Constants are sent to a device once: a copy in a step would wait for it.
@functools.cache
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Nested numbers on a device."""
    return torch.tensor(values, dtype=torch.float32, device=device)


@functools.cache
def cosine_transform(device: torch.device) -> Tensor:
    """(8,8) orthonormal matrix of the discrete cosine transform (DCT-II)."""
    place = torch.arange(BLOCK, dtype=torch.float64)
    cosines = torch.cos(math.pi / BLOCK * (place + 0.5) * place[:, None]) * math.sqrt(2 / BLOCK)
    cosines[0] /= math.sqrt(2)
    return cosines.float().to(device)


@functools.cache
def quantization(device: torch.device) -> Tensor:
    """(2,8,8) JPEG's usual steps, of brightness and colors, which quality 50 takes as they are."""
    file = io.BytesIO()
    Image.new("RGB", (BLOCK, BLOCK)).save(file, "JPEG", quality=50)
    with Image.open(file) as image:
        tables = image.quantization  # type: ignore[attr-defined]
    return torch.tensor([tables[0], tables[1]], dtype=torch.float32, device=device).view(2, BLOCK, BLOCK)
