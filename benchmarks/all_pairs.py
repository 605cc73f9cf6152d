"""Every pair of a set of embeddings, exactly, against what can't be avoided and against numpy with scikit-learn.

The limit is half of one N x N product of the embeddings, computed in blocks into memory that is there already, timed in
turn with the report. The peer lists the scores of all pairs i < j and hands them to scikit-learn's `roc_curve`, from
which its EER is read; it is left out beyond N = 20,000, where its lists would not fit. Each is a process of its own;
its memory is the peak above the embeddings.

Claims for N = 13,233 people as in LFW: 25 times as fast as the peer, 2.5 times the limit, 300 MB. For N = 100,000 (five
thousand million pairs): 2.5 times the limit, 1.5 GB. Run: `python benchmarks/all_pairs.py [--sizes 13233 100000]`.

On a GPU, `--device cuda --sizes 13233 1000000`: the limit is there too, in full precision, and the memory is the GPU's.
The goals are 0.2 s for LFW's 87.5 million pairs and 60 s for 1,000,000 photos (5 x 10^11 pairs): not measured on a GPU.
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
from typing import NamedTuple

import numpy as np
import torch

DIMENSIONS = 512
CLAIMS = {13_233: {"peer": 25.0, "limit": 2.5, "memory": 300.0}, 100_000: {"limit": 2.5, "memory": 1500.0}}
GOALS = {13_233: 0.2, 1_000_000: 60.0}  # seconds on an H200
MOST_LISTED = 20_000


def people(size: int) -> np.ndarray:
    """Identities as in LFW: few people with many photos, most with one; 0.28 % of its pairs are genuine."""
    generator = np.random.default_rng(0)
    photos = np.minimum(generator.zipf(2.7, size), 530)
    return np.repeat(np.arange(size), photos)[:size]


def embeddings(identities: np.ndarray) -> np.ndarray:
    """Embeddings of an encoder with some 1.5 % of errors, impostors as unlike as those of a trained one."""
    generator = np.random.default_rng(1)
    directions = generator.standard_normal((64, DIMENSIONS), dtype=np.float32)  # faces differ in few of them
    photos = generator.standard_normal((len(identities), 64), dtype=np.float32)
    photos *= generator.uniform(0.3, 1.6, len(identities)).astype(np.float32)[:, None]  # easy photos and hard ones
    centers = generator.standard_normal((int(identities[-1]) + 1, 64), dtype=np.float32)
    rows: np.ndarray = (photos + centers[identities]) @ directions
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def ours(rows: np.ndarray, identities: np.ndarray, device: str) -> tuple[float, float]:
    from siamese_verify.evaluation import all_pairs_report

    report = all_pairs_report(rows, identities, device=device)
    return report.eer, report.auc


def peer(rows: np.ndarray, identities: np.ndarray, _: str) -> tuple[float, float]:
    from sklearn.metrics import auc, roc_curve

    left, right = np.triu_indices(len(rows), 1)
    scores, same = (rows @ rows.T)[left, right], identities[left] == identities[right]
    far, tar, _ = roc_curve(same, scores)
    equal = np.argmin(np.abs(1 - tar - far))
    return float(far[equal]), float(auc(far, tar))


def limit(rows: np.ndarray, device: str, block: int = 1024) -> Callable[[], None]:
    tensor = torch.from_numpy(rows).to(device)
    memory = torch.empty(block * len(rows), device=device)

    def run() -> None:
        for top in range(0, len(rows), block):
            left = tensor[top : top + block]
            torch.mm(left, tensor[top:].T, out=memory[: len(left) * (len(rows) - top)].view(len(left), -1))
        if tensor.is_cuda:
            torch.cuda.synchronize()

    return run


def peak(device: str) -> float:
    """Megabytes that were resident at most, or allocated on a GPU; Linux counts in kilobytes, macOS in bytes."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


class Measurement(NamedTuple):
    """What one process found out."""

    seconds: dict[str, list[float]]
    memory: float  # megabytes
    eer: float
    auc: float

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """Median of quotients with the limit that was timed next."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds["limit"], strict=True))

    def line(self, name: str, claims: dict[str, float]) -> str:
        """Say it, with what becomes of the claims."""
        ratio, memory = self.ratio(name), self.memory
        text = f"{self.median(name):8.2f} s  {ratio:6.2f} x limit{verdict(ratio, claims.get('limit'))}"
        return f"{text}  {memory:6.0f} MB{verdict(memory, claims.get('memory'))}"


def measure(name: str, size: int, repetitions: int, threads: int, device: str) -> Measurement:
    torch.set_num_threads(threads)
    identities = people(size)
    rows = embeddings(identities)
    run = {"ours": ours, "peer": peer}[name]
    run(rows[:500], identities[:500], device)  # loads the libraries
    before = peak(device)
    found = run(rows, identities, device)
    above = peak(device) - before
    product = limit(rows, device)
    product()
    seconds: dict[str, list[float]] = {name: [], "limit": []}
    for _ in range(repetitions):
        for what, call in ((name, lambda: run(rows, identities, device)), ("limit", product)):
            start = time.perf_counter()
            call()
            seconds[what].append(time.perf_counter() - start)
    return Measurement(seconds, above, *found)


def launch(name: str, size: int, given: argparse.Namespace) -> Measurement:
    repetitions = 3 if name == "peer" else given.repetitions
    device = given.device if name == "ours" else "cpu"
    command = [sys.executable, __file__, "--child", name, str(size), str(repetitions), str(given.threads), device]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measurement(**json.loads(child.stdout.splitlines()[-1]))


def verdict(value: float, claim: float | None, least: bool = False) -> str:
    if claim is None:
        return ""
    met = value >= claim if least else value <= claim
    return f" ({'at least' if least else 'at most'} {claim:g}: {'met' if met else 'missed'})"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", type=int, nargs="+", default=[13_233])
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--device", default="cpu", help="of ours and the limit: cpu or cuda (%(default)s)")
    options.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        name, size, repetitions, threads, device = given.child
        print(json.dumps(measure(name, int(size), int(repetitions), int(threads), device)._asdict()))
        return
    for size in given.sizes:
        claims = CLAIMS.get(size, {}) if given.device == "cpu" else {}
        mine = launch("ours", size, given)
        print(f"N = {size:,}, {size * (size - 1) // 2:,} pairs; the limit takes {mine.median('limit'):.2f} s")
        print(f"  ours                 {mine.line('ours', claims)}", flush=True)
        if given.device != "cpu":
            print(f"  {mine.median('ours'):.2f} s{verdict(mine.median('ours'), GOALS.get(size))}")
        if size > MOST_LISTED or given.device != "cpu":
            continue
        other = launch("peer", size, given)
        print(f"  numpy + scikit-learn {other.line('peer', {})}")
        # Each is related to the limit of its own process: a machine that slows down slows both.
        faster = other.ratio("peer") / mine.ratio("ours")
        print(f"  ours is {faster:.1f} times as fast{verdict(faster, claims.get('peer'), least=True)}")
        print(f"  EER {mine.eer:.6f} and {other.eer:.6f}, AUC {mine.auc:.9f} and {other.auc:.9f}")
    card = "" if given.device == "cpu" else f"{torch.cuda.get_device_name(given.device)}, "
    machine = f"{card}{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {given.threads} threads"
    print(f"medians of {given.repetitions} (peer: 3) on {machine}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
