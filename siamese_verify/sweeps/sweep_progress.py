"""A sweep in the terminal: a table of its runs while it runs and at its end."""

from __future__ import annotations

import atexit
import shutil
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError, printable
from siamese_verify.sweeps.sweep_page import (
    PAGE,
    bundle_line,
    duration,
    rate_or_number,
    render_sweep,
    spread_text,
    tested_text,
)
from siamese_verify.sweeps.sweep_results import (
    TABLE,
    RecordsRead,
    RunRow,
    SweepResults,
    label,
    metric_title,
    read_sweep,
    record_files,
    shown,
    sweep_table,
)

POLL = 2.0  # seconds between looks at the runs
LOOK_SHARE = 20  # they are looked at again when this many times the time it took has passed
PAGE_SHARE = 50  # the page is refreshed likewise
ROWS = 30  # of the table in a terminal
COLUMNS = 6  # parameters in a terminal; sweep.csv has all
PROTOCOLS = 3  # likewise


def runs_table(sweep: SweepResults, rows: int = ROWS) -> Table:
    """Table of the runs, the best first, failures last."""
    few = sweep.parameters[:COLUMNS]
    table = Table(title=escape(printable(", ".join(str(folder) for folder in sweep.folders[:3]))))
    table.add_column("run")
    for name in few:
        table.add_column(escape(printable(name)), overflow="fold")
    table.add_column(escape(printable(sweep.metric)), justify="right")
    table.add_column("epoch", justify="right")
    for protocol in sweep.protocols[:PROTOCOLS]:
        title = sweep.test_title(protocol)
        table.add_column(escape(printable(f"{title} ({protocol})" if len(sweep.protocols) > 1 else title)))
    table.add_column("time", justify="right")
    table.add_column("status", overflow="fold")
    shown_runs = sweep.runs if len(sweep.runs) <= rows else (*sweep.runs[: rows - 5], *sweep.runs[-5:])
    for place, run in enumerate(shown_runs):
        if place == rows - 5 and len(sweep.runs) > rows:
            table.add_row(f"... {len(sweep.runs) - rows} more in {TABLE}")
        epoch = run.record.best_epoch
        cells = [run.name, *(shown(run.parameters[name]) for name in few), rate_or_number(run.value, sweep.metric)]
        cells += [
            "" if epoch is None else str(epoch),
            *(tested_text(run, one) for one in sweep.protocols[:PROTOCOLS]),
        ]
        cells += [duration(run.record.seconds), status_text(run)]
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


def status_text(run: RunRow) -> str:
    """Status of a run with its reason."""
    return f"{run.status}: {run.record.error}" if run.record.error else run.status


def seeds_table(sweep: SweepResults) -> Table | None:
    """Table of the means over seeds, None where no two runs differ in their seed only."""
    groups = [group for group in sweep.groups if group.value]
    if not any(group.value and group.value.runs > 1 for group in groups):
        return None
    table = Table(title="Mean ± standard deviation over seeds (95 % interval of the mean, Student's t)")
    names = list(groups[0].parameters)[:COLUMNS]
    for name in names:
        table.add_column(escape(printable(name)), overflow="fold")
    table.add_column("seeds", justify="right")
    for title in (sweep.metric, *(f"{sweep.test_title(one)} ({one})" for one in sweep.protocols[:PROTOCOLS])):
        table.add_column(escape(printable(title)))
    for group in groups[:ROWS]:
        assert group.value is not None
        cells = [*(shown(group.parameters[name]) for name in names), str(group.value.runs)]
        cells += [spread_text(group.value, sweep.metric)]
        cells += [spread_text(group.test.get(one)) for one in sweep.protocols[:PROTOCOLS]]
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


def closing_lines(sweep: SweepResults) -> list[str]:
    """How many runs ended how, the best run's command, and where its model is."""
    counts = ", ".join(f"{count} {status}" for status, count in sweep.counts.items())
    lines = [f"{len(sweep.runs)} {'run' if len(sweep.runs) == 1 else 'runs'}: {counts}."]
    if sweep.folds:  # none of them is the best: they answer different questions
        return [*lines, sweep.folds.sentence]
    best = sweep.best
    if best is None:
        return [*lines, "No run has finished with a metric, so there is no best one."]
    value = rate_or_number(best.value, sweep.metric)
    lines.append(f"Best run by {sweep.metric}, in which the test has no part: {best.name} ({value}).")
    if best.record.command:
        lines.append(f"Command: {best.record.command}")
    lines.append(f"Bundle: {bundle_line(best)}")
    return lines


def write_results(sweep: SweepResults, output: Path) -> Path:
    """Write sweep.csv and the page, and return the path of the page."""
    output.mkdir(parents=True, exist_ok=True)
    atomic_write(output / TABLE, sweep_table(sweep))
    atomic_write(output / PAGE, render_sweep(sweep).encode())
    return output / PAGE


def describe_sweep(sweep: SweepResults) -> str:
    """Tables and closing lines of a sweep as text, as wide as the terminal."""
    width = shutil.get_terminal_size((160, 50)).columns
    paper = Console(width=max(width, 100), record=False, file=None, force_terminal=False)
    with paper.capture() as captured:
        paper.print(runs_table(sweep))
        if seeds := seeds_table(sweep):
            paper.print(seeds)
        for line in closing_lines(sweep):
            paper.print(printable(line), soft_wrap=True, markup=False, highlight=False)
    return captured.get().rstrip("\n")


def finish_sweep(folder: str | Path) -> str:
    """Write sweep.csv and sweep.html of a sweep, and return its tables, its best run and the path of the page as text.

    Raises:
        InputError: the folder holds no run.
    """
    sweep = read_sweep(folder)
    page = write_results(sweep, Path(folder))
    return f"{describe_sweep(sweep)}\nPage: {printable(page)}"


class SweepProgress:
    """Shows a sweep while it runs, and refreshes its sweep.csv and page as runs end.

    A thread looks at the records of the runs, whichever launcher runs them, on this machine or on others that share the
    folder. In a terminal the table of runs is drawn again and again, below what the runs print.

    Args:
        folder: of the sweep.
        lines: print a line for each run that ends, where there is no terminal: if runs themselves print elsewhere.
    """

    def __init__(self, folder: str | Path, lines: bool = False) -> None:
        self.folder, self.lines = Path(folder), lines
        self.console = Console()
        self._ended: set[Path] = set()
        self._known = RecordsRead()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sweep progress", daemon=True)

    def start(self) -> None:
        """Start to look; runs that have ended before, as in a sweep that is resumed, are not reported."""
        self._report(silent=True)
        self._thread.start()
        atexit.register(self._end)  # however the sweep ends, the terminal gets its cursor back

    def finish(self) -> str:
        """Stop to look, and return what `finish_sweep` does; a sentence where there is no run, or no page for a bug."""
        self._end()
        try:
            return finish_sweep(self.folder)
        except InputError as error:
            return str(error)
        except Exception as error:  # how the runs ended matters more than the page
            return printable(f"The results could not be drawn: {type(error).__name__}: {error}")

    def _end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        seen: list[tuple[str, int]] = []
        sweep, drawn = None, False
        next_look = next_page = 0.0
        with live or nullcontext():
            last = False
            while not last:
                last = self._stop.wait(POLL)
                start = time.monotonic()
                if start < next_look and not last:
                    continue
                marks = self._marks()
                if marks != seen:
                    seen, drawn = marks, False
                    sweep = self._report(silent=live is not None or not self.lines)
                    if live and sweep:
                        live.update(self._picture(sweep), refresh=True)
                end = time.monotonic()
                next_look = end + LOOK_SHARE * (end - start)
                if sweep and not drawn and not last and end >= next_page:
                    write_results(sweep, self.folder)
                    drawn = True
                    next_page = time.monotonic() + PAGE_SHARE * (time.monotonic() - end)

    def _marks(self) -> list[tuple[str, int]]:
        """Records and when each was written; without those that are deleted meanwhile."""
        marks = []
        for path in record_files(self.folder):
            with suppress(OSError):
                marks.append((str(path), path.stat().st_mtime_ns))
        return sorted(marks)

    def _report(self, silent: bool) -> SweepResults | None:
        """Print a line for each run that has ended since the last call; return the runs, None if there are none."""
        try:
            sweep = read_sweep(self.folder, known=self._known)
        except (InputError, OSError):
            return None
        for run in sweep.runs:
            if run.status != "running" and run.folder not in self._ended:
                self._ended.add(run.folder)
                if not silent:
                    print(printable(_line(run, sweep.metric)), flush=True)
        return sweep

    def _picture(self, sweep: SweepResults) -> RenderableType:
        counts = ", ".join(f"{count} {status}" for status, count in sweep.counts.items())
        rows = max(8, self.console.height - 10)
        return Group(runs_table(sweep, rows), f"{len(sweep.runs)} runs so far: {counts}")


def _line(run: RunRow, metric: str) -> str:
    """A run that has ended, in a line."""
    value = f", {metric} {rate_or_number(run.value, metric)}" if run.value is not None else ""
    known = [(name, found) for name in run.record.test if (found := run.tested(name))]
    tests = "".join(f", test {metric_title(found.metric)} {tested_text(run, name)}" for name, found in known)
    given = label(run.parameters) if run.parameters else ", ".join(run.record.overrides[-COLUMNS:])
    return f"Run {run.name} {status_text(run).rstrip('.')}{value}{tests}, {duration(run.record.seconds)}: {given}"
