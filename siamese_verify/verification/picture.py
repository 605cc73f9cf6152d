"""A decision as a picture: photos, faces, what carried the score, and where it lies among those of strangers."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from siamese_verify.evaluation.pages.palette import LIGHT
from siamese_verify.faces import Photo, open_photo, reduced, turned
from siamese_verify.verification.explanation import heat
from siamese_verify.verification.score_chart import Measured, draw_scores, histogram_of_record
from siamese_verify.verification.sheet import DPI, EDGE, WIDTH, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from siamese_verify.verification.explanation import Explanation
    from siamese_verify.verification.result import SeenFace, Verification

GAP = 0.14  # inches between pictures
LINE = 0.2  # inches, of the small text
WRAPPED = 150  # characters of it in a line
LARGEST = 1200  # pixels of a photo's longer side: more cannot be seen
QUIET = "#5a6675"  # of small print: grey that keeps a contrast of 5.8 on white


def draw_verification(
    verification: Verification,
    photos: tuple[Photo, Photo],
    record: Measured,
    explanation: Explanation | None = None,
) -> Image.Image:
    """Draw a decision on light ground.

    Args:
        verification: with its two faces.
        photos: that they were found on, in any form that `open_photo` takes.
        record: of the model. Without a histogram among its metrics the tail of the strangers' scores is drawn, and
            without either the bare scale.
        explanation: of the score, by the same faces.

    Returns:
        RGB, 1,650 pixels wide.

    Raises:
        InputError: a photo cannot be read (any more).
    """
    from matplotlib.figure import Figure  # late: drawing must not cost those who only ask for a decision

    side = 1.72 if explanation else 2.2  # of an aligned face, in inches
    half = (WIDTH - 2 * EDGE - 3 * GAP) / 2
    tall = 2 * side + GAP if explanation else half - side - GAP  # of the room for a photo
    notes = _notes(verification)
    heights = {
        "head": 0.95 + 0.25 * len(_rarity(verification)),
        "photos": 0.28 + tall + 0.1,
        "colours": 0.38 if explanation else 0.0,
        "scores": 2.45 if histogram_of_record(record) or record.meaning else 1.6,
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
        _draw_photo(sheet, left, top + 0.28, half - side - GAP, tall, _upright(photo, face), face)
        beside = left + half - side
        _draw_crop(sheet.axes(beside, top + 0.28, side, side), face.crop)
        if explanation and values is not None:
            warm = heat(face.crop, values, explanation.range)
            _draw_crop(sheet.axes(beside, top + 0.28 + side + GAP, side, side), warm)
    top += heights["photos"]
    if explanation:
        _draw_colours(sheet, explanation.range, top + 0.1)
    top += heights["colours"]
    indent = 0.5  # for the numbers beside the axis
    axes = sheet.axes(EDGE + indent, top + 0.57, WIDTH - 2 * EDGE - indent, heights["scores"] - 1.1)
    draw_scores(axes, verification, record)
    top += heights["scores"]
    for number, (line, colour) in enumerate(notes):
        sheet.write(EDGE, top + LINE * (number + 0.5), line, size=9, colour=colour)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    with Image.open(file) as drawn:
        return drawn.convert("RGB")


def _draw_head(sheet: Sheet, verification: Verification) -> None:
    words, colour = {
        True: ("The same person", LIGHT.genuine),
        False: ("Different people", LIGHT.impostor),
        None: ("Inconclusive", LIGHT.ink),
    }[verification.same]
    sheet.write(EDGE, 0.36, words, size=21, colour=colour, weight="bold")
    sheet.write(EDGE, 0.74, _details(verification), size=11)
    for row, line in enumerate(_rarity(verification), 1):
        sheet.write(EDGE, 0.74 + 0.25 * row, line, size=11)


def _details(verification: Verification) -> str:
    score, threshold = verification.score, verification.threshold
    reaches = score >= threshold
    parts = [f"Score {score:.3f}, {'at or above' if reaches else 'below'} the threshold of {threshold:.3f}."]
    return " ".join(filter(None, [*parts, verification.stated_probability()]))


def _rarity(verification: Verification) -> list[str]:
    """How often such a score comes, in lines."""
    return [line for text in (verification.likelihood, verification.strangers) for line in textwrap.wrap(text, 115)]


def _notes(verification: Verification) -> list[tuple[str, str]]:
    """Lines below everything, each with its colour."""
    lines = [(f"Reason: {reason}", LIGHT.ink) for reason in verification.reasons]
    lines += [(f"Note: {warning}", LIGHT.ink) for warning in verification.warnings]
    measured = f", thresholds measured on {verification.measured_on}" if verification.measured_on else ""
    lines.append((f"Model {verification.model}{measured}.", QUIET))
    return [(part, colour) for line, colour in lines for part in textwrap.wrap(line, WRAPPED, subsequent_indent="    ")]


def _upright(photo: Photo, face: SeenFace) -> Image.Image:
    return turned(open_photo(photo, face.name), face.turned)


def _caption(photo: Photo, face: SeenFace, number: int) -> str:
    name = Path(photo).name if isinstance(photo, str | Path) else face.name
    return f"Photo {number}" if name == f"photo {number}" else f"Photo {number}: {name}"


def _draw_photo(
    sheet: Sheet, left: float, top: float, width: float, height: float, photo: Image.Image, face: SeenFace
) -> None:
    """Draw a photo at the top of some room, with the box of its face."""
    from matplotlib.patches import Rectangle

    whole = (photo.width * reduced(photo), photo.height * reduced(photo))  # the box is in the photo's own pixels
    scale = min(width / whole[0], height / whole[1])
    across, down = whole[0] * scale, whole[1] * scale
    axes = sheet.axes(left + (width - across) / 2, top, across, down)
    small = photo.copy()
    small.thumbnail((LARGEST, LARGEST))
    axes.imshow(np.asarray(small), extent=(0, whole[0], whole[1], 0), aspect="auto", interpolation="antialiased")
    _without_ticks(axes)
    if face.box is None:
        return
    x, y, right, bottom = face.box
    for colour, line in ((LIGHT.ink, 4.2), (LIGHT.ground, 2.0)):  # seen on any ground
        axes.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, edgecolor=colour, linewidth=line))
    axes.set_xlim(0, whole[0])
    axes.set_ylim(whole[1], 0)


def _draw_crop(axes: Axes, crop: np.ndarray) -> None:
    axes.imshow(crop, interpolation="antialiased")
    _without_ticks(axes)


def _without_ticks(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(LIGHT.faint)


def _draw_colours(sheet: Sheet, strongest: float, top: float) -> None:
    """Draw what the colours of the maps mean."""
    grey = np.full((1, 1, 3), 200, dtype=np.uint8)
    steps = np.linspace(-strongest, strongest, 101)
    colours = np.stack([heat(grey, np.full((1, 1), step), strongest)[0, 0] for step in steps])[None]  # (1,101,3)
    width = 1.6
    left = (WIDTH - width) / 2
    axes = sheet.axes(left, top, width, 0.13)
    axes.imshow(colours, aspect="auto", interpolation="bilinear")
    _without_ticks(axes)
    middle = top + 0.065
    sheet.write(
        left - 0.1, middle, f"speaks against: the score rises by {strongest:.2f} without it", size=9, ha="right"
    )
    sheet.write(left + width + 0.1, middle, f"carries the similarity: the score falls by {strongest:.2f}", size=9)
