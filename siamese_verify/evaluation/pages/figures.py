"""The colours of the figures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from siamese_verify.evaluation.roc import thinned


@dataclass(frozen=True)
class Palette:
    """Colours that keep their contrast on one ground; the two kinds stay apart for colour-blind readers."""

    ground: str
    ink: str
    faint: str
    genuine: str
    impostor: str


LIGHT = Palette("#ffffff", "#1d2733", "#d5dbe3", "#1769c2", "#d9591a")


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from siamese_verify.evaluation.report import VerificationReport
    from siamese_verify.evaluation.roc import RocCurve

PROBIT_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95)


def percent_label(rate: float) -> str:
    """Write a rate for an axis: 0.01 as 1 %."""
    return f"{100 * rate:.3g} %"


def probit(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quantiles of the normal distribution for (K,) rates inside (0, 1)."""
    return np.array([NormalDist().inv_cdf(float(rate)) for rate in rates])


def draw_roc(axes: Axes, report: VerificationReport, curve: RocCurve, palette: Palette) -> None:
    """Draw TAR against FAR on a logarithmic axis, with the operating points of the report."""
    smallest = min(0.5 / curve.impostors, 0.005)
    without_error = float(curve.tar[curve.false_accepts == 0][-1])
    bottom = max(-0.02, min(without_error, 0.9) - 0.08)
    # Steps, not slopes: between two operating points the stricter one is what a threshold gives.
    axes.plot(np.maximum(curve.far, smallest), curve.tar, color=palette.genuine, linewidth=2, drawstyle="steps-post")
    for point in report.operating_points:
        if point.target < smallest:
            continue
        axes.plot(
            point.target,
            point.tar,
            marker="o",
            markersize=8,
            color=palette.impostor,
            markerfacecolor=palette.ground if point.insufficient else palette.impostor,
            markeredgewidth=2,
            clip_on=False,
            zorder=4,
        )
        above = point.tar < bottom + 0.15 * (1 - bottom)
        axes.annotate(
            f"{100 * point.tar:.1f} %",
            (point.target, point.tar),
            xytext=(8, 8 if above else -15),
            textcoords="offset points",
            color=palette.ink,
            fontsize=10,
        )
    if any(point.insufficient for point in report.operating_points):
        axes.plot([], [], "o", color=palette.impostor, markerfacecolor="none", label="too few impostors to rely on")
        axes.legend(frameon=False, labelcolor=palette.ink, loc="center right")
    axes.set_xscale("log")
    axes.set_xlim(smallest, 1)
    axes.set_ylim(bottom, 1.01)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: percent_label(rate)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("false accept rate (log)")
    axes.set_ylabel("true accept rate")


def draw_det(axes: Axes, report: VerificationReport, curve: RocCurve, palette: Palette) -> None:
    """Draw FRR against FAR on probit axes (Martin et al., "The DET curve", Eurospeech 1997), with the EER."""
    floors = (min(0.5 / curve.impostors, 0.01), min(0.5 / curve.genuine, 0.01))
    far, frr = (
        probit(np.clip(rate, floor, 1 - 1e-9)) for rate, floor in zip((curve.far, curve.frr), floors, strict=True)
    )
    axes.plot(far, frr, color=palette.genuine, linewidth=2, drawstyle="steps-post")
    top = NormalDist().inv_cdf(0.5 if report.eer < 0.35 else 0.99)
    axes.set_xlim(NormalDist().inv_cdf(floors[0]), top)
    axes.set_ylim(NormalDist().inv_cdf(floors[1]), top)
    axes.axline((0, 0), slope=1, color=palette.ink, linewidth=1, linestyle=":")
    if report.eer <= max(floors):
        axes.text(0.5, 0.5, "fewer errors than can be drawn", ha="center", color=palette.ink, transform=axes.transAxes)
    elif report.eer < 0.98:
        crossing = NormalDist().inv_cdf(report.eer)
        far_right = report.eer > 0.05
        axes.plot(crossing, crossing, marker="o", markersize=8, color=palette.impostor, zorder=4, clip_on=False)
        axes.annotate(
            f"equal error rate {percent_label(report.eer)}",
            (crossing, crossing),
            xytext=(-12, -18) if far_right else (12, 9),
            textcoords="offset points",
            ha="right" if far_right else "left",
            color=palette.ink,
            fontsize=10,
            bbox={"facecolor": palette.ground, "edgecolor": "none", "pad": 1.5},
        )
    ticks = np.array(PROBIT_TICKS)
    for axis, floor in ((axes.xaxis, floors[0]), (axes.yaxis, floors[1])):
        shown = ticks[(ticks >= floor) & (probit(ticks) <= top)]
        axis.set_ticks(list(probit(shown)), [percent_label(rate) for rate in shown])
    axes.set_xlabel("false accept rate (probit)")
    axes.set_ylabel("false reject rate (probit)")


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from siamese_verify.evaluation.report import VerificationReport
    from siamese_verify.evaluation.roc import RocCurve


def _mark_threshold(axes: Axes, report: VerificationReport, palette: Palette) -> None:
    name = "equal error" if report.at_threshold is None else "threshold"
    low, high = axes.get_xlim()
    if low <= report.threshold <= high:
        place = (report.threshold - low) / (high - low)
        axes.axvline(report.threshold, color=palette.ink, linewidth=1.5, linestyle="--")
        axes.annotate(
            f"{name} {report.threshold:.4g}",
            (report.threshold, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="left" if place < 0.15 else "right" if place > 0.85 else "center",
            color=palette.ink,
            fontsize=10,
            annotation_clip=False,
        )


def draw_histogram(axes: Axes, report: VerificationReport, curve: RocCurve, palette: Palette) -> None:
    """Draw how the scores of both kinds are spread, with the threshold."""
    edges, genuine, impostors = report.histogram
    for counts, name, colour in ((impostors, "impostor", palette.impostor), (genuine, "genuine", palette.genuine)):
        share = counts / counts.sum()
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(share, edges, color=colour, linewidth=1.8, label=f"{name} ({counts.sum():,})")
    _mark_threshold(axes, report, palette)
    axes.set_ylim(0, 1.18 * axes.get_ylim()[1])  # room for the legend above both humps
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("score (higher: more alike)")
    axes.set_ylabel("share of the pairs of its kind")
    axes.legend(frameon=False, labelcolor=palette.ink, loc="upper center", ncols=2)


def draw_errors(axes: Axes, report: VerificationReport, curve: RocCurve, palette: Palette) -> None:
    """Draw FAR and FRR against the threshold, with the report's threshold."""
    ascending = curve.at(np.arange(len(curve))[:0:-1])  # without +inf
    marker = "o" if len(ascending) < 10 else None  # a line of one point is invisible
    floor = 0.5 / max(curve.genuine, curve.impostors)
    for rate, name, colour in (
        (ascending.far, "false accept rate", palette.impostor),
        (ascending.frr, "false reject rate", palette.genuine),
    ):
        # A rate of zero has no logarithm: the line ends there.
        shown = np.where(rate > 0, rate, np.nan)
        # Any threshold up to the next score decides as that score does.
        axes.plot(
            ascending.thresholds, shown, color=colour, linewidth=2, label=name, drawstyle="steps-pre", marker=marker
        )
    _mark_threshold(axes, report, palette)
    axes.set_yscale("log")
    axes.set_ylim(min(floor, 0.005), 1.3)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: percent_label(rate)))
    axes.set_xlabel("threshold")
    axes.set_ylabel("error rate (log)")
    axes.legend(frameon=False, labelcolor=palette.ink, loc="best")


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from siamese_verify.evaluation.report import VerificationReport
    from siamese_verify.evaluation.roc import RocCurve


def draw_reliability(axes: Axes, report: VerificationReport, curve: RocCurve, palette: Palette) -> None:
    """Draw what share of the pairs was genuine against the probability that was said; larger dots hold more pairs."""
    assert report.calibration is not None
    predicted, observed, pairs = np.array(report.calibration.bins).T
    axes.plot([0, 1], [0, 1], color=palette.ink, linewidth=1, linestyle=":")
    axes.plot(predicted, observed, color=palette.genuine, linewidth=2)
    axes.scatter(predicted, observed, s=15 * (1 + np.log10(pairs)), color=palette.genuine, clip_on=False, zorder=4)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("probability said")
    axes.set_ylabel("share that was genuine")


def draw_folds(axes: Axes, report: VerificationReport, curve: RocCurve, palette: Palette) -> None:
    """Draw the accuracy of each fold, and their mean."""
    assert report.kfold is not None
    rates = np.array(report.kfold.per_fold)
    axes.bar(np.arange(1, len(rates) + 1), rates, color=palette.genuine)
    axes.axhline(report.kfold.mean, color=palette.ink, linewidth=1.5, linestyle="--")
    axes.set_ylim(max(0.0, rates.min() - 0.02), min(1.0, rates.max() + 0.01))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("fold")
    axes.set_ylabel("accuracy")


def draw_robustness(axes: Axes, report: VerificationReport, curve: RocCurve, palette: Palette) -> None:
    """Draw the EER against the severity of each kind of damage, from none to severe."""
    axes.axhline(report.eer, color=palette.ink, linewidth=1, linestyle=":")
    for kind in dict.fromkeys(row.kind for row in report.robustness):
        rates = [row.eer for row in report.robustness if row.kind == kind]
        axes.plot(np.arange(1, len(rates) + 1), rates, linewidth=2, marker="o", label=kind)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("severity, as in the table")
    axes.set_ylabel("equal error rate")
    axes.legend(frameon=False, labelcolor=palette.ink, ncols=2, fontsize=9)


if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

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
