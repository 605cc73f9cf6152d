"""`siamese-verify compare`."""

from __future__ import annotations

import argparse

from siamese_verify.errors import printable


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.description = "Put reports of runs or evaluations beside one another, with paired tests on the same pairs."
    parser.add_argument("run", nargs="+", help="a run, an evaluation, a report folder or a table of scores")
    parser.add_argument("--output", default="runs/compare", help="folder for compare.html (%(default)s)")


def compare(options: argparse.Namespace) -> int:
    """Write a page that compares evaluations, and print what it says."""
    from siamese_verify.compare import compare as compare_runs

    sentences, page = compare_runs(options.run, options.output)
    print(*map(printable, [*sentences, f"Page: {page}"]), sep="\n")
    return 0
