"""Generated products: shapes with a color and a label, photographed from any side on any background."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from siamese_verify.datasets.generated import GeneratedSet

FINER = 2  # pixels of the drawing for one of the picture, against jagged edges
CORNERS = 48  # of an outline


class Product(NamedTuple):
    """What all photos of a product show."""

    outline: np.ndarray  # (CORNERS,2) in -1 ... 1
    label: np.ndarray  # (k,2) polygon
    colors: np.ndarray  # (3,3) of body, label and a band
    band: tuple[float, float]  # from and to, across the body


@lru_cache(maxsize=4096)
def draw_product(seed: int, number: int) -> Product:
    """The product of a number: its outline is a Fourier series of the radius."""
    rng = np.random.default_rng([seed, number])
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    waves = np.arange(2, 6)
    sizes, phases = rng.normal(0, 0.35 / waves), rng.uniform(0, 2 * np.pi, len(waves))
    radius = np.exp((sizes[:, None] * np.cos(waves[:, None] * angles + phases[:, None])).sum(0))
    outline = np.stack([radius * np.cos(angles), radius * np.sin(angles) * rng.uniform(0.5, 1)], axis=1)
    outline /= np.abs(outline).max()
    sides = int(rng.integers(3, 7))
    turns = 2 * np.pi * np.arange(sides) / sides + rng.uniform(0, 2 * np.pi)
    label = rng.uniform(0.15, 0.35) * np.stack([np.cos(turns), np.sin(turns)], axis=1) + rng.uniform(-0.3, 0.3, 2)
    start = rng.uniform(-0.7, 0.4)
    return Product(outline, label, rng.uniform(20, 235, (3, 3)), (start, start + rng.uniform(0.1, 0.3)))


class Products(GeneratedSet):
    """Photos of products, for retrieval: other angles, lights, backgrounds, and something that hides a part.

    Args:
        identities: products.
        samples: photos of each.
        size: of a photo in pixels, >= 16.
        seed: of all draws.
        first: number of the first product.

    Raises:
        InputError: a number is too small.
    """

    kind = "products"
    nouns = ("product", "photo")

    def __init__(self, identities: int = 100, samples: int = 8, size: int = 64, seed: int = 0, first: int = 0) -> None:
        self.check(size=(size, 16))
        super().__init__(identities, samples, seed, first)
        self.size = size

    def draw(self, identity: int, number: int) -> Image.Image:
        """Photo of a product: RGB, size x size."""
        rng, side = np.random.default_rng([self.seed, identity, number + 1]), FINER * self.size
        product = draw_product(self.seed, identity)
        grid = rng.uniform(20, 235, 3) + rng.normal(0, 25, (*rng.integers(1, 6, 2), 3))
        photo = Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(photo)
        turn, squeeze, scale = rng.uniform([-0.6, 0.7, 0.3], [0.6, 1, 0.42]).tolist()
        turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        view = np.diag([1.0, squeeze] if rng.random() < 0.5 else [squeeze, 1.0]) @ turned * scale * side
        place = side * rng.uniform(0.42, 0.58, 2)
        tint = rng.uniform(0.6, 1.25) * rng.normal(1, 0.06, 3)
        body, label, band = (tuple(np.clip(one * tint, 0, 255).astype(int).tolist()) for one in product.colors)

        def polygon(points: np.ndarray, ink: tuple[int, ...]) -> None:
            draw.polygon([tuple(point) for point in (points @ view + place).tolist()], ink)

        polygon(product.outline, body)
        polygon(np.stack([np.clip(product.outline[:, 0], *product.band), product.outline[:, 1]], axis=1), band)
        polygon(product.label, label)
        if rng.random() < 0.3:  # something in front
            x, y, width, height = (side * rng.uniform([0, 0, 0.1, 0.1], [0.8, 0.8, 0.3, 0.3])).tolist()
            draw.rectangle([x, y, x + width, y + height], tuple(rng.integers(20, 235, 3).tolist()))
        photo = photo.reduce(FINER).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8) * self.size / 64))
        pixels = np.asarray(photo, np.float32) + rng.normal(0, 5, (self.size, self.size, 3))
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
