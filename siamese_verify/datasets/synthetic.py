"""Synthetic faces: data for the demo and the tests, with nothing to download.

A photo of an identity has a random expression, pose, light, background, occlusion, blur and noise. All draws are seeded
by identity and photo, so that a photo is the same in every process and order.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from siamese_verify.datasets.generated import GeneratedSet
from siamese_verify.datasets.synthetic_identity import CLOSE, OPEN, Array, Color, Identity, draw_identity, rgb

GRAY = (128, 128, 128)


def _outline(slices: Array, yaw: float) -> Array:
    """(2n,3) silhouette of a stack of n ellipses seen at an angle: down its left side, then up its right."""
    width, depth, center, y = slices.T
    c, s = math.cos(yaw), math.sin(yaw)
    reach = np.hypot(width * c, depth * s) + 1e-9
    x, z = width**2 * c / reach, depth**2 * s / reach
    left, right = np.stack([-x, y, center - z], axis=-1), np.stack([x, y, center + z], axis=-1)
    return np.concatenate([left, right[::-1]])


def _backdrop(rng: np.random.Generator, side: int) -> Image.Image:
    """Random background: a wall, a gradient or clutter, independent of the identity."""
    cells = int(rng.integers(1, 7))
    base = rng.uniform(40, 230) + rng.normal(0, 28, 3)
    grid = base + rng.normal(0, rng.uniform(4, 40), (cells, cells, 3))
    photo = Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8))
    if rng.random() < 0.8:  # a quarter of the size is fine enough for a gradient, and cheap
        photo = photo.resize((side // 4, side // 4), Image.Resampling.BILINEAR)
    photo = photo.resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(photo)
    for x, y, w, h, shape in rng.uniform([-0.3, -0.3, 0.05, 0.05, 0], 1, (int(rng.integers(0, 6)), 5)).tolist():
        box, ink = (side * x, side * y, side * (x + w), side * (y + h)), rgb(base + rng.normal(0, 60, 3))
        (draw.ellipse if shape < 0.4 else draw.rectangle)(box, ink)
    return photo


def _light(photo: Image.Image, rng: np.random.Generator, x: float, y: float, radius: float) -> Image.Image:
    """Shade the head as a round surface, then apply exposure, tint and noise."""
    size = photo.width
    at = np.arange(size, dtype=np.float32) + 0.5
    nx, ny = (at - x) / (0.8 * radius), ((at - y) / radius)[:, None]
    lx, ly, lz = rng.normal([0, -0.3, 0.9], [0.9, 0.5, 0.2]).tolist()
    norm = math.hypot(lx, ly, lz)
    strength, contrast, exposure = rng.uniform([0.1, 0.85, 0.8], [0.5, 1.15, 1.15]).tolist()
    warmth, green, haze = rng.normal(0, [0.05, 0.015, 4]).tolist()
    # A bulge with normals along (nx, ny, 1): smooth beyond the head too, where a true ball would leave a ring.
    facing = (nx * lx + ny * ly + lz) / (np.sqrt(1 + nx * nx + ny * ny) * norm)  # (size,size) cosine
    shade = np.maximum(facing + 0.3, 0) * (strength / 1.1) + (1 - strength)
    tint = np.array([1 + warmth, 1 + green, 1 - warmth], np.float32) * np.float32(exposure * contrast)
    grain = np.frombuffer(rng.bytes(size * size), np.int8) * np.float32(rng.uniform(0, 0.07))
    grain += np.float32(120 * (1 - contrast) + haze)
    grain.shape = size, size
    planes = []
    for channel, factor in zip(photo.split(), tint, strict=True):  # one at a time stays in the processor's cache
        plane = shade * factor
        plane *= np.asarray(channel)
        plane += grain
        planes.append(Image.fromarray(np.clip(plane, 0, 255, out=plane).astype(np.uint8)))
    return Image.merge("RGB", planes)


def _pose(rng: np.random.Generator) -> tuple[float, Array]:
    """Random yaw in radians, and the (3,3) rotation by yaw, then pitch, then roll."""
    yaw, pitch, roll = np.clip(rng.normal(0, [0.18, 0.08, 0.07]), [-0.6, -0.3, -0.3], [0.6, 0.3, 0.3]).tolist()
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(a), math.sin(a)) for a in (yaw, pitch, roll))
    tilt = np.array([[cr, -sr * cp, -sr * sp], [sr, cr * cp, cr * sp], [0, -sp, cp]])
    return yaw, tilt @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


def _draw_hand(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float, scale: float, colors: dict[str, Color]
) -> None:
    """Draw a hand in front of the face at (x, y) whose half height is `scale` pixels."""
    palm_x, palm_y, angle = rng.uniform([-0.7, -0.2, -2.6], [0.7, 0.9, -0.5]).tolist()
    x, y, palm, half = x + palm_x * scale, y + palm_y * scale, 0.3 * scale, 0.085 * scale
    for finger in range(4):
        way, ink = angle + 0.25 * finger, colors["lid" if finger % 2 else "ear"]
        tip_x, tip_y = x + 0.75 * scale * math.cos(way), y + 0.75 * scale * math.sin(way)
        draw.line([x, y, tip_x, tip_y], ink, max(1, round(2 * half)))
        draw.ellipse([tip_x - half, tip_y - half, tip_x + half, tip_y + half], ink)
    draw.ellipse([x - palm, y - palm, x + palm, y + palm], colors["ear"])


def render_face(identity: Identity, rng: np.random.Generator, size: int, background: bool = True) -> Image.Image:
    """Photo of an identity (RGB, size x size); everything else about it is drawn from `rng`."""
    t, colors, side = identity.traits, identity.colors, 2 * size  # drawn at twice the size, against jagged edges
    photo = _backdrop(rng, side)
    if not background:
        photo.paste(GRAY, (0, 0, side, side))
    draw = ImageDraw.Draw(photo)

    weights = rng.uniform([-0.2, -1.2, -0.3, -0.1, -1, -1], [1, 0.8, 0.8, 0.4, 1, 1])
    weights[OPEN] = gape = max(weights[OPEN], 0)
    if rng.random() < 0.05:
        weights[CLOSE] = 1
    yaw, turn = _pose(rng)
    head = identity.head.copy()
    head[:, 3] += 0.17 * gape * np.clip((head[:, 3] - 0.3) / 0.7, 0, 1)
    face = identity.points + np.tensordot(weights, identity.moves, 1)
    ends = np.cumsum([len(face), 2 * len(head), 2 * len(identity.hair)]).tolist()
    world = np.concatenate([face, _outline(head, yaw), _outline(identity.hair, yaw), [[0, 0.5, 0], [0, 0, 0]]]) @ turn.T
    scale, near, dx, dy = rng.uniform([0.37, 0, 0.47, 0.48], [0.43, 0.12, 0.53, 0.54]).tolist()
    scale *= side
    flat = world[:, :2] * (scale * (1 + near * world[:, 2:])) + [side * dx, side * dy]
    xy: list[float] = flat.ravel().tolist()
    rim, mane = xy[2 * ends[0] : 2 * ends[1]], xy[2 * ends[1] : 2 * ends[2]]
    throat_x, throat_y, x, y = xy[-4:]

    def at(part: str) -> list[float]:
        rows = identity.parts[part]
        return xy[2 * rows.start : 2 * rows.stop]

    cloth = rgb(rng.uniform(20, 235) + rng.normal(0, 40, 3))
    if t["hair_length"] > -0.5:
        draw.polygon(mane, colors["hair_back"])
    neck, collar = t["neck"] * t["head_width"] * scale, y + 1.22 * scale
    trunk = [throat_x - neck, throat_y, throat_x + neck, throat_y, x + neck, side, x - neck, side]
    draw.polygon(trunk, colors["neck"])
    draw.ellipse([x - 1.35 * scale, collar, x + 1.35 * scale, collar + 1.6 * scale], cloth)
    draw.ellipse([x - neck, collar - 0.2 * scale, x + neck, collar + 0.16 * scale], colors["neck"])
    near_ear, far_ear = ("ear_right", "ear_left") if yaw < 0 else ("ear_left", "ear_right")
    draw.polygon(at(far_ear), colors["shade"])
    draw.polygon(rim, colors["skin"])
    if t["hair_length"] < 0.4:
        draw.polygon(at(near_ear), colors["ear"])

    # Glasses depend on the identity, but not always.
    habit, chance = rng.random(2).tolist()
    worn = {""} | ({"glasses"} if (habit < 0.85 if t["glasses"] > 0 else habit < 0.04) else set())
    worn |= {"teeth"} if gape > 0.1 else set()
    worn |= {"sunglasses", "glasses"} if chance < 0.03 else {"mask"} if chance < 0.06 else set()
    temple = 2 * int(np.searchsorted(identity.hair[:, 3], -0.18))
    crown = [*mane[-temple:], *mane[:temple]]
    for rows, color, width, needs in identity.layers:
        if needs not in worn:
            continue
        line = xy[2 * rows.start : 2 * rows.stop]
        if width:
            draw.line(line, color, max(1, round(width * scale)))
        else:
            draw.polygon(line, color or cloth)
    draw.polygon([*crown, *at("hairline")], colors["hair"])
    if 0.06 < chance < 0.09:
        draw.polygon([*crown, *at("hat")], cloth)
        draw.line(at("hat"), colors["dark"], max(1, round(0.06 * scale)))
    elif 0.09 < chance < 0.12:
        _draw_hand(draw, rng, x, y, scale, colors)
    photo = photo.reduce(2)
    blur = rng.uniform(-1, 0.9) * size / 112
    if blur > 0:
        photo = photo.filter(ImageFilter.BoxBlur(blur))
    return _light(photo, rng, x / 2, y / 2, scale / 2)


class SyntheticFaces(GeneratedSet):
    """Synthetic faces of identities numbered from `first`: ranges that do not overlap hold different identities.

    A photo depends on seed, identity and number alone, so a larger set contains the smaller ones.

    Args:
        background: whether each photo has a background of its own; else all have the same gray.

    Raises:
        InputError: a number is too small or too large.
    """

    kind = "synthetic faces"
    nouns = ("person", "photo")

    def __init__(
        self,
        identities: int = 100,
        images: int = 10,
        size: int = 112,
        seed: int = 0,
        first: int = 0,
        background: bool = True,
    ) -> None:
        self.check(images=(images, 1), size=(size, 16, 4096))
        super().__init__(identities, images, seed, first)
        self.size, self.background = size, background

    def draw(self, identity: int, number: int) -> Image.Image:
        """Photo of an identity: RGB, size x size."""
        rng = np.random.default_rng([self.seed, identity, number + 1])
        return render_face(draw_identity(self.seed, identity), rng, self.size, self.background)
