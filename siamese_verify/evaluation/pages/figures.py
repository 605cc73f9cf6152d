"""The pictures of a report, for papers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from siamese_verify.evaluation.pages.check_drawing import draw_folds, draw_reliability, draw_robustness
from siamese_verify.evaluation.pages.palette import LIGHT
from siamese_verify.evaluation.pages.rate_drawing import draw_det, draw_roc
from siamese_verify.evaluation.pages.score_drawing import draw_errors, draw_histogram
from siamese_verify.evaluation.thinning import thinned

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from siamese_verify.evaluation.pages.palette import Palette
    from siamese_verify.evaluation.report import VerificationReport
    from siamese_verify.evaluation.roc import RocCurve


class ReportFigure(NamedTuple):
    """One picture as PNG."""

    name: str
    title: str
    text: str  # what to see in it
    png: bytes


def _png(
    draw: Callable[[Axes, VerificationReport, RocCurve, Palette], None],
    report: VerificationReport,
    curve: RocCurve,
    palette: Palette,
) -> bytes:
    # Figure without pyplot: no window system, no global list of figures, safe in any thread.
    figure = Figure(figsize=(6.4, 4.4), dpi=150, facecolor=palette.ground)
    # Margins that hold the longest labels; a layout engine would find them too, in half of the drawing time.
    figure.subplots_adjust(left=0.15, right=0.955, bottom=0.13, top=0.93)
    axes = figure.add_subplot(facecolor=palette.ground)
    axes.grid(True, color=palette.faint, linewidth=0.7)
    axes.set_axisbelow(True)
    draw(axes, report, curve, palette)
    axes.tick_params(which="both", colors=palette.ink, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(palette.faint)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(palette.ink)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


class Drawing(NamedTuple):
    """A picture that a report may have."""

    name: str
    title: str
    text: str  # what to see in it
    draw: Callable[[Axes, VerificationReport, RocCurve, Palette], None]
    field: str = ""  # of the report, without which there is nothing to draw


DRAWINGS = (
    Drawing(
        "roc",
        "ROC",
        "Genuine pairs accepted, against impostors accepted; the dots are the operating points of the table.",
        draw_roc,
    ),
    Drawing(
        "det",
        "DET",
        "Both errors against each other, on axes that make normal scores a straight line. Lower left is better.",
        draw_det,
    ),
    Drawing("histogram", "Scores", "How alike the two kinds of pairs look. Less overlap is better.", draw_histogram),
    Drawing(
        "errors", "Errors against the threshold", "What a stricter or a more lenient threshold costs.", draw_errors
    ),
    Drawing(
        "reliability",
        "Reliability",
        "What share of the pairs that were said to be genuine with some probability was. On the line is right.",
        draw_reliability,
        "calibration",
    ),
    Drawing(
        "folds",
        "Accuracy, fold by fold",
        "Each by the threshold that is best for the others.",
        draw_folds,
        "kfold",
    ),
    Drawing(
        "robustness",
        "Robustness",
        "How much more goes wrong when one of two photos is damaged.",
        draw_robustness,
        "robustness",
    ),
)


def draw_figure(report: VerificationReport, name: str) -> bytes:
    """Draw one of `DRAWINGS` on light ground, as PNG."""
    draw = next(one.draw for one in DRAWINGS if one.name == name)
    return _png(draw, report, thinned(report.curve), LIGHT)


def draw_figures(report: VerificationReport) -> list[ReportFigure]:
    """Draw all that a report has, from curves thinned to what can be seen."""
    curve = thinned(report.curve)
    return [
        ReportFigure(one.name, one.title, one.text, _png(one.draw, report, curve, LIGHT))
        for one in DRAWINGS
        if not one.field or getattr(report, one.field)
    ]
