"""Picture and table of docs/comparing_losses.md: `python docs/draw_convergence.py SWEEP [PICTURE.png]`.

SWEEP is the folder of `siamese-verify train -m sweep=loss_families`. Of each loss the learning rate counts that is best
by validation over seeds.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from siamese_verify.evaluation.pages.rendering import LIGHT, percent_label
from siamese_verify.sweeps.sweep_page import spread_text, tested_text
from siamese_verify.sweeps.sweep_results import RunRow, Spread, SweepResults, read_sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = ("one_shot", "five_shot")
PANELS = {
    "train/loss": "loss, as a share of its first value",
    "train/fraction_nonzero": "share of items above zero",
    "val/eer": "EER of unseen people (validation)",
}
COLORS = (LIGHT.genuine, LIGHT.impostor, "#2c8a4b", "#8e4bb8", LIGHT.ink)


def chosen_runs(sweep: SweepResults) -> dict[str, list[RunRow]]:
    """Runs of each loss with the learning rate that is best by validation, the best run first."""
    groups: dict[str, dict[float, list[RunRow]]] = {}
    for run in sweep.distinct:
        made = run.record.configuration
        rates = groups.setdefault(made["loss"]["_target_"].rpartition(".")[2], {})
        rates.setdefault(float(made["optimizer"]["lr"]), []).append(run)
    return {
        loss: min(rates.values(), key=lambda runs: sweep.rank(spread(runs, sweep.metric).mean))
        for loss, rates in sorted(groups.items())
    }


def spread(runs: list[RunRow], metric: str) -> Spread:
    """A validation metric, or the accuracy of a few-shot protocol, over seeds."""
    return Spread.of(
        [run.record.metrics[metric] if "/" in metric else run.record.test[metric]["accuracy"] for run in runs]
    )


def markdown(sweep: SweepResults) -> str:
    """Table of the losses, the best first by validation."""
    titles = ["loss", "`optimizer.lr`", f"`{sweep.metric}`", "test EER", "best run's test EER"]
    titles += ["5-way 1-shot", "5-way 5-shot", "seconds"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    chosen = chosen_runs(sweep).items()
    for loss, runs in sorted(chosen, key=lambda one: sweep.rank(spread(one[1], sweep.metric).mean)):
        protocol = sweep.protocols[0]
        cells = [f"`{loss}`", f"{runs[0].record.configuration['optimizer']['lr']:g}"]
        cells += [spread_text(spread(runs, sweep.metric))]
        cells += [
            spread_text(Spread.of([run.record.test[protocol]["eer"] for run in runs])),
            tested_text(runs[0], protocol),
        ]
        cells += [spread_text(spread(runs, one)) for one in FEW]
        seconds = [run.record.seconds for run in runs]
        lines.append(f"| {' | '.join([*cells, f'{min(seconds):.0f} to {max(seconds):.0f}'])} |")
    return "\n".join(lines)


def curve(run: RunRow, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) images seen, and (n,) values of a metric of a run."""
    sampler = run.record.configuration["sampler"]
    batch = sampler["identities_per_batch"] * sampler["samples_per_identity"]
    with (run.folder / "metrics" / "metrics.csv").open(newline="") as file:
        rows = [(float(row["step"]) + 1, float(row[metric])) for row in csv.DictReader(file) if row[metric]]
    steps, values = np.array(rows).T
    return steps * batch, values / values[0] if metric == "train/loss" else values


def draw_panel(axes: Axes, metric: str, chosen: dict[str, list[RunRow]]) -> None:
    """Draw the mean over seeds of each loss, and a band from the least to the greatest."""
    for (loss, runs), color in zip(chosen.items(), COLORS, strict=False):
        curves = [curve(run, metric) for run in runs]
        values = np.stack([one for _, one in curves])
        axes.fill_between(curves[0][0], values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
        axes.plot(curves[0][0], values.mean(axis=0), color=color, linewidth=1.6, label=loss)
    axes.set_title(PANELS[metric], fontsize=10, color=LIGHT.ink)
    axes.set_xlabel("images seen", color=LIGHT.ink)
    axes.set_xlim(left=0)
    if metric == "val/eer":
        axes.yaxis.set_major_formatter(lambda rate, _: percent_label(rate))
    else:
        axes.set_ylim(bottom=0)
    axes.grid(True, color=LIGHT.faint, linewidth=0.7)
    axes.tick_params(colors=LIGHT.ink, length=0, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LIGHT.faint)


def main() -> None:
    """Print the table, and draw the picture where one is named."""
    sweep = read_sweep(Path(sys.argv[1]))
    print(markdown(sweep))
    if len(sys.argv) > 2:
        chosen = chosen_runs(sweep)
        figure = Figure(figsize=(11, 3.7), dpi=110, facecolor=LIGHT.ground)
        panels = figure.subplots(1, len(PANELS))
        for axes, metric in zip(panels, PANELS, strict=True):
            draw_panel(axes, metric, chosen)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=len(chosen), frameon=False)
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        figure.savefig(sys.argv[2], metadata={"Software": None})


if __name__ == "__main__":
    main()
