"""Identities of the synthetic faces: random facial traits, turned into outlines on a three-dimensional head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray  # float64
Color = tuple[int, int, int]
Traits = dict[str, float]

# fmt: off
# Ranges of the traits. Lengths are in half head heights: the crown lies at y = -1, the eyes near 0, the chin near 1.
TRAITS: dict[str, tuple[float, float]] = {
    "head_width": (0.6, 0.85), "forehead": (0.84, 1.02), "cheeks": (0.92, 1.06), "jaw": (0.62, 0.98),
    "chin": (0.2, 0.6), "chin_length": (0.9, 1.12), "head_depth": (0.8, 1.0), "neck": (0.55, 0.85),
    "eye_x": (0.25, 0.4), "eye_y": (-0.14, 0.14), "eye_width": (0.11, 0.2), "eye_height": (0.045, 0.13),
    "eye_tilt": (-0.4, 0.5), "lid": (0.02, 0.08), "iris": (0.055, 0.085), "iris_color": (0, 1),
    "brow_gap": (0.07, 0.22), "brow_height": (0.012, 0.065), "brow_tilt": (-0.2, 0.4), "brow_arch": (0, 0.1),
    "brow_length": (0.14, 0.23), "brow_taper": (0, 0.9), "brow_dark": (0.3, 1),
    "nose_length": (0.26, 0.52), "nose_width": (0.07, 0.22), "nose_bridge": (0.02, 0.075), "nose_out": (0.15, 0.4),
    "nostrils": (0.012, 0.04), "nose_light": (0, 1),
    "mouth_drop": (0.34, 0.54), "mouth_width": (0.15, 0.36), "mouth_bend": (-0.06, 0.05), "upper_lip": (0.02, 0.09),
    "lower_lip": (0.03, 0.11), "lip_bow": (0, 0.6), "lip_color": (0, 1),
    "ear_height": (0.12, 0.22), "ear_out": (0.03, 0.15), "ear_y": (0, 0.14),
    "skin": (0, 1), "skin_warmth": (-1, 1), "blush": (0, 1), "age": (-0.6, 1), "freckles": (-1.5, 1), "moles": (0, 5),
    "hair_color": (0, 1), "hair_light": (0.75, 1.2), "hair_volume": (0.02, 0.24), "hair_length": (-0.7, 1.5),
    "hairline": (-0.82, -0.42), "hairline_arch": (-0.2, 0.35), "parting": (-0.6, 0.6), "swoop": (-0.3, 0.3),
    "curl": (-0.05, 0.07), "curl_rate": (8, 20), "locks": (0, 0.2),
    "beard": (-1.6, 1), "beard_line": (0.25, 0.6), "moustache": (-1, 1),
    "glasses": (-1.6, 1), "frame_width": (0.18, 0.24), "frame_height": (0.12, 0.2), "frame_square": (2, 5),
}
SKIN = ((250, 224, 204), (238, 196, 166), (214, 160, 122), (170, 114, 80), (118, 76, 56))
HAIR = ((30, 26, 28), (66, 42, 30), (112, 68, 40), (156, 76, 42), (210, 168, 100), (172, 168, 168))
IRIS = ((62, 38, 24), (112, 76, 34), (92, 116, 60), (70, 120, 170), (130, 150, 164))
LIPS = ((170, 76, 80), (206, 116, 112), (150, 66, 76), (196, 92, 110))

# What is drawn on the head, from bottom to top: outline, color, line width (0: filled), and the trait that it needs.
# Names without a side stand for both halves. A color that identities lack is the photo's color of clothes.
LAYERS: tuple[tuple[str, str, float, str], ...] = (
    ("beard", "beard", 0, "beard"), ("blush", "blush", 0, ""), ("socket", "socket", 0, ""),
    ("fold", "fold", 0.025, "age"), ("furrow", "fold", 0.02, "age"),
    ("white", "white", 0, ""), ("iris", "iris", 0, ""), ("pupil", "pupil", 0, ""), ("glint", "white", 0, ""),
    ("under_lid", "socket", 0, ""), ("lid", "lid", 0, ""), ("lash", "lash", 0, ""), ("brow", "brow", 0, ""),
    ("moustache", "beard", 0, "moustache"), ("chin_shade", "shade", 0, ""),
    ("gap", "gap", 0, ""), ("teeth", "teeth", 0, "teeth"), ("gap", "gap", 0.01, ""),
    ("upper_lip", "upper_lip", 0, ""), ("lower_lip", "lower_lip", 0, ""),
    ("nose", "shade", 0, ""), ("under_nose", "deep", 0, ""), ("wing", "shade", 0, ""), ("ridge", "light", 0, ""),
    ("tip", "light", 0, ""), ("nostril", "nostril", 0, ""), ("mark", "mark", 0, ""), ("scar", "light", 0.025, "scar"),
    ("mask", "cloth", 0, "mask"), ("mask_fold", "shadow", 0.015, "mask"),
    ("lock", "hair", 0, "locks"),
    ("frame", "dark", 0, "sunglasses"), ("frame", "dark", 0.035, "glasses"),
    ("arm", "dark", 0.035, "glasses"), ("bridge", "dark", 0.035, "glasses"),
)
# fmt: on
SMILE, OPEN, BROW, CLOSE, GAZE_X, GAZE_Y = range(6)
Moves = dict[int, tuple[Any, Any]]  # how far a point goes in x and y, for some of the six


class Layer(NamedTuple):
    """An outline to draw: its rows among the points, its color (None: that of clothes), line width and needed trait."""

    rows: slice
    color: Color | None
    width: float
    needs: str


@dataclass(frozen=True)
class Identity:
    """Geometry and colors of an identity. Head coordinates: x to the viewer's right, y down, z to the viewer.

    Attributes:
        traits: a value for each of `TRAITS`.
        points: (P,3) all outlines at rest, one after the other.
        moves: (6,P,3) where the points go when smiling, opening the mouth, raising the brows, closing the eyes and
            looking right and down, each at full strength.
        parts: the rows of each outline in `points`.
        head: (n,4) horizontal slices of the head, top first: half width, half depth, z of the center, y.
        hair: (m,4) likewise, of the hair.
        colors: in white light, by name.
        layers: what to draw on the head, from bottom to top.
    """

    traits: Traits
    points: Array
    moves: Array
    parts: dict[str, slice]
    head: Array
    hair: Array
    colors: dict[str, Color]
    layers: list[Layer]


class _Outlines:
    """Collects outlines as seen from the front, to be projected onto the head."""

    def __init__(self) -> None:
        self.parts: dict[str, slice] = {}
        self.rows: list[Array] = []  # each (k,3): x, y, height above the skin
        self.moves: list[Array] = []  # each (6,k,3)

    def add(self, name: str, xy: tuple[Any, Any], out: Any = 0.0, moves: Moves | None = None) -> None:
        rows = np.stack(np.broadcast_arrays(np.asarray(xy[0], float), xy[1], out), axis=-1)
        moved = np.zeros((6, *rows.shape))
        for axis, (dx, dy) in (moves or {}).items():
            moved[axis, :, 0], moved[axis, :, 1] = dx, dy
        start = sum(map(len, self.rows))
        self.parts[name] = slice(start, start + len(rows))
        self.rows.append(rows)
        self.moves.append(moved)

    def pair(self, name: str, xy: tuple[Any, Any], out: Any = 0.0, moves: Moves | None = None) -> None:
        """Add an outline of the right half and its mirror image, but let both eyes look the same way."""
        self.add(f"{name}_right", xy, out, moves)
        mirrored = {axis: (dx if axis == GAZE_X else -np.asarray(dx), dy) for axis, (dx, dy) in (moves or {}).items()}
        self.add(f"{name}_left", (-np.asarray(xy[0]), xy[1]), out, mirrored)


def _loop(forth: Array, back: Array | None = None) -> Array:
    """Closed outline: one side forwards, then the other (by default the same) backwards."""
    return np.concatenate([forth, (forth if back is None else back)[::-1]])


def _ellipse(x: float, y: float, rx: float, ry: float, corners: int = 12, power: float = 2.0) -> tuple[Array, Array]:
    """Corners of a superellipse: power 2 is round, more is squarer."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    return x + rx * np.sign(c) * np.abs(c) ** (2 / power), y + ry * np.sign(s) * np.abs(s) ** (2 / power)


def _slices(t: Traits) -> tuple[Array, Array]:
    """Head and hair as stacks of ellipses: (n,4) and (m,4), see `Identity`."""
    down = -np.cos(np.linspace(0, np.pi, 24))  # dense where the outline is round
    dome = np.sqrt(np.clip(1 - np.clip(down, None, 0) ** 2, 0, None))
    low = np.clip(down, 0, 1)
    chin = 0.5 * t["chin"] + 0.36 * t["jaw"]
    face = np.interp(low, [0, 0.3, 0.62, 0.86, 0.97, 1], [1, t["cheeks"], t["jaw"] * 0.92 + 0.04, chin, t["chin"], 0])
    face = np.convolve(np.pad(face, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    width = t["head_width"] * np.where(down < 0, dome ** (2.05 - 1.15 * t["forehead"]), face)
    depth = t["head_depth"] * np.where(down < 0, dome, np.interp(low, [0, 0.6, 1], [1, 0.72, 0.3]))
    y = np.where(down < 0, down, down * t["chin_length"])
    head = np.stack([width, depth, np.interp(low, [0, 0.6, 1], [0, 0.12, 0.5]), y], axis=-1)

    volume, length = t["hair_volume"], max(t["hair_length"], 0.1)
    y = np.where(down < 0, down * (1 + volume), down * length)
    bulk = dome**0.9 * (1 - (0.55 if length < 0.5 else 0.2) * low**4)
    width = (t["head_width"] + 0.8 * volume) * bulk * (1 + max(t["curl"], 0) * np.sin(t["curl_rate"] * y))
    return head, np.stack([width, (t["head_depth"] + volume) * bulk, np.full(24, -0.06), y], axis=-1)


def _add_eyes(shape: _Outlines, t: Traits) -> None:
    u = np.linspace(-1, 1, 11)
    arch = 1 - u**2
    ex, ey, ew, eh = t["eye_x"], t["eye_y"], t["eye_width"], t["eye_height"]
    x, axis = ex + ew * u, ey - 0.6 * t["eye_tilt"] * ew * u
    upper, lower = axis - eh * arch**0.8, axis + 0.75 * eh * arch
    falls, rises = 1.5 * eh * arch, -0.2 * eh * arch  # of the lids, until they meet
    shape.pair("socket", _ellipse(ex, ey - 0.02, ew * 1.2, eh + t["lid"] + 0.03))
    shape.pair("white", (_loop(x), _loop(upper, lower)))
    look: Moves = {GAZE_X: (0.45 * ew, 0), GAZE_Y: (0, 0.5 * eh)}
    for name, radius in (("iris", t["iris"]), ("pupil", 0.5 * t["iris"])):
        shape.pair(name, _ellipse(ex, ey - 0.1 * eh, radius, radius), moves=look)
    shape.pair("glint", _ellipse(ex + 0.02, ey - 0.1 * eh - 0.03, 0.014, 0.014, 5), moves=look)
    # Lids of skin hide what of the iris lies outside the eye.
    bag, crease = axis + (0.75 * eh + 0.07) * arch, axis - (eh + t["lid"] + 0.02) * arch**0.6
    xx, still = _loop(x), 0 * u
    shape.pair("under_lid", (xx, _loop(lower, bag)), moves={CLOSE: (0, _loop(rises, still))})
    shape.pair("lid", (xx, _loop(crease, upper)), moves={CLOSE: (0, _loop(still, falls))})
    lash = _loop(upper - 0.025, upper + 0.01)
    shape.pair("lash", (xx, lash), moves={CLOSE: (0, _loop(falls))})

    x = ex + t["brow_length"] * u + 0.02
    line = ey - eh - t["brow_gap"] - 0.6 * t["brow_tilt"] * t["brow_length"] * u - t["brow_arch"] * arch
    half = t["brow_height"] * (1 - t["brow_taper"] * (u + 1) / 2)
    shape.pair("brow", (_loop(x), _loop(line - half, line + half)), moves={BROW: (0, -0.08)})
    shape.add("furrow", (0.3 * u, ey - eh - t["brow_gap"] - 0.2 - 0.03 * arch), moves={BROW: (0, -0.04)})
    shape.pair(
        "frame", _ellipse(ex + 0.01, ey + 0.03, t["frame_width"], t["frame_height"], 16, t["frame_square"]), 0.16
    )
    shape.pair("arm", ([ex + t["frame_width"], 0.99 * t["head_width"]], ey), [0.16, 0.05])
    shape.add("bridge", ([t["frame_width"] - ex, ex - t["frame_width"]], ey), 0.2)


def _add_nose_and_mouth(shape: _Outlines, t: Traits) -> None:
    tip, wide, slim, out = t["eye_y"] + t["nose_length"], t["nose_width"], t["nose_bridge"], t["nose_out"]
    y = np.array([t["eye_y"] - 0.06, t["eye_y"] + 0.1, tip - 0.1, tip - 0.02])
    height = out * np.array([0.2, 0.5, 0.9, 1])
    ridge = np.array([0.5 * slim, 0.7 * slim, 0.4 * wide, 0.5 * wide])
    foot = np.array([slim + 0.05, slim + 0.02, 0.8 * wide, 1.05 * wide])
    shape.pair("nose", (_loop(ridge, foot), _loop(y)), _loop(height, 0.1 * height))
    shape.add("ridge", (_loop(-0.6 * ridge, 0.6 * ridge), _loop(y)), _loop(height))
    flare: Moves = {SMILE: (0.015, -0.01)}
    shape.pair("wing", _ellipse(0.78 * wide, tip - 0.01, 0.36 * wide, 0.34 * wide + 0.01, 10), 0.1, flare)
    shape.add("under_nose", _ellipse(0, tip + 0.035, 0.7 * wide, 0.035, 10), 0.5 * out)
    shape.add("tip", _ellipse(0, tip - 0.02, 0.55 * wide, 0.42 * wide + 0.01), out)
    shape.pair("nostril", _ellipse(0.45 * wide, tip + 0.03, t["nostrils"] + 0.008, 0.7 * t["nostrils"], 8), 0.6 * out)

    u = np.linspace(-1, 1, 11)
    arch = 1 - u**2
    middle, half = tip + (t["chin_length"] - tip) * t["mouth_drop"], t["mouth_width"]
    seam = middle + 2 * t["mouth_bend"] * u**2
    top = seam - t["upper_lip"] * arch**0.7 * (1 - t["lip_bow"] * np.exp(-((u / 0.18) ** 2)))
    bottom, below = seam + t["lower_lip"] * arch**0.6, 0.03 + 0.01 * arch
    rises, falls = -0.02 * arch, 0.17 * arch**0.7
    smile = _loop(0.07 * u), _loop(0.02 - 0.1 * u**2)
    for name, above, under, first, second in (
        ("gap", seam - 0.006, seam + 0.006, rises, falls),
        ("teeth", seam, seam, rises, 0.4 * falls),
        ("upper_lip", top, seam, rises, rises),
        ("lower_lip", seam, bottom, falls, falls),
        ("chin_shade", bottom + below, bottom + 2 * below, falls, falls),
        ("moustache", top - 0.03 - 0.05 * arch, top + 0.01, rises, rises),
    ):
        gape = (0, _loop(first, second))
        shape.add(name, (_loop(half * u), _loop(above, under)), 0.05, {SMILE: smile, OPEN: gape})
    shape.pair("blush", _ellipse(t["eye_x"] + 0.07, tip - 0.04, 0.15, 0.1, 14), moves={SMILE: (0.01, -0.05)})
    fold = [wide + 0.04, 0.9 * half + 0.07, half + 0.06], [tip - 0.02, (tip + middle) / 2, middle + 0.03]
    shape.pair("fold", fold, moves={SMILE: (0.05, -0.03)})


def _add_hair_and_marks(shape: _Outlines, t: Traits, head: Array, rng: np.random.Generator) -> None:
    def width(y: Any) -> Any:
        return np.interp(y, head[:, 3], head[:, 0])

    v = np.linspace(-1, 1, 17)
    swept = t["swoop"] * np.exp(-2.5 * np.abs(v - t["parting"])) * np.sign(v - t["parting"])
    edge = t["hairline"] - t["hairline_arch"] * (1 - v**2) - swept + 0.35 * v**4
    edge = np.clip(np.where(np.abs(v) == 1, 0, edge), -0.93, -0.18)
    shape.add("hairline", (0.99 * v * width(edge), edge), 0.03)
    shape.add("hat", (v * width(-0.4), -0.4 + 0.12 * v**2), 0.08)
    y = np.linspace(-0.45, max(t["hair_length"], 0.4), 8)
    outer = t["head_width"] + 0.5 * t["hair_volume"] - 0.1 * (y < -0.4)
    inner = np.maximum(width(np.minimum(y, 0.3)) - t["locks"] * np.linspace(0.2, 1, 8), 0)
    shape.pair("lock", (_loop(outer, inner), _loop(y)), 0.05)

    y = np.linspace(t["beard_line"] - 0.1, t["chin_length"] * 0.98, 8)
    mouth = shape.rows[list(shape.parts).index("lower_lip")]
    corner, middle = mouth[10, :2] + [0.06, -0.02], mouth[16, 1]
    edge_x, edge_y = [0, 0, *corner[:1], 0.84 * width(y[0])], [t["chin_length"], middle, corner[1], y[0] + 0.1]
    falls = [*(0.25 * np.clip(y - 0.3, 0, None)), 0.17, 0.13, 0.03, 0]
    shape.pair("beard", ([*(0.985 * width(y)), *edge_x], [*y, *edge_y]), 0.01, {OPEN: (0, falls)})
    y = np.linspace(0.2, 1, 7) * t["chin_length"]
    rim = 1.01 * width(y) + 0.01
    nose = t["eye_y"] + np.array([0.2, 0.14, 0.2])
    shape.add("mask", ([*-rim, *rim[::-1], 0.15, 0, -0.15], [*y, *y[::-1], *nose]), 0.08)
    shape.add("mask_fold", (0.9 * v * width(0.5), 0.5 + 0.05 * v**2), 0.1)

    # As many moles and freckles are drawn for everyone, so that traits do not shift the random numbers that follow.
    moles = rng.uniform([-0.5, -0.45, 0.02], [0.5, 0.85, 0.038], (5, 3))
    freckles = rng.normal([0, t["eye_y"] + 0.25, 0.014], [0.25, 0.08, 0.002], (14, 3))
    spots = [*moles[: int(t["moles"])], *freckles[: int(14 * max(t["freckles"], 0))]]
    for i, (x, y0, radius) in enumerate(spots):
        shape.add(f"mark_{i}", _ellipse(x, y0, radius, radius, 6))
    x, y0, lean = rng.uniform([-0.5, -0.4, -0.1], [0.5, 0.6, 0.1]).tolist()
    shape.add("scar", ([x - lean, x, x + lean], [y0 - 0.1, y0, y0 + 0.1]))


def rgb(color: Any) -> Color:
    """Round and clip three numbers to 0 ... 255."""
    r, g, b = np.clip(color, 0, 255).astype(int).tolist()
    return r, g, b


def _colors(t: Traits) -> dict[str, Color]:
    def along(palette: tuple[Color, ...], at: float) -> Array:
        where = np.linspace(0, 1, len(palette))
        return np.array([np.interp(at, where, channel) for channel in zip(*palette, strict=True)])

    skin = along(SKIN, t["skin"]) * (1 + 0.05 * t["skin_warmth"] * np.array([1, 0, -1]))
    hair = along(HAIR, t["hair_color"]) * t["hair_light"]
    lip = 0.45 * skin + 0.55 * along(LIPS, t["lip_color"]) * (0.75 + skin.mean() / 800)
    thick = min(max(t["beard"], 0.3) + 0.3, 0.9)
    # fmt: off
    tints: dict[str, Any] = {
        "skin": skin, "ear": 0.9 * skin, "neck": 0.78 * skin, "socket": 0.92 * skin, "lid": 0.87 * skin,
        "shade": 0.86 * skin, "deep": 0.72 * skin, "light": (1 + 0.08 * t["nose_light"]) * skin + 3,
        "blush": skin * (1 - 0.1 * t["blush"] * np.array([0, 1, 0.8])), "mark": skin * [0.6, 0.5, 0.45],
        "fold": (0.92 - 0.16 * max(t["age"], 0)) * skin, "nostril": 0.4 * skin,
        "white": [242, 240, 234], "iris": along(IRIS, t["iris_color"]), "pupil": [16, 12, 14], "lash": 0.3 * hair + 8,
        "hair": hair, "hair_back": 0.7 * hair, "brow": t["brow_dark"] * hair + 0.6 * (1 - t["brow_dark"]) * skin,
        "beard": (1 - thick) * skin + thick * 0.9 * hair, "upper_lip": 0.86 * lip, "lower_lip": lip,
        "gap": [70, 22, 26], "teeth": [240, 236, 226], "dark": [38, 32, 36], "shadow": [120, 120, 124],
    }
    # fmt: on
    return {name: rgb(color) for name, color in tints.items()}


@lru_cache(maxsize=4096)
def draw_identity(seed: int, person: int) -> Identity:
    """Random identity, a function of the two numbers."""
    rng = np.random.default_rng([seed, person, 0])  # photos have 1 and up here; a shorter seed would be padded with 0
    t = dict(zip(TRAITS, rng.uniform(*np.transpose(list(TRAITS.values()))).tolist(), strict=True))
    head, hair = _slices(t)
    shape = _Outlines()
    _add_eyes(shape, t)
    _add_nose_and_mouth(shape, t)
    _add_hair_and_marks(shape, t, head, rng)
    points, moves = np.concatenate(shape.rows), np.concatenate(shape.moves, axis=1)
    wide, deep, center = (np.interp(points[:, 1], head[:, 3], column) for column in head[:, :3].T)
    points[:, 2] += center + deep * np.sqrt(np.clip(1 - (points[:, 0] / np.maximum(wide, 1e-6)) ** 2, 0, None))

    c, s = _ellipse(0, 0, 1, 1)
    wide = np.interp(t["ear_y"], head[:, 3], head[:, 0])
    lobe = [0.97 * wide + 0.5 * t["ear_out"] * (1 + c), t["ear_y"] + t["ear_height"] * s, -0.08 - 0.13 * c]
    ear = np.stack(lobe, axis=-1)  # it stands off the head, so it has a depth of its own
    n = len(points)
    parts = {**shape.parts, "ear_right": slice(n, n + 12), "ear_left": slice(n + 12, n + 24)}
    points, moves = np.concatenate([points, ear, ear * [-1, 1, 1]]), np.pad(moves, ((0, 0), (0, 24), (0, 0)))

    colors = _colors(t)
    has = {"age": t["age"] > 0, "scar": rng.random() < 0.3, "locks": t["hair_length"] > 0.4}
    has |= {"beard": t["beard"] > 0, "moustache": max(t["beard"], t["moustache"] - 0.6) > 0}
    outlines: dict[str, list[slice]] = {}
    for part, rows in parts.items():
        name, _, end = part.rpartition("_")
        outlines.setdefault(name if end in ("left", "right") or end.isdigit() else part, []).append(rows)
    layers = [
        Layer(rows, colors.get(color), width, needs if needs not in has else "")
        for name, color, width, needs in LAYERS
        for rows in outlines.get(name, [])
        if has.get(needs, True)
    ]
    return Identity(t, points, moves, parts, head, hair, colors, layers)
