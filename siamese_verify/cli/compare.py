"""`siamese-verify compare`: finished evaluations side by side."""

from __future__ import annotations

import argparse

from siamese_verify.errors import printable
from siamese_verify.evaluation import compare_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `compare` to a parser."""
    parser.description = "Compare runs or evaluations side by side, with paired tests on the same pairs."
    parser.add_argument("run", nargs="+", help="a run, an evaluation, a report folder or a table of scores")
    parser.add_argument("--output", default="runs/compare", help="folder for compare.html (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Write the page of a comparison, and print its sentences."""
    sentences, page = compare_runs(options.run, options.output)
    print(*map(printable, [*sentences, f"Page: {page}"]), sep="\n")
    return 0
