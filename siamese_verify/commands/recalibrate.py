"""`siamese-verify recalibrate`: what a model's threshold does on one's own photos, and a better one for them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from siamese_verify.errors import InputError, printable


def recalibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
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
        "--several",
        choices=("refuse", "largest", "central"),
        default="refuse",
        help="what to do with a photo of several faces, as you will with `verify` (%(default)s)",
    )
    parser.add_argument("--threads", type=int, help="of ONNX Runtime; one for each core by default")


def recalibrate(options: argparse.Namespace) -> int:
    """Measure, tell, and write the bundle if one was asked for."""
    from siamese_verify.recalibrate import bundle_of, save_recalibrated
    from siamese_verify.recalibrate import recalibrate as measured_on_photos
    from siamese_verify.verification import Verifier

    out = Path(options.out) if options.out else None
    if out and out.exists() and not (out / "bundle.json").is_file():
        raise InputError(f"{out} is there and is no bundle: give another folder.")
    bundle = bundle_of(options.model)  # what is wrong with it is said before any photo is looked at
    verifier = Verifier.load(options.model, engine="onnx", threads=options.threads, several=options.several)
    progress = sys.stdout.isatty()
    found = measured_on_photos(verifier, options.faces, options.far, progress=progress)
    for sentence in found.sentences():
        print(printable(sentence))
    if out is None:
        print("Nothing was written: --out BUNDLE makes a bundle with these thresholds.")
    else:
        save_recalibrated(out, bundle, found.record)
        print(printable(f"Bundle: {out}"))
    return 0
