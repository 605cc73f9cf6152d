"""The 32 nearest of every row of a set of embeddings, against what can't be avoided and against products with `topk`.

The limit is half of one N x N product of the embeddings, computed in blocks into memory that is there already, timed in
turn with the search; no search of a set in itself that takes its cosines from products can be faster. The peer takes
the largest of whole products, a block of 1,024 rows at a time. Each is a process of its own; its memory is the peak
above the embeddings.

Claims for N = 85,000 people, 512 dimensions: at most 60 s on two cores, 1.6 times the limit, 1 GB. Run:
`python benchmarks/neighbors.py [--rows 20000 85000]`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

DIMENSIONS = 512
COUNT = 32
BLOCK = 1024
SAMPLED = 256  # rows whose neighbors are compared with those in float64
CLAIMS = {85_000: {"seconds": 60.0, "limit": 1.6, "memory": 1000.0}}


def embeddings(size: int) -> Tensor:
    """People of an encoder: faces differ mostly in few directions, and some look alike."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(64, DIMENSIONS, generator=generator) / 8
    kinds = torch.randn(max(1, size // 40), 64, generator=generator)
    kind = torch.randint(len(kinds), (size,), generator=generator)
    rows = torch.empty(size, DIMENSIONS)
    for part, of_kind in zip(torch.split(rows, BLOCK), torch.split(kind, BLOCK), strict=True):  # leaves no peak
        own = torch.randn(len(part), 64, generator=generator) * (0.3 + torch.rand(len(part), 1, generator=generator))
        part.copy_((kinds[of_kind] + own) @ directions)
        part.add_(torch.randn(part.shape, generator=generator), alpha=0.3)
        part.copy_(torch.nn.functional.normalize(part))
    return rows


def ours(rows: Tensor) -> Tensor:
    from siamese_verify.pairwise.neighbors import nearest_neighbors

    return nearest_neighbors(rows, None, COUNT)


def peer(rows: Tensor) -> Tensor:
    found = []
    for start in range(0, len(rows), BLOCK):
        similarity = rows[start : start + BLOCK] @ rows.T
        similarity.diagonal(start).fill_(-torch.inf)
        found.append(similarity.topk(COUNT, dim=1).indices)
    return torch.cat(found)


def product(rows: Tensor, share: str = "half") -> Callable[[], None]:
    memory = torch.empty(BLOCK * len(rows))

    def run() -> None:
        for top in range(0, len(rows), BLOCK):
            left, right = rows[top : top + BLOCK], rows[top if share == "half" else 0 :]
            torch.mm(left, right.T, out=memory[: len(left) * len(right)].view(len(left), -1))

    return run


def prepared(name: str, rows: Tensor) -> Callable[[], Tensor | None]:
    return product(rows) if name == "limit" else lambda: {"ours": ours, "peer": peer}[name](rows)


def wrong(rows: Tensor, found: Tensor) -> int:
    """Count the sampled rows whose neighbors are not those that float64 gives, in the same order."""
    sample = torch.linspace(0, len(rows) - 1, min(SAMPLED, len(rows))).long()
    similarity = torch.cat([rows[sample].double() @ part.double().T for part in torch.split(rows, 8192)], dim=1)
    similarity[torch.arange(len(sample)), sample] = -torch.inf
    return int((similarity.topk(COUNT, dim=1).indices != found[sample]).any(dim=1).sum())


def peak() -> float:
    """Megabytes that were resident at most; Linux counts in kilobytes, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


class Measurement(NamedTuple):
    """What one process found out."""

    seconds: dict[str, list[float]]
    memory: float  # megabytes
    wrong: int  # of the sampled rows

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """Median of quotients with the limit that was timed next."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds["limit"], strict=True))

    def line(self, name: str, claims: dict[str, float]) -> str:
        """Say it, with what becomes of the claims."""
        seconds, ratio, memory = self.median(name), self.ratio(name), self.memory
        text = f"{seconds:8.2f} s{verdict(seconds, claims.get('seconds'))}  {ratio:6.2f} x limit"
        text = f"{text}{verdict(ratio, claims.get('limit'))}  {memory:6.0f} MB{verdict(memory, claims.get('memory'))}"
        return f"{text}  {self.wrong} of {SAMPLED} rows unlike float64"


def measure(name: str, size: int, repetitions: int, threads: int) -> Measurement:
    torch.set_num_threads(threads)
    rows = embeddings(size)
    prepared(name, rows[:2000].clone())()  # loads the libraries
    before = peak()
    found = prepared(name, rows)()
    above = peak() - before
    calls = {name: prepared(name, rows), "limit": product(rows)}
    if name == "limit":
        calls["full"] = product(rows, "full")
    seconds: dict[str, list[float]] = {what: [] for what in calls}
    for _ in range(repetitions):
        for what, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[what].append(time.perf_counter() - start)
    return Measurement(seconds, above, 0 if found is None else wrong(rows, found))


def launch(name: str, size: int, given: argparse.Namespace) -> Measurement:
    command = [sys.executable, __file__, "--child", name, str(size), str(given.repetitions), str(given.threads)]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measurement(**json.loads(child.stdout.splitlines()[-1]))


def verdict(value: float, claim: float | None) -> str:
    return "" if claim is None else f" (at most {claim:g}: {'met' if value <= claim else 'missed'})"


def processor() -> str:
    """Name it as the system does."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, nargs="+", default=[85_000])
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        name, size, repetitions, threads = given.child
        print(json.dumps(measure(name, int(size), int(repetitions), int(threads))._asdict()))
        return
    for size in given.rows:
        least = launch("limit", size, given)
        print(f"N = {size:,}, {COUNT} neighbors of each, {DIMENSIONS} dimensions")
        print(f"  limit, half the product {least.median('limit'):8.2f} s  {least.memory:22.0f} MB")
        print(f"  the whole product       {least.median('full'):8.2f} s", flush=True)
        mine = launch("ours", size, given)
        print(f"  ours                    {mine.line('ours', CLAIMS.get(size, {}))}", flush=True)
        other = launch("peer", size, given)
        print(f"  products with topk      {other.line('peer', {})}")
        # Each is related to the limit of its own process: a machine that slows down slows both.
        print(f"  ours is {other.ratio('peer') / mine.ratio('ours'):.1f} times as fast", flush=True)
    busy = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"medians of {given.repetitions} on {processor()}, {os.cpu_count()} cores, {given.threads} threads{busy}")
    print(f"torch {torch.__version__}")


if __name__ == "__main__":
    main()
