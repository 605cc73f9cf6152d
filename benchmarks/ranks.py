"""Losses over a batch that several processes share, against one process with the whole batch.

Each rank has B / w rows of 512 dimensions, gathers those of the others (gloo), computes its share of the loss and
sends the gradients back. The limits are 1 / w of one process's work, and the bytes that have to be sent: each row to
each other rank once, and its gradient once back, (w - 1) B D 4 bytes each way over all ranks. Matrix products are
counted. Times are those of each rank's processor, for loss and gradient without the exchange of rows: other work on the
machine counts little. Bytes are what passed the loopback device, headers and others' traffic included (Linux).

Claims: see CLAIMS. Run: `python benchmarks/ranks.py --rows 8192`.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from siamese_verify.losses import ContrastiveLoss, InBatchNegatives, InfoNCELoss, NTXentLoss, SupConLoss, TripletLoss
from siamese_verify.miners import BatchHard, HardPairs
from siamese_verify.training import gather_batch

DIMENSIONS, PHOTOS = 512, 4
CLAIMS = (1.05, 1.05)  # most products of a rank, times w over those of one process; bytes over the least
SEARCH_CLAIM = (
    1.25  # products of hard pairs, whose near ones a rank compares again exactly: it has more near ones a pair
)

Objective = Callable[[Tensor, Tensor, slice], Tensor]
TRIPLET, PAIRS, BATCH_HARD, HARD_PAIRS = TripletLoss(), ContrastiveLoss(), BatchHard(), HardPairs()
OBJECTIVES: dict[str, Objective] = {
    "NT-Xent": lambda rows, labels, own: NTXentLoss()(rows, labels, own=own),
    "SupCon": lambda rows, labels, own: SupConLoss()(rows, labels, own=own),
    "InfoNCE": lambda rows, labels, own: InBatchNegatives(InfoNCELoss())(rows, labels, own=own),
    "contrastive": lambda rows, labels, own: PAIRS(rows, labels, own=own),
    "batch hard": lambda rows, labels, own: TRIPLET(rows, labels, BATCH_HARD(rows.detach(), labels, own=own), own=own),
    "hard pairs": lambda rows, labels, own: PAIRS(rows, labels, HARD_PAIRS(rows.detach(), labels, own=own), own=own),
}


class Cost(NamedTuple):
    """Of one rank and step."""

    products: float  # floating-point operations of matrix products
    seconds: float  # of the processor, median
    megabytes: float  # through the loopback device, of all ranks


def sent() -> float:
    """Bytes that the loopback device has sent; NaN where the system doesn't tell."""
    lines = Path("/proc/net/dev").read_text().splitlines() if Path("/proc/net/dev").exists() else []
    return next((float(line.split()[9]) for line in lines if line.strip().startswith("lo:")), math.nan)


def work(rank: int, world_size: int, rows: int, repeats: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
    everything = torch.nn.functional.normalize(
        torch.randn(rows, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    )
    own = slice(rows * rank // world_size, rows * (rank + 1) // world_size)
    mine, labels = everything[own].clone().requires_grad_(), (torch.arange(rows) // PHOTOS)[own]
    costs = {}
    for name, objective in OBJECTIVES.items():

        def step(objective: Objective = objective) -> float:
            rows_of_all, labels_of_all, part = gather_batch(mine, labels)
            leaf, start = rows_of_all.detach().requires_grad_(), time.process_time()
            objective(leaf, labels_of_all, part).backward()  # type: ignore[no-untyped-call]
            elapsed = time.process_time() - start
            rows_of_all.backward(leaf.grad)  # type: ignore[no-untyped-call]
            return elapsed

        in_place = {torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * math.prod(left) * right[1]}
        with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            step()
        seconds, megabytes = [], []
        for _ in range(repeats):
            dist.barrier()
            before = sent()
            seconds.append(step())
            dist.barrier()
            megabytes.append((sent() - before) / 1e6)
        costs[name] = Cost(counter.get_total_flops(), statistics.median(seconds), min(megabytes))
    torch.save(costs, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def measure(world_size: int, rows: int, repeats: int) -> list[dict[str, Cost]]:
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            get_context("spawn").Process(target=work, args=(rank, world_size, rows, repeats, folder))
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--world-sizes", type=int, nargs="+", default=[2, 3, 4])
    args = parser.parse_args()
    (alone,) = measure(1, args.rows, args.repeats)
    print(f"{args.rows} rows of {DIMENSIONS}, {platform.processor() or platform.machine()}, torch {torch.__version__}")
    print("w  loss          products x w   time x w   bytes / least   products kept  bytes kept")
    for world_size in args.world_sizes:
        ranks = measure(world_size, args.rows, args.repeats)
        least = 2 * (world_size - 1) * args.rows * DIMENSIONS * 4 / 1e6
        for name in OBJECTIVES:
            products = max(rank[name].products for rank in ranks) * world_size / alone[name].products
            seconds = max(rank[name].seconds for rank in ranks) * world_size / alone[name].seconds
            megabytes = ranks[0][name].megabytes / least
            most = SEARCH_CLAIM if name == "hard pairs" else CLAIMS[0]
            kept = ["yes" if kept else "NO" for kept in (products <= most, megabytes <= CLAIMS[1])]
            print(
                f"{world_size}  {name:<12}  {products:12.2f}  {seconds:9.2f}  {megabytes:14.2f}   "
                f"{kept[0]:>13}  {kept[1]:>10}"
            )


if __name__ == "__main__":
    main()
