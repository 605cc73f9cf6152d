"""`siamese-verify export`: a run, a checkpoint or a pretrained model -> a bundle that was compared on real faces."""

from __future__ import annotations

import argparse
from pathlib import Path

from siamese_verify.cli.options import add_trust_option
from siamese_verify.cli.run_metadata import versions
from siamese_verify.errors import printable
from siamese_verify.models.bundle import check_target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.description = (
        "Export a bundle with everything that verifying needs: weights, ONNX network, face detector, thresholds, model "
        "card. The network is compared with torch on faces of LFW's View 1, and refused if one decision differs."
    )
    parser.add_argument("model", help="a run, a checkpoint, a bundle or a pretrained name")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the bundle")
    parser.add_argument(
        "--faces",
        metavar="FOLDER",
        help="Labeled Faces in the Wild, to compare on the test pairs of its View 1 (default: data/lfw)",
    )
    parser.add_argument("--synthetic", action="store_true", help="compare on synthetic faces instead, which shows less")
    add_trust_option(parser)
    parser.add_argument("--license", help="license of the weights, in words, for the model card")
    parser.add_argument(
        "--quantize",
        choices=("int8",),
        help="compute in int8; refused if the EER on View 1 rises by more than 0.2 points or if it is slower",
    )


def run(options: argparse.Namespace) -> int:
    """Export the bundle, and print how it was compared."""
    folder = Path(options.output)
    check_target(folder)
    from siamese_verify.models.bundle_export import export_bundle

    sentences = export_bundle(
        options.model,
        folder,
        versions(),
        lfw=Path(options.faces) if options.faces else None,
        license=options.license,
        quantize=options.quantize is not None,
        synthetic=options.synthetic,
        trust_code=options.trust_code,
    )
    for sentence in sentences:
        print(printable(sentence))
    return 0
