"""`siamese-verify adapt`: train a small head on photos of one's own people, and keep it if it helps others."""

from __future__ import annotations

import argparse
import sys

from siamese_verify.cli.options import add_measuring_options, load_measured
from siamese_verify.cli.run_metadata import versions
from siamese_verify.errors import InputError, printable
from siamese_verify.models.bundle import WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `adapt`."""
    parser.description = (
        "Train a linear head on the embeddings of people of yours. It is kept if people whom it was not trained on are "
        "verified better by more than chance, by cross-validation; else nothing changes. The encoder stays as it is."
    )
    parser.add_argument("model", help="a pretrained name, a bundle or a run")
    parser.add_argument(
        "--faces",
        "--people",
        dest="faces",
        required=True,
        metavar="FOLDER",
        help="photos in a folder for each person, two or more of most",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the folds of people (default: %(default)s)")
    add_measuring_options(parser)


def run(options: argparse.Namespace) -> int:
    """Train, measure, print the results, and write the bundle if one was asked for and is better."""
    from siamese_verify.verification.adaptation import adapt, save_adapted

    if options.seed < 0:
        raise InputError(f"--seed must be >= 0, got {options.seed}.")
    output, bundle, verifier = load_measured(options)
    found = adapt(verifier, options.faces, options.seed, progress=sys.stdout.isatty())
    for sentence in found.sentences():
        print(printable(sentence))
    if output is None or found.head is None:
        print(
            "Nothing was written"
            + (": --output BUNDLE makes a bundle with the head." if found.head is not None else ".")
        )
    else:
        saved = save_adapted(output, bundle, found, versions())
        print(printable(f"Bundle: {output}"))
        if WEIGHTS not in saved.files:
            why = f"{options.model} is centered, computes in int8, or has none without code of others"
            print(printable(f"It has no weights for torch, so `train` cannot go on from it: {why}."))
    return 0
