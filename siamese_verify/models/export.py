"""Encoder -> bundle: the weights as safetensors, the network as ONNX, and a comparison of both."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError
from siamese_verify.faces import detector_files
from siamese_verify.models.bundle import CARD, DETECTOR, NETWORK, WEIGHTS, Bundle, open_bundle, write_bundle
from siamese_verify.models.face_model import FaceModel, build_encoder
from siamese_verify.models.metadata import ModelMetadata, model_card
from siamese_verify.models.onnx_engine import Engine, OnnxEngine, embed_crops
from siamese_verify.models.torch_engine import TorchEngine
from siamese_verify.onnx_runtime import onnx_network

LEAST_COSINE = 0.9999  # between a face's embeddings by torch and by ONNX Runtime
TRIAL = 16  # pictures that are always compared


@dataclass(frozen=True)
class Faces:
    """Faces to compare two engines on.

    Attributes:
        crops: (N,S,S,3) uint8 RGB.
        left: (M,) rows of pairs, to count decisions that flip.
        right: (M,) likewise.
        same: (M,) bool, True for a genuine pair.
        name: what they are, in words.
    """

    crops: NDArray[np.uint8]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    name: str


def network_of(encoder: Encoder) -> bytes:
    """The encoder as an ONNX file: `images` (N,3,S,S) uint8 -> `embeddings` (N,D)."""
    size = encoder.input_spec.size
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    return onnx_network(encoder, (images,), {"images": {0: torch.export.Dim.DYNAMIC}})


def weights_of(encoder: Encoder) -> bytes:
    """The weights as a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()})


def trial_pictures(size: int) -> NDArray[np.uint8]:
    """(N,S,S,3) smooth random pictures: enough to see whether a network was translated rightly."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (TRIAL, 4, 4, 3)).astype(np.float64)
    reach = np.linspace(0, 3, size)
    low = np.minimum(reach.astype(int), 2)
    share = (reach - low)[:, None]
    rows = coarse[:, low] * (1 - share[..., None]) + coarse[:, low + 1] * share[..., None]
    both = rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share
    pictures: NDArray[np.uint8] = (both + rng.normal(0, 8, both.shape)).round().clip(0, 255).astype(np.uint8)
    return pictures


def compare_engines(
    metadata: ModelMetadata, torch_engine: Engine, other: Engine, faces: Faces | None = None
) -> dict[str, Any]:
    """Compare two engines of a model, on pictures that are drawn and on faces.

    Returns:
        Figures for the manifest: the lowest cosine between both embeddings of a picture, and, with faces, how many
        pairs' decisions differ, at every measured threshold.
    """
    size, embedding_size = metadata.input_spec.size, metadata.embedding_size
    drawn = trial_pictures(size)
    known, found = (embed_crops(engine, drawn, embedding_size) for engine in (torch_engine, other))
    checks: dict[str, Any] = {"pictures": len(drawn), "lowest_cosine": lowest_cosine(known, found)}
    if faces is None:
        return checks
    known, found = (embed_crops(engine, faces.crops, embedding_size) for engine in (torch_engine, other))
    scores = [np.einsum("md,md->m", rows[faces.left], rows[faces.right]) for rows in (known, found)]
    flips = flips_of(metadata, scores[0], scores[1])
    return checks | {
        "faces": len(faces.crops),
        "pairs": len(faces.left),
        "measured_on": faces.name,
        "lowest_cosine_of_faces": lowest_cosine(known, found),
        "largest_change_of_score": float(np.abs(scores[0] - scores[1]).max(initial=0)),
        "flips": sum(flips.values()),
        "flips_by_threshold": flips,
    }


def flips_of(metadata: ModelMetadata, left: NDArray[np.float32], right: NDArray[np.float32]) -> dict[str, int]:
    """How many pairs two engines' scores decide differently, at every threshold of a model."""
    thresholds = [point.threshold for point in metadata.operating_points]
    thresholds += [metadata.eer_threshold] if metadata.eer_threshold is not None else []
    return {f"{limit:.6g}": int(((left >= limit) != (right >= limit)).sum()) for limit in thresholds}


def lowest_cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Lowest cosine between corresponding rows of unit length; NaN if any number is."""
    return float(np.einsum("nd,nd->n", left.astype(np.float64), right.astype(np.float64)).min(initial=1.0))


def save_bundle(folder: Path, model: FaceModel, versions: Mapping[str, str], faces: Faces | None = None) -> Bundle:
    """Write a model as a bundle, after comparing its ONNX network with torch.

    Args:
        folder: where to.
        model: with its thresholds.
        versions: of the software, for the manifest.
        faces: to compare on, besides drawn pictures.

    Raises:
        InputError: the network is not what torch computes, or decides a pair differently; nothing is written.
    """
    network, weights = network_of(model.encoder), weights_of(model.encoder)
    engine = OnnxEngine(network, NETWORK)
    torch_engine = TorchEngine(copy.deepcopy(model.encoder).cpu().eval())
    checks = compare_engines(model.metadata, torch_engine, engine, faces)
    lowest = min(checks["lowest_cosine"], checks.get("lowest_cosine_of_faces", 1.0))
    if not lowest > LEAST_COSINE:
        raise InputError(
            f"The model {model.metadata.name} is not exported: its ONNX network gives other embeddings than torch "
            f"(cosine {lowest:.6f}, more than {LEAST_COSINE} is needed)."
        )
    if checks.get("flips"):
        raise InputError(
            f"The model {model.metadata.name} is not exported: its ONNX network decides {checks['flips']} of "
            f"{checks['pairs']:,} pairs differently from torch."
        )
    files = {WEIGHTS: weights, NETWORK: network, **detector_of(model.metadata)}
    metadata = replace(
        model.metadata, weights_sha256=hashlib.sha256(weights).hexdigest()
    )  # the fingerprint names these
    files[CARD] = model_card(metadata, checks).encode()
    return write_bundle(folder, metadata, files, checks, dict(versions))


def detector_of(metadata: ModelMetadata) -> dict[str, bytes]:
    """The face detector's files as a bundle holds them; none for models that take the photo as the face."""
    if not metadata.input_spec.crop.needs_face:
        return {}
    return dict(zip(DETECTOR, detector_files().values(), strict=True))


def load_bundle(folder: Path) -> FaceModel:
    """Read a bundle for torch and check every byte of it.

    Raises:
        InputError: a file or a field is missing, of another version, or was changed; the message names it.
    """
    bundle = open_bundle(folder)
    if bundle.metadata.quantization != "none":
        raise InputError(
            f"The bundle {folder} computes in {bundle.metadata.quantization} and has no weights for torch: "
            "use the engine onnx, or the bundle that it was made from."
        )
    weights = bundle.read(WEIGHTS)
    bundle.check([name for name in bundle.files if name != WEIGHTS])
    try:
        encoder = build_encoder(bundle.metadata.configuration, load(weights))
    except SafetensorError as error:
        raise InputError(f"The bundle {folder} is damaged: {error}.") from None
    if bundle.metadata.input_spec != encoder.input_spec or bundle.metadata.embedding_size != encoder.embedding_size:
        raise InputError(f"The bundle {folder} is damaged: field input is not what its encoder takes.")
    return FaceModel(encoder, bundle.metadata)


def with_weights(model: FaceModel) -> FaceModel:
    """The model with the hash of its weights in its metadata, which names its embeddings' space."""
    if model.metadata.weights_sha256:
        return model
    digest = hashlib.sha256(weights_of(model.encoder)).hexdigest()
    return replace(model, metadata=replace(model.metadata, weights_sha256=digest))
