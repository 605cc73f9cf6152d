"""`siamese-verify recalibrate`: judge a model by your own photos, and measure its thresholds on them."""

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
        "Say how often the threshold that a model ships with is wrong on photos of yours, and measure thresholds, "
        "calibration and limits of quality anew on them. The weights stay as they are."
    )
    parser.add_argument("model", help="casia-webface, vggface2, a bundle or a run")
    parser.add_argument(
        "--faces", required=True, metavar="FOLDER", help="with a folder of photos for each person, two or more of most"
    )
    parser.add_argument("--out", metavar="BUNDLE", help="where the bundle goes; without it nothing is written")
    parser.add_argument("--far", type=float, help="false accept rate whose shipped threshold is judged")
    parser.add_argument(
        "--on-multiple-faces",
        choices=("error", "largest", "central"),
        default="error",
        help="what to do with a photo of several faces, as you will with `verify` (%(default)s)",
    )
    parser.add_argument("--threads", type=int, help="of ONNX Runtime; one for each core by default")


def run(options: argparse.Namespace) -> int:
    """Measure, print the results, and write the bundle if one was asked for."""
    from siamese_verify.verification import Verifier
    from siamese_verify.verification.recalibration import recalibrate, save_recalibrated

    out = Path(options.out) if options.out else None
    if out:
        check_target(out)
    bundle = find_bundle(options.model)  # before any photo is opened
    verifier = Verifier.load(
        options.model, engine="onnx", threads=options.threads, on_multiple_faces=options.on_multiple_faces
    )
    found = recalibrate(verifier, options.faces, options.far, progress=sys.stdout.isatty())
    for sentence in found.sentences():
        print(printable(sentence))
    if out is None:
        print("Nothing was written: --out BUNDLE makes a bundle with these thresholds.")
    else:
        save_recalibrated(out, bundle, found.metadata, versions())
        print(printable(f"Bundle: {out}"))
    return 0
