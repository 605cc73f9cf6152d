"""Metadata of a model: what is known about it besides its weights. Reading it needs no torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint, ScoreCalibration
from siamese_verify.faces import Quality, alignment_name
from siamese_verify.structures import InputSpec

PRETRAINED = ("sface", "casia-webface", "vggface2", "openface")  # of OpenCV's model zoo, facenet-pytorch and OpenFace
OF_TIMM = ("TimmEncoder", "VisionTransformer")  # encoders that need it
DEFAULT_FAR = 1e-3
LOOSEST_FAR = 1e-2  # of the default operating point
Range = tuple[float | None, float | None]


class DecisionThreshold(NamedTuple):
    """Score from which pairs are accepted."""

    threshold: float
    far: float | None  # share of impostor pairs that reach it; None for a threshold of the caller's own
    interval: tuple[float, float] | None  # 95 %; +inf where the data cannot show `far`; None: unknown
    impostors: int  # pairs that `far` was counted on
    insufficient: bool  # fewer than ten of them decide, or too few people to bound the threshold from above


class Histogram(NamedTuple):
    """Shares of genuine and impostor pairs between edges of scores."""

    edges: NDArray[np.float64]  # (K+1,) ascending
    genuine: NDArray[np.float64]  # (K,)
    impostors: NDArray[np.float64]  # (K,)


@dataclass(frozen=True)
class ModelMetadata:
    """What is known about a model besides its weights.

    Attributes:
        name: that it was loaded by.
        configuration: `_target_` and arguments that build the encoder.
        input_spec: input of the encoder.
        embedding_size: length of an embedding.
        operating_points: thresholds by false accept rate; empty if none were measured.
        eer_threshold: of the same measurement; None without one.
        measured_on: data and pairs of the measurement.
        training: data that the weights were trained on: `data` and `pretrained`, each a name or None; and `stages`, one
            after the other, each with `method`, `loss` and `data`, of LFW also with its people as arguments of
            `lfw_people`, and where a run has recorded them the SHA-256 of the data, `started`, `seconds` and `command`.
        metrics: of the same measurement.
        score_calibration: likelihood ratios and impostor tail of its scores; None if not measured.
        quality: by the names of `siamese_verify.faces.Quality`, lowest and highest value of the faces that the scores
            were measured on; None for no limit.
        license: of the weights, in words.
        weights_sha256: of the weights as safetensors; empty if they were not saved yet.
        quantization: `none`, or the type that the network computes with.
    """

    name: str
    configuration: dict[str, Any]
    input_spec: InputSpec
    embedding_size: int
    operating_points: tuple[OperatingPoint, ...] = ()
    eer_threshold: float | None = None
    measured_on: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    score_calibration: ScoreCalibration | None = None
    quality: dict[str, Range] = field(default_factory=dict)
    license: str = ""
    weights_sha256: str = ""
    quantization: str = "none"

    @property
    def needs_code(self) -> tuple[str, ...]:
        """Classes of others without which the weights cannot be loaded on torch; see `code_of_others`."""
        return code_of_others(self.configuration)

    @property
    def needs_timm(self) -> bool:
        """Whether the weights cannot be loaded on torch without timm."""
        return any(f"siamese_verify.encoders.{name}'" in str(self.configuration) for name in OF_TIMM)

    @property
    def fingerprint(self) -> str:
        """Name of the embedding space: embeddings of models with equal fingerprints can be compared."""
        spec, crop = self.input_spec, self.input_spec.crop
        numbers = [float(one) for one in (spec.size, *spec.mean, *spec.std, crop.margin, crop.fraction, crop.square)]
        parts = [self.weights_sha256, alignment_name(crop), crop.resample, str(numbers), self.quantization]
        parts += [] if spec.is_photo else [str(spec.shape), spec.dtype]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def operating_point(self, far: float | None = None) -> OperatingPoint:
        """Return the operating point for a false accept rate.

        Args:
            far: one of those measured; by default `DEFAULT_FAR` if enough impostors and people were measured for it,
                else the strictest rate for which there were, but none looser than `LOOSEST_FAR`.

        Raises:
            InputError: no threshold was measured, or not for this rate.
        """
        if not self.operating_points:
            evaluate = f", or measure it with `siamese-verify evaluate model={self.name}`, which keeps it"
            raise InputError(
                f"No threshold of {self.name} was ever measured: give one of your own with --threshold"
                f"{evaluate if self.name in PRETRAINED else ''}."
            )
        if far is None:
            return self._default_point
        for point in self.operating_points:
            if abs(point.target - far) <= 1e-9 * far:
                return point
        measured = ", ".join(f"{target:g}" for target in sorted(point.target for point in self.operating_points))
        raise InputError(
            f"No threshold of {self.name} for a false accept rate of {far:g} was measured: use {measured}."
        )

    def decision_threshold(self, far: float | None = None, comparisons: int = 1) -> DecisionThreshold:
        """Return the threshold for a false accept rate.

        Args:
            far: any rate in (0, 0.5] if the model has a score calibration, else one of the operating points'; for the
                default see `operating_point`.
            comparisons: number of scores of which the best decides. Each may accept `far / comparisons`, so that all
                together accept no more than `far` (union bound).

        Raises:
            InputError: no threshold was measured, or not for this rate.
        """
        if far is not None and not 0 < far <= 0.5:
            raise InputError(f"A false accept rate must be above 0 and at most 0.5, such as 1e-3, got {far}.")
        if comparisons < 1:
            raise InputError(f"A score is the best of one comparison or more, got {comparisons}.")
        if self.score_calibration is None:
            point = self.operating_point(far if far is None or comparisons == 1 else far / comparisons)
            rate = min(1.0, point.far * comparisons)
            return DecisionThreshold(point.threshold, rate, None, point.impostors, point.insufficient)
        if far is None:
            far = self.operating_point().target if self.operating_points else DEFAULT_FAR
        tail, share = self.score_calibration.impostor_tail, far / comparisons
        threshold, interval = tail.threshold(share)
        rate = tail.rate(threshold)
        for point in self.operating_points:  # counted on all scores, not on a downsampled tail
            if (point.target <= share or math.isclose(point.target, share)) and point.threshold < threshold:
                threshold, rate = point.threshold, point.far
        return DecisionThreshold(
            threshold,
            min(1.0, rate * comparisons),
            (min(interval.low, threshold), max(interval.high, threshold)) if interval else None,
            tail.impostors,
            not tail.shows(share, interval),
        )

    @cached_property
    def histogram(self) -> Histogram | None:
        """Histogram of the scores in the metrics; None if there is no valid one."""
        stored = self.metrics.get("histogram")
        if not isinstance(stored, Mapping):
            return None
        try:
            edges, *counts = (np.array(stored[name], dtype=np.float64) for name in Histogram._fields)
        except (KeyError, TypeError, ValueError):
            return None
        if edges.ndim != 1 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
            return None
        if not all(one.shape == edges[1:].shape and (one >= 0).all() and 0 < one.sum() < math.inf for one in counts):
            return None
        return Histogram(edges, *(one / one.sum() for one in counts))

    @cached_property
    def _default_point(self) -> OperatingPoint:
        """Default of `operating_point`, cached for tables of pairs."""
        by_far = sorted(self.operating_points, key=lambda point: point.target)
        enough = [point for point in by_far if not point.insufficient and self._is_bounded(point.target)]
        usual = [point for point in enough if math.isclose(point.target, DEFAULT_FAR)]
        strict = [point for point in enough if point.target <= LOOSEST_FAR * (1 + 1e-9)]
        nearest = min(by_far, key=lambda point: abs(math.log(max(point.target, 1e-9) / LOOSEST_FAR)))
        return (usual or strict or [nearest])[0]

    def _is_bounded(self, far: float) -> bool:
        """Whether the interval of the threshold for a false accept rate has an upper end, as far as it is known."""
        calibration = self.score_calibration
        interval = calibration.impostor_tail.threshold(far)[1] if calibration and far <= 0.5 else None
        return interval is None or interval.high < math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata as JSON types; `name` and `weights_sha256` are left out."""
        return {
            "encoder": self.configuration,
            "input": asdict(self.input_spec),
            "embedding_size": self.embedding_size,
            "quantization": self.quantization,
            "license": self.license,
            "operating_points": [
                {**point._asdict(), "threshold": point.threshold if math.isfinite(point.threshold) else None}
                for point in self.operating_points
            ],
            "eer_threshold": self.eer_threshold,
            "measured_on": self.measured_on,
            "training": self.training,
            "metrics": self.metrics,
            "score_calibration": self.score_calibration.to_dict() if self.score_calibration else None,
            "quality": {name: list(limits) for name, limits in self.quality.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str, weights_sha256: str) -> ModelMetadata:
        """Read what `to_dict` returned.

        Raises:
            InputError, TypeError, KeyError, ValueError, OverflowError: a value is missing or invalid.
        """
        calibration = values["score_calibration"]
        return cls(
            name=name,
            configuration=values["encoder"],
            input_spec=_input_spec(values["input"]),
            embedding_size=values["embedding_size"],
            operating_points=read_operating_points(values["operating_points"]),
            eer_threshold=values["eer_threshold"],
            measured_on=values["measured_on"],
            training=values["training"],
            metrics=values["metrics"],
            score_calibration=ScoreCalibration.from_dict(calibration) if calibration else None,
            quality=read_quality(values["quality"]),
            license=values["license"],
            weights_sha256=weights_sha256,
            quantization=values["quantization"],
        )


def training_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Field `training` of the metadata of a model, by the composed configuration of its run; see `ModelMetadata`."""
    data = (settings.get("data") or {}).get("name")
    photos = (settings.get("data") or {}).get("photos") or {}
    method, loss = settings.get("method"), (settings.get("loss") or {}).get("_target_")
    method = method.get("_target_") if isinstance(method, Mapping) else method
    stage = {
        "method": str(method or "supervised").rpartition(".")[2],
        "loss": str(loss).rpartition(".")[2] if loss else None,
        "data": data,
        **(people_of(photos) if str(photos.get("_target_", "")).endswith(".lfw_people") else {}),
    }
    stages = [*(settings.get("earlier_stages") or []), *([stage] if loss or data else [])]
    return {"data": data, "pretrained": (settings.get("encoder") or {}).get("pretrained"), "stages": stages}


def people_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Which people of LFW a stage of training names, or its photos' configuration: arguments of `lfw_people`."""
    return {name: settings[name] for name in ("people", "without_fold") if settings.get(name) is not None}


def stages_in_words(training: Mapping[str, Any]) -> str:
    """The stages of a training, such as "SimCLR on lfw, then TripletLoss on lfw"; empty if none are recorded."""
    return ", then ".join(
        f"{stage.get('loss') if method in (None, 'supervised') else method} on {stage.get('data')}"
        for stage in _stages(training)
        for method in [stage.get("method")]
    )


def _stages(training: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    stages = training.get("stages")
    return [stage for stage in stages if isinstance(stage, Mapping)] if isinstance(stages, list) else []


def code_of_others(configuration: Mapping[str, Any]) -> tuple[str, ...]:
    """Targets that a configuration of an encoder names besides those of this package, such as `my_package.MyNet`.

    A configuration that does not name the encoder's class gives an empty name.
    """

    def targets(node: Any) -> Iterator[str]:
        if isinstance(node, Mapping):
            if "_target_" in node:
                yield str(node["_target_"] or "")
            node = list(node.values())
        if isinstance(node, list | tuple):
            for value in node:
                yield from targets(value)

    ours = ("siamese_verify.encoders", "siamese_verify.structures")
    found = targets(configuration) if "_target_" in configuration else ("", *targets(configuration))
    return tuple(dict.fromkeys(target for target in found if target.rpartition(".")[0] not in ours))


def read_operating_points(rows: list[dict[str, Any]]) -> tuple[OperatingPoint, ...]:
    """Read operating points from JSON, where an infinite threshold is null.

    Raises:
        TypeError, KeyError: fields are missing or unknown.
        ValueError: one is not a number.
    """
    points = []
    for row in rows:
        point = OperatingPoint(**{**row, "threshold": math.inf if row["threshold"] is None else row["threshold"]})
        if not all(isinstance(value, int | float) for value in point) or math.isnan(sum(point[:4])):
            raise ValueError(f"the operating point {row} holds something else than numbers")
        points.append(point)
    return tuple(points)


def read_quality(values: Mapping[str, Any]) -> dict[str, Range]:
    """Read ranges of face quality from JSON.

    Raises:
        ValueError: an unknown name, or something else than two numbers or nulls in ascending order.
    """
    found: dict[str, Range] = {}
    for name, (low, high) in values.items():
        if name not in Quality._fields:
            raise ValueError(f"{name!r} is not a quality of faces")
        limits = (None if low is None else float(low), None if high is None else float(high))
        ends = [end for end in limits if end is not None]
        if not all(math.isfinite(end) for end in ends) or ends != sorted(ends):
            raise ValueError(f"the quality {name} is from {low} to {high}")
        found[name] = limits
    return found


USE = """## Intended use and limits

- It decides whether two photos show the same person, for photos like those it was measured on. Measure it on yours.
- It does not detect whether a living person is in front of the camera: a printed photo or a screen matches as well.
- Error rates differ between groups of people, and were not measured for each of them unless a table above says so.
- Faces are personal data: ask people first, and let a person decide where rights are at stake.
"""


def model_card(metadata: ModelMetadata, checks: Mapping[str, Any]) -> str:
    """Return the model card in Markdown; `checks` say how the ONNX network was compared with the weights."""
    spec = metadata.input_spec
    kind = str(metadata.configuration.get("_target_") or "Encoder").rpartition(".")[2]
    named = {name: value for name, value in metadata.training.items() if value and name != "stages"}
    trained = ", ".join(f"{name}: {value}" for name, value in named.items()) or "unknown"
    code = " and ".join(f"`{name}`" for name in metadata.needs_code if name) or "its author's class"
    facts = {
        "trained on": trained,
        **({"weights for torch": f"need {code}, the ONNX network needs no code"} if metadata.needs_code else {}),
        **({"stages of training": words} if (words := stages_in_words(metadata.training)) else {}),
        "input": f"RGB faces of {spec.size} x {spec.size} pixels, aligned as {alignment_name(spec.crop)}"
        if spec.is_photo
        else f"arrays of {spec.dtype} and shape {spec.shape}",
        "computes in": "float32" if metadata.quantization == "none" else metadata.quantization,
        "license of the weights": metadata.license or "not stated: ask its authors",
        "fingerprint": f"`{metadata.fingerprint}`",
    }
    parts = [
        f"# {kind}, {metadata.embedding_size} dimensions",
        "A model of face verification, made by siamese-verify: `siamese-verify verify A B --model FOLDER`.",
        _table(("", ""), facts.items()),
    ]
    if stages := [_stage_row(stage) for stage in _stages(metadata.training) if stage.get("command")]:
        parts += ["## Training", _table(("data", "SHA-256 of the data", "started", "minutes", "command"), stages)]
    parts.append("## Accuracy")
    if metadata.operating_points:
        parts.append(f"Measured on {metadata.measured_on}.")
        if isinstance(eer := metadata.metrics.get("eer"), float):
            parts.append(f"Equal error rate {eer:.2%}{_eer_interval(metadata.metrics)}.")
        header = ("impostors accepted (FAR)", "threshold", "genuine pairs accepted (TAR)", "")
        parts.append(_table(header, [_operating_row(point, metadata) for point in metadata.operating_points]))
    else:
        parts.append("It was never measured: it has no thresholds.")
    if metadata.quality:
        parts.append("Measured on faces of this quality; others are answered with *inconclusive*:")
        rows = (
            (name, *("" if end is None else f"{end:.3g}" for end in ends)) for name, ends in metadata.quality.items()
        )
        parts.append(_table(("", "lowest", "highest"), rows))
    made = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in checks.items())
    parts += [
        "## Checks",
        made or "The ONNX network is exported and compared with the weights at its first use.",
        USE,
    ]
    return "\n\n".join(parts)


def _table(header: tuple[str, ...], rows: Any) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _stage_row(stage: Mapping[str, Any]) -> tuple[str, ...]:
    """Row of a stage of training in the model card."""
    seconds, command = stage.get("seconds"), " ".join(str(stage["command"]).split()).replace("|", "\\|")
    minutes = f"{seconds / 60:.1f}" if isinstance(seconds, int | float) else ""
    known = (str(stage.get(name) or "") for name in ("data", "data_sha256", "started"))
    return *known, minutes, f"`{command}`"


def _operating_row(point: OperatingPoint, metadata: ModelMetadata) -> tuple[str, ...]:
    """Row of an operating point in the model card."""
    rough = "rough: fewer than ten impostors decide" if point.insufficient else ""
    about, calibration = "", metadata.score_calibration
    if calibration and 0 < point.target <= 0.5 and (interval := calibration.impostor_tail.threshold(point.target)[1]):
        if math.isinf(interval.high):
            about = f" ({interval.low:.4f} or more: too few impostors were measured)"
        else:
            about = f" ({interval.low:.4f} to {interval.high:.4f})"
    return f"{point.target:g}", f"{point.threshold:.4f}{about}", f"{point.tar:.2%}", rough


def _eer_interval(metrics: Mapping[str, Any]) -> str:
    """The 95 % interval of the equal error rate in words; empty where it is not known."""
    found = (metrics.get("intervals") or {}).get("eer")
    if isinstance(found, dict):
        found = [found.get("low"), found.get("high")]
    return f" (95 % interval over people: {found[0]:.2%} to {found[1]:.2%})" if found and None not in found else ""


def _input_spec(values: dict[str, Any]) -> InputSpec:
    """The field `input` of a manifest; ValueError where it is contradictory."""
    try:
        return InputSpec.from_dict(values)
    except InputError as error:
        raise ValueError(f"field input: {str(error).rstrip('.')}") from None
