"""Losses and miners on a GPU, forward and backward, beside the limit and their peers.

First the kernels are tried, then each loss is compared with the naive formula in float64. Then each row, as it comes:
the median time, its ratio to the limit (one product of the (B, 512) batch with itself in the same precision) and the
most memory above the start, for ours, plain PyTorch as one would write it by hand, and, where they are installed,
pytorch-metric-learning and memeff, whose CLIP loss compares half of the rows with the others: a quarter of the pairs.

Run: `python benchmarks/gpu.py`; under three minutes, what does not fit in is named. `--device cpu --sizes 256` runs
all of it without a GPU, where our tiles are PyTorch's, as they are on a GPU with SIAMESE_VERIFY_KERNELS=0.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import torch
from torch import Tensor
from torch.nn import functional as F

from siamese_verify.losses import (
    ContrastiveLoss,
    CosinePairLoss,
    InBatchNegatives,
    InfoNCELoss,
    NTXentLoss,
    SupConLoss,
    TripletLoss,
)
from siamese_verify.miners import BatchHard, HardPairs, SemiHard
from siamese_verify.pairwise import tiles
from siamese_verify.pairwise.neighbors import nearest_neighbors

Objective = Callable[[Tensor, Tensor], Tensor]

DIMENSIONS, PHOTOS, TEMPERATURE, MARGIN, TRIPLET_MARGIN, NEIGHBORS = 512, 4, 0.1, 1.0, 0.2, 31
PRECISIONS = {"fp32": "highest", "tf32": "high", "bf16": "highest"}
TOLERANCE = {"fp32": 1e-4, "tf32": 2e-3, "bf16": 2e-2}  # of a loss and of its gradient, relative


def ours() -> dict[str, Objective]:
    triplet, batch_hard, semi_hard = TripletLoss(TRIPLET_MARGIN), BatchHard(), SemiHard(TRIPLET_MARGIN)
    contrastive, hard_pairs = ContrastiveLoss(MARGIN), HardPairs()
    return {
        "NT-Xent": NTXentLoss(TEMPERATURE),
        "SupCon": SupConLoss(TEMPERATURE),
        "InfoNCE": InBatchNegatives(InfoNCELoss(TEMPERATURE)),
        "contrastive": contrastive,
        "cosine": CosinePairLoss(0.1),
        "batch hard": lambda rows, labels: triplet(rows, labels, batch_hard(rows.detach(), labels)),
        "semi-hard": lambda rows, labels: triplet(rows, labels, semi_hard(rows.detach(), labels)),
        "hard pairs": lambda rows, labels: contrastive(rows, labels, hard_pairs(rows.detach(), labels)),
        "all triplets": triplet,
    }


def plain() -> dict[str, Objective]:
    """By hand; distances from products, as torch.cdist takes them, and the reference if the rows are float64."""

    def same(labels: Tensor) -> Tensor:
        return labels[:, None] == labels

    def cosines(rows: Tensor) -> Tensor:
        directions = F.normalize(rows)
        return directions @ directions.T

    def distances(rows: Tensor) -> Tensor:
        squares = rows.float().square().sum(1) if rows.dtype != torch.float64 else rows.square().sum(1)
        squared = squares[:, None] + squares - 2 * (rows @ rows.T)
        return squared.clamp(min=1e-12).sqrt()

    def logits(rows: Tensor) -> Tensor:
        return (cosines(rows).float() if rows.dtype != torch.float64 else cosines(rows)).div(TEMPERATURE)

    def log_softmax(rows: Tensor) -> Tensor:
        return logits(rows).fill_diagonal_(-torch.inf).log_softmax(dim=1)

    def nt_xent(rows: Tensor, labels: Tensor) -> Tensor:
        genuine = same(labels).fill_diagonal_(False)
        return -log_softmax(rows).masked_fill(~genuine, 0).sum() / genuine.sum()

    def sup_con(rows: Tensor, labels: Tensor) -> Tensor:
        genuine = same(labels).fill_diagonal_(False)
        return -(log_softmax(rows).masked_fill(~genuine, 0).sum(dim=1) / genuine.sum(dim=1)).mean()

    def info_nce(rows: Tensor, labels: Tensor) -> Tensor:
        found, genuine = logits(rows), same(labels)
        impostors = found.masked_fill(genuine, -torch.inf).logsumexp(dim=1)
        anchor, positive = genuine.clone().fill_diagonal_(False).nonzero(as_tuple=True)
        return F.softplus(impostors[anchor] - found[anchor, positive]).mean()

    def contrastive(rows: Tensor, labels: Tensor) -> Tensor:
        distance = distances(rows)
        losses = 0.5 * torch.where(same(labels), distance, (MARGIN - distance).clamp(min=0)).square()
        return losses.triu(1).sum() / (len(rows) * (len(rows) - 1) / 2)

    def cosine(rows: Tensor, labels: Tensor) -> Tensor:
        found = cosines(rows)
        losses = torch.where(same(labels), 1 - found, (found - 0.1).clamp(min=0))
        return losses.triu(1).sum() / (len(rows) * (len(rows) - 1) / 2)

    def batch_hard(rows: Tensor, labels: Tensor) -> Tensor:
        distance, genuine = distances(rows), same(labels)
        farthest = distance.masked_fill(~genuine, -torch.inf).max(dim=1).values
        nearest = distance.masked_fill(genuine, torch.inf).min(dim=1).values
        return (farthest - nearest + TRIPLET_MARGIN).clamp(min=0).mean()

    def semi_hard(rows: Tensor, labels: Tensor) -> Tensor:
        distance, genuine = distances(rows), same(labels)
        with torch.no_grad():
            anchor, positive = genuine.clone().fill_diagonal_(False).nonzero(as_tuple=True)
            inner = distance[anchor, positive, None]
            outer = distance.masked_fill(genuine, torch.inf)[anchor]
            outside = (outer <= inner).logical_or_(outer >= inner + TRIPLET_MARGIN)
            nearest, negative = outer.masked_fill_(outside, torch.inf).min(dim=1)
            found = nearest.isfinite()
            anchor, positive, negative = anchor[found], positive[found], negative[found]
        return (distance[anchor, positive] - distance[anchor, negative] + TRIPLET_MARGIN).clamp(min=0).mean()

    def hard_pairs(rows: Tensor, labels: Tensor) -> Tensor:
        above = torch.ones(len(rows), len(rows), dtype=torch.bool, device=rows.device).triu(1)
        distance, genuine = distances(rows)[above], same(labels)[above]
        genuine, impostors = distance[genuine], distance[~genuine]
        nearest = impostors.topk(min(len(genuine), len(impostors)), largest=False).values
        losses = torch.cat([genuine, (MARGIN - nearest).clamp(min=0)]).square()
        return 0.5 * losses.mean()

    def triplets(rows: Tensor, labels: Tensor) -> Tensor:
        distance, genuine = distances(rows), same(labels)
        anchor, positive = genuine.clone().fill_diagonal_(False).nonzero(as_tuple=True)
        losses = (distance[anchor, positive, None] - distance[anchor] + TRIPLET_MARGIN).clamp(min=0)
        return losses.masked_fill(genuine[anchor], 0).sum() / (~genuine[anchor]).sum()

    return {
        "NT-Xent": nt_xent,
        "SupCon": sup_con,
        "InfoNCE": info_nce,
        "contrastive": contrastive,
        "cosine": cosine,
        "batch hard": batch_hard,
        "semi-hard": semi_hard,
        "hard pairs": hard_pairs,
        "all triplets": triplets,
    }


def metric_learning() -> dict[str, Objective]:
    losses, miners = (importlib.import_module(f"pytorch_metric_learning.{part}") for part in ("losses", "miners"))
    triplet, batch_hard = losses.TripletMarginLoss(margin=TRIPLET_MARGIN), miners.BatchHardMiner()
    return {
        "NT-Xent": losses.NTXentLoss(temperature=TEMPERATURE),
        "SupCon": losses.SupConLoss(temperature=TEMPERATURE),
        "contrastive": losses.ContrastiveLoss(pos_margin=0, neg_margin=MARGIN),
        "batch hard": lambda rows, labels: triplet(rows, labels, batch_hard(rows.detach(), labels)),
    }


def memeff() -> dict[str, Objective]:
    clip = importlib.import_module("memeff").MemoryEfficientCLIPLoss(temperature=TEMPERATURE)
    return {"NT-Xent": lambda rows, _: clip(*(half.contiguous() for half in rows.tensor_split(2)))}


def batch(size: int, precision: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Unit rows of identities of four photos, of which some are near each other, on every machine the same."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(size) // PHOTOS
    centers = torch.randn(size // PHOTOS + 1, DIMENSIONS, generator=generator)
    rows = F.normalize(centers[labels] / 2 + torch.randn(size, DIMENSIONS, generator=generator))
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    return rows.to(device, kind).requires_grad_(), labels.to(device)


def descend(objective: Objective, rows: Tensor, labels: Tensor) -> Tensor:
    rows.grad = None
    loss = objective(rows, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


class Machine:
    """Times and measures on a device."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.device, self.given = torch.device(given.device), given
        self.cuda = self.device.type == "cuda"
        self.begun = time.perf_counter()
        self.clock = time.perf_counter if self.cuda else time.process_time  # others may use the processor too

    @property
    def left(self) -> float:
        """Seconds until the whole run has to end."""
        return float(self.given.seconds) - (time.perf_counter() - self.begun)

    def wait(self) -> None:
        """Until all that was asked of the device is done."""
        if self.cuda:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give back unused memory; ends the run if the GPU is in error, after which nothing computes."""
        try:
            if self.cuda:
                torch.cuda.empty_cache()
        except RuntimeError as error:
            sys.exit(f"The GPU no longer computes, this ends here: {str(error).splitlines()[0]}")

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Ends a part that takes too long, between two operations."""

        def late(number: int, frame: FrameType | None) -> None:
            raise TimeoutError(f"over {self.given.patience} s")

        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, min(self.given.patience, max(self.left, 0.1)))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def time(self, run: Callable[[], object]) -> tuple[float, float]:
        """Median seconds, and megabytes at most above the start; the first run, which may compile, is not counted."""
        self.wait()
        before = torch.cuda.memory_allocated() if self.cuda else 0
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds: list[float] = []
        began = time.perf_counter()
        while len(seconds) < 12 and (len(seconds) < 2 or time.perf_counter() - began < self.given.patience / 10):
            start = self.clock()
            run()
            self.wait()
            seconds.append(self.clock() - start)
            if len(seconds) > 1 and seconds[-1] > self.given.patience / 3:
                break
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if self.cuda else float("nan")
        return statistics.median(seconds[1:]), peak

    def row(self, name: str, size: int, precision: str, run: Callable[[], object], product: float | None) -> float:
        """Measure and print one row; NaN if it failed."""
        start = f"{size:>7,} {precision} {name:<38}"
        if self.left <= 0:
            print(f"{start} left out: the time is over", flush=True)
            return float("nan")
        try:
            with self.limit():
                seconds, megabytes = self.time(run)
        except (TimeoutError, torch.OutOfMemoryError, RuntimeError, TypeError, ValueError) as error:
            print(f"{start} failed: {type(error).__name__}: {str(error).splitlines()[0][:90]}", flush=True)
            return float("nan")
        finally:
            self.free()
        ratio = f"{seconds / product:8.2f} x" if product else " " * 10
        print(f"{start} {1e3 * seconds:10.3f} ms {ratio} {megabytes:9.0f} MiB", flush=True)
        return seconds


def check(machine: Machine, size: int) -> bool:
    """Compare our losses and gradients with float64, and print how far each is off."""
    mine, exact, fine = ours(), plain(), True
    for precision, setting in PRECISIONS.items():
        torch.set_float32_matmul_precision(setting)
        for name, objective in mine.items():
            rows, labels = batch(size, precision, machine.device)
            try:
                with machine.limit():
                    found = descend(objective, rows, labels)
                    double = rows.detach().double().requires_grad_()
                    expected = descend(exact[name], double, labels)
            except (TimeoutError, RuntimeError) as error:
                print(f"check {size:,} {precision} {name:<12} failed: {str(error).splitlines()[0][:120]}", flush=True)
                fine = False
                continue
            assert rows.grad is not None and double.grad is not None
            wrong = float((found.double() - expected).abs() / expected.abs())
            turned = float((rows.grad.double() - double.grad).norm() / double.grad.norm())
            # A miner may take another of two negatives that rounding cannot tell apart: the gradient is another one.
            searched = name in ("batch hard", "semi-hard", "hard pairs") and precision != "fp32"
            within = wrong <= TOLERANCE[precision] and (searched or turned <= 2 * TOLERANCE[precision])
            fine &= within
            verdict = "" if within else "  TOO FAR"
            off = f"loss off by {wrong:.1e}, gradient by {turned:.1e}{verdict}"
            print(f"check {size:,} {precision} {name:<12} {off}", flush=True)
    return fine


def measure(machine: Machine, size: int, precision: str) -> None:
    torch.set_float32_matmul_precision(PRECISIONS[precision])
    rows, labels = batch(size, precision, machine.device)
    whole = rows.detach()
    out = torch.empty(min(size, 16384), size, dtype=whole.dtype, device=machine.device)

    def limit(out: Tensor) -> None:
        for start in range(0, size, len(out)):
            part = whole[start : start + len(out)]
            torch.mm(part, whole.T, out=out[: len(part)])

    product = machine.row("limit: one product", size, precision, partial(limit, out), None)
    del out
    peers: dict[str, Callable[[], dict[str, Objective]]] = {"ours": ours, "plain PyTorch": plain}
    if precision != "tf32":
        peers |= {"pytorch-metric-learning": metric_learning, "memeff (a quarter)": memeff}
    for objective in ours():
        if size > 4096 and objective in ("hard pairs", "all triplets"):  # without kernels, or cubic by hand
            continue
        for peer, make in peers.items():
            module = {"pytorch-metric-learning": "pytorch_metric_learning", "memeff (a quarter)": "memeff"}.get(peer)
            if module and (importlib.util.find_spec(module) is None or (size > 16384 and module != "memeff")):
                continue
            run = make().get(objective)
            if run is not None:
                step = partial(descend, run, rows, labels)
                machine.row(f"{objective}: {peer}", size, precision, step, product)
    if precision == "fp32" and size <= 16384:
        neighbors = f"{NEIGHBORS} nearest neighbors: ours"
        machine.row(neighbors, size, precision, partial(nearest_neighbors, whole, None, NEIGHBORS), product)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", help="cpu or cuda; without this, a GPU if there is one, else nothing is measured")
    sizes = [4096, 65536, 16384, 1024, 256]
    options.add_argument("--sizes", type=int, nargs="+", default=sizes, help="of the batch, in turn (%(default)s)")
    options.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="(all)")
    options.add_argument("--patience", type=float, default=10, help="seconds for one row at most (%(default)s)")
    options.add_argument("--seconds", type=float, default=170, help="for all of it at most (%(default)s)")
    options.add_argument("--only-check", action="store_true", help="compare with float64 and measure nothing")
    given = options.parse_args()
    asked, given.device = given.device, given.device or "cuda"
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("Not measured, for torch finds no GPU here: add --device cpu --sizes 256 to try it out.")
        return 2 if asked else 0
    machine = Machine(given)
    card = torch.cuda.get_device_name() if machine.cuda else "CPU"
    print(f"{card}, torch {torch.__version__}; D = {DIMENSIONS}, {PHOTOS} photos a person", flush=True)
    tiles.enabled = os.environ.get("SIAMESE_VERIFY_KERNELS") != "0"
    kernels = machine.cuda and tiles.enabled and tiles.has_kernels(torch.zeros(1, device=machine.device).device)
    print(f"with{'' if kernels else 'out'} kernels, after {time.perf_counter() - machine.begun:.0f} s", flush=True)
    checked = {min(4096, size) for size in (min(given.sizes), max(given.sizes))}  # one with the plain formula
    fine = min([check(machine, size) for size in sorted(checked)])
    verdict = "all within bounds" if fine else "NOT ALL WITHIN BOUNDS"
    print(f"checked in {time.perf_counter() - machine.begun:.0f} s: {verdict}", flush=True)
    if not given.only_check:
        for size in given.sizes:
            for precision in sorted(given.precisions, key=["bf16", "tf32", "fp32"].index):
                measure(machine, size, precision)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
