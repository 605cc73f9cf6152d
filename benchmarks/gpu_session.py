"""Losses, miners, kernels, training, all pairs and resamples on a GPU, in 13 minutes at most: right, and how fast.

Each part is a process of its own that is ended at its time limit, whatever it waits for, and prints as it goes. A part
that lacks a package says so and is left out; torch, Triton and NumPy do for the first ones.

Run: `python benchmarks/gpu_session.py`; `--device cpu` tries all of it at tiny sizes, without kernels.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Part(NamedTuple):
    """A command, without the interpreter."""

    name: str
    command: str
    seconds: float  # at most
    needs: str = ""  # packages besides torch and NumPy
    kernels: int = 1


CONFIGURED = "hydra omegaconf antlr4 pytorch_lightning torchvision pooch platformdirs rich scipy lazy_loader"
ON_GPU = [
    Part("losses and miners, with kernels", "benchmarks/gpu.py --device cuda", 180, "triton"),
    Part("each kernel by itself", "-m pytest --tb=line tests/pairwise/kernel_cases.py", 150, "triton pytest"),
    Part("without kernels", "benchmarks/gpu.py --device cuda --sizes 4096 16384 --seconds 70", 75, kernels=0),
    Part("training", "benchmarks/training.py --encoder resnet18 --size 112 --images 256 --steps 150", 150, CONFIGURED),
    Part("resamples", "benchmarks/gpu_session.py --device cuda --resample 150000", 20, "lazy_loader"),
    Part("all pairs", "benchmarks/all_pairs.py --device cuda", 40, "lazy_loader"),
    Part("all pairs", "benchmarks/all_pairs.py --device cuda --sizes 1000000 --repetitions 1", 185, "lazy_loader"),
]
TINY = "benchmarks/gpu.py --device cpu --sizes 48 --precisions fp32 --patience 0.5 --seconds 20"
ON_CPU = [
    Part("losses and miners", TINY, 60),
    Part("training", "benchmarks/training.py --device cpu --steps 2 --repetitions 1", 120, CONFIGURED),
    Part("resamples", "benchmarks/gpu_session.py --device cpu --resample 1000", 20, "lazy_loader"),
    Part("all pairs", "benchmarks/all_pairs.py --sizes 500 --repetitions 1 --threads 1", 60, "lazy_loader sklearn"),
]


def run(part: Part, seconds: float) -> bool:
    """Run a part for so many seconds at most; return whether it ended well."""
    limit, start = min(part.seconds, seconds), time.perf_counter()
    print(f"== {part.name}: {part.command}, {max(limit, 0):.0f} s at most", flush=True)
    if missing := [name for name in part.needs.split() if importlib.util.find_spec(name) is None]:
        print(f"== left out: {', '.join(missing)} not installed", flush=True)
        return False
    if limit <= 0:
        print("== left out: the time is over", flush=True)
        return False
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "SIAMESE_VERIFY_KERNELS": str(part.kernels)}
    command = [sys.executable, *part.command.split()]
    child = subprocess.Popen(command, cwd=ROOT, env=os.environ | own, start_new_session=True)
    try:
        code = child.wait(limit)
        told = "ended well" if code == 0 else f"ended with {code}"
    except subprocess.TimeoutExpired:
        code, told = 1, "ended at its limit"
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)  # with what it has started; a GPU may be waited for without end
            child.wait()
    print(f"== {part.name}: {told} after {time.perf_counter() - start:.0f} s", flush=True)
    return code == 0


def resample(device: str, count: int) -> int:
    """Count 1,000 resamples of so many pairs on a device, once to start it, then on the CPU: 0 if EERs are the same."""
    import numpy as np

    from siamese_verify.evaluation.bootstrap import Resamples, WeightedPairs

    generator, same = np.random.default_rng(0), np.arange(count) % 2 == 0
    first = generator.integers(0, 2000, count)
    people = np.stack([first, np.where(same, first, (first + generator.integers(1, 2000, count)) % 2000)], axis=1)
    scores, found = generator.normal(size=count) + 2 * same, []
    for there in (device, device, "cpu"):
        start = time.perf_counter()
        resampled = Resamples(same, people, device=there)
        pairs = WeightedPairs(scores, same, place=resampled.place)
        found.append(np.concatenate([pairs.metrics(weights)["eer"] for weights in resampled]))
        print(f"{count:,} pairs on {there}: {time.perf_counter() - start:.3f} s", flush=True)
    return int(not np.array_equal(found[1], found[2]))


def main() -> int:
    import torch

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", choices=("cuda", "cpu"), help="(a GPU if there is one, else nothing is measured)")
    options.add_argument("--seconds", type=float, default=780, help="for all of it at most (%(default)s)")
    options.add_argument("--resample", type=int, help="only count resamples of so many pairs, there and on the CPU")
    given = options.parse_args()
    device = given.device or "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("Not measured, for torch finds no GPU here: add --device cpu to try it out.")
        return 2 if given.device else 0
    if given.resample:
        return resample(device, given.resample)
    begun = time.perf_counter()
    parts = ON_GPU if device == "cuda" else ON_CPU
    ended = [run(part, given.seconds - (time.perf_counter() - begun)) for part in parts]
    failed = [part.name for part, well in zip(parts, ended, strict=True) if not well]
    print(f"== failed or left out: {', '.join(failed)}" if failed else "== all ended well")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
