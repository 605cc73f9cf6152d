"""One page of a sweep: its best run, its runs, seeds, parameters, importance, learning curves and failures."""

from __future__ import annotations

import math
import shlex
from typing import Any

from siamese_verify.sweeps.parameter_importance import Importance, importances
from siamese_verify.sweeps.run_differences import SEED
from siamese_verify.sweeps.sweep_results import RunRow, Spread, SweepResults, is_rate, shown

PAGE = "sweep.html"
ROWS = 200  # of the table; sweep.csv has all
FAILURES = 100
CHARACTERS = 300  # of an error


def rate_or_number(value: float | None, metric: str) -> str:
    """A metric as text: rates in percent."""
    return "" if value is None else f"{value:.2%}" if is_rate(metric) else f"{value:.5g}"


def spread_text(spread: Spread | None, metric: str = "eer") -> str:
    """Mean, standard deviation and interval over seeds as text; the mean alone for one run."""
    if spread is None:
        return ""
    mean = rate_or_number(spread.mean, metric)
    if spread.runs < 2:
        return mean
    deviation, lowest, highest = (rate_or_number(one, metric) for one in (spread.deviation, spread.low, spread.high))
    return f"{mean} ± {deviation}" if math.isnan(spread.low) else f"{mean} ± {deviation} ({lowest} to {highest})"


def tested_text(run: RunRow, protocol: str) -> str:
    """The metric that stands for a protocol, such as the EER, with its interval over people."""
    found = run.tested(protocol)
    if found is None:
        return ""
    return f"{found.value:.2%}" + (" ({:.2%} to {:.2%})".format(*found.interval) if found.interval else "")


def duration(seconds: float) -> str:
    """A duration as text: `1:05` for minutes and seconds, `1 h 05 min` for more."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes}:{rest:02}"


def bundle_line(run: RunRow) -> str:
    """Where the bundle of a run is, or the command that makes it."""
    if run.bundle:
        return str(run.bundle)
    return shlex.join(
        ["siamese-verify", "export", str(run.folder), "--output", str(run.folder / "bundle"), "--synthetic"]
    )


def render_sweep(sweep: SweepResults) -> str:
    """Return the page of a sweep; its size is bounded for any number of runs."""
    from siamese_verify.evaluation.pages.page import fill_template  # late: a sweep's process needs it at its end only
    from siamese_verify.sweeps.sweep_figures import DRAWN, sweep_figures

    found, method = importances(sweep)
    failures = [run for run in sweep.runs if run.record.error]
    best = sweep.best
    return fill_template(
        "sweep.html.j2",
        title="Sweep " + ", ".join(folder.name for folder in sweep.folders[:3]),
        sweep=sweep,
        best=best,
        bundle=bundle_line(best) if best else "",
        settings=[(name, shown(value)) for name, value in best.parameters.items()] if best else [],
        plots=sweep_figures(sweep, found),
        drawn=DRAWN if len(sweep.finished) > DRAWN else 0,
        rows=[_row(sweep, run) for run in sweep.runs[:ROWS]],
        left_out=max(0, len(sweep.runs) - ROWS),
        groups=_groups(sweep),
        seed=SEED,
        importance=[_importance_row(one) for one in found],
        method=method,
        failures=[(run.name, run.status, (run.record.error or "")[:CHARACTERS]) for run in failures[:FAILURES]],
        more_failures=max(0, len(failures) - FAILURES),
    )


def _row(sweep: SweepResults, run: RunRow) -> list[str]:
    epoch = run.record.best_epoch
    cells = [run.name, *(shown(run.parameters[name]) for name in sweep.parameters)]
    cells += [rate_or_number(run.value, sweep.metric), "" if epoch is None else str(epoch)]
    cells += [tested_text(run, protocol) for protocol in sweep.protocols]
    return [*cells, duration(run.record.seconds), run.status]


def _groups(sweep: SweepResults) -> dict[str, Any] | None:
    """Table of the means over seeds, None where no two runs differ in their seed only."""
    groups = [group for group in sweep.groups if group.value][:ROWS]
    if not any(group.value and group.value.runs > 1 for group in groups):
        return None
    names = list(groups[0].parameters)
    rows = []
    for group in groups:
        assert group.value is not None
        cells = [*(shown(group.parameters[name]) for name in names), str(group.value.runs)]
        cells.append(spread_text(group.value, sweep.metric))
        rows.append([*cells, *(spread_text(group.test.get(protocol)) for protocol in sweep.protocols)])
    return {"names": names, "rows": rows}


def _importance_row(one: Importance) -> tuple[str, str, str]:
    if one.share is None or one.p_value is None:
        return one.parameter, "", f"{one.runs} runs are too few to show it"
    verdict = "" if one.p_value < 0.05 else ": none shown"
    return one.parameter, f"{one.share:.0%}", f"p = {one.p_value:.2g}{verdict}"
