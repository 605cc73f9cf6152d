"""Signals at random moments of a training: none may hang, pass in silence, or leave a checkpoint that cannot be read.

Each run trains on synthetic faces and reports, in one process or in two ranks of gloo, and gets one of SIGTERM,
SIGUSR1, SIGUSR2 and Ctrl-C at a moment that is uniform over the time of an undisturbed run: its first process, another
rank, or its process group as a terminal and a scheduler do it. Counted are the moments that were hit, and what went
wrong; there is no peer, as Lightning's own handling ends with status 0. Claim: nothing goes wrong.

Run: `python benchmarks/stop_signals.py [--signals 50] [--ranks 2] [--at-once 2]`.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

from siamese_verify.errors import InputError
from siamese_verify.run_record import RunRecord

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
OVERRIDES = (
    *("threads=1", "trainer.max_epochs=20", "encoder.width=8", "encoder.size=32"),
    *("data.photos.identities=40", "data.photos.images=5", "data.test.photos.identities=4"),
    *("data.test.photos.images=2", "sampler.identities_per_batch=4", "sampler.samples_per_identity=2"),
)
RANKS = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.sync_batchnorm=false")
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in a background job
    "from siamese_verify.cli import main\nsys.exit(main.main(sys.argv[1:]))"
)
LONGEST = 120.0  # seconds from the signal to the end of all processes


def start(folder: Path, ranks: int) -> subprocess.Popen[str]:
    """Start a training in a session of its own."""
    several = (*RANKS, f"trainer.devices={ranks}") if ranks > 1 else ()
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "train", *OVERRIDES, *several, "hydra.run.dir=run"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr").open("w"),
        text=True,
        start_new_session=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )


def group(leader: int) -> list[int]:
    """Processes of a process group that have not ended."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            state, _, number = (place / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(number) == leader and state != "Z":
                found.append(int(place.name))
    return found


def try_one(number: int, ranks: int, duration: float) -> tuple[str, str]:
    """Where in the run a signal came, and what went wrong, empty if nothing."""
    generator = random.Random(number)
    chosen, moment, place = generator.choice(SIGNALS), generator.uniform(0.5, duration), generator.randrange(3)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        process = start(folder, ranks)
        time.sleep(moment)
        others = [one for one in group(process.pid) if one != process.pid]
        with suppress(ProcessLookupError):
            if place == 2 or (place and chosen == signal.SIGINT):
                os.killpg(process.pid, chosen)
            else:
                os.kill(others[0] if place and others else process.pid, chosen)
        until = time.monotonic() + LONGEST
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        while (left := group(process.pid)) and time.monotonic() < until:
            time.sleep(0.1)
        for one in left:
            os.kill(one, signal.SIGKILL)
        where, wrong = judge(folder, process.wait(), chosen)
        return where, f"processes {left} hang" if left else wrong


def judge(folder: Path, status: int, chosen: int) -> tuple[str, str]:
    """Where in the run a signal came, and what is wrong with what it left."""
    error = (folder / "stderr").read_text()
    sentences = re.findall(r"^Stopped by .*$", error, re.MULTILINE)
    record = "none"
    with suppress(InputError):
        record = RunRecord.read(folder / "run").status
    for checkpoint in (folder / "run" / "checkpoints").glob("*.ckpt"):
        torch.load(checkpoint, weights_only=True)
    if status == 0 and record == "finished" and not sentences:
        return "finished", ""
    where = re.sub(r"^Stopped by \S+ | \d+|:.*$", "", sentences[0]) if sentences else "?"
    expected = 130 if chosen == signal.SIGINT else 75
    fine = status == expected and len(sentences) == 1 and record in ("stopped", "none") and "Traceback" not in error
    return where, "" if fine else f"status {status}, run.json {record}, stderr {error!r}"


def main() -> int:
    """Send the signals; 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=2, help="runs beside each other")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        assert start(Path(folder), options.ranks).wait() == 0
        duration = time.monotonic() - began
    print(f"An undisturbed run of {options.ranks} ranks takes {duration:.0f} s.", flush=True)
    found: Counter[str] = Counter()
    failures = 0
    with ThreadPoolExecutor(options.at_once) as pool:
        for number, (where, wrong) in enumerate(
            pool.map(lambda one: try_one(one, options.ranks, duration), range(options.signals))
        ):
            found[where] += 1
            failures += bool(wrong)
            print(f"{number + 1}: {where}{wrong and ': '}{wrong}", flush=True)
    print(", ".join(f"{count} {where}" for where, count in found.most_common()))
    print(f"{options.signals} signals, {failures} went wrong.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
