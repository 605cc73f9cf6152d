"""Quantized networks in int8, kept only if measurement shows them to be as accurate and faster."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.models.bundle import NETWORK, Bundle, FaceModel, save_files
from siamese_verify.models.engines import BATCH, Engine, OnnxEngine
from siamese_verify.models.export import (
    ComparisonPairs,
    compare_engines,
    export_network,
    with_weights_hash,
)
from siamese_verify.onnx_runtime import import_onnxruntime

MAX_EER_RISE = 0.002
REPEATS = 5  # timings, of which the median counts


def save_quantized(
    folder: Path, model: FaceModel, versions: Mapping[str, str], pairs: ComparisonPairs, others: NDArray[np.uint8]
) -> Bundle:
    """Write a bundle that computes in int8, if that is worth it.

    Args:
        folder: of the bundle.
        model: its thresholds remain those of the float network; the checks in the manifest say how many pairs are
            decided differently at each. The bundle has no weights for torch, which would compute something else.
        versions: of the software, for the manifest.
        pairs: to measure the equal error rate on.
        others: (N,S,S,3) uint8 faces of other people, for the ranges of the activations.

    Raises:
        InputError: the equal error rate rises by more than `MAX_EER_RISE`, or the network is slower.
    """
    model = with_weights_hash(model)
    network = export_network(model.encoder)
    small = quantize(network, others)
    engines = OnnxEngine(network, NETWORK), OnnxEngine(small, f"int8 {NETWORK}")
    checks = compare_engines(model.metadata, *engines, pairs)
    slow, fast = milliseconds(engines, pairs.crops)
    check_gain(checks["eer_reference"], checks["eer"], slow, fast, pairs.name)
    checks |= {"milliseconds_reference": slow, "milliseconds": fast}
    checks["weights_sha256"] = model.metadata.weights_sha256
    measured_on = f"{model.metadata.measured_on}, by the float32 network" if model.metadata.measured_on else ""
    metadata = replace(model.metadata, quantization="int8", measured_on=measured_on)
    return save_files(folder, metadata, {NETWORK: small}, checks, versions)


def check_gain(eer_float: float, eer: float, milliseconds_float: float, milliseconds: float, data: str) -> None:
    """Check that a quantized network is about as accurate as the float one, and faster.

    Raises:
        InputError: it is not; the message has all four numbers.
    """
    figures = (
        f"EER {eer:.2%} instead of {eer_float:.2%} on {data}, "
        f"{milliseconds:.2f} ms a face instead of {milliseconds_float:.2f}"
    )
    if not eer - eer_float <= MAX_EER_RISE:
        raise InputError(f"The int8 network is refused, its errors rise by more than {MAX_EER_RISE:.1%}: {figures}.")
    if not milliseconds < milliseconds_float:
        raise InputError(f"The int8 network is refused, it is not faster on this machine: {figures}.")


def milliseconds(engines: tuple[Engine, Engine], crops: NDArray[np.uint8]) -> tuple[float, float]:
    """Median time per face of two engines, measured alternately on one batch."""
    batch = crops[np.arange(BATCH) % len(crops)]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS + 1):
        for engine, spent in zip(engines, times, strict=True):
            start = time.perf_counter()
            engine(batch)
            spent.append((time.perf_counter() - start) * 1000 / BATCH)
    first, second = (float(np.median(spent[1:])) for spent in times)  # the first run warms up
    return first, second


def quantize(network: bytes, crops: NDArray[np.uint8]) -> bytes:
    """Quantize convolutions and matrix products to int8: weights per channel, activations by range (static).

    Args:
        network: float, see `export_network`.
        crops: (N,S,S,3) uint8 faces, for the ranges of the activations.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
    2018.
    """
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            images = np.ascontiguousarray(np.moveaxis(crops, 3, 1))  # (N,3,S,S)
            self.batches = iter([{"images": images[start : start + BATCH]} for start in range(0, len(images), BATCH)])

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self.batches, None)

    level = logging.getLogger().level
    with tempfile.TemporaryDirectory() as folder:
        source, ready, target = (Path(folder) / name for name in ("float.onnx", "ready.onnx", "int8.onnx"))
        source.write_bytes(network)
        try:
            logging.getLogger().setLevel(logging.ERROR)  # it recommends preprocessing that was done
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
