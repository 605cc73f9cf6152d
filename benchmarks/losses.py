"""Losses, forward and backward, against the matrix product that can't be avoided and against two peers.

The limit is one product of a (B, 512) batch with itself into memory that is there already, timed in turn with the
loss. The peers are plain PyTorch, as one would write it by hand, and pytorch-metric-learning, if it is installed;
its semi-hard miner keeps every semi-hard negative, ours and the one by hand the nearest. Every measurement is a process
of its own, bounded to 80 % of the free memory; up to 1,024 rows ours is timed in turn with the one by hand. Memory is
the peak above the start, in the first run.

Claims: see CLAIMS. Run: `python benchmarks/losses.py`, or with `--chart docs/losses_speed.png` to see how time
and memory grow; that takes most of an hour, and `--record FILE` lets an interrupted run go on where it was.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import json
import math
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from siamese_verify.evaluation.pages.rendering import LIGHT
from siamese_verify.losses import ContrastiveLoss, NTXentLoss, SupConLoss, TripletLoss
from siamese_verify.miners import BatchHard, SemiHard

Objective = Callable[[Tensor, Tensor], Tensor]

DIMENSIONS, TEMPERATURE, MARGIN, TRIPLET_MARGIN = 512, 0.1, 1.0, 0.2
TABLE, CHART = (16, 64, 256, 1024, 4096), (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
IN_TURN = 1024  # rows up to which ours and plain PyTorch are timed in one process
WHOLE, BLOCK = 8192, 1024  # beyond so many rows the limit is computed in blocks of so many
OURS, PLAIN, PML = "ours", "plain PyTorch", "pytorch-metric-learning"
COLOURS = {OURS: LIGHT.genuine, PLAIN: LIGHT.impostor, PML: "#7b8694"}
CLAIMS = {  # at B = 4,096, TABLE's last: time over that of the limit, MB
    "NT-Xent": (2.5, 80),
    "SupCon": (2.5, 80),
    "contrastive": (2.5, 80),
    "batch hard": (1.7, 40),
    "semi-hard": (3.0, 40),
}
PLAIN_CLAIM, PEAK_CLAIM = 1.1, 600  # time over that of plain PyTorch up to IN_TURN; MB at 32,768
GROWTH_CLAIM = 2.1  # exponent of B in the time from 8,192 to 32,768: 2, and 0.1 for noise


def ours(objective: str) -> Objective:
    triplet, batch_hard, semi_hard = TripletLoss(TRIPLET_MARGIN), BatchHard(), SemiHard(TRIPLET_MARGIN)
    objectives: dict[str, Objective] = {
        "NT-Xent": NTXentLoss(TEMPERATURE),
        "SupCon": SupConLoss(TEMPERATURE),
        "contrastive": ContrastiveLoss(MARGIN),
        "batch hard": lambda rows, labels: triplet(rows, labels, batch_hard(rows.detach(), labels)),
        "semi-hard": lambda rows, labels: triplet(rows, labels, semi_hard(rows.detach(), labels)),
    }
    return objectives[objective]


def metric_learning(objective: str) -> Objective:
    losses, miners = (importlib.import_module(f"pytorch_metric_learning.{part}") for part in ("losses", "miners"))
    triplet, batch_hard = losses.TripletMarginLoss(margin=TRIPLET_MARGIN), miners.BatchHardMiner()
    semi_hard = miners.TripletMarginMiner(margin=TRIPLET_MARGIN, type_of_triplets="semihard")
    objectives: dict[str, Objective] = {
        "NT-Xent": losses.NTXentLoss(temperature=TEMPERATURE),
        "SupCon": losses.SupConLoss(temperature=TEMPERATURE),
        "contrastive": losses.ContrastiveLoss(pos_margin=0, neg_margin=MARGIN),
        "batch hard": lambda rows, labels: triplet(rows, labels, batch_hard(rows.detach(), labels)),
        "semi-hard": lambda rows, labels: triplet(rows, labels, semi_hard(rows.detach(), labels)),
    }
    return objectives[objective]


def plain(objective: str) -> Objective:
    def same(labels: Tensor) -> Tensor:
        return labels[:, None] == labels

    def logits(rows: Tensor) -> Tensor:
        unit = F.normalize(rows)
        return (unit @ unit.T / TEMPERATURE).fill_diagonal_(-torch.inf)

    def nt_xent(rows: Tensor, labels: Tensor) -> Tensor:
        anchor, positive = same(labels).fill_diagonal_(False).nonzero(as_tuple=True)
        scores = logits(rows)
        return F.cross_entropy(scores if len(anchor) == len(rows) else scores[anchor], positive)

    def sup_con(rows: Tensor, labels: Tensor) -> Tensor:
        genuine = same(labels).fill_diagonal_(False)
        terms = logits(rows).log_softmax(dim=1).masked_fill(~genuine, 0)
        return -(terms.sum(dim=1) / genuine.sum(dim=1)).mean()

    def contrastive(rows: Tensor, labels: Tensor) -> Tensor:
        distance = torch.cdist(rows, rows)
        losses = 0.5 * torch.where(same(labels), distance, (MARGIN - distance).clamp(min=0)).square()
        return losses.triu(1).sum() / (len(rows) * (len(rows) - 1) / 2)

    def batch_hard(rows: Tensor, labels: Tensor) -> Tensor:
        distance, genuine = torch.cdist(rows, rows), same(labels)
        farthest = distance.masked_fill(~genuine, -torch.inf).max(dim=1).values
        nearest = distance.masked_fill(genuine, torch.inf).min(dim=1).values
        return (farthest - nearest + TRIPLET_MARGIN).clamp(min=0).mean()

    def semi_hard(rows: Tensor, labels: Tensor) -> Tensor:
        distance, genuine = torch.cdist(rows, rows), same(labels)
        with torch.no_grad():
            anchor, positive = genuine.clone().fill_diagonal_(False).nonzero(as_tuple=True)
            inner = distance[anchor, positive, None]  # (M,1)
            outer = distance.masked_fill(genuine, torch.inf)[anchor]  # (M,B)
            outside = (outer <= inner).logical_or_(outer >= inner + TRIPLET_MARGIN)
            nearest, negative = outer.masked_fill_(outside, torch.inf).min(dim=1)
            found = nearest.isfinite()
            anchor, positive, negative = anchor[found], positive[found], negative[found]
        return (distance[anchor, positive] - distance[anchor, negative] + TRIPLET_MARGIN).clamp(min=0).mean()

    objectives: dict[str, Objective] = {
        "NT-Xent": nt_xent,
        "SupCon": sup_con,
        "contrastive": contrastive,
        "batch hard": batch_hard,
        "semi-hard": semi_hard,
    }
    return objectives[objective]


IMPLEMENTATIONS = {OURS: ours, PLAIN: plain, PML: metric_learning}


class Measurement(NamedTuple):
    """What one process found out, or why it did not."""

    seconds: dict[str, list[float]]  # of the implementation, of those timed in turn with it, of "limit"
    megabytes: float = math.nan  # peak above the start; NaN where the system doesn't tell
    loss: float = math.nan
    failure: str = ""

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> float:
        """Median of quotients of neighbours in time: a machine that slows down slows both."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True))


def descend(objective: Objective, rows: Tensor, labels: Tensor) -> float:
    rows.grad = None
    loss = objective(rows, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def batch(size: int, photos: int) -> tuple[Tensor, Tensor]:
    rows = torch.randn(size, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.requires_grad_(), torch.arange(size) // photos


def kilobytes(file: str, field: str) -> int:
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(f"{field}:"))


def bound_memory() -> None:
    """Let allocations fail before the machine starves: whoever else measures on it goes on."""
    with suppress(OSError, ValueError):  # only Linux tells; a limit from outside may be lower
        most = kilobytes("/proc/self/status", "VmSize") + 0.8 * kilobytes("/proc/meminfo", "MemAvailable")
        resource.setrlimit(resource.RLIMIT_AS, (int(most) * 1024, resource.getrlimit(resource.RLIMIT_AS)[1]))


def peak_megabytes(reset: bool = False) -> float:
    """The most memory that was resident since the last reset."""
    with suppress(OSError, AttributeError):  # only Linux tells
        if reset:
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before counts when it is taken again
            Path("/proc/self/clear_refs").write_text("5")
        return kilobytes("/proc/self/status", "VmHWM") * 1024 / 1e6
    return math.nan


def measure(objective: str, names: list[str], size: int, given: argparse.Namespace) -> Measurement:
    """Run in a process of its own; SIGALRM ends it if one run takes too long."""
    torch.set_num_threads(given.threads)
    contestants = {name: IMPLEMENTATIONS[name](objective) for name in names}
    for contestant in contestants.values():
        descend(contestant, *batch(64, given.photos))  # loads the libraries
    rows, labels = batch(size, given.photos)
    bound_memory()

    def timed(run: Callable[[], object]) -> float:
        signal.alarm(given.patience)
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    try:
        losses: list[float] = []
        before = peak_megabytes(reset=True)
        first = timed(lambda: losses.append(descend(contestants[names[0]], rows, labels)))
        megabytes = peak_megabytes() - before
        columns = rows.detach().T
        product = torch.empty(size if size <= WHOLE else BLOCK, size)

        def limit() -> None:
            for start in range(0, size, len(product)):
                block = columns.T[start : start + len(product)]
                torch.mm(block, columns, out=product[: len(block)])

        runs: dict[str, Callable[[], object]] = {
            name: partial(descend, contestant, rows, labels) for name, contestant in contestants.items()
        }
        runs["limit"] = limit
        if first < 5:
            for run in runs.values():
                timed(run)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        # Short runs are repeated for a second at least, long ones not more often than they must.
        least, begun = min(given.repetitions, 3) if first > 5 else given.repetitions, time.perf_counter()
        while len(seconds["limit"]) < least or time.perf_counter() - begun < 1:
            for name, run in runs.items():
                seconds[name].append(timed(run))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return Measurement({}, failure="out of memory")
    return Measurement(seconds, megabytes, losses[0])


Found = dict[tuple[str, str, int], Measurement]  # by objective, implementation, size


def launch(objective: str, implementation: str, size: int, given: argparse.Namespace) -> Measurement:
    # Where calls take milliseconds, processes differ by more than the implementations: both are timed in one.
    names = [OURS, PLAIN] if implementation == OURS and size <= IN_TURN else [implementation]
    options = [f"--{name}={getattr(given, name)}" for name in ("repetitions", "photos", "threads", "patience")]
    command = [sys.executable, __file__, "--child", objective, ",".join(names), str(size), *options]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if child.returncode < 0:
        failures = {signal.SIGALRM: f"over {given.patience} s", signal.SIGKILL: "out of memory"}
        ended = signal.Signals(-child.returncode)
        return Measurement({}, failure=failures.get(ended, f"ended by {ended.name}"))
    child.check_returncode()
    return Measurement(**json.loads(child.stdout.splitlines()[-1]))


def recorded(given: argparse.Namespace) -> Found:
    """The measurements an earlier run left in the record."""
    if given.record is None or not given.record.exists():
        return {}
    lines = map(json.loads, given.record.read_text().splitlines())
    return {(objective, name, size): Measurement(**one) for objective, name, size, one in lines}


def verdict(value: float, most: float | None) -> str:
    return "" if most is None else f" (at most {most:g}: {'met' if value <= most else 'missed'})"


def line(found: Measurement, objective: str, implementation: str, size: int) -> str:
    start = f"{objective:<12} {implementation:<24}"
    if found.failure:
        return f"{start} {found.failure}"
    claims = CLAIMS[objective] if (implementation, size) == (OURS, TABLE[-1]) else (None, None)
    most = PEAK_CLAIM if (implementation, size) == (OURS, CHART[-1]) else claims[1]
    ratio = found.ratio(implementation, "limit")
    text = f"{start} {1e3 * found.median(implementation):9.2f} ms  {ratio:6.2f} x limit{verdict(ratio, claims[0])}"
    text += f"  {found.megabytes:7.0f} MB{verdict(found.megabytes, most)}"
    if PLAIN in found.seconds and implementation == OURS:
        against = found.ratio(OURS, PLAIN)
        text += f"  {against:.2f} x plain PyTorch{verdict(against, PLAIN_CLAIM)}"
    return text


def compare(given: argparse.Namespace) -> Found:
    """Measure and print everything; an implementation that failed is not asked for more."""
    found = recorded(given)
    ended: dict[tuple[str, str], str] = {}
    implementations = [OURS, PLAIN, PML]
    if importlib.util.find_spec("pytorch_metric_learning") is None:
        implementations.remove(PML)
        print("pytorch-metric-learning is not installed and left out: pip install pytorch-metric-learning==2.9.0")
    for size in sorted(given.sizes):
        blocks = f", computed in blocks of {BLOCK:,} rows" if size > WHOLE else ""
        print(f"\nB = {size:,}; the limit is one {size:,} x {DIMENSIONS} x {size:,} product{blocks}", flush=True)
        for objective in given.objectives:
            for implementation in implementations:
                which = (objective, implementation)
                if which in ended:
                    print(f"{objective:<12} {implementation:<24} {ended[which]}")
                    continue
                if (*which, size) not in found:
                    found[(*which, size)] = launch(*which, size, given)
                    if given.record:
                        with given.record.open("a") as record:
                            record.write(json.dumps([*which, size, found[(*which, size)]._asdict()]) + "\n")
                one = found[(*which, size)]
                print(line(one, *which, size), flush=True)
                if one.failure:
                    ended[which] = f"{one.failure} at B = {size:,} already"
            mine, peer = (found.get((objective, name, size), Measurement({})).loss for name in (OURS, PLAIN))
            if abs(mine - peer) > 1e-3 * abs(peer):
                print(f"{objective}: our loss is {mine:g}, that of plain PyTorch {peer:g}: not a fair comparison")
    return found


def report_growth(found: Found, objectives: list[str]) -> None:
    small, large = CHART[-3], CHART[-1]
    for objective in objectives:
        pair = [found.get((objective, OURS, size), Measurement({})) for size in (small, large)]
        if all(one.seconds for one in pair):
            grown, limit = (math.log(pair[1].median(n) / pair[0].median(n), large / small) for n in (OURS, "limit"))
            text = f"time grows as B^{grown:.2f} from {small:,} to {large:,}{verdict(grown, GROWTH_CLAIM)}"
            print(f"{objective:<12} {text}; the limit as B^{limit:.2f}")


def draw(found: Found, given: argparse.Namespace) -> None:
    """Draw time above peak memory, an objective a column."""
    count, sizes, ink = len(given.objectives), sorted(given.sizes), LIGHT.ink
    width = 1.1 + 3 * count
    figure = Figure(figsize=(width, 7.5), dpi=150, facecolor=LIGHT.ground)
    grid = figure.subplots(2, count, sharex=True, sharey="row", squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        objective = given.objectives[column]
        axes.loglog(base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes[::-2], [f"{size:,}" for size in sizes[::-2]], fontsize=8)
        axes.grid(True, color=LIGHT.faint, linewidth=0.7)
        axes.tick_params(which="both", colors=ink, length=0)
        axes.spines[:].set_visible(False)
        own = [one for size in sizes if (one := found[objective, OURS, size]).seconds]
        if row == 0:
            axes.set_title(objective, color=ink, loc="left", fontweight="bold")
            product = [one.median("limit") for one in own]
            axes.plot(sizes[: len(own)], product, ":", color=ink, linewidth=1)
            middle = len(own) // 3
            axes.text(1.3 * sizes[middle], product[middle], f"one B x B x {DIMENSIONS} product", color=ink, fontsize=8)
        else:
            axes.set_xlabel("B, embeddings in the batch", color=ink)
        ends = []
        for name, color in COLOURS.items():
            tried = [found[key] for size in sizes if (key := (objective, name, size)) in found]
            values = [one.megabytes if row else one.median(name) for one in tried if one.seconds]
            if values:
                axes.plot(sizes[: len(values)], values, "o-", color=color, linewidth=2, markersize=3)
                ends.append((sizes[len(values) - 1], values[-1], name, tried[-1].failure))
        label(axes, ends, sizes[len(sizes) // 2])
    for axes, name, low in ((grid[0, 0], "time [s]", None), (grid[1, 0], "peak memory above the start [MB]", 1)):
        axes.set_ylabel(name, color=ink)
        axes.set_ylim(low, axes.get_ylim()[1] * 300)  # room for the words
    title = f"Objectives, forward and backward: {DIMENSIONS} dimensions, float32, {given.photos} photos a person"
    figure.text(0.01, 0.955, title, color=ink, fontsize=15, fontweight="bold")
    below = f"A cross: the last size before an implementation failed, and how it failed. {machine(given)}"
    figure.text(0.01, 0.925, below, color=ink, fontsize=10)
    figure.subplots_adjust(left=0.9 / width, right=1 - 0.2 / width, bottom=0.08, top=0.87, wspace=0.08, hspace=0.06)
    given.chart.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.chart, metadata={"Software": None})
    print(f"drawn: {given.chart}")


def label(axes: Axes, ends: list[tuple[int, float, str, str]], middle: int) -> None:
    """Name the curves where they end: early ones beside it, the others above each other."""
    height = 0.0
    for size, value, name, failure in ends:
        color, text = COLOURS[name], f"{name}\n{failure}".strip()
        if failure:
            axes.plot(size, value, "x", color=color, markersize=9, markeredgewidth=2.5)
        if size < middle:
            axes.text(1.3 * size, value, text, va="top", color=color, fontsize=8, fontweight="bold")
            continue
        beside = [other[1] for other in ends if other[0] == size and other[2] != OURS]  # crosses not to write on
        height = max(height, 1.7 * (value if name == OURS else max(beside)))
        axes.text(size, height, text, ha="right", va="bottom", color=color, fontsize=8, fontweight="bold")
        height *= 7 if failure else 2.6


def machine(given: argparse.Namespace) -> str:
    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{processor}, {os.cpu_count()} cores, {given.threads} threads, torch {torch.__version__}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", type=int, nargs="+", help="of the batch (16 ... 4096; with a chart 256 ... 32768)")
    options.add_argument("--objectives", nargs="+", choices=CLAIMS, default=list(CLAIMS))
    options.add_argument("--repetitions", type=int, default=5, help="at least (%(default)s); 3 for runs of over 5 s")
    options.add_argument("--photos", type=int, default=2, help="a person (%(default)s)")
    options.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(%(default)s)")
    options.add_argument("--patience", type=int, default=60, help="seconds for one run (%(default)s)")
    options.add_argument("--chart", type=Path, help="where to draw time and memory as PNG")
    options.add_argument(
        "--record", type=Path, help="JSON lines of what is measured; what is in it is not measured again"
    )
    options.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # objective, implementations, size
    given = options.parse_args()
    if given.child:
        objective, names, size = given.child
        print(json.dumps(measure(objective, names.split(","), int(size), given)._asdict()))
        return
    given.sizes = given.sizes or (CHART if given.chart else TABLE)
    found = compare(given)
    print()
    report_growth(found, given.objectives)
    if given.chart:
        draw(found, given)
    print(f"medians, {given.photos} photos a person, on {machine(given)}")


if __name__ == "__main__":
    main()
