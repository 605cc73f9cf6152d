"""`siamese-verify compare`: runs, sweeps and evaluations side by side, finished or not."""

from __future__ import annotations

import argparse
from pathlib import Path

from siamese_verify.errors import printable
from siamese_verify.evaluation import compare_runs
from siamese_verify.run_record import RECORD
from siamese_verify.sweeps.sweep_progress import describe_sweep, write_results
from siamese_verify.sweeps.sweep_results import SweepResults, label, read_sweep

MOST = 8  # evaluations of a sweep that are tested and have their curves drawn: the best run of each setting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `compare` to a parser."""
    parser.description = (
        "Compare runs, sweeps or evaluations: what differs between the runs, how they did, and paired tests on the "
        "same pairs. A sweep can be compared while it runs."
    )
    parser.add_argument("run", nargs="+", help="a run, a sweep, an evaluation, a report folder or a table of scores")
    parser.add_argument(
        "--output", help="folder for compare.html, sweep.html and sweep.csv (default: the sweep's, else runs/compare)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the pages of a comparison, and print its tables and sentences."""
    given = [Path(path) for path in options.run]
    sweeps = [path for path in given if not (path / RECORD).is_file() and any(path.glob(f"*/{RECORD}"))]
    runs = [path for path in given if path in sweeps or (path / RECORD).is_file()]
    others = [path for path in given if path not in runs]
    output = Path(options.output or (sweeps[0] if len(given) == len(sweeps) == 1 else "runs/compare"))
    lines: list[object] = []
    named: list[tuple[Path, str]] = []
    if sweeps or len(runs) > 1:
        sweep = read_sweep(*runs)
        print(describe_sweep(sweep))
        lines.append(f"Runs: {write_results(sweep, output)}")
        named = representatives(sweep) if sweeps else [(one, _label(sweep, one)) for one in runs]
        named = [(path, name) for path, name in named if (path / "report" / "metrics.json").is_file()]
    elif runs:
        named = [(runs[0], "")]
    chosen = [path for path, _ in named] + others
    if len(chosen) > 1 or not sweeps:
        labels = [name for _, name in named] if len(named) == len(chosen) > 1 else None
        sentences, page = compare_runs(chosen, output, labels)
        lines = [*sentences, *lines, f"Page: {page}"]
    print(*map(printable, lines), sep="\n")
    return 0


def representatives(sweep: SweepResults) -> list[tuple[Path, str]]:
    """Folder and name of the best finished run of each setting, at most `MOST`, the best first."""
    found = []
    for group in sweep.groups:
        done = [run for run in group.runs if run.status == "finished" and run.value is not None]
        if done:
            best = min(done, key=lambda run: sweep.rank(run.value))
            found.append((best.folder, label(best.parameters)))
    return found[:MOST]


def _label(sweep: SweepResults, folder: Path) -> str:
    """What a run differs in from the others."""
    return next(label(run.parameters) for run in sweep.runs if run.folder == folder.resolve())
