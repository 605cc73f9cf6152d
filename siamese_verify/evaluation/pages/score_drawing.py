"""What lies over the scale of the scores: their histogram, and the errors of each threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from siamese_verify.evaluation.pages.rate_drawing import percent_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from siamese_verify.evaluation.pages.palette import Palette
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
