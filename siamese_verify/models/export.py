"""Export a model as a bundle: weights as safetensors, network as ONNX, compared with torch on real faces."""

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
from safetensors.torch import save

from siamese_verify import __version__
from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError
from siamese_verify.evaluation import equal_error_rate, score_pairs
from siamese_verify.models.bundle import NETWORK, WEIGHTS, Bundle, FaceModel, save_files
from siamese_verify.models.engines import Engine, OnnxEngine, TorchEngine, embed_crops
from siamese_verify.models.metadata import ModelMetadata
from siamese_verify.onnx_runtime import export_onnx
from siamese_verify.structures import InputSpec

MIN_COSINE = 0.9999  # between the embeddings of a face by torch and by ONNX Runtime
RANDOM_IMAGES = 16


@dataclass(frozen=True)
class ComparisonPairs:
    """Pairs of faces to compare two engines on.

    Attributes:
        crops: (N,S,S,3) uint8 RGB.
        left: (M,) rows of the pairs.
        right: (M,) rows.
        same: (M,) bool, True for a genuine pair.
        name: of the data.
    """

    crops: NDArray[np.uint8]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    name: str


def save_bundle(
    folder: str | Path,
    model: FaceModel,
    versions: Mapping[str, str] | None = None,
    pairs: ComparisonPairs | None = None,
    inputs: NDArray[Any] | None = None,
    network: bool = True,
) -> Bundle:
    """Write a model as a bundle, after comparing its ONNX network with torch.

    Args:
        folder: of the bundle.
        model: with its thresholds; of an own encoder, see `FaceModel.create` and `load_checkpoint`.
        versions: of the software, for the manifest; by default of this package and of torch.
        pairs: to compare on, besides random images.
        inputs: (N,*shape) arrays to compare on instead of random ones, which mean nothing where an encoder looks
            numbers up, such as those of words.
        network: export it now. If False, that waits for the first use, see
            `siamese_verify.models.exported_network.network_of`.

    Raises:
        InputError: the network cannot be exported, gives other embeddings than torch, or decides a pair differently;
            nothing is written.
    """
    versions = versions or {"siamese-verify": __version__, "torch": torch.__version__}
    weights = weights_file(model.encoder)
    metadata = replace(model.metadata, weights_sha256=hashlib.sha256(weights).hexdigest())
    if not network:
        return save_files(Path(folder), metadata, {WEIGHTS: weights}, {}, versions)
    content, checks = compared_network(model, pairs, inputs)
    return save_files(Path(folder), metadata, {WEIGHTS: weights, NETWORK: content}, checks, versions)


def compared_network(
    model: FaceModel, pairs: ComparisonPairs | None = None, inputs: NDArray[Any] | None = None
) -> tuple[bytes, dict[str, Any]]:
    """The ONNX file of a model, and the checks that compared it with torch; see `save_bundle`.

    Raises:
        InputError: it cannot be exported, gives other embeddings than torch, or decides a pair differently.
    """
    network = export_network(model.encoder)
    torch_engine = TorchEngine(copy.deepcopy(model.encoder).cpu().eval())
    onnx_engine = OnnxEngine(network, NETWORK, arrays=model.metadata.input_spec.array_type)
    checks = compare_engines(model.metadata, torch_engine, onnx_engine, pairs, inputs)
    lowest = min(checks["lowest_cosine"], checks.get("lowest_cosine_of_faces", 1.0))
    if not lowest > MIN_COSINE:
        raise InputError(
            f"The model {model.metadata.name} is not exported: its ONNX network gives other embeddings than torch "
            f"(cosine {lowest:.6f}, more than {MIN_COSINE} is needed)."
        )
    if checks.get("flips"):
        raise InputError(
            f"The model {model.metadata.name} is not exported: its ONNX network decides {checks['flips']} of "
            f"{checks['pairs']:,} pairs differently from torch."
        )
    return network, checks


def compare_engines(
    metadata: ModelMetadata,
    reference: Engine,
    other: Engine,
    pairs: ComparisonPairs | None = None,
    inputs: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Compare two engines of a model on random images, or on given inputs, and on pairs of faces.

    Returns:
        Checks of a manifest: the lowest cosine between the two embeddings of an image, and with pairs how many
        decisions differ, at every measured threshold.

    Raises:
        InputError: the network looks numbers up, and random arrays have others.
    """
    images = random_inputs(metadata.input_spec) if inputs is None else inputs
    try:
        both = [embed_crops(engine, images, metadata.embedding_size) for engine in (reference, other)]
    except IndexError as error:  # numbers that are looked up
        raise InputError(
            f"The network of {metadata.name} takes no random arrays ({error}): use the bundle of its training, which "
            "was compared on arrays of the validation set, or save_bundle with inputs of yours."
        ) from None
    checks: dict[str, Any] = {"pictures": len(images), "lowest_cosine": lowest_cosine(*both)}
    if pairs is None:
        return checks
    both = [embed_crops(engine, pairs.crops, metadata.embedding_size) for engine in (reference, other)]
    left, right = (score_pairs(embeddings, pairs.left, pairs.right) for embeddings in both)
    thresholds = [point.threshold for point in metadata.operating_points]
    thresholds += [metadata.eer_threshold] if metadata.eer_threshold is not None else []
    flips = {f"{threshold:.6g}": int(((left >= threshold) != (right >= threshold)).sum()) for threshold in thresholds}
    return checks | {
        "faces": len(pairs.crops),
        "pairs": len(pairs.left),
        "measured_on": pairs.name,
        "lowest_cosine_of_faces": lowest_cosine(*both),
        "largest_change_of_score": float(np.abs(left - right).max(initial=0)),
        "eer_reference": equal_error_rate(left, pairs.same),
        "eer": equal_error_rate(right, pairs.same),
        "flips": sum(flips.values()),
        "flips_by_threshold": flips,
    }


def lowest_cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Lowest cosine between corresponding unit rows; NaN if any number is."""
    return float(np.einsum("nd,nd->n", left.astype(np.float64), right.astype(np.float64)).min(initial=1.0))


def random_inputs(spec: InputSpec) -> NDArray[Any]:
    """(N,S,S,3) smooth random images or (N,*shape) arrays, which show whether a network was translated correctly."""
    rng, size = np.random.default_rng(0), spec.size
    if not spec.is_photo:
        by_channel = (-1, *[1] * (len(spec.shape) - 1))
        mean, std = (np.array(values).reshape(by_channel) for values in (spec.mean, spec.std))
        arrays = rng.normal(size=(RANDOM_IMAGES, *spec.shape)) * std + mean
        rounded: NDArray[Any] = arrays.round().clip(0, 255) if spec.dtype == "uint8" else arrays
        return rounded.astype(spec.dtype)
    coarse = torch.from_numpy(rng.uniform(0, 255, (RANDOM_IMAGES, 3, 4, 4)))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=True).numpy()
    noisy = np.moveaxis(smooth + rng.normal(0, 8, smooth.shape), 1, 3)
    images: NDArray[np.uint8] = noisy.round().clip(0, 255).astype(np.uint8)
    return images


def export_network(encoder: Encoder) -> bytes:
    """Return the encoder as an ONNX file: `images` (N,3,S,S) uint8, or arrays, -> `embeddings` (N,D).

    Raises:
        InputError: torch cannot export it, such as a network whose steps depend on the values of its input.
    """
    spec = encoder.input_spec
    images = torch.zeros(2, *spec.shape, dtype=torch.uint8 if spec.dtype == "uint8" else torch.float32)
    try:
        return export_onnx(encoder, (images,), {"images": {0: torch.export.Dim.DYNAMIC}})
    except Exception as error:  # torch's exporter raises anything
        name = type(encoder.backbone if type(encoder) is Encoder else encoder).__name__
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise InputError(f"The network {name} cannot be exported to ONNX, which bundles need: {reason}") from error


def weights_file(encoder: Encoder) -> bytes:
    """Return the weights as a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()})


def with_weights_hash(model: FaceModel) -> FaceModel:
    """Return the model with the hash of its weights in its metadata, which identifies its embedding space."""
    if model.metadata.weights_sha256:
        return model
    digest = hashlib.sha256(weights_file(model.encoder)).hexdigest()
    return replace(model, metadata=replace(model.metadata, weights_sha256=digest))
