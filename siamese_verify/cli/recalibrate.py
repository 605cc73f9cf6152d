"""`siamese-verify recalibrate`: check a model on your own photos, and measure its thresholds on them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from siamese_verify.cli.run_metadata import versions
from siamese_verify.errors import printable
from siamese_verify.models.bundle import check_target
from siamese_verify.models.loading import find_bundle


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
    parser.add_argument("--output", metavar="BUNDLE", help="folder for the bundle; without it nothing is written")
    parser.add_argument("--far", type=float, help="false accept rate whose shipped threshold is checked")
    parser.add_argument(
        "--on-multiple-faces",
        choices=("error", "largest", "central"),
        default="error",
        help="which of multiple faces on a photo is used, as you will with `verify` (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="threads of ONNX Runtime (default: one for each core)")


def run(options: argparse.Namespace) -> int:
    """Measure, print the results, and write the bundle if one was asked for."""
    from siamese_verify.verification import Verifier
    from siamese_verify.verification.recalibration import recalibrate, save_recalibrated

    output = Path(options.output) if options.output else None
    if output:
        check_target(output)
    bundle = find_bundle(options.model)  # before any photo is opened
    verifier = Verifier.load(
        options.model, engine="onnx", threads=options.threads, on_multiple_faces=options.on_multiple_faces
    )
    found = recalibrate(verifier, options.faces, options.far, progress=sys.stdout.isatty())
    for sentence in found.sentences():
        print(printable(sentence))
    if output is None:
        print("Nothing was written: --output BUNDLE makes a bundle with these thresholds.")
    else:
        save_recalibrated(output, bundle, found.metadata, versions())
        print(printable(f"Bundle: {output}"))
    return 0
