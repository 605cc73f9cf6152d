"""How far a result holds: reliability of its probabilities, accuracy of each fold, errors under damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from siamese_verify.evaluation.pages.palette import Palette
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
