"""Where a score lies among those of strangers and of one person, and on which side of the threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from siamese_verify.evaluation.pages.palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from siamese_verify.evaluation import ScoreMeaning
    from siamese_verify.verification.result import Verification


class Measured(Protocol):
    """What the picture needs of a model's record."""

    @property
    def meaning(self) -> ScoreMeaning | None:
        """Of its scores."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """`histogram`, if it is there: `edges` (K+1), `genuine` and `impostors` (K) as lists."""


class Histogram(NamedTuple):
    """Shares of the pairs of either kind between edges."""

    edges: np.ndarray  # (K+1,)
    genuine: np.ndarray  # (K,)
    impostors: np.ndarray  # (K,)


def histogram_of_record(record: Measured) -> Histogram | None:
    """The histogram that was stored with a model, as shares of each kind; None without a sound one."""
    stored = record.metrics.get("histogram")
    if not isinstance(stored, Mapping):
        return None
    try:
        edges, genuine, impostors = (np.array(stored[name], dtype=np.float64) for name in Histogram._fields)
    except (KeyError, TypeError, ValueError):
        return None
    ascending = edges.ndim == 1 and bool((np.diff(edges) > 0).all())  # not so with NaN
    if not ascending or not all(_are_counts(counts, len(edges) - 1) for counts in (genuine, impostors)):
        return None
    return Histogram(edges, genuine / genuine.sum(), impostors / impostors.sum())


def _are_counts(values: np.ndarray, bins: int) -> bool:
    return values.shape == (bins,) and bool((values >= 0).all()) and 0 < float(values.sum()) < math.inf


def draw_scores(axes: Axes, verification: Verification, record: Measured) -> None:
    """Draw the score and the threshold over a histogram, else over the tail of strangers, else on a bare axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

    from siamese_verify.evaluation.pages.rate_drawing import percent_label

    histogram = histogram_of_record(record)
    scores = [verification.score, *(end for end in (verification.threshold,) if math.isfinite(end))]
    if histogram:
        kinds = ((histogram.impostors, "strangers", LIGHT.impostor), (histogram.genuine, "one person", LIGHT.genuine))
        for share, name, colour in kinds:
            axes.stairs(share, histogram.edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(share, histogram.edges, color=colour, linewidth=1.6, label=name)
        scores += [float(histogram.edges[0]), float(histogram.edges[-1])]
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.set_ylabel("share of pairs", fontsize=9)
        axes.set_ylim(0, 1.08 * max(float(histogram.impostors.max()), float(histogram.genuine.max())))
    elif record.meaning:
        tail = record.meaning.strangers
        shares = np.array(tail.accepted) / tail.impostors
        there = shares > 0
        known, shares = np.array(tail.scores)[there], shares[there]
        axes.fill_between(known, shares, shares.min() / 3, color=LIGHT.impostor, alpha=0.35, linewidth=0)
        axes.plot(known, shares, color=LIGHT.impostor, linewidth=1.6, label="strangers who score this high or higher")
        scores += [float(known[0]), float(known[-1])]
        axes.set_yscale("log")
        axes.set_ylim(float(shares.min()) / 3, 1.3)
        axes.yaxis.set_major_locator(LogLocator(10, numticks=5))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: percent_label(rate)))
        axes.set_ylabel("share (log)", fontsize=9)
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
    """Mark the score, and in a row above it the threshold with its interval: however near, their labels stay apart."""
    low, high = axes.get_xlim()
    if math.isfinite(verification.threshold):
        label = f"threshold {verification.threshold:.3f}"
        if verification.threshold_interval:
            start, end = (min(max(one, low), high) for one in verification.threshold_interval)
            axes.axvspan(start, end, color=LIGHT.ink, alpha=0.13, linewidth=0)
            label += " (band: 95 %)"
        # Up to its label, past the row of the other.
        axes.axvline(verification.threshold, 0, 1.2, color=LIGHT.ink, linewidth=1.4, linestyle="--", clip_on=False)
        _label(axes, verification.threshold, label, 19, color=LIGHT.ink)
    colour = {True: LIGHT.genuine, False: LIGHT.impostor, None: LIGHT.ink}[verification.same]
    axes.axvline(verification.score, color=colour, linewidth=2.6)
    axes.plot([verification.score], [1], marker="v", color=colour, transform=axes.get_xaxis_transform(), clip_on=False)
    away = 1 if verification.score >= verification.threshold else -1  # from the line of the threshold
    _label(axes, verification.score, f"these photos {verification.score:.3f}", 5, away, color=colour, fontweight="bold")


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
