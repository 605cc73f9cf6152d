"""Occlusion maps: which parts of two faces carry their similarity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from siamese_verify.verification.decision import DetectedFace

GRID = 8  # with patches of two cells 98 occluded crops: under two seconds of an InceptionResnetV1 on two cores
PATCH = 2  # cells along a side of what is hidden: a quarter of the face, about an eye with its brow
MAX_GRID = 32  # 1,922 occluded crops
BATCH = 32  # crops embedded together
MIN_RANGE = 0.05  # of the colors: what changes the score by less looks faint
BLUR = 0.1  # of the crop's side: standard deviation that keeps the light of a patch and none of its features
SUPPORTS, OPPOSES = (13, 71, 161), (230, 97, 1)  # blue and orange stay apart in color-blind eyes
OUTLINES = (7, 36, 82), (120, 48, 0)  # the same colors, darker
STRONG = 0.5  # of the full color: stronger regions are outlined
COVER = 0.72  # of the face that the full color hides


class Explanation(NamedTuple):
    """How much the score falls if a part of a face is hidden, cell by cell; below 0 it rises."""

    left: NDArray[np.float64]  # (G,G), rows from the top
    right: NDArray[np.float64]  # (G,G)
    score: float  # of the whole faces, in [-1, 1]

    @property
    def range(self) -> float:
        """Value of the full color in both maps."""
        return max(float(np.abs(self.left).max()), float(np.abs(self.right).max()), MIN_RANGE)


def explain(
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    left: DetectedFace,
    right: DetectedFace,
    grid: int = GRID,
    patch: int = PATCH,
    batch: int = BATCH,
    advance: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Explain the score of two faces by occlusion.

    Patches of one face are blurred, one at a time, and the fall of its cosine with the other face is measured. Patches
    overlap; a cell is the mean over the patches that cover it. Zeiler & Fergus, "Visualizing and Understanding
    Convolutional Networks", ECCV 2014, section 4.2, with a blur instead of a gray square, whose edges an encoder sees.

    Args:
        embed: (N,S,S,3) crops -> (N,D) unit rows, such as `Verifier.embed_crops`; called for 2 + 2 (grid - patch + 1)^2
            crops in all.
        left: a face; only its crop is used.
        right: the other face.
        grid: cells along a side, in [2, 32].
        patch: cells along a side of what is hidden, below `grid`.
        batch: crops embedded together.
        advance: called after each batch with the number of crops embedded, and of all.

    Raises:
        InputError: a grid, patch or batch out of its range, or more cells than a crop has pixels.
    """
    crops = left.crop, right.crop
    side = min(len(crop) for crop in crops)
    if not 2 <= grid <= min(MAX_GRID, side):
        raise InputError(f"An explanation has 2 ... {min(MAX_GRID, side)} cells along a side, not {grid}.")
    if not 1 <= patch < grid or batch < 1:
        raise InputError(
            f"An explanation hides 1 ... {grid - 1} of {grid} cells and embeds one crop or more at once, got "
            f"patch={patch} and batch={batch}."
        )
    places = [(row, column) for row in range(grid - patch + 1) for column in range(grid - patch + 1)]
    total = 2 + 2 * len(places)
    first, second = np.asarray(embed(np.stack(crops)), dtype=np.float64)
    score = float(np.clip(first @ second, -1, 1))
    done = 2
    maps = []
    for crop, other in ((crops[0], second), (crops[1], first)):
        falls: list[float] = []
        for occluded in _occlude(crop, places, grid, patch, batch):
            falls += (score - np.asarray(embed(occluded), dtype=np.float64) @ other).tolist()
            done += len(occluded)
            if advance:
                advance(done, total)
        maps.append(_average_cells(falls, places, grid, patch))
    return Explanation(maps[0], maps[1], score)


def _occlude(
    crop: NDArray[np.uint8], places: list[tuple[int, int]], grid: int, patch: int, batch: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield (n,S,S,3) copies of a crop, each with one patch blurred, n <= batch."""
    edges = np.linspace(0, len(crop), grid + 1).round().astype(np.int64)
    soft = blur(crop)
    for start in range(0, len(places), batch):
        some = places[start : start + batch]
        occluded = np.repeat(crop[None], len(some), axis=0)
        for copy, (row, column) in zip(occluded, some, strict=True):
            part = slice(edges[row], edges[row + patch]), slice(edges[column], edges[column + patch])
            copy[part] = soft[part]
        yield occluded


def _average_cells(falls: list[float], places: list[tuple[int, int]], grid: int, patch: int) -> NDArray[np.float64]:
    """(G,G) mean fall over the patches that cover a cell."""
    total, count = np.zeros((grid, grid)), np.zeros((grid, grid))
    for fall, (row, column) in zip(falls, places, strict=True):
        total[row : row + patch, column : column + patch] += fall
        count[row : row + patch, column : column + patch] += 1
    return total / count


def blur(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blur (S,S,3) by a Gaussian of `BLUR` of its side, with its edges repeated outwards."""
    side = len(crop)
    distance = np.arange(side)[:, None] - np.arange(-side, 2 * side)[None, :]
    weights = np.exp(-0.5 * (distance / (BLUR * side)) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    smooth = weights[:, side : 2 * side].copy()  # (S,S)
    smooth[:, 0] += weights[:, :side].sum(axis=1)
    smooth[:, -1] += weights[:, 2 * side :].sum(axis=1)
    soft = np.einsum("yr,rcn,xc->yxn", smooth, crop.astype(np.float64), smooth, optimize=True)
    return np.asarray(soft.round().clip(0, 255), dtype=np.uint8)


def heat(crop: NDArray[np.uint8], values: NDArray[np.float64], full: float | None = None) -> NDArray[np.uint8]:
    """Lay a map over its face: blue supports the similarity, orange opposes it, gray does neither.

    Regions above half of the full color are outlined, solid for blue and dashed for orange, so that they can be told
    apart in a print without colors as well.

    Args:
        crop: (S,S,3) uint8 RGB.
        values: (G,G) of an `Explanation`.
        full: value of the full color, > 0, see `Explanation.range`; by default the map's own.

    Returns:
        (S,S,3) uint8 RGB.
    """
    full = full if full is not None else max(float(np.abs(values).max()), MIN_RANGE)
    size = (len(crop), len(crop))
    enlarged = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    strength = np.clip(enlarged / full, -1, 1)[..., None]  # (S,S,1)
    gray = crop.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    ground = np.repeat((90 + gray * (245 - 90) / 255)[..., None], 3, axis=2)  # (S,S,3), lightened
    color = np.where(strength >= 0, np.array(SUPPORTS, dtype=np.float64), np.array(OPPOSES, dtype=np.float64))
    cover = COVER * np.abs(strength)
    drawn = (ground * (1 - cover) + color * cover).round().astype(np.uint8)
    width = max(1, len(crop) // 80)
    dashes = np.add.outer(np.arange(len(crop)), np.arange(len(crop))) // (3 * width) % 2 == 0
    drawn[_outline(strength[..., 0] >= STRONG, width)] = OUTLINES[0]
    drawn[_outline(strength[..., 0] <= -STRONG, width) & dashes] = OUTLINES[1]
    return drawn


def _outline(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels of an (S,S) region next to its outside; the border of the image is not outside."""
    core = inside.copy()
    for _ in range(width):
        padded = np.pad(core, 1, mode="edge")
        core = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(inside & ~core)
