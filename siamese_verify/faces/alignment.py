"""Face alignment: crop and scale a face to the square input of an encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces.detector import DETECTORS, Face
from siamese_verify.faces.rotation import Box, Point, crop_rotated, rotate_photo, rotated_size, to_photo
from siamese_verify.structures import Crop, InputSpec, Photos

VERSIONS = {
    "whole": 1,
    "center": 1,
    "box": 1,
    "five_point": 1,
    "eyes_and_nose": 2,
    "none": 1,
}  # incremented with any change of a crop's pixels

# Left eye, right eye, nose, left and right corner of the mouth in ArcFace's 112 x 112 crop (Deng et al., "ArcFace",
# CVPR 2019; the numbers of its authors' code, in coordinates that are whole at the center of a pixel).
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
TEMPLATE_SIZE = 112

# Centers of the left and right eye, each the mean of its six points, and base of the nose in OpenFace's crop, in shares
# of its side. Amos et al., "OpenFace", CMU-CS-16-118, 2016; the numbers of `AlignDlib.MINMAX_TEMPLATE`.
EYES_AND_NOSE = ((0.2774, 0.1673), (0.7061, 0.1590), (0.4950, 0.5144))
# How far it is from the tip of the nose to the middle of the mouth: chosen on the training pairs of LFW's View 1, where
# MTCNN's landmarks give an EER of 8.6, 6.2, 6.1 and 6.6 % for 0, 0.28, 0.35 and 0.43, which is that of the template.
BASE_OF_NOSE = 0.35


def alignment_name(crop: Crop) -> str:
    """Name and version of an alignment, such as `box-1 after mtcnn-4`: equal names give equal pixels."""
    name = f"{crop.kind}-{VERSIONS[crop.kind]}"
    return f"{name} after {DETECTORS[crop.detector].identifier}" if crop.needs_face else name


def crop_face(photo: Image.Image, spec: InputSpec, face: Face | None = None, degrees: float = 0) -> Image.Image:
    """Crop and scale a face as an encoder's input specification says.

    `box` crops follow facenet-pytorch's `extract_face` to the pixel, since pretrained weights depend on it: the box is
    widened by `margin` (counted in pixels of the finished crop), clipped to the photo, and scaled to a square.

    Args:
        photo: RGB.
        spec: size and crop.
        face: needed for `box`, `five_point` and `eyes_and_nose` crops, in pixels of the rotated photo.
        degrees: by which the photo has to be rotated counter-clockwise first.

    Returns:
        RGB image of `spec.size` x `spec.size`.

    Raises:
        InputError: a crop of a face without one; a crop of the kind `none`.
    """
    if not spec.is_photo:
        raise InputError(f"This encoder takes arrays of shape {spec.shape}, not photos.")
    if degrees % 90 == 0:
        photo, degrees = rotate_photo(photo, degrees), 0
    width, height = rotated_size(photo.size, degrees)
    size, crop = spec.size, spec.crop
    region: Box = (0, 0, width, height)
    if crop.kind == "center":
        region = central_square(width, height, crop.fraction)
    elif crop.needs_face:
        if face is None:
            raise InputError(f"A {crop.kind} crop needs a detected face, got none: find it by FaceFinder first.")
        if crop.kind in ("five_point", "eyes_and_nose"):
            align = five_point if crop.kind == "five_point" else eyes_and_nose
            return align(photo, to_photo(face.landmarks, photo.size, degrees), size, crop.resample)
        left, top, right, bottom = squared(face.box) if crop.square else face.box
        across = crop.margin * (right - left) / (size - crop.margin) / 2
        down = crop.margin * (bottom - top) / (size - crop.margin) / 2
        region = (
            int(max(left - across, 0)),
            int(max(top - down, 0)),
            int(min(right + across, width)),
            int(min(bottom + down, height)),
        )
    cut = crop_rotated(photo, degrees, region) if degrees else photo.crop(region)
    return cut.resize((size, size), Image.Resampling[crop.resample.upper()])


def central_square(width: int, height: int, fraction: float) -> Box:
    """Box of the central square whose side is `fraction` of the shorter side, in whole pixels."""
    side = max(1, round(min(width, height) * fraction))
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def squared(box: Box) -> Box:
    """The square around the same center with the longer of both sides."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return (x - half, y - half, x + half, y + half)


def five_point(photo: Image.Image, landmarks: Sequence[Point], size: int, resample: str = "bilinear") -> Image.Image:
    """Align five landmarks to ArcFace's template by the least-squares similarity transform.

    Args:
        photo: RGB.
        landmarks: five, in the order of `TEMPLATE`, in pixels of the photo.
        size: of the square; the template grows with it.
        resample: `bilinear` or `bicubic`; other filters cannot rotate, and give bicubic.

    Returns:
        RGB image of `size` x `size`, black beyond the photo.
    """
    target = (np.array(TEMPLATE) + 0.5) * size / TEMPLATE_SIZE
    return warp(photo, similarity(target, np.array(landmarks, dtype=np.float64) + 0.5), size, resample)


def eyes_and_nose(photo: Image.Image, landmarks: Sequence[Point], size: int, resample: str = "bilinear") -> Image.Image:
    """Align eyes and nose to OpenFace's template by the affine transform of three points.

    OpenFace maps the outer corners of the eyes and the base of the nose, three of dlib's 68 points. Of five landmarks,
    the centers of the eyes stand for the corners, since an affine transform that is right for the ones is right for the
    others on the line through them, and the base of the nose lies between its tip and the middle of the mouth.

    Args:
        photo: RGB.
        landmarks: five, see `five_point`.
        size: of the square; the template grows with it.
        resample: see `five_point`.

    Returns:
        RGB image of `size` x `size`, black beyond the photo.
    """
    left, right, tip, *mouth = np.array(landmarks, dtype=np.float64) + 0.5
    base = tip + BASE_OF_NOSE * (np.mean(mouth, axis=0) - tip)
    target = np.column_stack([np.array(EYES_AND_NOSE) * size + 0.5, np.ones(3)])
    matrix = np.linalg.lstsq(target, np.stack([left, right, base]), rcond=None)[0].T
    return warp(photo, matrix, size, resample)


def warp(photo: Image.Image, matrix: NDArray[np.float64], size: int, resample: str) -> Image.Image:
    """Image of `size` x `size` by a (2,3) affine transform from it into a photo, black beyond the photo."""
    finer = max(1, math.floor(math.hypot(*matrix[:, 0])))  # photo pixels for one of the crop: averaged, not skipped
    steps = np.array([1 / finer, 1 / finer, 1])
    rotation = Image.Resampling.BILINEAR if resample == "bilinear" else Image.Resampling.BICUBIC
    side = size * finer
    aligned = photo.transform((side, side), Image.Transform.AFFINE, tuple((matrix * steps).ravel()), rotation)
    return aligned.reduce(finer) if finer > 1 else aligned


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares similarity transform between two sets of points; never a reflection.

    Args:
        source: (N,2), not all in one place.
        target: (N,2).

    Returns:
        (2,3) matrix [sR | t].

    Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two Point Patterns", PAMI 1991, eq. 40-42.
    """
    from_center, to_center = source.mean(axis=0), target.mean(axis=0)
    x, y = source - from_center, target - to_center
    u, singular, v = np.linalg.svd(y.T @ x)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v)) or 1.0])
    linear = (u * signs) @ v * ((singular * signs).sum() / (x**2).sum())
    return np.concatenate([linear, (to_center - linear @ from_center)[:, None]], axis=1)


def spec_for(photos: Photos, spec: InputSpec) -> InputSpec:
    """The input specification for photos: the encoder's, or a `whole` crop if they were aligned for it before.

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
    """The settings that decide which part of a photo a crop shows, whatever its size."""
    crop = spec.crop
    if crop.kind == "box":
        return crop.kind, round(crop.margin / spec.size, 6), crop.square
    return (crop.kind, crop.fraction) if crop.kind == "center" else (crop.kind,)


def describe(spec: InputSpec) -> str:
    """An input specification in words, such as `box of 160 pixels, margin 32`."""
    if not spec.is_photo:
        return f"arrays of shape {spec.shape}"
    crop = spec.crop
    details = [f"{crop.kind} of {spec.size} pixels"]
    details += [f"margin {crop.margin:g}"] * (crop.kind == "box") + ["square"] * (crop.kind == "box" and crop.square)
    return ", ".join([*details, *[f"fraction {crop.fraction:g}"] * (crop.kind == "center")])
