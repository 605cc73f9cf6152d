"""Figures of reports, comparisons and loggers: ROC, DET, histogram, errors, reliability, robustness."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from siamese_verify.evaluation.operating_points import equal_error
from siamese_verify.evaluation.pages.rendering import LIGHT, ReportFigure, percent_label, render_figure
from siamese_verify.evaluation.roc import downsample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from siamese_verify.evaluation.calibration_check import CalibrationBin
    from siamese_verify.evaluation.discard import DiscardCurve
    from siamese_verify.evaluation.groups import DamagedRates
    from siamese_verify.evaluation.operating_points import OperatingPoint
    from siamese_verify.evaluation.report import VerificationReport
    from siamese_verify.evaluation.roc import RocCurve
    from siamese_verify.evaluation.score_file import PublishedCurve
    from siamese_verify.evaluation.score_statistics import ScoreHistogram

    Draw = Callable[[Axes], None]


CURVES = (LIGHT.genuine, LIGHT.impostor, "#2a9d6f", "#8c5fc7", "#b8860b", "#c2407c", "#4d908e", "#7b8694")
OTHERS = CURVES[2:]  # of published curves
PROBIT_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
TEXTS = {
    "roc": ("ROC", "Genuine pairs accepted, against impostors accepted; dots are the operating points of the table."),
    "det": ("DET", "Both errors against each other, on axes that make normal scores a straight line. Lower is better."),
    "histogram": ("Scores", "Distribution of the scores of both kinds of pairs. Less overlap is better."),
    "errors": ("Errors against the threshold", "What a stricter or a more lenient threshold costs."),
    "reliability": (
        "Reliability",
        "Share of genuine pairs among those of one predicted probability: ideally the line.",
    ),
    "cmc": ("CMC", "Share of the queries with a photo of their person among the first ones. Higher is better."),
    "discard": (
        "Error versus discard",
        "FNMR of the genuine pairs that remain when those of lowest quality are left out. Falling is better.",
    ),
    "robustness": ("Robustness", "Equal error rate when one of the two photos is damaged."),
}


def probit(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quantiles of the normal distribution for (K,) rates inside (0, 1)."""
    return np.array([NormalDist().inv_cdf(float(rate)) for rate in rates])


def rate_floor(count: int, largest: float) -> float:
    """Return the lowest rate on a logarithmic axis: that of half an error, or `largest` if that is lower."""
    return min(0.5 / count, largest)


def draw_roc(
    axes: Axes,
    curves: Mapping[str, RocCurve],
    points: Sequence[OperatingPoint] = (),
    published: Sequence[PublishedCurve] = (),
) -> None:
    """Draw TAR against FAR on a logarithmic axis.

    Args:
        axes: to draw on.
        curves: by name.
        points: marked with their TAR, hollow where insufficient.
        published: curves of other authors, drawn thinner.
    """
    smallest = min(rate_floor(curve.impostors, 0.005) for curve in curves.values())
    without_error = min(float(curve.tar[curve.false_accepts == 0][-1]) for curve in curves.values())
    bottom = max(-0.02, min(without_error, 0.9) - 0.08)
    for number, other in enumerate(published):
        style = ("-", "--", ":", "-.")[number // len(OTHERS) % 4]
        color = OTHERS[number % len(OTHERS)]
        axes.plot(np.maximum(other.far, smallest), other.tar, style, color=color, linewidth=1, label=_label(other.name))
    for number, (name, curve) in enumerate(curves.items()):
        # Steps: between two operating points the stricter one is what a threshold gives.
        axes.plot(
            np.maximum(curve.far, smallest),
            curve.tar,
            color=CURVES[number % len(CURVES)],
            linewidth=2,
            drawstyle="steps-post",
            label=_label(name),
        )
    for point in points:
        if point.target < smallest:
            continue
        axes.plot(
            point.target,
            point.tar,
            marker="o",
            markersize=8,
            color=LIGHT.impostor,
            markerfacecolor=LIGHT.ground if point.insufficient else LIGHT.impostor,
            markeredgewidth=2,
            clip_on=False,
            zorder=4,
        )
        above = point.tar < bottom + 0.15 * (1 - bottom)
        _annotate(axes, f"{100 * point.tar:.1f} %", (point.target, point.tar), xytext=(8, 8 if above else -15))
    if any(point.insufficient for point in points):
        hollow = "hollow: too few impostors to rely on"
        axes.text(
            0.98,
            0.03,
            hollow,
            ha="right",
            fontsize=9,
            color=LIGHT.ink,
            transform=axes.transAxes,
            bbox={"facecolor": LIGHT.ground, "edgecolor": "none", "pad": 1.5},
        )
    axes.set_xscale("log")
    axes.set_xlim(smallest, 1)
    axes.set_ylim(bottom, 1.01)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: percent_label(rate)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("false accept rate (log)")
    axes.set_ylabel("true accept rate")


def draw_det(axes: Axes, curves: Mapping[str, RocCurve]) -> None:
    """Draw FRR against FAR on probit axes, with the equal error rate of each curve.

    Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    """
    rates = [equal_error(curve).rate for curve in curves.values()]
    far_floor = min(rate_floor(curve.impostors, 0.01) for curve in curves.values())
    frr_floor = min(rate_floor(curve.genuine, 0.01) for curve in curves.values())
    top = NormalDist().inv_cdf(0.5 if max(rates) < 0.35 else 0.99)
    axes.axline((0, 0), slope=1, color=LIGHT.ink, linewidth=1, linestyle=":")
    for number, ((name, curve), eer) in enumerate(zip(curves.items(), rates, strict=True)):
        color = CURVES[number % len(CURVES)]
        far, frr = (
            probit(np.clip(rate, floor, 1 - 1e-9)) for rate, floor in ((curve.far, far_floor), (curve.frr, frr_floor))
        )
        label = _label(name if len(curves) == 1 else f"{name}, EER {percent_label(eer)}")
        axes.plot(far, frr, color=color, linewidth=2, drawstyle="steps-post", label=label)
        if max(far_floor, frr_floor) < eer < 0.98:
            place = NormalDist().inv_cdf(eer)
            marker = LIGHT.impostor if len(curves) == 1 else color
            axes.plot(place, place, marker="o", markersize=8, color=marker, zorder=4, clip_on=False)
            if len(curves) == 1:
                right = eer > 0.05
                _annotate(
                    axes,
                    f"equal error rate {percent_label(eer)}",
                    (place, place),
                    xytext=(-12, -18) if right else (12, 9),
                    ha="right" if right else "left",
                    bbox={"facecolor": LIGHT.ground, "edgecolor": "none", "pad": 1.5},
                )
    if max(rates) <= max(far_floor, frr_floor):
        axes.text(0.5, 0.5, "fewer errors than can be drawn", ha="center", color=LIGHT.ink, transform=axes.transAxes)
    ticks = np.array(PROBIT_TICKS)
    for axis, floor in ((axes.xaxis, far_floor), (axes.yaxis, frr_floor)):
        shown = ticks[(ticks >= floor) & (probit(ticks) <= top)]
        axis.set_ticks(list(probit(shown)), [percent_label(rate) for rate in shown])
    axes.set_xlim(NormalDist().inv_cdf(far_floor), top)
    axes.set_ylim(NormalDist().inv_cdf(frr_floor), top)
    axes.set_xlabel("false accept rate (probit)")
    axes.set_ylabel("false reject rate (probit)")


def draw_histogram(axes: Axes, histogram: ScoreHistogram, threshold: float, name: str = "threshold") -> None:
    """Draw the distributions of genuine and impostor scores, with a named threshold."""
    kinds = ((histogram.impostors, "impostor", LIGHT.impostor), (histogram.genuine, "genuine", LIGHT.genuine))
    for counts, kind, color in kinds:
        share = counts / counts.sum()
        axes.stairs(share, histogram.edges, fill=True, color=color, alpha=0.35)
        axes.stairs(share, histogram.edges, color=color, linewidth=1.8, label=f"{kind} ({counts.sum():,})")
    _mark_threshold(axes, threshold, name)
    axes.set_ylim(0, 1.18 * axes.get_ylim()[1])  # room for the legend
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("score (higher: more alike)")
    axes.set_ylabel("share of the pairs of its kind")
    axes.legend(frameon=False, labelcolor=LIGHT.ink, loc="upper center", ncols=2)


def draw_errors(axes: Axes, curve: RocCurve, threshold: float, name: str = "threshold") -> None:
    """Draw FAR and FRR against the threshold, with a named threshold."""
    thresholds = curve.thresholds[:0:-1]  # without +inf, ascending
    marker = "o" if len(thresholds) < 10 else None  # a line of one point is invisible
    lines = (("false accept rate", curve.far, LIGHT.impostor), ("false reject rate", curve.frr, LIGHT.genuine))
    for label, rates, color in lines:
        shown = np.where(rates > 0, rates, np.nan)[:0:-1]  # zero has no logarithm: the line ends there
        # Steps: a threshold between two scores decides as the higher score does.
        axes.plot(thresholds, shown, color=color, linewidth=2, label=label, drawstyle="steps-pre", marker=marker)
    _mark_threshold(axes, threshold, name)
    axes.set_yscale("log")
    axes.set_ylim(rate_floor(max(curve.genuine, curve.impostors), 0.005), 1.3)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: percent_label(rate)))
    axes.set_xlabel("threshold")
    axes.set_ylabel("error rate (log)")
    axes.legend(frameon=False, labelcolor=LIGHT.ink, loc="best")


def draw_reliability(axes: Axes, bins: Sequence[CalibrationBin]) -> None:
    """Draw the observed share of genuine pairs against the predicted probability; larger dots stand for more pairs."""
    predicted, observed, pairs = np.array(bins).T
    axes.plot([0, 1], [0, 1], color=LIGHT.ink, linewidth=1, linestyle=":")
    axes.plot(predicted, observed, color=LIGHT.genuine, linewidth=2)
    axes.scatter(predicted, observed, s=15 * (1 + np.log10(pairs)), color=LIGHT.genuine, clip_on=False, zorder=4)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share that was genuine")


def draw_robustness(axes: Axes, rows: Sequence[DamagedRates], eer: float) -> None:
    """Draw the EER against the severity of each kind of damage, with the EER without damage."""
    axes.axhline(eer, color=LIGHT.ink, linewidth=1, linestyle=":")
    for kind in dict.fromkeys(row.kind for row in rows):
        rates = [row.eer for row in rows if row.kind == kind]
        axes.plot(np.arange(1, len(rates) + 1), rates, linewidth=2, marker="o", label=kind)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("severity, as in the table")
    axes.set_ylabel("equal error rate")
    axes.legend(frameon=False, labelcolor=LIGHT.ink, ncols=2, fontsize=9)


def draw_discard(axes: Axes, curves: Sequence[DiscardCurve]) -> None:
    """Draw the FNMR against the share of genuine pairs left out, for each quality measure."""
    for number, curve in enumerate(curves):
        color = CURVES[number % len(CURVES)]
        style = ("-", "--", ":")[number // len(CURVES) % 3]
        axes.plot(curve.shares, curve.fnmr, style, color=color, linewidth=2, label=_label(curve.name))
    axes.axhline(curves[0].fnmr[0], color=LIGHT.ink, linewidth=1, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, curves[0].shares[-1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda rate, _: percent_label(rate)))
    axes.set_xlabel("genuine pairs left out, those of lowest quality first")
    axes.set_ylabel("false non-match rate")


def _label(name: str) -> str:
    return f"\u200b{name}" if name.startswith("_") else name  # matplotlib leaves labels with an underscore out


def _annotate(axes: Axes, text: str, place: tuple[float, float], **how: Any) -> None:
    axes.annotate(text, place, textcoords="offset points", color=LIGHT.ink, fontsize=10, **how)


def _mark_threshold(axes: Axes, threshold: float, name: str) -> None:
    low, high = axes.get_xlim()
    if low <= threshold <= high:
        place = (threshold - low) / (high - low)
        axes.axvline(threshold, color=LIGHT.ink, linewidth=1.5, linestyle="--")
        _annotate(
            axes,
            f"{name} {threshold:.4g}",
            (threshold, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            ha="left" if place < 0.15 else "right" if place > 0.85 else "center",
            annotation_clip=False,
        )


def report_figures(
    report: VerificationReport, name: str, published: Sequence[PublishedCurve] = ()
) -> list[ReportFigure]:
    """Draw all figures of a report, from a downsampled curve."""
    curve = downsample(report.curve)
    threshold, mark = report.threshold, "equal error" if report.at_threshold is None else "threshold"
    roc: Draw = lambda axes: draw_roc(axes, {name: curve}, report.operating_points, published)  # noqa: E731
    found = [
        _render("roc", roc, legend=bool(published)),
        _render("det", lambda axes: draw_det(axes, {name: curve})),
        _render("histogram", lambda axes: draw_histogram(axes, report.histogram, threshold, mark)),
        _render("errors", lambda axes: draw_errors(axes, curve, threshold, mark)),
    ]
    if report.calibration:
        bins = report.calibration.bins
        found.append(_render("reliability", lambda axes: draw_reliability(axes, bins)))
    if report.discard:
        found.append(_render("discard", lambda axes: draw_discard(axes, report.discard), legend=True))
    if report.robustness:
        found.append(_render("robustness", lambda axes: draw_robustness(axes, report.robustness, report.eer)))
    return found


def roc_figure(report: VerificationReport) -> ReportFigure:
    """Draw the ROC curve of a report, with its operating points."""
    return _render("roc", lambda axes: draw_roc(axes, {"": downsample(report.curve)}, report.operating_points))


def cmc_figure(recall: NDArray[np.float64]) -> ReportFigure:
    """Draw (K,) recalls at k = 1 ... K."""

    def draw(axes: Axes) -> None:
        axes.plot(np.arange(1, len(recall) + 1), recall, color=LIGHT.genuine, linewidth=2, marker="o", markersize=4)
        axes.set_ylim(max(-0.02, float(recall[0]) - 0.1), 1.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.set_xlabel("photos looked at, k")
        axes.set_ylabel("recall@k")

    return _render("cmc", draw)


def comparison_figures(curves: Mapping[str, RocCurve]) -> list[ReportFigure]:
    """Draw the ROC and DET curves of several evaluations."""
    few = {name: downsample(curve) for name, curve in curves.items()}
    return [
        _render("roc", lambda axes: draw_roc(axes, few), legend=True),
        _render("det", lambda axes: draw_det(axes, few), legend=True),
    ]


def _render(name: str, draw: Draw, *, legend: bool = False) -> ReportFigure:
    return render_figure(name, *TEXTS[name], draw, legend=legend)
