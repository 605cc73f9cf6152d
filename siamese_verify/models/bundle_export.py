"""Export a model by its name as a bundle, compared with torch on faces."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_verify.atomic_write import cache_folder
from siamese_verify.data import FaceCropper
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.models.export import ComparisonPairs, save_bundle
from siamese_verify.models.loading import load_model
from siamese_verify.models.quantization import save_quantized
from siamese_verify.protocols import Protocol, lfw_pairs
from siamese_verify.structures import InputSpec

LFW = Path("data/lfw")
CALIBRATION_FACES = 128  # that set the ranges of an int8 network's activations
SYNTHETIC_IDENTITIES = 200


def export_bundle(
    name: str,
    folder: Path,
    versions: Mapping[str, str],
    lfw: Path | None = None,
    license: str | None = None,
    quantize: bool = False,
    synthetic: bool = False,
    trust_code: str | Collection[str] = (),
) -> Iterator[str]:
    """Export a model, after comparing the ONNX network with torch on the test pairs of LFW's View 1.

    Args:
        name: a run, a checkpoint, a bundle or a pretrained name.
        folder: of the bundle.
        versions: of the software, for the manifest.
        lfw: folder of Labeled Faces in the Wild, by default `LFW`.
        license: of the weights, in words.
        quantize: compute in int8 instead of float32.
        synthetic: compare on synthetic faces instead.
        trust_code: see `load_model`.

    Yields:
        Sentences that say what was done.

    Raises:
        InputError: there is no such model, there are no faces to compare on, or the network differs from the model;
            nothing is written then.
    """
    model = load_model(name, trust_code=trust_code)
    if license is not None:
        model = replace(model, metadata=replace(model.metadata, license=license))
    spec, root = model.metadata.input_spec, lfw or LFW
    if not spec.is_photo:
        if quantize:
            raise InputError(
                "Networks of arrays cannot be quantized: the cost of int8 is measured on photos of people."
            )
        checks = save_bundle(folder, model, versions).checks
        yield f"Compared on {checks['pictures']} random arrays: lowest cosine {checks['lowest_cosine']:.6f}."
        return
    if synthetic and quantize:
        raise InputError("The cost of int8 shows on photos of people only: give --faces data/lfw, not --synthetic.")
    if not synthetic and not (root / "pairsDevTest.txt").is_file():
        raise InputError(
            f"There is no Labeled Faces in the Wild in {root} to compare on: give --faces, or --synthetic for drawn "
            "faces, which take no download and show less: a difference on real photos could go unnoticed."
        )
    pairs = synthetic_pairs(spec) if synthetic else lfw_test_pairs(root, spec)
    if quantize:
        others = lfw_pairs(root, "pairsDevTrain.txt", "LFW View 1 training pairs")  # of other people
        bundle = save_quantized(folder, model, versions, pairs, _crops(others, CALIBRATION_FACES, spec)[1])
    else:
        bundle = save_bundle(folder, model, versions, pairs)
    checks = bundle.checks
    yield (
        f"Compared on {checks['faces']:,} faces of {checks['measured_on']}: lowest cosine "
        f"{checks['lowest_cosine_of_faces']:.6f}, {checks['flips']} decisions about {checks['pairs']:,} "
        "pairs differ, over all thresholds."
    )
    if quantize:
        yield (
            f"EER {checks['eer']:.2%} instead of {checks['eer_reference']:.2%}; {checks['milliseconds']:.2f} ms a face "
            f"instead of {checks['milliseconds_reference']:.2f}."
        )
    yield f"Bundle: {folder} ({bundle.size() / 2**20:.0f} MB)"


def lfw_test_pairs(lfw: Path, spec: InputSpec) -> ComparisonPairs:
    """The test pairs of LFW's View 1, aligned for a model."""
    protocol = lfw_pairs(lfw, "pairsDevTest.txt", "LFW View 1 test pairs")
    rows, crops = _crops(protocol, len(protocol.photos), spec)
    pairs = protocol.keep(rows).pairs
    assert pairs is not None
    return ComparisonPairs(crops, pairs.left, pairs.right, pairs.same, protocol.name)


def _crops(protocol: Protocol, count: int, spec: InputSpec) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Rows of the first photos of a protocol, at most `count`, that have a face; their (N,S,S,3) uint8 crops."""
    rows, images = FaceCropper(spec, cache_folder())(
        protocol.photos, range(min(count, len(protocol.photos))), f"Aligning faces of {protocol.name}"
    )
    crops: NDArray[np.uint8] = images.permute(0, 2, 3, 1).numpy()
    return np.array(rows, dtype=np.int64), crops


def synthetic_pairs(spec: InputSpec) -> ComparisonPairs:
    """Synthetic faces, two of each identity, paired with themselves and with the next; no detector is used."""
    photos = SyntheticFaces(identities=SYNTHETIC_IDENTITIES, images=2, size=spec.size)
    crops = np.stack([np.asarray(photos[row]) for row in range(len(photos))])
    first = np.arange(0, len(photos), 2)
    left, right = np.concatenate([first, first]), np.concatenate([first + 1, (first + 2) % len(photos)])
    same = np.arange(len(left)) < len(first)
    return ComparisonPairs(crops, left, right, same, f"{SYNTHETIC_IDENTITIES} synthetic identities")
