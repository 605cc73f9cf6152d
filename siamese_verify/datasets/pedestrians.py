"""Generated pedestrians: people by their clothes and build, as cameras of different colors and viewpoints see them."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from siamese_verify.datasets.generated import GeneratedSet

FINER = 2  # pixels of the drawing for one of the picture, against jagged edges
Color = tuple[int, int, int]


class Clothes(NamedTuple):
    """What a person wears on all photos."""

    skin: Color
    hair: Color
    upper: Color
    lower: Color
    stripes: Color | None  # on the upper garment
    bag: Color | None
    build: float  # width over that of the average
    skirt: bool
    sleeves: bool


class Camera(NamedTuple):
    """How a camera sees people."""

    gains: np.ndarray  # (3,) of red, green and blue
    gamma: float
    shear: float
    height: float  # of a person, in heights of the photo
    ground: np.ndarray  # (2,3) colors of what is behind, above and below
    blur: float  # in pixels of a photo of 64


def color(rng: np.random.Generator) -> Color:
    """A color of cloth."""
    red, green, blue = colorsys.hsv_to_rgb(*rng.uniform([0, 0, 0.15], [1, 0.9, 0.95]).tolist())
    return round(255 * red), round(255 * green), round(255 * blue)


@lru_cache(maxsize=4096)
def draw_person(seed: int, number: int) -> Clothes:
    """The person of a number."""
    rng = np.random.default_rng([seed, number])
    light, dark = rng.uniform([0.4, 0.1], [1, 0.7]).tolist()
    skin, hair = (
        (round(235 * light), round(190 * light), round(160 * light)),
        (round(160 * dark), round(110 * dark), 40),
    )
    striped, carries = (color(rng) if rng.random() < 0.4 else None for _ in range(2))
    build, skirt, sleeves = rng.uniform(0.75, 1.3), rng.random() < 0.25, rng.random() < 0.6
    return Clothes(skin, hair, color(rng), color(rng), striped, carries, build, skirt, sleeves)


@lru_cache(maxsize=256)
def draw_camera(seed: int, number: int) -> Camera:
    """The camera of a number."""
    rng = np.random.default_rng([seed, number, 1])
    gamma, shear, height, blur = rng.uniform([0.7, -0.12, 0.7, 0], [1.5, 0.12, 0.95, 0.9]).tolist()
    return Camera(rng.uniform(0.6, 1.3, 3), gamma, shear, height, rng.uniform(40, 220, (2, 3)), blur)


def render_person(person: Clothes, camera: Camera, rng: np.random.Generator, size: int) -> Image.Image:
    """RGB photo of a person, size x size; pose, place, light and noise are drawn from `rng`."""
    side = FINER * size
    horizon = rng.uniform(0.4, 0.7) * side
    photo = Image.new("RGB", (side, side), tuple(camera.ground[0].astype(int)))
    draw = ImageDraw.Draw(photo)
    draw.rectangle([0, horizon, side, side], tuple(camera.ground[1].astype(int)))
    for x, width in rng.uniform([0, 0.05], [1, 0.3], (3, 2)).tolist():  # what else is there
        draw.rectangle([x * side, 0, (x + width) * side, horizon], tuple(rng.integers(30, 230, 3).tolist()))
    tall, x, foot = camera.height * side * rng.uniform(0.92, 1), side * rng.uniform(0.42, 0.58), 0.97 * side
    wide = 0.11 * tall * person.build
    arms, legs = rng.uniform(-0.35, 0.35, 2), rng.uniform(0.02, 0.3) * np.array([-1, 1])

    def at(across: float, up: float) -> tuple[float, float]:
        return x + across * wide + camera.shear * up * tall, foot - up * tall

    def limb(start: tuple[float, float], end: tuple[float, float], ink: Color, width: float) -> None:
        draw.line([at(*start), at(*end)], ink, max(1, round(width * wide)))

    for leg, swing in zip((-0.45, 0.45), legs, strict=True):
        limb((leg, 0.5), (leg + 3 * swing, 0.0), person.skin if person.skirt else person.lower, 0.75)
    if person.skirt:
        draw.polygon([at(-0.9, 0.52), at(0.9, 0.52), at(1.3, 0.25), at(-1.3, 0.25)], person.lower)
    for arm, swing in zip((-1.1, 1.1), arms, strict=True):
        elbow, hand = (arm + 1.5 * swing, 0.66), (arm + 3 * swing, 0.5)
        limb((arm, 0.8), elbow, person.upper, 0.55)
        limb(elbow, hand, person.upper if person.sleeves else person.skin, 0.5)
    draw.polygon([at(-1.05, 0.83), at(1.05, 0.83), at(0.95, 0.48), at(-0.95, 0.48)], person.upper)
    for stripe in (0.56, 0.66, 0.76) if person.stripes else ():
        limb((-1, stripe), (1, stripe), person.stripes or person.upper, 0.3)
    if person.bag:
        draw.polygon([at(0.7, 0.62), at(1.7, 0.62), at(1.7, 0.42), at(0.7, 0.42)], person.bag)
    (head_x, head_y), radius = at(0, 0.92), 0.07 * tall
    draw.ellipse([head_x - radius, head_y - radius, head_x + radius, head_y + radius], person.skin)
    draw.chord([head_x - radius, head_y - radius, head_x + radius, head_y + radius], 170, 370, person.hair)
    blurred = photo.reduce(FINER).filter(ImageFilter.GaussianBlur(camera.blur * size / 64))
    seen = np.asarray(blurred, np.float32) / 255
    seen = seen**camera.gamma * camera.gains * rng.uniform(0.8, 1.2) + rng.normal(0, 0.03, (size, size, 3))
    return Image.fromarray((np.clip(seen, 0, 1) * 255).astype(np.uint8))


class Pedestrians(GeneratedSet):
    """People on photos of a few cameras, which see colors, distances and backgrounds differently.

    Args:
        identities: people.
        samples: photos of each; photo i is of camera i modulo `cameras`.
        camera_count: cameras, the same for all people.
        size: of a photo in pixels, >= 16.
        seed: of all draws.
        first: number of the first person.

    Attributes:
        cameras: (N,) camera of each photo, such as `camera 2`.
        splits: (N,) `query` of the first photo of each camera, and `gallery` of the others.

    Raises:
        InputError: a number is too small.
    """

    kind = "pedestrians"
    nouns = ("person", "photo")

    def __init__(
        self,
        identities: int = 100,
        samples: int = 12,
        camera_count: int = 6,
        size: int = 64,
        seed: int = 0,
        first: int = 0,
    ) -> None:
        self.check(size=(size, 16), camera_count=(camera_count, 1))
        super().__init__(identities, samples, seed, first)
        self.camera_count, self.size = camera_count, size

    @property
    def cameras(self) -> list[str]:
        """N cameras."""
        return [f"camera {number % self.camera_count}" for number in range(self.samples)] * self.count

    @property
    def splits(self) -> list[str]:
        """N times `query` or `gallery`."""
        return ["query" if number < self.camera_count else "gallery" for number in range(self.samples)] * self.count

    def draw(self, identity: int, number: int) -> Image.Image:
        """Photo of a person: RGB, size x size."""
        rng = np.random.default_rng([self.seed, identity, number + 2])
        camera = draw_camera(self.seed, number % self.camera_count)
        return render_person(draw_person(self.seed, identity), camera, rng, self.size)
