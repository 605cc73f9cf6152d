"""A run, a checkpoint or a pretrained model -> a bundle that was compared on real faces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from siamese_verify.data import FaceCropper, Protocol, SyntheticFaces, lfw_pairs
from siamese_verify.entry import versions
from siamese_verify.files import cache_folder
from siamese_verify.types import InputSpec
from siamese_verify.verification import Faces, load_model, save_bundle

LFW = Path("data/lfw")  # where it is looked for when nobody says
DRAWN = 200  # people whose faces are compared where there are no real ones


def export_bundle(
    name: str, folder: Path, lfw: Path | None = None, licence: str | None = None, quantize: str | None = None
) -> Iterator[str]:
    """Make a bundle.

    Args:
        name: a run, a checkpoint, a bundle or a pretrained name.
        folder: where it goes.
        lfw: Labeled Faces in the Wild, whose View 1 is compared on; where it is not, faces that the package draws.
        licence: of the weights, in words.
        quantize: `int8`, or None for float32.

    Yields:
        What was done, sentences.

    Raises:
        InputError: there is no such model, or its network differs from it; nothing is written then.
    """
    model = load_model(name)
    if licence is not None:
        model = replace(model, record=replace(model.record, licence=licence))
    protocol = view_1(lfw)
    faces = faces_of(protocol, model.record.input_spec) if protocol else drawn_faces(model.record.input_spec)
    if quantize:
        from siamese_verify.verification.quantization import save_quantized

        bundle = save_quantized(folder, model, versions(), faces)
    else:
        bundle = save_bundle(folder, model, versions(), faces)
    checks = bundle.checks
    yield (
        f"Compared on {checks['faces']:,} faces of {checks['measured_on']}: lowest cosine "
        f"{checks['lowest_cosine_of_faces']:.6f}, {checks['flips']} of {checks['pairs']:,} pairs decided differently."
    )
    if quantize:
        yield (
            f"EER {checks['eer']:.2%} instead of {checks['eer_float']:.2%}; {checks['milliseconds']:.2f} ms a face "
            f"instead of {checks['milliseconds_float']:.2f}."
        )
    if protocol is None:
        yield "These are drawn faces: --faces data/lfw compares on photos of people."
    yield f"Bundle: {folder} ({bundle.size() / 2**20:.0f} MB)"


def view_1(lfw: Path | None) -> Protocol | None:
    """The test pairs of LFW's View 1, if LFW is there; one that was asked for has to be."""
    if lfw is None and not (LFW / "pairsDevTest.txt").is_file():
        return None
    return lfw_pairs(lfw or LFW, "pairsDevTest.txt", "LFW View 1 test pairs")


def faces_of(protocol: Protocol, spec: InputSpec) -> Faces:
    """Cut the faces of a protocol."""
    assert protocol.pairs is not None
    rows = range(len(protocol.photos))
    _, images = FaceCropper(spec, cache_folder())(protocol.photos, rows, f"Cutting faces of {protocol.name}")
    crops = images.permute(0, 2, 3, 1).numpy()
    pairs = protocol.pairs
    return Faces(crops, pairs.left, pairs.right, pairs.same, protocol.name)


def drawn_faces(spec: InputSpec) -> Faces:
    """Draw people, two photos of each, and pair each with itself and with the next; no detector looks."""
    drawn = SyntheticFaces(identities=DRAWN, images=2, size=spec.size)
    crops = np.stack([np.asarray(drawn[row].resize((spec.size, spec.size))) for row in range(len(drawn))])
    first = np.arange(0, len(drawn), 2)
    left, right = np.concatenate([first, first]), np.concatenate([first + 1, (first + 2) % len(drawn)])
    return Faces(crops, left, right, np.arange(len(left)) < len(first), f"{DRAWN} drawn people")
