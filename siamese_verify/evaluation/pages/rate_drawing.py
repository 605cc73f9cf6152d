"""One error rate against the other: ROC and DET."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from siamese_verify.evaluation.pages.palette import Palette
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
