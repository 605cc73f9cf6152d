"""Figures of a sweep: parameters, spread over seeds, parallel coordinates, importance, learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from siamese_verify.evaluation.pages.rendering import HEIGHT, LIGHT, ReportFigure, percent_label, render_figure
from siamese_verify.sweeps.parameter_importance import Importance, is_numeric, logarithmic
from siamese_verify.sweeps.run_differences import SEED
from siamese_verify.sweeps.sweep_results import RunRow, SeedGroup, Spread, SweepResults, is_rate, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN = 200  # runs in a figure
POINTS = 60  # of a learning curve
PANELS = 6  # parameters with a figure of their own
GROUPS = 16  # in the figure of the seeds
AXES = 8  # parallel coordinates
VALUES = 12  # named values on an axis
FEW = 6  # numbers that are all named on an axis
SHIFT = 0.08  # of the test beside the validation, where values are named
ROW = 0.3  # inches of a row of the seeds
BARS = 60  # runs with an interval each
LETTERS = 18  # of a label


def drawn_runs(runs: Sequence[RunRow]) -> list[RunRow]:
    """At most `DRAWN` runs: the best half of that number, and others at equal distances in their order."""
    if len(runs) <= DRAWN:
        return list(runs)
    rest = np.linspace(DRAWN // 2, len(runs) - 1, DRAWN - DRAWN // 2).astype(int)
    return [*runs[: DRAWN // 2], *(runs[place] for place in rest)]


def sweep_figures(sweep: SweepResults, importance: Sequence[Importance]) -> list[ReportFigure]:
    """Draw the figures of a sweep for which its runs are enough."""
    found: list[ReportFigure] = []
    runs = sweep.finished
    named = [one.parameter for one in importance]
    settings = [name for name in [*named, *sweep.parameters] if name != SEED and _values(runs, name) > 1]
    for place, name in enumerate(list(dict.fromkeys(settings))[:PANELS]):
        found.append(_parameter_figure(sweep, name, place))
    if any(group.value and group.value.runs > 1 for group in sweep.groups):
        found.append(_seeds_figure(sweep))
    if len(runs) > 1 and settings:
        found.append(_parallel_figure(sweep, list(dict.fromkeys(settings))[:AXES]))
    if any(one.share is not None for one in importance):
        found.append(_importance_figure(importance))
    if any(len(run.record.history) > 1 for run in sweep.runs):
        found.append(_curves_figure(sweep))
    return found


def _values(runs: Sequence[RunRow], name: str) -> int:
    return len({repr(run.parameters[name]) for run in runs})


def _protocol_of_errors(sweep: SweepResults) -> str | None:
    """The first test protocol with an EER, which fits beside the error rate of the validation."""
    known = (name for name in sweep.protocols if any(run.test_eer(name) is not None for run in sweep.runs))
    return next(known, None)


def _metric_axis(axis: Any, metric: str) -> None:
    if is_rate(metric):
        axis.set_major_formatter(FuncFormatter(lambda rate, _: percent_label(rate)))


class _Scale:
    """Places of a parameter's values on an axis: numbers as they are, others side by side.

    Args:
        column: the values of all runs.
    """

    def __init__(self, column: Sequence[Any]) -> None:
        self.numeric = is_numeric(column)
        self.log = self.numeric and logarithmic(column)
        kinds = {repr(value): value for value in column}
        ordered = list(kinds.values()) if not is_numeric(list(kinds.values())) else sorted(kinds.values())
        self.values = ordered
        self.names = [_short(shown(value) or "-") for value in ordered]
        self.places = {repr(value): place for place, value in enumerate(ordered)}
        numbers = [float(value) for value in column] if self.numeric else [0.0]
        self.low, self.high = (self._number(end) for end in (min(numbers), max(numbers)))

    def _number(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def place(self, value: Any) -> float:
        """Coordinate on an axis in the units of the values."""
        return float(value) if self.numeric else float(self.places[repr(value)])

    def share(self, value: Any) -> float:
        """Coordinate from 0 to 1."""
        if self.numeric:
            return (self._number(float(value)) - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.places[repr(value)] / max(len(self.places) - 1, 1)

    def dress(self, axis: Any) -> None:
        """Name the values on an axis."""
        if self.log:
            axis._set_axes_scale("log")
        if self.numeric and len(self.names) <= FEW:
            axis.set_ticks([self.place(value) for value in self.values], self.names)
            axis.set_ticks([], minor=True)
        elif not self.numeric:
            axis.set_view_interval(-0.5, len(self.names) - 0.5, ignore=True)
            few = range(0, len(self.names), -(-len(self.names) // VALUES))
            axis.set_ticks(list(few), [self.names[place] for place in few])


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _parameter_figure(sweep: SweepResults, name: str, place: int) -> ReportFigure:
    """The metric and the test EER against one parameter."""
    runs = [run for run in drawn_runs(sweep.finished) if run.parameters[name] is not None]
    groups = [group for group in sweep.groups if group.value and group.parameters.get(name) is not None]
    alone = all(other in (name, SEED) for other in sweep.parameters)
    protocol = _protocol_of_errors(sweep)

    def draw(axes: Axes) -> None:
        scale = _Scale([run.parameters[name] for run in sweep.finished if run.parameters[name] is not None])
        x = [scale.place(run.parameters[name]) for run in runs]
        y = [float(run.value or 0.0) for run in runs]
        axes.plot(x, y, "o", color=LIGHT.genuine, markersize=4, alpha=0.45, label=f"{sweep.metric}, each run")
        if protocol and is_rate(sweep.metric):
            beside = 0.0 if scale.numeric else SHIFT
            _tested(axes, [(at + beside, run) for at, run in zip(x, runs, strict=True)], protocol)
        if alone and is_rate(sweep.metric):
            _means(axes, scale, name, groups, protocol)
        scale.dress(axes.xaxis)
        _metric_axis(axes.yaxis, sweep.metric)
        axes.set_xlabel(name)
        axes.set_ylabel("error rate" if is_rate(sweep.metric) else sweep.metric)

    text = f"{sweep.metric} and test EER of each run against {name}."
    if alone:
        text += " Lines: means over seeds with their 95 % intervals."
    return render_figure(f"parameter-{place}", name, text, draw, legend=True)


def _tested(axes: Axes, runs: Sequence[tuple[float, RunRow]], protocol: str) -> None:
    """Test EER of runs, with their intervals over people where these are few enough to be seen."""
    rows = [
        (at, found.value, found.interval)
        for at, run in runs
        if (found := run.tested(protocol)) and found.metric == "eer"
    ]
    if not rows:
        return
    x, rates = [at for at, _, _ in rows], [eer for _, eer, _ in rows]
    axes.plot(x, rates, "x", color=LIGHT.impostor, markersize=4, alpha=0.55, label="test EER, each run")
    if len(rows) <= BARS:
        ends = np.array([bounds or (eer, eer) for _, eer, bounds in rows])
        axes.vlines(x, ends[:, 0], ends[:, 1], color=LIGHT.impostor, linewidth=0.8, alpha=0.3)


def _means(axes: Axes, scale: _Scale, name: str, groups: Sequence[SeedGroup], protocol: str | None) -> None:
    """Lines of means over seeds, with their intervals, where only this parameter differs."""
    ordered = sorted(groups, key=lambda group: scale.place(group.parameters[name]))
    kinds = [("validation, mean over seeds", LIGHT.genuine, 0.0, [(group, group.value) for group in ordered])]
    if protocol:
        beside, spreads = 0.0 if scale.numeric else SHIFT, [(group, group.test.get(protocol)) for group in ordered]
        kinds.append(("test, mean over seeds", LIGHT.impostor, beside, spreads))
    for title, color, beside, rows in kinds:
        known = [(scale.place(group.parameters[name]) + beside, spread) for group, spread in rows if spread]
        if not known:
            continue
        x, means = [at for at, _ in known], [spread.mean for _, spread in known]
        reach = [0.0 if spread.runs < 2 else spread.high - spread.mean for _, spread in known]
        below = [min(one, mean) for one, mean in zip(reach, means, strict=True)]  # an error rate is not negative
        line = "-" if scale.numeric else ""
        axes.errorbar(x, means, yerr=[below, reach], fmt=f"o{line}", color=color, capsize=3, linewidth=1.8, label=title)


def _bars(spreads: Sequence[Spread], rate: bool) -> tuple[list[float], list[float], list[float]]:
    """Means, and how far their intervals reach below and above; that of an error rate is not negative."""
    means = [one.mean for one in spreads]
    reach = [0.0 if one.runs < 2 else one.high - one.mean for one in spreads]
    return means, [min(half, mean) if rate else half for half, mean in zip(reach, means, strict=True)], reach


def _seeds_figure(sweep: SweepResults) -> ReportFigure:
    """Mean and interval over seeds of the best groups."""
    groups = [group for group in sweep.groups if group.value][:GROUPS]
    protocol = _protocol_of_errors(sweep)

    def draw(axes: Axes) -> None:
        from matplotlib.transforms import blended_transform_factory

        kinds = [(0.14, LIGHT.genuine, sweep.metric, [group.value for group in groups])]
        if protocol and is_rate(sweep.metric):
            kinds.append((-0.14, LIGHT.impostor, "test EER", [group.test.get(protocol) for group in groups]))
        for shift, color, title, spreads in kinds:
            known = [(len(groups) - 1 - row + shift, one) for row, one in enumerate(spreads) if one]
            if not known:
                continue
            means, below, reach = _bars([one for _, one in known], is_rate(sweep.metric))
            axes.errorbar(
                means, [at for at, _ in known], xerr=[below, reach], fmt="o", color=color, capsize=3, label=title
            )
        axes.set_yticks([])
        axes.set_ylim(-0.6, len(groups) - 0.2)
        within = blended_transform_factory(axes.transAxes, axes.transData)
        for row, group in enumerate(groups):
            text = axes.text(
                0.005, len(groups) - 1 - row + 0.33, group.label[:90], fontsize=7, color=LIGHT.ink, transform=within
            )
            text.set_parse_math(False)
        _metric_axis(axes.xaxis, sweep.metric)
        axes.set_xlabel("error rate" if is_rate(sweep.metric) else sweep.metric)

    text = (
        f"Mean over seeds and its 95 % interval (Student's t) of the {len(groups)} best settings. It covers what seeds "
        "decide, for the same people."
    )
    height = max(HEIGHT, ROW * len(groups) + 1)
    return render_figure("seeds", "Spread over seeds", text, draw, legend=True, height=height)


def _parallel_figure(sweep: SweepResults, settings: Sequence[str]) -> ReportFigure:
    """Each run as a line through the values of its parameters."""
    runs = drawn_runs(sweep.finished)
    protocol = sweep.protocols[0] if sweep.protocols else None

    def draw(axes: Axes) -> None:
        scales = [_Scale([run.parameters[name] for run in sweep.finished]) for name in settings]
        results = [("val", [run.value for run in runs])]
        tested = [run.tested(protocol) for run in runs] if protocol else []
        if tested and all(tested):
            results.append(("test", [one.value for one in tested if one]))
        ends = [(min(column), max(column)) for _, column in results]  # type: ignore[type-var]
        best = {id(run) for run in runs[: max(1, len(runs) // 10)]}
        for place in reversed(range(len(runs))):
            run = runs[place]
            at = [scale.share(run.parameters[name]) for name, scale in zip(settings, scales, strict=True)]
            at += [
                (float(column[place]) - low) / (high - low) if high > low else 0.5  # type: ignore[arg-type, operator]
                for (_, column), (low, high) in zip(results, ends, strict=True)
            ]
            if id(run) in best:
                axes.plot(range(len(at)), at, color=LIGHT.genuine, linewidth=1.6, zorder=3)
            else:
                axes.plot(range(len(at)), at, color=LIGHT.ink, linewidth=0.8, alpha=0.25)
        title = sweep.test_title(protocol) if protocol else ""
        names = [*map(_short, settings), *([_short(sweep.metric), title][: len(results)])]
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
        axes.set_yticks([])
        axes.grid(False)
        for place, scale in enumerate(scales):
            axes.axvline(place, color=LIGHT.ink, linewidth=0.8)
            _axis_labels(axes, place, _ends(scale))
        for place, (low, high) in enumerate(ends, start=len(scales)):
            axes.axvline(place, color=LIGHT.ink, linewidth=0.8)
            tests = place > len(scales)
            form = percent_label if tests or is_rate(sweep.metric) else "{:.4g}".format
            _axis_labels(axes, place, [(0.0, form(float(low))), (1.0, form(float(high)))])  # type: ignore[arg-type]
        axes.set_xlim(-0.3, len(names) - 0.5)
        axes.set_ylim(-0.06, 1.08)

    text = "Each finished run is a line; the best of them by validation stand out."
    return render_figure("parallel", "Parallel coordinates", text, draw)


def _ends(scale: _Scale) -> list[tuple[float, str]]:
    if not scale.numeric:
        step = max(1, -(-len(scale.names) // VALUES))
        last = max(len(scale.names) - 1, 1)
        return [(place / last, scale.names[place]) for place in range(0, len(scale.names), step)]
    low, high = ((10**end if scale.log else end) for end in (scale.low, scale.high))
    return [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]


def _axis_labels(axes: Axes, place: int, marks: Sequence[tuple[float, str]]) -> None:
    for at, name in marks:
        text = axes.text(place + 0.03, at + 0.012, name, fontsize=7, color=LIGHT.ink, clip_on=False)
        text.set_parse_math(False)


def _importance_figure(importance: Sequence[Importance]) -> ReportFigure:
    """Bars of the shares that parameters explain."""
    rows = [one for one in importance if one.share is not None][:VALUES]

    def draw(axes: Axes) -> None:
        places = range(len(rows))[::-1]
        colors = [LIGHT.genuine if one.p_value is not None and one.p_value < 0.05 else LIGHT.faint for one in rows]
        axes.barh(list(places), [one.share or 0.0 for one in rows], color=colors, height=0.6)
        axes.set_yticks([])
        for at, one in zip(places, rows, strict=True):
            text = axes.text(0.005, at + 0.34, f"{one.parameter} (p = {one.p_value:.2g})", fontsize=8, color=LIGHT.ink)
            text.set_parse_math(False)
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, len(rows) - 0.2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: percent_label(rate)))
        axes.set_xlabel("share of the variance")

    text = "Share of the variance of the metric that each parameter explains; grey: none is shown (p > 0.05)."
    return render_figure("importance", "Importance", text, draw)


def _curves_figure(sweep: SweepResults) -> ReportFigure:
    """Validations of the runs, the best ones in front."""
    having = [run for run in sweep.runs if len(run.record.history) > 1]
    runs = drawn_runs(having)
    best = {id(run) for run in sweep.finished[: max(1, len(sweep.finished) // 10)]}

    def draw(axes: Axes) -> None:
        for run in reversed(runs):
            points = [
                (epoch + 1, found[sweep.metric]) for epoch, _, found in run.record.history if sweep.metric in found
            ]
            step = max(1, -(-len(points) // POINTS))
            points = [*points[: len(points) - 1 : step], *points[-1:]]
            if not points:
                continue
            front = id(run) in best
            ended = run.status == "finished"
            axes.plot(
                [epoch for epoch, _ in points],
                [value for _, value in points],
                color=LIGHT.genuine if front else LIGHT.ink,
                linewidth=1.6 if front else 0.8,
                alpha=1 if front else 0.25,
                linestyle="-" if ended else ":",
                zorder=3 if front else 2,
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(sweep.metric)
        _metric_axis(axes.yaxis, sweep.metric)

    text = f"{sweep.metric} at each validation; the best tenth stands out, dotted lines did not finish."
    return render_figure("curves", "Learning curves", text, draw)
