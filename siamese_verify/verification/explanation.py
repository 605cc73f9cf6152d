"""Which parts of two faces carry their similarity: parts are hidden, and the score is seen to fall."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.verification.late_bar import late_bar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from siamese_verify.verification.decision import DetectedFace

GRID = 8  # with patches of two cells 98 hidden crops: under two seconds of an InceptionResnetV1 on two cores
PATCH = 2  # cells along a side of what is hidden: a quarter of the face, about an eye with its brow
MOST_GRID = 32  # 1,922 hidden crops
BATCH = 32  # crops embedded together
SMALLEST_RANGE = 0.05  # of the colours: what moves the score by less looks faint, as it is
BLUR = 0.1  # of the crop's side: standard deviation that leaves the light of a patch and none of its features
CARRIES, SPEAKS_AGAINST = (13, 71, 161), (230, 97, 1)  # blue and orange stay apart in colour-blind eyes
STRONG = 0.5  # of the full colour: a line goes around what is stronger
AROUND = (7, 36, 82), (120, 48, 0)  # the same colours, darker: of the line
COVER = 0.72  # of the face that the strongest colour hides


class CropEmbedder(Protocol):
    """What an explanation needs of a verifier."""

    def embed_crops(self, crops: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Embed (N,S,S,3) crops as (N,D) unit rows."""


class Explanation(NamedTuple):
    """How much the score falls when a part of a face is hidden, cell by cell; below 0 it rises."""

    left: NDArray[np.float64]  # (G,G), rows from the top
    right: NDArray[np.float64]  # (G,G)
    score: float  # of the whole faces, in [-1, 1]

    @property
    def range(self) -> float:
        """What the strongest colour stands for in both maps."""
        return max(float(np.abs(self.left).max()), float(np.abs(self.right).max()), SMALLEST_RANGE)


def explain(
    verifier: CropEmbedder,
    left: DetectedFace,
    right: DetectedFace,
    grid: int = GRID,
    patch: int = PATCH,
    batch: int = BATCH,
    advance: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Find out which parts of each face carry the similarity.

    Patches of one face are blurred away, one at a time, and the fall of its cosine with the other, whole face is
    measured. Patches overlap; a cell is given the mean over those that cover it. Zeiler & Fergus, "Visualizing and
    Understanding Convolutional Networks", ECCV 2014, section 4.2, with a blur for their grey square, whose edges an
    encoder would see.

    Args:
        verifier: embeds crops; it is asked for 2 + 2 (grid - patch + 1)^2 of them.
        left: a face; only its crop counts.
        right: the face to compare it with.
        grid: cells along a side, in [2, 32].
        patch: cells along a side of what is hidden, below `grid`.
        batch: crops embedded together.
        advance: told how many crops were embedded, and of how many, after each batch.

    Raises:
        InputError: a grid, patch or batch outside of its range, or more cells than a crop has pixels.
    """
    crops = left.crop, right.crop
    side = min(len(crop) for crop in crops)
    if not 2 <= grid <= min(MOST_GRID, side):
        raise InputError(f"An explanation has 2 ... {min(MOST_GRID, side)} cells along a side, not {grid}.")
    if not 1 <= patch < grid or batch < 1:
        raise InputError(
            f"An explanation hides 1 ... {grid - 1} of {grid} cells and embeds one crop or more at once, got "
            f"patch={patch} and batch={batch}."
        )
    places = [(row, column) for row in range(grid - patch + 1) for column in range(grid - patch + 1)]
    total = 2 + 2 * len(places)
    first, second = np.asarray(verifier.embed_crops(np.stack(crops)), dtype=np.float64)
    score = float(np.clip(first @ second, -1, 1))
    done = 2
    maps = []
    for crop, other in ((crops[0], second), (crops[1], first)):
        falls: list[float] = []
        for hidden in _batches(crop, places, grid, patch, batch):
            falls += (score - np.asarray(verifier.embed_crops(hidden), dtype=np.float64) @ other).tolist()
            done += len(hidden)
            if advance:
                advance(done, total)
        maps.append(_averaged(falls, places, grid, patch))
    return Explanation(maps[0], maps[1], score)


def explain_visibly(verifier: CropEmbedder, left: DetectedFace, right: DetectedFace, grid: int = GRID) -> Explanation:
    """Explain as `explain` does, with a progress bar where it takes longer than two seconds."""
    with late_bar("Explaining the score") as advance:
        return explain(verifier, left, right, grid, advance=advance)


def _batches(
    crop: NDArray[np.uint8], places: list[tuple[int, int]], grid: int, patch: int, batch: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield (n,S,S,3) copies of a crop, each with one patch blurred away, n <= batch."""
    edges = np.linspace(0, len(crop), grid + 1).round().astype(np.int64)
    veil = blurred(crop)
    for start in range(0, len(places), batch):
        some = places[start : start + batch]
        hidden = np.repeat(crop[None], len(some), axis=0)
        for copy, (row, column) in zip(hidden, some, strict=True):
            part = slice(edges[row], edges[row + patch]), slice(edges[column], edges[column + patch])
            copy[part] = veil[part]
        yield hidden


def _averaged(falls: list[float], places: list[tuple[int, int]], grid: int, patch: int) -> NDArray[np.float64]:
    total, times = np.zeros((grid, grid)), np.zeros((grid, grid))
    for fall, (row, column) in zip(falls, places, strict=True):
        total[row : row + patch, column : column + patch] += fall
        times[row : row + patch, column : column + patch] += 1
    return total / times


def blurred(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blur (S,S,3) by a Gaussian of `BLUR` of its side, its edges continued."""
    side = len(crop)
    sigma = BLUR * side
    distance = np.arange(side)[:, None] - np.arange(-side, 2 * side)[None, :]
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    smooth = weights[:, side : 2 * side].copy()  # (S,S)
    smooth[:, 0] += weights[:, :side].sum(axis=1)
    smooth[:, -1] += weights[:, 2 * side :].sum(axis=1)
    soft = np.einsum("yr,rcn,xc->yxn", smooth, crop.astype(np.float64), smooth, optimize=True)
    return np.asarray(soft.round().clip(0, 255), dtype=np.uint8)


def heat(crop: NDArray[np.uint8], values: NDArray[np.float64], strongest: float | None = None) -> NDArray[np.uint8]:
    """Lay a map over its face: blue carries the similarity, orange speaks against it, plain grey does neither.

    A line goes around what is above half of the full colour, solid for blue and dashed for orange, so that they stay
    apart in a print without colours as well.

    Args:
        crop: (S,S,3) uint8 RGB.
        values: (G,G) of an `Explanation`.
        strongest: the value of the full colour, > 0, see `Explanation.range`; by default the map's own.

    Returns:
        (S,S,3) uint8 RGB.
    """
    limit = strongest if strongest is not None else max(float(np.abs(values).max()), SMALLEST_RANGE)
    grey = crop.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    ground = np.repeat((90 + grey * (245 - 90) / 255)[..., None], 3, axis=2)  # (S,S,3), lightened
    flat = np.clip(_enlarged(values, len(crop)) / limit, -1, 1)
    strength = flat[..., None]  # (S,S,1)
    colour = np.where(strength >= 0, np.array(CARRIES, dtype=np.float64), np.array(SPEAKS_AGAINST, dtype=np.float64))
    cover = COVER * np.abs(strength)
    warm = (ground * (1 - cover) + colour * cover).round().astype(np.uint8)
    thick = max(1, len(crop) // 80)
    dashes = np.add.outer(np.arange(len(crop)), np.arange(len(crop))) // (3 * thick) % 2 == 0
    warm[_edge(flat >= STRONG, thick)] = AROUND[0]
    warm[_edge(flat <= -STRONG, thick) & dashes] = AROUND[1]
    return warm


def _edge(inside: NDArray[np.bool_], thick: int) -> NDArray[np.bool_]:
    """The pixels of an (S,S) region that lie next to its outside; the border of the picture is none."""
    core = inside.copy()
    for _ in range(thick):
        padded = np.pad(core, 1, mode="edge")
        core = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(inside & ~core)


def _enlarged(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Interpolate (G,G) linearly between the centres of cells, to (S,S)."""
    pixels = (np.arange(side) + 0.5) * len(values) / side - 0.5
    low = np.clip(np.floor(pixels).astype(np.int64), 0, len(values) - 1)
    high = np.minimum(low + 1, len(values) - 1)
    share = np.clip(pixels - low, 0, 1)
    rows = values[low] * (1 - share)[:, None] + values[high] * share[:, None]
    return np.asarray(rows[:, low] * (1 - share) + rows[:, high] * share)
