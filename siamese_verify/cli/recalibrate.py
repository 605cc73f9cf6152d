"""`siamese-verify recalibrate`: check a model on your own photos, and measure its thresholds on them."""

from __future__ import annotations

import argparse
import sys

from siamese_verify.cli.options import add_measuring_options, load_measured
from siamese_verify.cli.run_metadata import versions
from siamese_verify.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `recalibrate`."""
    parser.description = (
        "Check the threshold that a model ships with on photos of yours, and measure thresholds, calibration and "
        "limits of quality on them. The weights stay as they are."
    )
    parser.add_argument("model", help="sface, casia-webface, vggface2, openface, a bundle or a run")
    parser.add_argument(
        "--faces",
        required=True,
        metavar="FOLDER",
        help="photos in a folder for each person, two or more of most",
    )
    parser.add_argument("--far", type=float, help="false accept rate whose shipped threshold is checked")
    add_measuring_options(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, print the results, and write the bundle if one was asked for."""
    from siamese_verify.verification.recalibration import recalibrate, save_recalibrated

    output, bundle, verifier = load_measured(options)
    found = recalibrate(verifier, options.faces, options.far, progress=sys.stdout.isatty())
    for sentence in found.sentences():
        print(printable(sentence))
    if output is None:
        print("Nothing was written: --output BUNDLE makes a bundle with these thresholds.")
    else:
        save_recalibrated(output, bundle, found.metadata, versions())
        print(printable(f"Bundle: {output}"))
    return 0
