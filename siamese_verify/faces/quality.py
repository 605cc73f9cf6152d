"""Quality of a face image: sharpness, size, pose, light, contrast, noise and tilt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from siamese_verify.faces.alignment import TEMPLATE, similarity

# An average face in millimeters: right, down and towards the viewer from the middle between the eyes. Landmarks are the
# detector's: left eye, right eye, nose, left and right corner of the mouth, as the viewer sees them.
AVERAGE_FACE = ((-32.0, 0.0, 0.0), (32.0, 0.0, 0.0), (0.0, 37.0, 28.0), (-25.0, 68.0, 6.0), (25.0, 68.0, 6.0))

BOUNDED_BELOW = {"sharpness", "size", "light", "contrast"}  # qualities that can be too low
BOUNDED_ABOVE = {"turn", "light", "noise", "roll"}  # or too high
HARMLESS_NOISE = 2.0  # misleads no model, though soft photos may have less; that of sharpening stays below 1
BLOCK, SMOOTH = 8, 0.25  # side of the blocks in which noise is estimated, and the quantile of the smoother ones
COMMON = 0.999  # share of the faces inside a limit of quality: a few bad ones must not widen it


class Quality(NamedTuple):
    """Quality of a face image, which decides whether it can be compared.

    Attributes:
        sharpness: see `sharpness`.
        size: shorter side of the face's box in the photo, in pixels; None without a detector.
        turn: see `turn_of`, in degrees; None without a detector.
        light: mean gray level of the crop, in [0, 1].
        contrast: standard deviation of the crop's gray levels, in [0, 0.5].
        noise: see `noise`, in gray levels.
        roll: angle by which the face is tilted, in degrees; None without a detector.
    """

    sharpness: float
    size: float | None
    turn: float | None
    light: float
    contrast: float
    noise: float = 0.0
    roll: float | None = None


def quality_of(
    crop: Image.Image,
    box: tuple[float, float, float, float] | None = None,
    landmarks: Sequence[tuple[float, float]] | None = None,
) -> Quality:
    """Measure the quality of a face image.

    Args:
        crop: input of the encoder, RGB.
        box: left, top, right, bottom in pixels of the photo.
        landmarks: five, in the order of `AVERAGE_FACE`.
    """
    gray = crop.convert("L")
    counts, levels = np.array(gray.histogram()), np.arange(256)
    pixels, total, squares = (int(counts @ levels**power) for power in range(3))
    return Quality(
        sharpness=_sharpness(gray),
        size=min(box[2] - box[0], box[3] - box[1]) if box else None,
        turn=turn_of(landmarks) if landmarks else None,
        light=total / (255 * pixels),
        contrast=math.sqrt(pixels * squares - total**2) / (255 * pixels),
        noise=_noise(gray),
        roll=abs(roll_of(landmarks)) if landmarks else None,
    )


def ranges_of(qualities: Sequence[Quality]) -> dict[str, tuple[float | None, float | None]]:
    """Limits of quality within which nearly all faces of a measurement lie.

    Args:
        qualities: of the faces that a model was measured on.

    Returns:
        Lowest and highest value by the names of `Quality`, None for no limit; empty without faces.
    """
    if not qualities:
        return {}
    limits: dict[str, tuple[float | None, float | None]] = {}
    for name in Quality._fields:
        values = [value for quality in qualities if (value := getattr(quality, name)) is not None]
        if not values:
            continue
        # Outwards to a value that occurs: of few faces, none may lie outside.
        low, high = (
            float(np.quantile(values, 1 - COMMON, method="lower")),
            float(np.quantile(values, COMMON, method="higher")),
        )
        high = max(high, HARMLESS_NOISE) if name == "noise" else high
        limits[name] = (low if name in BOUNDED_BELOW else None, high if name in BOUNDED_ABOVE else None)
    return limits


def quality_scores(qualities: Sequence[Quality]) -> dict[str, list[float]]:
    """Return each quality as numbers of which higher are better, by the names of `Quality`; NaN where unknown.

    Qualities that can be too high are negated. Those that can be too low and too high are distances from the median,
    negated.
    """
    found = {}
    for name in Quality._fields:
        values = np.array([getattr(one, name) for one in qualities], dtype=np.float64)
        if name in BOUNDED_ABOVE:
            known = values[~np.isnan(values)]
            middle = np.median(known) if name in BOUNDED_BELOW and len(known) else 0.0
            values = -np.abs(values - middle) if name in BOUNDED_BELOW else -values
        found[name] = values.tolist()
    return found


def sharpness(face: Image.Image) -> float:
    """Variance of the Laplacian of the gray levels, 0 for a uniform image; comparable among images of one size only.

    Pech-Pacheco et al., "Diatom Autofocusing in Brightfield Microscopy", ICPR
    2000.

    Args:
        face: RGB, 3 x 3 pixels or more.
    """
    return _sharpness(face.convert("L"))


def _sharpness(face: Image.Image) -> float:
    gray = np.asarray(face, dtype=np.int16)  # whole numbers: all that follows is exact
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * gray[1:-1, 1:-1]
    squares = np.square(laplacian, dtype=np.int64)  # not by `@`: BLAS would wake all its threads for it
    return (laplacian.size * int(squares.sum()) - int(laplacian.sum()) ** 2) / laplacian.size**2


def noise(face: Image.Image) -> float:
    """Standard deviation of the noise of an image, in gray levels.

    Noise is everywhere and detail is not: each small block is filtered by a mask that is blind to brightness and to
    straight edges, and the lower quartile of the blocks' estimates is taken. Immerkaer, "Fast Noise Variance
    Estimation", Computer Vision and Image Understanding 1996.

    Args:
        face: RGB, `BLOCK` + 2 pixels or more on each side; 0 for a smaller one.
    """
    return _noise(face.convert("L"))


def _noise(face: Image.Image) -> float:
    gray = np.asarray(face, dtype=np.int16)
    across = gray[:, :-2] - 2 * gray[:, 1:-1] + gray[:, 2:]
    found = np.abs(across[:-2] - 2 * across[1:-1] + across[2:])  # 16 x 255 at most, so 8 of them fit into 16 bits
    rows, columns = (side // BLOCK for side in found.shape)
    if not rows * columns:
        return 0.0
    strips = found[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, -1).sum(axis=1, dtype=np.int16)
    blocks = np.sort(strips.reshape(-1, BLOCK).sum(axis=1)) / BLOCK**2
    place = SMOOTH * (len(blocks) - 1)  # linear interpolation, as by `np.quantile`
    low, high = blocks[math.floor(place)], blocks[math.ceil(place)]
    return float((low + (high - low) * (place % 1)) * math.sqrt(math.pi / 2) / 6)


def roll_of(landmarks: Sequence[tuple[float, float]]) -> float:
    """Angle by which a face is tilted clockwise in the photo, in degrees from -180 to 180.

    The rotation of ArcFace's template that fits eyes and mouth; the nose moves when the head is turned.

    Args:
        landmarks: five, in pixels, in the order of `AVERAGE_FACE`.
    """
    rows = [0, 1, 3, 4]
    matrix = similarity(np.array(TEMPLATE)[rows], np.array(landmarks, dtype=np.float64)[rows])
    return math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))


def turn_of(landmarks: Sequence[tuple[float, float]]) -> float:
    """Angle between where a face looks and the camera, in degrees: about 0 from the front, 90 in profile.

    The line of sight of the affine camera that fits an average face to the landmarks best (Hartley & Zisserman,
    "Multiple View Geometry", 2004, section 6.3). A rough estimate: people's faces differ.

    Args:
        landmarks: five, in pixels, in the order of `AVERAGE_FACE`.
    """
    model = np.column_stack([np.array(AVERAGE_FACE), np.ones(5)])
    camera = np.linalg.lstsq(model, np.array(landmarks, dtype=np.float64), rcond=None)[0][:3]  # (3,2)
    sight = np.cross(camera[:, 0], camera[:, 1])
    length = float(np.linalg.norm(sight))
    return math.degrees(math.acos(min(1.0, abs(float(sight[2])) / length))) if length else 90.0
