"""Photo and face -> the square that an encoder sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces.detector import (
    Box,
    Choice,
    Face,
    FaceDetector,
    Point,
    part,
    rotate_photo,
    rotated_size,
    to_photo,
)
from siamese_verify.structures import Crop, InputSpec, Photos

VERSIONS = {"whole": 1, "center": 1, "box": 1, "five_point": 1}  # to be counted up with any change of a crop's pixels

# Where ArcFace's 112 x 112 crop has left eye, right eye, nose, left and right corner of the mouth (Deng et al.,
# "ArcFace", CVPR 2019; the numbers of its authors' code, in coordinates that are whole at the centre of a pixel).
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
TEMPLATE_SIZE = 112


def alignment_name(crop: Crop) -> str:
    """Name and version of the way a face is cut, as in `box-1 after mtcnn-2`: same name, same pixels."""
    name = f"{crop.kind}-{VERSIONS[crop.kind]}"
    return f"{name} after {FaceDetector.identifier}" if crop.needs_face else name


def crop_face(photo: Image.Image, spec: InputSpec, face: Face | None = None, degrees: float = 0) -> Image.Image:
    """Cut and scale a face as the encoder's input says.

    `box` crops follow facenet-pytorch's `extract_face` to the pixel, since pretrained weights depend on it: the box is
    widened by `margin` (counted in pixels of the finished crop), clipped to the photo, and scaled to a square.

    Args:
        photo: RGB.
        spec: size and crop.
        face: of a `box` or `five_point` crop; without one it is the central square.
        degrees: by which the photo has to be turned counter-clockwise first; the face lies in the turned photo.

    Returns:
        RGB image of `spec.size` x `spec.size`.
    """
    if degrees % 90 == 0:
        photo, degrees = rotate_photo(photo, degrees), 0
    width, height = rotated_size(photo.size, degrees)
    size, crop = spec.size, spec.crop
    if crop.kind == "five_point" and face is not None:
        return five_point(photo, to_photo(face.landmarks, photo.size, degrees), size, crop.resample)
    region: Box
    if crop.kind == "whole":
        region = (0, 0, width, height)
    elif crop.kind == "box" and face is not None:
        left, top, right, bottom = squared(face.box) if crop.square else face.box
        across = crop.margin * (right - left) / (size - crop.margin) / 2
        down = crop.margin * (bottom - top) / (size - crop.margin) / 2
        region = (
            int(max(left - across, 0)),
            int(max(top - down, 0)),
            int(min(right + across, width)),
            int(min(bottom + down, height)),
        )
    else:
        region = central_square(width, height, crop.fraction)
    cut = part(photo, degrees, region) if degrees else photo.crop(region)
    return cut.resize((size, size), Image.Resampling[crop.resample.upper()])


def central_square(width: int, height: int, fraction: float) -> Box:
    """Box of the central square whose side is `fraction` of the shorter side, in whole pixels."""
    side = max(1, round(min(width, height) * fraction))
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def squared(box: Box) -> Box:
    """The square with the same centre and the longer of both sides."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return (x - half, y - half, x + half, y + half)


def five_point(photo: Image.Image, landmarks: Sequence[Point], size: int, resample: str = "bilinear") -> Image.Image:
    """Turn, scale and shift a photo so that its landmarks come to lie as near as they can to ArcFace's template.

    Args:
        photo: RGB.
        landmarks: five, in the order of `TEMPLATE`, in pixels of the photo.
        size: of the square; the template grows with it.
        resample: `bilinear` or `bicubic`; other filters of Pillow's cannot turn, and give bicubic.

    Returns:
        RGB image of `size` x `size`, black beyond the photo.
    """
    target = (np.array(TEMPLATE) + 0.5) * size / TEMPLATE_SIZE
    matrix = similarity(target, np.array(landmarks, dtype=np.float64) + 0.5)  # from the crop into the photo
    finer = max(1, math.floor(math.hypot(*matrix[:, 0])))  # photo pixels for one of the crop: averaged, not skipped
    steps = np.array([1 / finer, 1 / finer, 1])
    turning = Image.Resampling.BILINEAR if resample == "bilinear" else Image.Resampling.BICUBIC
    side = size * finer
    turned = photo.transform((side, side), Image.Transform.AFFINE, tuple((matrix * steps).ravel()), turning)
    return turned.reduce(finer) if finer > 1 else turned


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation, scale and shift that brings points nearest to others, in least squares; never a reflection.

    Args:
        source: (N,2), not all in one place.
        target: (N,2).

    Returns:
        (2,3) matrix [sR | t].

    Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two Point Patterns", PAMI 1991, eq. 40-42.
    """
    from_centre, to_centre = source.mean(axis=0), target.mean(axis=0)
    x, y = source - from_centre, target - to_centre
    u, singular, v = np.linalg.svd(y.T @ x)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v)) or 1.0])
    linear = (u * signs) @ v * ((singular * signs).sum() / (x**2).sum())
    return np.concatenate([linear, (to_centre - linear @ from_centre)[:, None]], axis=1)


@dataclass(frozen=True)
class Alignment:
    """How faces are prepared.

    Attributes:
        spec: size and crop.
        choice: which of several faces is the subject, see `siamese_verify.faces.choose_face`.
        quality: of the JPEGs, 1 ... 100.
    """

    spec: InputSpec
    choice: Choice = "central"
    quality: int = 95

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise InputError(f"The quality of JPEGs lies in 1 ... 100, got {self.quality}.")
        if self.choice not in ("central", "largest", "probable"):
            raise InputError(f"Of several faces the central, largest or probable one is taken, not {self.choice!r}.")


def spec_for(photos: Photos, spec: InputSpec) -> InputSpec:
    """How photos are cut for an encoder: as it says, or not at all if they were aligned for it before.

    Raises:
        InputError: they were aligned in another way.
    """
    aligned: InputSpec | None = getattr(photos, "aligned", None)
    if aligned is None:
        return spec
    if geometry(aligned) != geometry(spec) or aligned.size < spec.size:
        raise InputError(
            f"These faces were aligned as {describe(aligned)}, but the encoder takes {describe(spec)}: prepare them "
            f"anew, or set data.crop and the encoder's crop to what they are."
        )
    return replace(spec, crop=Crop("whole", resample=spec.crop.resample))


def geometry(spec: InputSpec) -> tuple[object, ...]:
    """What decides which part of a photo a crop shows, whatever its size."""
    crop = spec.crop
    if crop.kind == "box":
        return crop.kind, round(crop.margin / spec.size, 6), crop.square
    return (crop.kind, crop.fraction) if crop.kind == "center" else (crop.kind,)


def describe(spec: InputSpec) -> str:
    """An input in words, as in `box of 160 pixels, margin 32`."""
    crop = spec.crop
    details = [f"{crop.kind} of {spec.size} pixels"]
    details += [f"margin {crop.margin:g}"] * (crop.kind == "box") + ["square"] * (crop.kind == "box" and crop.square)
    return ", ".join([*details, *[f"fraction {crop.fraction:g}"] * (crop.kind == "center")])
