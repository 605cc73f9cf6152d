"""Generated signatures: names in the hands of writers, and forgeries of them.

A name is a sequence of letters whose shapes everybody has learned; a writer's hand deforms each of them, slants,
stretches and joins them. A pen that is fast leaves a thinner line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from siamese_verify.datasets.generated import GeneratedSet

GENUINE, UNSKILLED, SKILLED = range(3)
KINDS = ("", "unskilled", "skilled")  # of forgery
NOUNS = ("signature", "unskilled forgery", "skilled forgery")
FORGERS = 10**9  # their identities start here
LETTERS = np.random.default_rng(0).uniform(0, 1, (20, 4, 2))  # four points of each, on the way of the pen
STEPS = 10  # of the curve between two points
FINER = 3  # pixels of the drawing for one of the picture, against jagged edges


@dataclass(frozen=True)
class Hand:
    """How someone writes: deformations of the letters (20,4,2), and the shape of the whole."""

    letters: np.ndarray
    width: float  # of a letter over its height
    spacing: float
    slant: float
    rise: float  # of the line, in heights of a letter for each letter
    flourish: np.ndarray  # (2,2) last points, from the end of the name
    pen: float  # width of a slow line, in heights of a letter


@lru_cache(maxsize=4096)
def draw_hand(seed: int, writer: int) -> tuple[np.ndarray, Hand]:
    """Name (n,) as numbers of letters, and hand of a writer."""
    rng = np.random.default_rng([seed, writer])
    name = rng.integers(0, len(LETTERS), rng.integers(4, 7))
    width, spacing, slant, rise, pen = rng.uniform([0.5, 0.6, -0.4, -0.1, 0.06], [0.9, 0.95, 0.7, 0.1, 0.11]).tolist()
    flourish = rng.uniform([-2.5, -0.5], [0.8, 0.5], (2, 2))
    return name, Hand(rng.normal(0, 0.17, LETTERS.shape), width, spacing, slant, rise, flourish, pen)


def write_name(name: np.ndarray, hand: Hand) -> np.ndarray:
    """(K,2) points on the way of the pen, in heights of a letter; y goes down."""
    places = np.arange(len(name))[:, None]
    points = (LETTERS + hand.letters)[name] * [hand.width, 1.0]  # (n,4,2)
    points[..., 0] += hand.spacing * places
    end = np.array([hand.spacing * len(name), 0.5])
    points = np.concatenate([points.reshape(-1, 2), hand.flourish + end])
    points[:, 1] += hand.rise * points[:, 0]
    points[:, 0] -= hand.slant * (points[:, 1] - 0.5)
    return points


def smooth_curve(points: np.ndarray) -> np.ndarray:
    """(STEPS * (K - 1),2) points of the Catmull-Rom spline through (K,2) points."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    a, b, c, d = (padded[start : len(padded) - 3 + start, None] for start in range(4))
    t = (np.arange(STEPS) / STEPS)[:, None]
    cubic = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    curve: np.ndarray = (cubic / 2).reshape(-1, 2)
    return curve


def draw_pen(curve: np.ndarray, widths: np.ndarray, rng: np.random.Generator, size: int) -> Image.Image:
    """RGB picture of a curve (n,2), in the middle of a paper.

    Args:
        curve: on the way of the pen.
        widths: (n,) of the line, in the same units.
        rng: of ink, place and paper.
        size: of the side in pixels.
    """
    side, low, high = size * FINER, curve.min(axis=0), curve.max(axis=0)
    scale = 0.88 * side / max(high - low) * rng.uniform(0.9, 1)
    points = (curve - (low + high) / 2) * scale + side * rng.uniform(0.47, 0.53, 2)
    ink, paper = int(rng.integers(0, 90)), int(rng.integers(215, 256))
    picture = Image.new("L", (side, side), paper)
    draw = ImageDraw.Draw(picture)
    for start, end, width in zip(points[:-1].tolist(), points[1:].tolist(), (widths[1:] * scale).tolist(), strict=True):
        draw.line([*start, *end], ink, max(1, round(width)))
        (x, y), half = end, width / 2
        draw.ellipse([x - half, y - half, x + half, y + half], ink)
    pixels = np.asarray(picture.reduce(FINER), np.float32) + rng.normal(0, 4, (size, size))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGB")


class Signatures(GeneratedSet):
    """Genuine signatures of writers, and forgeries of each writer's name.

    An unskilled forger knows the name and writes it in their own hand. A skilled one traces the genuine signature: its
    shape is right to a few percent, but the slow pen trembles and its line has one width. Random forgeries are genuine
    signatures of others. Each forger is an identity of their own.

    Args:
        identities: writers.
        samples: genuine signatures of each.
        forgeries: of each kind and writer.
        size: of the side in pixels, >= 16.
        seed: of all draws.
        first: number of the first writer.

    Attributes:
        kinds: (N,) kind of forgery: "" of a genuine signature, else unskilled or skilled.

    Raises:
        InputError: a number is too small.
    """

    kind = "signatures"
    nouns = ("writer", "signature")

    def __init__(
        self,
        identities: int = 100,
        samples: int = 10,
        forgeries: int = 0,
        size: int = 64,
        seed: int = 0,
        first: int = 0,
    ) -> None:
        self.check(samples=(samples, 1), forgeries=(forgeries, 0), size=(size, 16))
        super().__init__(identities, samples + 2 * forgeries, seed, first)
        self.size = size
        self._kinds = np.repeat([GENUINE, UNSKILLED, SKILLED], [samples, forgeries, forgeries])
        self._numbers = np.concatenate([np.arange(samples), *[np.arange(forgeries)] * 2])
        self.kinds: np.ndarray = np.tile(np.array(KINDS)[self._kinds], identities)

    @property
    def claimed(self) -> np.ndarray:
        """(N,) int64 identity of the writer whose name it is."""
        return super().identities

    @property
    def identities(self) -> np.ndarray:
        """(N,) int64 identity of whose hand it is; those of forgers start at a billion."""
        hands: np.ndarray = self.claimed + FORGERS * np.tile(self._kinds, self.count)
        return hands

    @property
    def names(self) -> list[str]:
        """N names such as `writer 0012 signature 03` and `writer 0012 skilled forgery 01`."""
        rows = (divmod(row, self.samples) for row in range(len(self)))
        return [
            f"writer {self.first + place:04} {NOUNS[self._kinds[number]]} {self._numbers[number]:02}"
            for place, number in rows
        ]

    def draw(self, identity: int, number: int) -> Image.Image:
        """Signature of a writer's name: RGB, size x size."""
        kind, number = int(self._kinds[number]), int(self._numbers[number])
        name, hand = draw_hand(self.seed, identity)
        rng = np.random.default_rng([self.seed, identity, kind + 1, number + 1])
        forger = np.random.default_rng([self.seed, identity, kind + 1])
        if kind == UNSKILLED:
            hand = draw_hand(self.seed + 1, identity)[1]
        points = write_name(name, hand)
        points = points + rng.normal(0, 0.06, points.shape) + np.cumsum(rng.normal(0, 0.015, points.shape), axis=0)
        if kind == SKILLED:
            points += forger.normal(0, 0.08, points.shape)
        shear, stretch, turn = rng.normal(0, [0.07, 0.05, 0.04]).tolist()
        points = points @ np.array([[1 + stretch, turn], [shear - turn, 1]])
        curve = smooth_curve(points)
        speed = np.linalg.norm(np.diff(curve, axis=0, prepend=curve[:1]), axis=1)
        pen = hand.pen * rng.uniform(0.9, 1.1)
        if kind == SKILLED:
            tremor = rng.normal(0, 0.055, curve.shape)
            curve = curve + (tremor + np.roll(tremor, 1, axis=0)) / 2
            return draw_pen(curve, np.full(len(curve), pen), rng, self.size)
        return draw_pen(curve, pen * (0.5 + 0.7 * np.exp(-speed / 0.1)), rng, self.size)
