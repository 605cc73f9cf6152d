"""A first stage without labels against labels alone, with as many images through the same encoder.

Trains both arms with each seed through the command line, and compares their equal error rates on people whom no stage
has seen: `pairsDevTest` of LFW's View 1, or 10 of the 40 people of AT&T. What is finished is not repeated, and what was
stopped goes on. Run: `python benchmarks/pretraining.py lfw --root data/lfw` (hours on two cores), or with `att --root
data/att_faces` (minutes). Further arguments are overrides of both arms, such as `threads=2`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from siamese_verify.run_record import FIRST_STAGE, RECORD, RunRecord

ARMS = {"lfw": ("lfw_pretrained", "lfw_triplet"), "att": ("att_pretrained", "att_triplet")}


def train(experiment: str, seed: int, folder: Path, overrides: list[str]) -> RunRecord:
    """The record of a finished run; it is trained, resumed or taken as it is.

    Raises:
        SystemExit: it failed.
    """
    arguments = [f"experiment={experiment}", f"seed={seed}", f"hydra.run.dir={folder}", *overrides]
    if (folder / RECORD).is_file():
        if RunRecord.read(folder).status == "finished":
            return RunRecord.read(folder)
        arguments = [f"resume={folder}"]
    print(f"{experiment}, seed {seed}", flush=True)
    ended = subprocess.run([sys.executable, "-m", "siamese_verify.cli.main", "train", *arguments])
    if ended.returncode:
        raise SystemExit(ended.returncode)
    return RunRecord.read(folder)


def tested(record: RunRecord) -> tuple[float, str]:
    """Equal error rate of a run, and in words with its interval over people."""
    (test,) = record.test.values()
    low, high = test["eer_interval"] or (float("nan"),) * 2
    return test["eer"], f"{test['eer']:.2%} ({low:.2%} to {high:.2%})"


def main() -> None:
    """Train the arms and print a table."""
    parser = argparse.ArgumentParser(description="Compare pretraining without labels with labels alone.")
    parser.add_argument("data", choices=sorted(ARMS))
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_pretraining"))
    options, overrides = parser.parse_known_args()
    overrides += [f"data.root={options.root}"] if options.root else []
    table = Table("seed", "without labels", "then with labels", "labels alone", "difference")
    differences, seconds = [], []
    for seed in options.seeds:
        folders = [options.output / arm / str(seed) for arm in ARMS[options.data]]
        both = [train(arm, seed, one, overrides) for arm, one in zip(ARMS[options.data], folders, strict=True)]
        (staged, after), (alone, plain) = map(tested, both)
        first = tested(RunRecord.read(folders[0] / FIRST_STAGE))[1]
        differences.append(staged - alone)
        seconds.append([record.seconds for record in both])
        table.title = next(iter(both[0].test))
        table.add_row(str(seed), first, after, plain, f"{differences[-1]:+.2%}")
    table.add_row("mean", "", "", "", f"{statistics.mean(differences):+.2%}")
    Console().print(table)
    print("Equal error rates with 95 % intervals over people; below zero the run of two stages is better.")
    staged_seconds, plain_seconds = map(statistics.mean, zip(*seconds, strict=True))
    print(
        f"Seconds of a run with its reports: {staged_seconds:.0f} in two stages, {plain_seconds:.0f} with labels alone."
    )
    print(f"Paired test of the last seed: siamese-verify compare {' '.join(map(str, folders))}")


if __name__ == "__main__":
    main()
