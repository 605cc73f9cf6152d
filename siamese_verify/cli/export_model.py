"""A run, a checkpoint or a pretrained model -> a bundle that was compared on real faces."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_verify.atomic_write import cache_folder
from siamese_verify.cli.run_metadata import versions
from siamese_verify.data import FaceCropper
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError, printable
from siamese_verify.models import Faces, load_model, save_bundle
from siamese_verify.protocols import Protocol, lfw_pairs
from siamese_verify.structures import InputSpec

LFW = Path("data/lfw")  # where it is looked for when nobody says
OTHERS = 128  # faces that the ranges of an int8 network are taken from
DRAWN = 200  # people whose faces are compared where there are no real ones


def export_bundle(
    name: str,
    folder: Path,
    lfw: Path | None = None,
    licence: str | None = None,
    quantize: str | None = None,
    drawn: bool = False,
) -> Iterator[str]:
    """Make a bundle.

    Args:
        name: a run, a checkpoint, a bundle or a pretrained name.
        folder: where it goes.
        lfw: Labeled Faces in the Wild, whose View 1 is compared on; by default `LFW`.
        licence: of the weights, in words.
        quantize: `int8`, or None for float32.
        drawn: compare on faces that the package draws instead.

    Yields:
        What was done, sentences.

    Raises:
        InputError: there is no such model, there are no faces to compare on, or its network differs from it; nothing is
            written then.
    """
    model = load_model(name)
    if licence is not None:
        model = replace(model, metadata=replace(model.metadata, licence=licence))
    spec, root = model.metadata.input_spec, lfw or LFW
    if drawn and quantize:
        raise InputError("What int8 costs shows on photos of people only: give --faces data/lfw instead of --drawn.")
    if not drawn and not (root / "pairsDevTest.txt").is_file():
        raise InputError(
            f"There is no Labeled Faces in the Wild in {root} to compare on: give --faces, or --drawn for drawn faces."
        )
    faces = drawn_faces(spec) if drawn else faces_of(root, spec)
    if quantize:
        from siamese_verify.models.quantization import save_quantized

        bundle = save_quantized(folder, model, versions(), faces, other_faces(root, spec))
    else:
        bundle = save_bundle(folder, model, versions(), faces)
    checks = bundle.checks
    yield (
        f"Compared on {checks['faces']:,} faces of {checks['measured_on']}: lowest cosine "
        f"{checks['lowest_cosine_of_faces']:.6f}, {checks['flips']} decisions about {checks['pairs']:,} "
        "pairs differ, over all thresholds."
    )
    if quantize:
        yield (
            f"EER {checks['eer']:.2%} instead of {checks['eer_float']:.2%}; {checks['milliseconds']:.2f} ms a face "
            f"instead of {checks['milliseconds_float']:.2f}."
        )
    yield f"Bundle: {folder} ({bundle.size() / 2**20:.0f} MB)"


def faces_of(lfw: Path, spec: InputSpec) -> Faces:
    """Cut the faces of View 1's test pairs."""
    protocol = lfw_pairs(lfw, "pairsDevTest.txt", "LFW View 1 test pairs")
    assert protocol.pairs is not None
    crops = crops_of(protocol, len(protocol.photos), spec)
    return Faces(crops, protocol.pairs.left, protocol.pairs.right, protocol.pairs.same, protocol.name)


def other_faces(lfw: Path, spec: InputSpec) -> NDArray[np.uint8]:
    """Cut some faces of View 1's training pairs, whose people are others than those of its test pairs."""
    return crops_of(lfw_pairs(lfw, "pairsDevTrain.txt", "LFW View 1 training pairs"), OTHERS, spec)


def crops_of(protocol: Protocol, count: int, spec: InputSpec) -> NDArray[np.uint8]:
    """(N,S,S,3) uint8: the first faces of a protocol."""
    _, images = FaceCropper(spec, cache_folder())(protocol.photos, range(count), f"Cutting faces of {protocol.name}")
    crops: NDArray[np.uint8] = images.permute(0, 2, 3, 1).numpy()
    return crops


def drawn_faces(spec: InputSpec) -> Faces:
    """Draw people, two photos of each, and pair each with itself and with the next; no detector looks."""
    drawn = SyntheticFaces(identities=DRAWN, images=2, size=spec.size)
    crops = np.stack([np.asarray(drawn[row]) for row in range(len(drawn))])
    first = np.arange(0, len(drawn), 2)
    left, right = np.concatenate([first, first]), np.concatenate([first + 1, (first + 2) % len(drawn)])
    return Faces(crops, left, right, np.arange(len(left)) < len(first), f"{DRAWN} drawn people")


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

    folder = Path(options.to)
    if folder.exists() and not (folder / "bundle.json").is_file():
        raise InputError(f"{folder} is there and is no bundle: give another folder.")
    faces = Path(options.faces) if options.faces else None
    for sentence in export_bundle(options.model, folder, faces, options.licence, options.quantize, options.drawn):
        print(printable(sentence))
    return 0
