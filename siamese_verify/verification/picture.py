"""Picture of a decision: both photos, faces and occlusion maps, and the score on the histogram of the model."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from PIL import Image

from siamese_verify.evaluation.pages.rendering import LIGHT
from siamese_verify.faces import Photo, open_photo, reduced, rotate_photo
from siamese_verify.verification.explanation import heat

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from siamese_verify.models.metadata import ModelMetadata
    from siamese_verify.verification.decision import DetectedFace, Verification
    from siamese_verify.verification.explanation import Explanation

WIDTH, DPI = 11.0, 150  # inches, pixels per inch
EDGE = 0.4  # inches around everything
GAP = 0.14  # inches between pictures
LINE = 0.2  # inches, of the small text
LINE_LENGTH = 150  # characters of it in a line
MAX_PHOTO = 1200  # pixels of a photo's longer side: more cannot be seen
QUIET = "#5a6675"  # of small print: gray that keeps a contrast of 5.8 on white
FALLBACKS = (  # for scripts that DejaVu Sans lacks, if installed
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans CJK KR",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
    "Noto Sans Devanagari",
    "Noto Sans Hebrew",
    "Noto Sans Thai",
)


class Sheet:
    """A figure on which axes and text are placed in inches from its upper left corner."""

    def __init__(self, figure: Figure, height: float) -> None:
        self.figure, self.height = figure, height
        self._renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        installed = {font.name: font.fname for font in font_manager.fontManager.ttflist}
        self.families = ["DejaVu Sans", *(name for name in FALLBACKS if name in installed)]
        self._known: set[int] = set()
        for name in self.families:
            self._known |= set(font_manager.get_font(installed[name]).get_charmap())

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes at a place in inches."""
        bounds = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        return self.figure.add_axes(bounds, facecolor=LIGHT.ground)

    def write(
        self, left: float, top: float, text: str, size: float, color: str = LIGHT.ink, room: float = 0, **how: Any
    ) -> None:
        """Write one line of any text: dollars are not a formula, and characters that no font has become a box.

        Args:
            left: inches from the left, of where the text is aligned.
            top: inches from the top, of its middle.
            text: of any length; line breaks become spaces.
            size: in points.
            color: of the text.
            room: inches; the middle of a wider text is left out. 0 for as much as there is.
            how: further arguments of `Figure.text`.
        """
        shown = "".join(sign if ord(sign) in self._known else "\u25a1" for sign in " ".join(text.split()))
        how = {"fontsize": size, "color": color, "family": self.families, "parse_math": False, "va": "center", **how}
        line = self.figure.text(left / WIDTH, 1 - top / self.height, shown, **how)
        room = room or WIDTH - EDGE - left
        while (width := line.get_window_extent(self._renderer).width / DPI) > room and len(shown) > 1:
            shown = shortened(shown, min(len(shown) - 1, math.ceil(len(shown) * room / width)))
            line.set_text(shown)


def shortened(name: str, most: int) -> str:
    """Leave out the middle of a name that is longer than `most` characters; its end tells files apart."""
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def draw_scores(axes: Axes, verification: Verification, metadata: ModelMetadata) -> None:
    """Draw the score and the threshold over the histogram of a model's scores, or on a bare axis without one."""
    histogram = metadata.histogram
    scores = [verification.score, *(end for end in (verification.threshold,) if math.isfinite(end))]
    if histogram:
        kinds = (
            (histogram.impostors, "impostors", LIGHT.impostor),
            (histogram.genuine, "one person", LIGHT.genuine),
        )
        for share, name, color in kinds:
            axes.stairs(share, histogram.edges, fill=True, color=color, alpha=0.35)
            axes.stairs(share, histogram.edges, color=color, linewidth=1.6, label=name)
        scores += [float(histogram.edges[0]), float(histogram.edges[-1])]
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.set_ylabel("share of pairs", fontsize=9)
        axes.set_ylim(0, 1.08 * max(float(histogram.impostors.max()), float(histogram.genuine.max())))
    else:
        axes.set_yticks([])
        scores += [-1.0, 1.0]
    room = 0.03 * (max(scores) - min(scores))
    axes.set_xlim(max(-1.02, min(scores) - room), min(1.02, max(scores) + room))
    _mark(axes, verification)
    axes.set_xlabel("score (higher: more alike)", fontsize=9)
    axes.tick_params(which="both", colors=LIGHT.ink, length=0, labelsize=9)
    axes.grid(True, color=LIGHT.faint, linewidth=0.7)
    axes.set_axisbelow(True)
    for edge, spine in axes.spines.items():
        spine.set_visible(edge in ("left", "bottom"))
        spine.set_color(LIGHT.faint)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(LIGHT.ink)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            frameon=False, labelcolor=LIGHT.ink, loc="lower right", bbox_to_anchor=(1, -0.34), ncols=2, fontsize=9
        )


def _mark(axes: Axes, verification: Verification) -> None:
    """Mark the score, and in a row above it the threshold with its interval, so that their labels never overlap."""
    low, high = axes.get_xlim()
    if math.isfinite(verification.threshold):
        label = f"threshold {verification.threshold:.3f}"
        if verification.threshold_interval:
            start, end = (min(max(one, low), high) for one in verification.threshold_interval)
            axes.axvspan(start, end, color=LIGHT.ink, alpha=0.13, linewidth=0)
            label += " (band: 95 %)"
        # Up to its label, beyond that of the score.
        axes.axvline(verification.threshold, 0, 1.2, color=LIGHT.ink, linewidth=1.4, linestyle="--", clip_on=False)
        _label(axes, verification.threshold, label, 19, color=LIGHT.ink)
    color = {True: LIGHT.genuine, False: LIGHT.impostor, None: LIGHT.ink}[verification.same]
    axes.axvline(verification.score, color=color, linewidth=2.6)
    axes.plot([verification.score], [1], marker="v", color=color, transform=axes.get_xaxis_transform(), clip_on=False)
    away = 1 if verification.score >= verification.threshold else -1  # from the line of the threshold
    _label(axes, verification.score, f"these photos {verification.score:.3f}", 5, away, color=color, fontweight="bold")


def _label(axes: Axes, score: float, text: str, above: float, side: int = 1, **how: Any) -> None:
    """Write beside a score, `above` points over the chart: to the right for a `side` of 1, else to the left."""
    low, high = axes.get_xlim()
    share = (score - low) / (high - low)
    rightwards = share < 0.2 or (share < 0.8 and side > 0)
    axes.annotate(
        text,
        (score, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(7 if rightwards else -7, above),
        textcoords="offset points",
        ha="left" if rightwards else "right",
        fontsize=10,
        annotation_clip=False,
        bbox={"facecolor": LIGHT.ground, "edgecolor": "none", "pad": 1.0},  # a line behind it does not cross it out
        **how,
    )


def draw_verification(
    verification: Verification,
    photos: tuple[Photo, Photo],
    metadata: ModelMetadata,
    explanation: Explanation | None = None,
) -> Image.Image:
    """Draw a decision on a light background.

    Args:
        verification: with its two faces.
        photos: of the faces, in any form that `open_photo` takes.
        metadata: of the model; without a histogram in its metrics, the score is drawn on a bare axis.
        explanation: of the score of these faces.

    Returns:
        RGB, 1,650 pixels wide.

    Raises:
        InputError: a photo cannot be read.
    """
    side = 1.72 if explanation else 2.2  # of an aligned face, in inches
    half = (WIDTH - 2 * EDGE - 3 * GAP) / 2
    tall = 2 * side + GAP if explanation else half - side - GAP  # of the room for a photo
    notes = _notes(verification)
    heights = {
        "head": 0.95 + 0.25 * len(_rarity(verification)),
        "photos": 0.28 + tall + 0.1,
        "colors": 0.38 if explanation else 0.0,
        "scores": 2.45 if metadata.histogram else 1.6,
        "notes": LINE * len(notes) + 0.1,
    }
    total = sum(heights.values()) + EDGE / 2
    # Figure without pyplot: no window system, no global list of figures, safe in any thread.
    figure = Figure(figsize=(WIDTH, total), dpi=DPI, facecolor=LIGHT.ground)
    sheet = Sheet(figure, total)
    _draw_head(sheet, verification)
    top = heights["head"]
    maps = (explanation.left, explanation.right) if explanation else (None, None)
    for place, (photo, face, values) in enumerate(zip(photos, verification.faces, maps, strict=True)):
        left = EDGE + place * (half + 3 * GAP)
        sheet.write(left, top + 0.08, _caption(photo, face, place + 1), size=10.5, room=half)
        upright = rotate_photo(open_photo(photo, face.name), face.rotated_by)
        _draw_photo(sheet, left, top + 0.28, half - side - GAP, tall, upright, face)
        beside = left + half - side
        _show(sheet.axes(beside, top + 0.28, side, side), face.crop)
        if explanation and values is not None:
            warm = heat(face.crop, values, explanation.range)
            _show(sheet.axes(beside, top + 0.28 + side + GAP, side, side), warm)
    top += heights["photos"]
    if explanation:
        _draw_color_scale(sheet, explanation.range, top + 0.1)
    top += heights["colors"]
    indent = 0.5  # for the numbers beside the axis
    axes = sheet.axes(EDGE + indent, top + 0.57, WIDTH - 2 * EDGE - indent, heights["scores"] - 1.1)
    draw_scores(axes, verification, metadata)
    top += heights["scores"]
    for number, (line, color) in enumerate(notes):
        sheet.write(EDGE, top + LINE * (number + 0.5), line, size=9, color=color)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    with Image.open(file) as drawn:
        return drawn.convert("RGB")


def _draw_head(sheet: Sheet, verification: Verification) -> None:
    words, color = {
        True: ("The same person", LIGHT.genuine),
        False: ("Different people", LIGHT.impostor),
        None: ("Inconclusive", LIGHT.ink),
    }[verification.same]
    sheet.write(EDGE, 0.36, words, size=21, color=color, weight="bold")
    reached = "at or above" if verification.score >= verification.threshold else "below"
    details = f"Score {verification.score:.3f}, {reached} the threshold of {verification.threshold:.3f}."
    sheet.write(EDGE, 0.74, f"{details} {verification.stated_probability()}", size=11)
    for row, line in enumerate(_rarity(verification), 1):
        sheet.write(EDGE, 0.74 + 0.25 * row, line, size=11)


def _rarity(verification: Verification) -> list[str]:
    """Lines that say how frequent such a score is."""
    return [line for text in (verification.likelihood, verification.impostor_tail) for line in textwrap.wrap(text, 115)]


def _notes(verification: Verification) -> list[tuple[str, str]]:
    """Lines of the footer, each with its color."""
    lines = [(f"Reason: {reason}", LIGHT.ink) for reason in verification.reasons]
    lines += [(f"Note: {warning}", LIGHT.ink) for warning in verification.warnings]
    measured = f", thresholds measured on {verification.measured_on}" if verification.measured_on else ""
    lines.append((f"Model {verification.model}{measured}.", QUIET))
    return [
        (part, color) for line, color in lines for part in textwrap.wrap(line, LINE_LENGTH, subsequent_indent="    ")
    ]


def _caption(photo: Photo, face: DetectedFace, number: int) -> str:
    name = Path(photo).name if isinstance(photo, str | Path) else face.name
    return f"Photo {number}" if name == f"photo {number}" else f"Photo {number}: {name}"


def _draw_photo(
    sheet: Sheet, left: float, top: float, width: float, height: float, photo: Image.Image, face: DetectedFace
) -> None:
    """Draw a photo with the box of its face at the top of an area."""
    whole = (photo.width * reduced(photo), photo.height * reduced(photo))  # the box is in the photo's own pixels
    scale = min(width / whole[0], height / whole[1])
    across, down = whole[0] * scale, whole[1] * scale
    axes = sheet.axes(left + (width - across) / 2, top, across, down)
    small = photo.copy()
    small.thumbnail((MAX_PHOTO, MAX_PHOTO))
    _show(axes, np.asarray(small), extent=(0, whole[0], whole[1], 0), aspect="auto")
    if face.box is None:
        return
    x, y, right, bottom = face.box
    for color, line in ((LIGHT.ink, 4.2), (LIGHT.ground, 2.0)):  # seen on any ground
        axes.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, edgecolor=color, linewidth=line))
    axes.set_xlim(0, whole[0])
    axes.set_ylim(whole[1], 0)


def _show(axes: Axes, pixels: np.ndarray, **how: Any) -> None:
    """Draw (H,W,3) pixels without ticks; `how` are further arguments of `imshow`."""
    axes.imshow(pixels, **{"interpolation": "antialiased", **how})
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(LIGHT.faint)


def _draw_color_scale(sheet: Sheet, full: float, top: float) -> None:
    """Draw the legend of the maps' colors."""
    gray = np.full((1, 1, 3), 200, dtype=np.uint8)
    steps = np.linspace(-full, full, 101)
    colors = np.stack([heat(gray, np.full((1, 1), step), full)[0, 0] for step in steps])[None]  # (1,101,3)
    width = 1.6
    left = (WIDTH - width) / 2
    axes = sheet.axes(left, top, width, 0.13)
    _show(axes, colors, aspect="auto", interpolation="bilinear")
    middle = top + 0.065
    sheet.write(left - 0.1, middle, f"opposes: the score rises by {full:.2f} without it", size=9, ha="right")
    sheet.write(left + width + 0.1, middle, f"supports the similarity: the score falls by {full:.2f}", size=9)
