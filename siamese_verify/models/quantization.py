"""A network in whole numbers: kept only if it is as good and faster, by measurement."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.evaluation import equal_error_rate
from siamese_verify.models.bundle import CARD, NETWORK, Bundle, write_bundle
from siamese_verify.models.export import Faces, detector_of, flips_of, lowest_cosine, network_of, with_weights
from siamese_verify.models.face_model import FaceModel
from siamese_verify.models.metadata import ModelMetadata, model_card
from siamese_verify.models.onnx_engine import FACES, Engine, OnnxEngine, embed_crops
from siamese_verify.onnx_runtime import runtime

RISE = 0.002  # of the equal error rate, at most
REPEATS = 5  # timings, of which the median counts


def save_quantized(
    folder: Path, model: FaceModel, versions: Mapping[str, str], faces: Faces, others: NDArray[np.uint8]
) -> Bundle:
    """Write a model that computes in int8, if it is worth it.

    Args:
        folder: where to.
        model: with its thresholds, which stay those of the float network: the checks in the bundle tell how many pairs
            are decided differently at each. The bundle has no weights for torch, which would compute something else.
        versions: of the software.
        faces: with pairs to measure the equal error rate on.
        others: (N,S,S,3) uint8 faces of other people, for the ranges of the activations.

    Raises:
        InputError: the equal error rate rises by more than `RISE`, or the network is slower; both with their numbers.
    """
    model = with_weights(model)
    network = network_of(model.encoder)
    small = quantized(network, others)
    engines = {"float": OnnxEngine(network, NETWORK), "int8": OnnxEngine(small, f"int8 {NETWORK}")}
    checks = compare_precision(model.metadata, engines["float"], engines["int8"], faces)
    figures = (
        f"EER {checks['eer']:.2%} instead of {checks['eer_float']:.2%} on {faces.name}, "
        f"{checks['milliseconds']:.2f} ms a face instead of {checks['milliseconds_float']:.2f}"
    )
    if not checks["eer"] - checks["eer_float"] <= RISE:
        raise InputError(f"The int8 network is refused, its errors rise by more than {RISE:.1%}: {figures}.")
    if not checks["milliseconds"] < checks["milliseconds_float"]:
        raise InputError(f"The int8 network is refused, it is not faster on this machine: {figures}.")
    measured_on = f"{model.metadata.measured_on}, by the float32 network" if model.metadata.measured_on else ""
    metadata = replace(model.metadata, quantization="int8", measured_on=measured_on)
    checks["weights_sha256"] = metadata.weights_sha256
    files = {NETWORK: small, **detector_of(metadata)}
    files[CARD] = model_card(metadata, checks).encode()
    return write_bundle(folder, metadata, files, checks, dict(versions))


def compare_precision(metadata: ModelMetadata, precise: Engine, rough: Engine, faces: Faces) -> dict[str, Any]:
    """Measure what a rougher engine costs and gains."""
    known, found = (embed_crops(engine, faces.crops, metadata.embedding_size) for engine in (precise, rough))
    scores = [np.einsum("md,md->m", rows[faces.left], rows[faces.right]) for rows in (known, found)]
    flips = flips_of(metadata, scores[0], scores[1])
    times = milliseconds((precise, rough), faces.crops)
    return {
        "faces": len(faces.crops),
        "pairs": len(faces.left),
        "measured_on": faces.name,
        "lowest_cosine_of_faces": lowest_cosine(known, found),
        "flips": sum(flips.values()),
        "flips_by_threshold": flips,
        "eer_float": equal_error_rate(scores[0], faces.same),
        "eer": equal_error_rate(scores[1], faces.same),
        "milliseconds_float": times[0],
        "milliseconds": times[1],
    }


def milliseconds(engines: tuple[Engine, Engine], crops: NDArray[np.uint8]) -> tuple[float, float]:
    """Median time for a face of two engines, taken in turn on one batch of `FACES`."""
    batch = crops[np.arange(FACES) % len(crops)]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS + 1):
        for engine, spent in zip(engines, times, strict=True):
            start = time.perf_counter()
            engine(batch)
            spent.append((time.perf_counter() - start) * 1000 / FACES)
    first, second = (float(np.median(spent[1:])) for spent in times)  # the first run warms up
    return first, second


def quantized(network: bytes, crops: NDArray[np.uint8]) -> bytes:
    """Convolutions and products in int8, weights by channel and activations by range (static quantization).

    Args:
        network: float, as `network_of` gives it.
        crops: (N,S,S,3) uint8 faces, for the ranges of the activations.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
    2018.
    """
    runtime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            images = np.ascontiguousarray(np.moveaxis(crops, 3, 1))
            self.left = iter([{"images": images[start : start + FACES]} for start in range(0, len(images), FACES)])

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self.left, None)

    level = logging.getLogger().level
    with tempfile.TemporaryDirectory() as place:
        source, ready, target = (Path(place) / name for name in ("float.onnx", "ready.onnx", "int8.onnx"))
        source.write_bytes(network)
        try:
            logging.getLogger().setLevel(logging.ERROR)  # advice about steps that were taken
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(target),
                Batches(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.getLogger().setLevel(level)
        return target.read_bytes()
