"""Random augmentation of face images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import decode_jpeg, encode_jpeg

from siamese_verify.data import batched_changes
from siamese_verify.errors import InputError
from siamese_verify.pairwise.blocks import copied_ahead

LUMA = np.array(batched_changes.LUMA, dtype=np.float32)

Range = tuple[float, float]


class Draws(NamedTuple):
    """What changes each of N images of S pixels; tensors of the CPU."""

    boxes: Tensor  # (N,4) int32 top, left, height and width of the part that is kept
    flipped: Tensor  # (N,) bool
    linear: Tensor  # (N,3,3) map of brightness and saturation
    contrast: Tensor  # (N,)
    sigma: Tensor  # (N,) of the blur in pixels, 0 = none
    covers: Tensor  # (N,4) int32 top, left, height and width of what is covered, 0 = nothing
    gray: Tensor  # (N,) int64 of the cover
    quality: Tensor  # (N,) int32 of the JPEG, 0 = none
    degrees: Tensor  # (N,) of a rotation, clockwise


class FaceAugmentation:
    """Random rotation, flip, crop, color, blur, occlusion and JPEG compression, drawn for each image.

    The same changes as torchvision's transforms of these names, several times as fast: all draws of a batch at once,
    and the three color changes as one linear map, rounded and clipped once instead of three times.

    Args:
        flip: probability of mirroring.
        scale: range of the share of the area that a random crop keeps; (1, 1) crops nothing.
        ratio: range of the width over the height of that crop, before it is stretched to a square.
        brightness: x draws factors from 1 - x ... 1 + x; likewise `contrast`, around the mean gray, and `saturation`.
        contrast: see `brightness`.
        saturation: see `brightness`.
        grayscale: probability of removing all color.
        blur: probability of a Gaussian blur.
        sigma: range of its standard deviation, in shares of the image's side.
        occlusion: probability of covering a rectangle with one random gray.
        cover: range of the share of the area that is covered.
        jpeg: probability of JPEG compression.
        quality: range of its quality.
        rotation: most degrees of a rotation to either side, which comes first; the border is continued.

    Raises:
        InputError: a probability outside [0, 1], or an invalid range.

    Attributes:
        on_any_device: whether it changes batches where they are, by random numbers of the CPU.
    """

    on_any_device = True

    def __init__(
        self,
        flip: float = 0.5,
        scale: Range = (0.7, 1.0),
        ratio: Range = (0.9, 1.1),
        brightness: float = 0.3,
        contrast: float = 0.3,
        saturation: float = 0.3,
        grayscale: float = 0.0,
        blur: float = 0.0,
        sigma: Range = (0.005, 0.02),
        occlusion: float = 0.5,
        cover: Range = (0.05, 0.3),
        jpeg: float = 0.0,
        quality: tuple[int, int] = (30, 90),
        rotation: float = 0.0,
    ) -> None:
        if not 0 <= rotation <= 180:
            raise InputError(f"rotation of an augmentation must be in 0 ... 180 degrees, got {rotation}.")
        shares = {"flip": flip, "grayscale": grayscale, "blur": blur, "occlusion": occlusion, "jpeg": jpeg}
        shares |= {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InputError(f"{name} of an augmentation must be in 0 ... 1, got {share}.")
        most = {"scale": (scale, 1.0), "ratio": (ratio, math.inf), "sigma": (sigma, math.inf), "cover": (cover, 1.0)}
        for name, (bounds, limit) in {**most, "quality": (quality, 100.0)}.items():
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= limit:
                raise InputError(
                    f"{name} of an augmentation must be a range [least, most] within 0 ... {limit}, got {bounds}."
                )
        self.flip, self.scale, self.ratio = flip, (scale[0], scale[1]), (ratio[0], ratio[1])
        self.brightness, self.contrast, self.saturation, self.grayscale = brightness, contrast, saturation, grayscale
        self.blur, self.sigma, self.occlusion, self.cover = blur, sigma, occlusion, cover
        self.jpeg, self.quality, self.rotation = jpeg, quality, rotation

    def __call__(self, images: Tensor) -> Tensor:
        """Augment (N,3,S,S) uint8 images, each with draws of its own.

        Raises:
            InputError: they are of another shape or type.
        """
        if images.dtype != torch.uint8 or images.shape[1:] != (3, *images.shape[-1:] * 2):
            raise InputError(
                f"FaceAugmentation takes (N,3,S,S) uint8 images, got {images.dtype} of shape {tuple(images.shape)}: "
                "set augmentation=none, or a transform of yours."
            )
        draws = self.draw(len(images), images.shape[-1])
        return self.apply_each(images, draws) if images.device.type == "cpu" else self.apply_batched(images, draws)

    def draw(self, count: int, side: int) -> Draws:
        """Draw what changes N images of S pixels, from torch's generator of the CPU."""
        boxes = self._crop_boxes(count, side)
        flipped = torch.rand(count) < self.flip
        linear, contrast = self._color_maps(count)
        blurred = torch.rand(count) < self.blur
        sigma = _between(count, self.sigma) * side * blurred
        covers = self._covers(count, side)
        gray = torch.randint(0, 256, (count,))
        compressed = torch.rand(count) < self.jpeg
        quality = _between(count, self.quality).round().int() * compressed
        degrees = _between(count, (-self.rotation, self.rotation)) if self.rotation else torch.zeros(count)
        return Draws(boxes, flipped, linear, contrast, sigma, covers, gray, quality, degrees)

    def apply_each(self, images: Tensor, draws: Draws) -> Tensor:
        """Change (N,3,S,S) uint8 images one by one: the fastest on a CPU."""
        side = images.shape[-1]
        if self.rotation:
            images = batched_changes.rotate(images.float(), draws.degrees).to(torch.uint8)
        out = torch.empty_like(images, memory_format=torch.channels_last)
        boxes, covers = draws.boxes.tolist(), draws.covers.tolist()
        flipped, grays = draws.flipped.tolist(), draws.gray.tolist()
        sigmas, qualities = draws.sigma.tolist(), draws.quality.tolist()
        linear, contrasts = draws.linear.numpy(), draws.contrast.tolist()
        buffer = np.empty((2, side * side, 3), dtype=np.float32)
        for row in range(len(images)):
            top, left, height, width = boxes[row]
            image = images[row, :, top : top + height, left : left + width]
            if (height, width) != (side, side):
                image = F.interpolate(image[None], (side, side), mode="bilinear", antialias=True)[0]
            if flipped[row]:
                image = image.flip(2)
            if self.maps_colors:
                image = map_colors(image, linear[row], contrasts[row], buffer)
            if sigmas[row]:
                image = gaussian_blur(image, sigmas[row])
            top, left, height, width = covers[row]
            if height:
                image = image.clone()  # it may be the caller's
                image[:, top : top + height, left : left + width] = grays[row]
            if qualities[row]:
                image = decode_jpeg(encode_jpeg(image.contiguous(), qualities[row]))
            out[row] = image
        return out

    def apply_batched(self, images: Tensor, draws: Draws) -> Tensor:
        """Change (N,3,S,S) uint8 images all at once, on their device and without waiting for it.

        The result is that of `apply_each` but for roundings: see `siamese_verify.data.batched_changes`.
        """
        device, out = images.device, images.float()
        numbers = torch.cat([part.float().view(len(images), -1) for part in draws], dim=1)  # (N,23)
        sizes = [part[0].numel() for part in draws]
        parts = torch.split(copied_ahead(numbers, device), sizes, dim=1)
        boxes, (flipped, contrast, sigma, gray, quality) = parts[0], (parts[place][:, 0] for place in (1, 3, 4, 6, 7))
        if self.rotation:
            out = batched_changes.rotate(out, parts[8][:, 0])
        if self.scale != (1.0, 1.0) or self.flip:
            out = batched_changes.crop(out, boxes, flipped)
        if self.maps_colors:
            out = batched_changes.map_colors_of_each(out, parts[2].view(-1, 3, 3), contrast)
        if len(rows := draws.sigma.nonzero()[:, 0]):
            rows = copied_ahead(rows, device)
            largest = self.sigma[1] * images.shape[-1]
            out = out.index_copy(0, rows, batched_changes.blur(out[rows], sigma[rows], largest))
        if self.occlusion:
            out = batched_changes.cover(out, parts[5], gray)
        if len(rows := draws.quality.nonzero()[:, 0]):
            rows = copied_ahead(rows, device)
            out = out.index_copy(0, rows, batched_changes.compress(out[rows], quality[rows]))
        return out.to(torch.uint8, memory_format=torch.channels_last)

    def _crop_boxes(self, count: int, side: int) -> Tensor:
        """(N,4) int32 top, left, height and width of each image's crop."""
        area = _between(count, self.scale)
        ratio = torch.exp(_between(count, (math.log(self.ratio[0]), math.log(self.ratio[1]))))
        if self.scale == (1.0, 1.0):
            ratio = torch.ones(count)
        return _boxes(area, ratio, side)

    def _covers(self, count: int, side: int) -> Tensor:
        """(N,4) int32 top, left, height and width of the covered rectangle of each image, 0 of those without."""
        occluded = torch.rand(count) < self.occlusion
        area = _between(count, self.cover)
        ratio = torch.exp(_between(count, (-math.log(3), math.log(3))))
        return _boxes(area, ratio, side) * occluded[:, None]

    @property
    def maps_colors(self) -> bool:
        """Whether any color is changed."""
        return bool(self.brightness or self.contrast or self.saturation or self.grayscale)

    def _color_maps(self, count: int) -> tuple[Tensor, Tensor]:
        """(N,3,3) maps of brightness and saturation, and (N,) contrasts."""
        if not self.maps_colors:
            return torch.eye(3).expand(count, 3, 3), torch.ones(count)
        brightness, contrast, saturation = (
            _between(count, (1 - strength, 1 + strength))
            for strength in (self.brightness, self.contrast, self.saturation)
        )
        own = torch.where(torch.rand(count) < self.grayscale, 0, saturation)[:, None, None]
        mixed = own * torch.eye(3) + (1 - own) * torch.from_numpy(LUMA)  # rows: mixtures of the own channel and gray
        return mixed * brightness[:, None, None], contrast


def map_colors(image: Tensor, linear: NDArray[np.float32], contrast: float, buffer: NDArray[np.float32]) -> Tensor:
    """Map the colors of a (3,S,S) uint8 image by a (3,3) matrix, then change the contrast around the mean gray.

    `buffer`, (2,S*S,3), is overwritten: allocating memory for each image would take longer than the work.
    """
    side = image.shape[-1]
    pixels, mapped = buffer
    pixels.reshape(side, side, 3)[:] = image.permute(1, 2, 0).numpy()
    mean = np.full(len(pixels), 1 / len(pixels), dtype=np.float32) @ pixels  # (3,), twenty times as fast as np.mean
    shift = (1 - contrast) * float(LUMA @ (linear @ mean))
    np.matmul(pixels, (contrast * linear).T.astype(np.float32), out=mapped)
    mapped += np.float32(shift + 0.5)  # the conversion below truncates: together they round
    np.clip(mapped, 0, 255, out=mapped)
    return torch.from_numpy(mapped.astype(np.uint8).reshape(side, side, 3)).permute(2, 0, 1)


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur a (3,S,S) uint8 image with a Gaussian of `sigma` pixels."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(sigma))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _boxes(area: Tensor, ratio: Tensor, side: int) -> Tensor:
    """(N,4) int32 top, left, height and width of rectangles within S pixels, by their share and ratio of sides."""
    count = len(area)
    height = ((area / ratio).sqrt() * side).round().clamp(1, side).int()
    width = ((area * ratio).sqrt() * side).round().clamp(1, side).int()
    top, left = (torch.rand(count) * (side - height + 1)).int(), (torch.rand(count) * (side - width + 1)).int()
    return torch.stack([top, left, height, width], dim=1)


def _between(count: int, bounds: tuple[float, float]) -> Tensor:
    return torch.rand(count) * (bounds[1] - bounds[0]) + bounds[0]


class EachImage:
    """Any torchvision transform of single images, applied to each image of a batch.

    Args:
        transform: of one (3,S,S) uint8 image.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, images: Tensor) -> Tensor:
        """Transform (N,3,S,S) uint8 images, one after the other."""
        return torch.stack([self.transform(image) for image in images])
