"""One style for all figures, and each figure drawn once: as PNG for files and as SVG for pages."""

from __future__ import annotations

import io
import math
import re
import warnings
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes


class Palette(NamedTuple):
    """Colors of a figure, which color-blind readers can tell apart."""

    ground: str
    ink: str
    faint: str
    genuine: str
    impostor: str


LIGHT = Palette("#ffffff", "#1d2733", "#d5dbe3", "#1769c2", "#d9591a")
VARIABLES = dict(zip(LIGHT, ("--card", "--ink", "--line", "--genuine", "--impostor"), strict=True))  # in page.css
WIDTH, HEIGHT = 6.4, 4.4  # inches
BOTTOM, TOP = 0.57, 0.31  # margins, inches
LEGEND_ROW = 0.2  # inches
AXIS_STEPS = 128  # intervals of the table by which the page's script reads an axis


class ReportFigure(NamedTuple):
    """A figure as PNG and as SVG."""

    name: str
    title: str
    text: str  # what to see in it
    png: bytes
    svg: str  # an element of a page, in the colors of its style sheet
    axes: dict[str, Any]  # box of the axes in the SVG's units, and values at equal distances along x and y
    wide: bool  # with many curves, for the whole width of a page


def percent_label(rate: float) -> str:
    """Return a rate as a label: 0.01 as 1 %."""
    return f"{100 * rate:.3g} %"


def render_figure(
    name: str, title: str, text: str, draw: Callable[[Axes], None], *, legend: bool = False, height: float = HEIGHT
) -> ReportFigure:
    """Return what `draw` draws on axes as PNG and SVG, `height` inches high; `legend` adds one below the axes."""
    import matplotlib  # late: the colors are used where nothing is drawn
    from matplotlib.figure import Figure

    # Figure without pyplot: no window system, no global list of figures, safe in any thread.
    figure = Figure(figsize=(WIDTH, height), dpi=150, facecolor=LIGHT.ground)
    axes = figure.add_subplot(facecolor=LIGHT.ground)
    axes.grid(True, color=LIGHT.faint, linewidth=0.7)
    axes.set_axisbelow(True)
    draw(axes)
    axes.tick_params(which="both", colors=LIGHT.ink, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LIGHT.faint)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(LIGHT.ink)
    below = _legend_below(axes, height - BOTTOM - TOP) if legend else 0.0
    height += below
    figure.set_figheight(height)
    # Margins that hold the longest labels; a layout engine would find them too, in half of the drawing time.
    figure.subplots_adjust(left=0.15, right=0.955, bottom=(BOTTOM + below) / height, top=1 - TOP / height)
    png, svg = io.BytesIO(), io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        warnings.filterwarnings("ignore", message="Glyph")  # names may hold letters that the font lacks
        figure.savefig(png, format="png", metadata={"Software": None})
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", metadata=nothing, facecolor="none")
    return ReportFigure(
        name,
        title,
        text,
        png=png.getvalue(),
        svg=_inline_svg(svg.getvalue()),
        axes=_axes_table(axes, (WIDTH, height), name),
        wide=legend and len(axes.get_lines()) > 6,
    )


def _legend_below(axes: Axes, inches: float) -> float:
    """Draw a legend below axes that are `inches` high, and return its own height in inches."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(4, int(100 / (8 + max(map(len, labels))))))
    drawn = axes.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(-0.05, -0.46 / inches),
        ncols=columns,
        fontsize=8,
        frameon=False,
        labelcolor=LIGHT.ink,
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)  # a dollar in a name is a dollar
    return LEGEND_ROW * math.ceil(len(labels) / columns)


def _inline_svg(document: str) -> str:
    """Return an SVG document as an element of a page, with the colors of its style sheet."""
    element = document[document.index("<svg") :]
    element = re.sub(
        r"<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", "", element, flags=re.S
    )
    element = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'<g id="[^"]*"', "<g", element)  # repeated in every figure
    for color, variable in VARIABLES.items():
        element = element.replace(color, f"var({variable})")
    return re.sub(r"\n\s*", "\n", element)


def _axes_table(axes: Axes, size: tuple[float, float], name: str) -> dict[str, Any]:
    """Return the box of the axes in points, y downwards, and values at equal distances along x and y.

    `size` is that of the figure in inches.
    """
    width, height = (72 * inches for inches in size)
    box = axes.get_position()
    shares = np.linspace(0, 1, AXIS_STEPS + 1)
    values = []
    for low, high, scale in ((*axes.get_xlim(), axes.get_xscale()), (*axes.get_ylim(), axes.get_yscale())):
        if scale == "log":
            values.append(low * (high / low) ** shares)
        elif name == "det":
            values.append(np.array([NormalDist().cdf(place) for place in low + (high - low) * shares]))
        else:
            values.append(np.array([low, high]))
    x, y = ([float(f"{value:.6g}") for value in one] for one in values)
    edges = (box.x0 * width, (1 - box.y1) * height, box.x1 * width, (1 - box.y0) * height)
    return {"box": [round(edge, 2) for edge in edges], "x": x, "y": y}
