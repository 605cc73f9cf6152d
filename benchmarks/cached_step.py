"""Memory and time of a training step whose activations are cached, against the plain step and the paper's two passes.

A step embeds B faces, takes NT-Xent over the whole batch and goes back to the weights. The plain step holds the
activations of all B faces; `embed_in_chunks` those of one chunk. The peer is the gradient cache as Gao et al. 2021
write it: embed without a graph, take the gradient at the embeddings, embed each chunk again and go back from there.
Memory is the peak of a process of its own above what it held before the step, after one step of one chunk; time is
that of the processor, measured in turn, since other programs may run beside: for faces of 48 pixels, where a chunk is
little work, and of 112. A step that embeds a chunk at a time and holds everything shows what chunks cost by themselves.

Claims: see CLAIMS. Run: `python benchmarks/cached_step.py`, or with `--chart docs/cached_step.png` for the picture.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from siamese_verify.encoders import Encoder, SmallResNet
from siamese_verify.evaluation.pages.rendering import LIGHT
from siamese_verify.losses import NTXentLoss
from siamese_verify.training.chunks import embed_in_chunks

CHUNK, SIZE, WIDTH = 32, 48, 16
BATCHES = (64, 128, 256, 512)
TIMED = {(512, SIZE, WIDTH): 5, (128, 112, 32): 3}  # batch, pixels and channels: rounds
PLAIN, CACHED, TWO_PASSES = "plain step", f"cached, {CHUNK} images a chunk", "two passes by hand"
HELD = "all chunks held"
CLAIMS = {
    "time of the cached step over the plain one, 48 pixels": 1.6,
    "time of the cached step over the plain one, 112 pixels": 1.2,
    "over the two passes by hand, at most": 1.2,
    "growth of its memory, B = 64 to 512, MB": 10,
}

Step = Callable[[Encoder, Tensor, Tensor], None]


def plain(encoder: Encoder, images: Tensor, labels: Tensor) -> None:
    NTXentLoss()(encoder(images), labels).backward()


def cached(encoder: Encoder, images: Tensor, labels: Tensor) -> None:
    NTXentLoss()(embed_in_chunks(encoder, images, CHUNK), labels).backward()


def held(encoder: Encoder, images: Tensor, labels: Tensor) -> None:
    NTXentLoss()(torch.cat([encoder(chunk) for chunk in torch.split(images, CHUNK)]), labels).backward()


def two_passes(encoder: Encoder, images: Tensor, labels: Tensor) -> None:
    with torch.no_grad():
        embeddings = torch.cat([encoder(chunk) for chunk in torch.split(images, CHUNK)])
    NTXentLoss()(embeddings.requires_grad_(), labels).backward()
    assert embeddings.grad is not None
    for chunk, gradient in zip(torch.split(images, CHUNK), torch.split(embeddings.grad, CHUNK), strict=True):
        encoder(chunk).backward(gradient)


STEPS: dict[str, Step] = {PLAIN: plain, CACHED: cached, TWO_PASSES: two_passes}


def batch(count: int, size: int = SIZE, width: int = WIDTH) -> tuple[Encoder, Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    return SmallResNet(size=size, width=width), images, torch.arange(count) // 2


def resident(name: str) -> float:
    """Megabytes that Linux counts for this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def peak_above_start(step: Step, count: int) -> float:
    """Megabytes of a step's peak above what this process holds after a step of one chunk."""
    encoder, images, labels = batch(count)
    plain(encoder, images[:CHUNK], labels[:CHUNK])
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before counts when it is taken again
    Path("/proc/self/clear_refs").write_text("5")
    start = resident("VmRSS")
    step(encoder, images, labels)
    return resident("VmHWM") - start


def seconds(count: int, size: int, width: int, rounds: int) -> dict[str, float]:
    """Median processor seconds of each step, taken in turn."""
    encoder, images, labels = batch(count, size, width)
    steps = {**STEPS, HELD: held}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.process_time()
            step(encoder, images, labels)
            taken[name].append(time.process_time() - started)
    return {name: statistics.median(times) for name, times in taken.items()}


def in_process(*arguments: str) -> float:
    """What this script prints in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(torch.get_num_threads()), *arguments]
    # Else glibc's heap keeps holes of what was freed, which no GPU's allocator does.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(ended.stdout))


def draw(megabytes: dict[str, list[float]], file: Path) -> None:
    """Peak memory against the size of the batch."""
    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    axes = figure.subplots()
    for (name, values), color in zip(megabytes.items(), (LIGHT.impostor, LIGHT.genuine, "#7b8694"), strict=True):
        axes.plot(BATCHES, values, "o-", color=color, label=name)
    axes.set(xlabel="images of a batch", ylabel="MB that a step needs", xticks=BATCHES, ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", nargs=2, metavar=("STEP", "B"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(json.dumps(peak_above_start(STEPS[options.peak[0]], int(options.peak[1]))))
        return 0
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}")
    print(f"SmallResNet, float32, chunks of {CHUNK}; memory for {SIZE} x {SIZE} pixels, {WIDTH} channels")
    megabytes: dict[str, list[float]] = {name: [] for name in STEPS}
    for count in BATCHES:
        for name in STEPS:
            megabytes[name].append(in_process("--peak", name, str(count)))
        print(f"B = {count:4}: " + ", ".join(f"{name} {values[-1]:.0f} MB" for name, values in megabytes.items()))
    ratios, by_hand = [], []
    for (count, size, width), rounds in TIMED.items():
        took = seconds(count, size, width, rounds)
        print(f"{count} faces of {size} x {size} pixels, {width} channels:")
        for name, value in took.items():
            print(f"  {name}: {value:.2f} s, {value / took[PLAIN]:.2f} of the plain step")
        ratios.append(took[CACHED] / took[PLAIN])
        by_hand.append(took[CACHED] / took[TWO_PASSES])
    growth = megabytes[CACHED][-1] - megabytes[CACHED][0]
    measured = dict(zip(CLAIMS, (*ratios, max(by_hand), growth), strict=True))
    for name, claim in CLAIMS.items():
        print(f"{'ok  ' if measured[name] <= claim else 'FAIL'} {name}: {measured[name]:.2f}, claimed {claim}")
    if options.chart:
        draw(megabytes, options.chart)
    return int(any(measured[name] > claim for name, claim in CLAIMS.items()))


if __name__ == "__main__":
    sys.exit(main())
