"""Pictures and tables of docs/sweeps.md, from the sweeps of conf/sweep.

Run `siamese-verify train -m sweep=NAME hydra.sweep.dir=sweeps/NAME` for each, then `python docs/draw_sweeps.py sweeps`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from siamese_verify.sweeps.parameter_importance import importances
from siamese_verify.sweeps.sweep_figures import sweep_figures
from siamese_verify.sweeps.sweep_page import spread_text, tested_text
from siamese_verify.sweeps.sweep_results import SweepResults, read_sweep, shown

PICTURES = Path(__file__).parent / "sweeps"
CHOSEN = ("parameter-0", "seeds")  # the first that a sweep has


def markdown(sweep: SweepResults) -> str:
    """Table of the means over seeds, the best first by validation."""
    names = [name for name in sweep.parameters if name != "seed"]
    titles = [*(f"`{name}`" for name in names), "seeds", f"`{sweep.metric}`", "test EER", "best run's test EER"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for group in sweep.groups:
        if group.value is None:
            continue
        best = min((run for run in group.runs if run in sweep.finished), key=lambda run: sweep.rank(run.value))
        cells = [*(shown(group.parameters[name]) for name in names), str(group.value.runs)]
        cells += [spread_text(group.value, sweep.metric), *(spread_text(spread) for spread in group.test.values())]
        cells.append(tested_text(best, sweep.protocols[0]))
        lines.append(f"| {' | '.join(cells)} |")
    found, method = importances(sweep)
    for one in found:
        if one.share is not None:
            lines.append(f"<!-- {one.parameter}: {one.share:.0%}, p = {one.p_value:.2g} ({method}) -->")
    return "\n".join(lines)


def main() -> None:
    """Draw the pictures, and print the tables."""
    PICTURES.mkdir(exist_ok=True)
    for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if (path / "sweep.csv").is_file()):
        sweep = read_sweep(folder)
        figures = {figure.name: figure for figure in sweep_figures(sweep, importances(sweep)[0])}
        alone = sum(name != "seed" for name in sweep.parameters) == 1
        (PICTURES / f"{folder.name}.png").write_bytes(figures[CHOSEN[0] if alone else CHOSEN[1]].png)
        print(f"## {folder.name}: {sweep.counts}\n{markdown(sweep)}\n")


if __name__ == "__main__":
    main()
