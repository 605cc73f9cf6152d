"""`siamese-verify export`: a run or a checkpoint becomes a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from siamese_verify.errors import InputError, printable


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.description = (
        "Make a bundle, all that a verifier needs: weights, ONNX network, face detector, thresholds, model card. "
        "Its network is compared with torch on the faces of LFW's View 1, and refused where one decision differs."
    )
    parser.add_argument("model", help="a run, a checkpoint, a bundle or a pretrained name")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="where the bundle goes")
    parser.add_argument(
        "--faces",
        metavar="FOLDER",
        help="Labeled Faces in the Wild, to compare on the test pairs of its View 1 (data/lfw)",
    )
    parser.add_argument("--drawn", action="store_true", help="compare on drawn faces instead, which shows less")
    parser.add_argument("--licence", help="of the weights, in words, for the model card")
    parser.add_argument(
        "--quantize",
        choices=("int8",),
        help="compute in whole numbers; refused if the EER on View 1 rises by more than 0.2 points or if it is slower",
    )


def export(options: argparse.Namespace) -> int:
    """Make the bundle, and say what was compared."""
    from siamese_verify.export import export_bundle

    folder = Path(options.to)
    if folder.exists() and not (folder / "bundle.json").is_file():
        raise InputError(f"{folder} is there and is no bundle: give another folder.")
    faces = Path(options.faces) if options.faces else None
    for sentence in export_bundle(options.model, folder, faces, options.licence, options.quantize, options.drawn):
        print(printable(sentence))
    return 0
