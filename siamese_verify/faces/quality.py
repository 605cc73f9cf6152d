"""How good a picture of a face is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from siamese_verify.faces.alignment import TEMPLATE, similarity

# An average face in millimetres: right, down and towards the viewer from the middle between the eyes. The landmarks are
# the detector's: left eye, right eye, nose, left and right corner of the mouth, as the viewer sees them.
AVERAGE_FACE = ((-32.0, 0.0, 0.0), (32.0, 0.0, 0.0), (0.0, 37.0, 28.0), (-25.0, 68.0, 6.0), (25.0, 68.0, 6.0))


LOWEST = {"sharpness", "size", "light", "contrast"}  # qualities that can be too low
HIGHEST = {"turn", "light", "noise", "roll"}  # or too high
HARMLESS = (
    2.0  # noise that misleads no model, though a set of soft photos may have none: that of sharpening stays below 1
)
BLOCK, CALM = 8, 0.25  # side of the blocks in which noise is estimated, and the share of them that is calm
COMMON = 0.999  # share of the faces that a limit of quality leaves inside: a few bad ones must not widen it


class Quality(NamedTuple):
    """What decides whether a face can be compared at all.

    Attributes:
        sharpness: see `sharpness`.
        size: shorter side of the face's box in the photo, in pixels; None for a face that no detector found.
        turn: see `turn_of`, in degrees; None likewise.
        light: mean grey level of the crop, in [0, 1].
        contrast: standard deviation of the crop's grey levels, in [0, 0.5].
        noise: see `noise`, in grey levels.
        roll: angle by which the face is tilted in the crop, in degrees; None for a face that no detector found.
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
    """Judge a face.

    Args:
        crop: as the encoder sees it, RGB.
        box: left, top, right, bottom in pixels of the photo.
        landmarks: five, in the order of `AVERAGE_FACE`.
    """
    grey = np.asarray(crop.convert("L"), dtype=np.float64) / 255
    return Quality(
        sharpness=sharpness(crop),
        size=min(box[2] - box[0], box[3] - box[1]) if box else None,
        turn=turn_of(landmarks) if landmarks else None,
        light=float(grey.mean()),
        contrast=float(grey.std()),
        noise=noise(crop),
        roll=abs(roll_of(landmarks)) if landmarks else None,
    )


def ranges_of(qualities: Sequence[Quality]) -> dict[str, tuple[float | None, float | None]]:
    """The quality that faces have in common: what lies outside was not seen, or hardly ever.

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
        # Outwards to a face that was seen: of few faces, none of their own may lie outside.
        low, high = (
            float(np.quantile(values, 1 - COMMON, method="lower")),
            float(np.quantile(values, COMMON, method="higher")),
        )
        high = max(high, HARMLESS) if name == "noise" else high
        limits[name] = (low if name in LOWEST else None, high if name in HIGHEST else None)
    return limits


def sharpness(face: Image.Image) -> float:
    """Variance of the Laplacian of the grey levels, 0 for a flat or fully blurred picture.

    Comparable among faces of one size only. Pech-Pacheco et al., "Diatom Autofocusing in Brightfield Microscopy", ICPR
    2000.

    Args:
        face: RGB, 3 x 3 pixels or more.
    """
    grey = np.asarray(face.convert("L"), dtype=np.float64)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())


def noise(face: Image.Image) -> float:
    """Standard deviation of the grain of a picture, in grey levels; 0 for a smooth one.

    Grain is everywhere, and detail is not: the noise of each small block is estimated by the mean of the filter that is
    blind to brightness and to straight edges, and that of the calmer blocks is taken. Immerkaer, "Fast Noise Variance
    Estimation", Computer Vision and Image Understanding 1996.

    Args:
        face: RGB, `BLOCK` + 2 pixels or more on each side; 0 for a smaller one.
    """
    grey = np.asarray(face.convert("L"), dtype=np.float64)
    across = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    found = np.abs(across[:-2] - 2 * across[1:-1] + across[2:])
    rows, columns = (side // BLOCK for side in found.shape)
    if not rows * columns:
        return 0.0
    blocks = found[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3))
    return float(np.quantile(blocks, CALM) * math.sqrt(math.pi / 2) / 6)


def roll_of(landmarks: Sequence[tuple[float, float]]) -> float:
    """Angle by which a face is tilted clockwise in the photo, in degrees from -180 to 180.

    It is that of the rotation which lays ArcFace's template onto eyes and mouth; the nose is left out, which moves as
    the head turns to a side.

    Args:
        landmarks: five, in pixels, in the order of `AVERAGE_FACE`.
    """
    rows = [0, 1, 3, 4]
    matrix = similarity(np.array(TEMPLATE)[rows], np.array(landmarks, dtype=np.float64)[rows])
    return math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))


def turn_of(landmarks: Sequence[tuple[float, float]]) -> float:
    """Angle between where a face looks and the camera, in degrees: about 0 from the front, 90 in profile.

    An average face is laid onto the landmarks by the affine camera that fits them best (Hartley & Zisserman, "Multiple
    View Geometry", 2004, section 6.3); the way it looks along is the one that this camera sees as a point. A rough
    figure: people's faces differ.

    Args:
        landmarks: five, in pixels, in the order of `AVERAGE_FACE`.
    """
    model = np.column_stack([np.array(AVERAGE_FACE), np.ones(5)])
    camera = np.linalg.lstsq(model, np.array(landmarks, dtype=np.float64), rcond=None)[0][:3]  # (3,2)
    sight = np.cross(camera[:, 0], camera[:, 1])
    length = float(np.linalg.norm(sight))
    return math.degrees(math.acos(min(1.0, abs(float(sight[2])) / length))) if length else 90.0
