"""What is known about a model besides its weights; reading it needs no torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint, ScoreCalibration
from siamese_verify.faces import alignment_name
from siamese_verify.structures import InputSpec

PRETRAINED = ("casia-webface", "vggface2")  # names of facenet-pytorch's weights
LICENCE = "of facenet-pytorch (MIT), trained on data that is for research only"
DEFAULT_FAR = 1e-3  # one stranger in a thousand
LOOSEST_FAR = 1e-2  # that anybody gets without asking for it
Range = tuple[float | None, float | None]


class Limit(NamedTuple):
    """Where to accept."""

    threshold: float
    far: float | None  # share of impostor pairs that reach it; None for a threshold of somebody's own
    interval: tuple[float, float] | None  # 95 % of it, to +inf where the data cannot show `far`; None: unknown
    impostors: int  # pairs that this was counted on
    insufficient: bool  # fewer than ten of them decide, or too few people to give the threshold an upper end


@dataclass(frozen=True)
class ModelMetadata:
    """What is known about a model besides its weights.

    Attributes:
        name: what it was loaded by.
        configuration: `_target_` and arguments that build the encoder.
        input_spec: what the encoder takes.
        embedding_size: length of an embedding.
        operating_points: thresholds by false accept rate; empty where none were ever measured.
        eer_threshold: of the same measurement; None without one.
        measured_on: the data and pairs behind them.
        training: what the weights were trained on: `data` and `pretrained`, each a name or None.
        metrics: of the same measurement.
        score_calibration: of its scores, as probabilities and among strangers; None where it was never measured.
        quality: by the names of `siamese_verify.faces.Quality`, lowest and highest value of the faces that the scores
            were measured on; None for no limit.
        licence: of the weights, in words.
        weights_sha256: of the weights as safetensors; empty where they were not saved yet.
        quantization: `none`, or the numbers that the network computes with.
    """

    name: str
    configuration: dict[str, Any]
    input_spec: InputSpec
    embedding_size: int
    operating_points: tuple[OperatingPoint, ...] = ()
    eer_threshold: float | None = None
    measured_on: str = ""
    training: dict[str, str | None] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    score_calibration: ScoreCalibration | None = None
    quality: dict[str, Range] = field(default_factory=dict)
    licence: str = ""
    weights_sha256: str = ""
    quantization: str = "none"

    @property
    def fingerprint(self) -> str:
        """Name of the space that embeddings lie in: those of models with the same one can be compared."""
        spec, crop = self.input_spec, self.input_spec.crop
        numbers = [float(one) for one in (spec.size, *spec.mean, *spec.std, crop.margin, crop.fraction, crop.square)]
        parts = (self.weights_sha256, alignment_name(crop), crop.resample, str(numbers), self.quantization)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def operating_point(self, far: float | None = None) -> OperatingPoint:
        """The threshold for a false accept rate.

        Args:
            far: one of those measured; by default `DEFAULT_FAR` where enough impostors and people stand behind it, else
                the strictest of which that is true, but none looser than `LOOSEST_FAR`: where even that one is not
                known well, a decision at it is inconclusive.

        Raises:
            InputError: none was measured, or not this one.
        """
        if not self.operating_points:
            raise self._unmeasured()
        by_far = sorted(self.operating_points, key=lambda point: point.target)
        if far is None:
            return self._default_point
        for point in by_far:
            if abs(point.target - far) <= 1e-9 * far:
                return point
        measured = ", ".join(f"{point.target:g}" for point in by_far)
        raise InputError(
            f"No threshold of {self.name} for a false accept rate of {far:g} was measured: use {measured}."
        )

    def limit(self, far: float | None = None, comparisons: int = 1) -> Limit:
        """Where to accept so that strangers pass with a false accept rate.

        Args:
            far: any rate in (0, 0.5] where the strangers' scores were measured, else one of the operating points'; by
                default see `operating_point`.
            comparisons: scores of which the best decides: each may let in `far` divided by them, so that all of them
                together let in no more (the union bound).

        Raises:
            InputError: no threshold was measured, or not for this rate.
        """
        if far is not None and not 0 < far <= 0.5:
            raise InputError(f"The false accept rate asked for is {far}: give one above 0 and up to 0.5, such as 1e-3.")
        if comparisons < 1:
            raise InputError(f"A score is the best of one comparison or more, got {comparisons}.")
        if self.score_calibration is None:
            point = self.operating_point(far if far is None or comparisons == 1 else far / comparisons)
            return Limit(point.threshold, min(1.0, point.far * comparisons), None, point.impostors, point.insufficient)
        asked = far if far is not None else (self.operating_point().target if self.operating_points else DEFAULT_FAR)
        impostor_tail, share = self.score_calibration.impostor_tail, asked / comparisons
        threshold, interval = impostor_tail.threshold(share)
        rate = impostor_tail.accepts(threshold) / impostor_tail.impostors
        for point in self.operating_points:  # they were counted on every score, not on a thinned tail
            if (point.target <= share or math.isclose(point.target, share)) and point.threshold < threshold:
                threshold, rate = point.threshold, point.far
        return Limit(
            threshold,
            min(1.0, rate * comparisons),
            (min(interval.low, threshold), max(interval.high, threshold)) if interval else None,
            impostor_tail.impostors,
            not impostor_tail.shows(share, interval),
        )

    @cached_property
    def _default_point(self) -> OperatingPoint:
        """See `operating_point`; found once, as tables ask for each of their pairs."""
        by_far = sorted(self.operating_points, key=lambda point: point.target)
        enough = [point for point in by_far if not point.insufficient and self._shows(point.target)]
        usual = [point for point in enough if math.isclose(point.target, DEFAULT_FAR)]
        strict = [point for point in enough if point.target <= LOOSEST_FAR * (1 + 1e-9)]
        nearest = min(by_far, key=lambda point: abs(math.log(max(point.target, 1e-9) / LOOSEST_FAR)))
        return (usual or strict or [nearest])[0]

    def _shows(self, far: float) -> bool:
        """Nothing speaks against the data being able to show a false accept rate."""
        interval = (
            self.score_calibration.impostor_tail.threshold(far)[1] if self.score_calibration and far <= 0.5 else None
        )
        return interval is None or interval.high < math.inf

    def _unmeasured(self) -> InputError:
        measure = f", or measure it with `siamese-verify evaluate model={self.name}`, which keeps it"
        return InputError(
            f"No threshold of {self.name} was ever measured: give one of your own with --threshold"
            f"{measure if self.name in PRETRAINED else ''}."
        )


def read_operating_points(rows: list[dict[str, Any]]) -> tuple[OperatingPoint, ...]:
    """Read operating points from JSON, where an infinite threshold is null.

    Raises:
        TypeError: fields are missing or unknown.
        ValueError: one is no number.
    """
    points = []
    for row in rows:
        point = OperatingPoint(**{**row, "threshold": math.inf if row["threshold"] is None else row["threshold"]})
        if not all(isinstance(value, int | float) for value in point) or math.isnan(sum(point[:4])):
            raise ValueError(f"the operating point {row} holds something else than numbers")
        points.append(point)
    return tuple(points)


def read_quality(values: Mapping[str, Any]) -> dict[str, Range]:
    """Read ranges of faces' quality from JSON.

    Raises:
        ValueError: an unknown name, or something else than two numbers or nulls in order.
    """
    from siamese_verify.faces import Quality

    found: dict[str, Range] = {}
    for name, (low, high) in values.items():
        if name not in Quality._fields:
            raise ValueError(f"there is no quality {name!r} of a face")
        limits = (None if low is None else float(low), None if high is None else float(high))
        ends = [end for end in limits if end is not None]
        if not all(math.isfinite(end) for end in ends) or ends != sorted(ends):
            raise ValueError(f"the quality {name} is from {low} to {high}")
        found[name] = limits
    return found


LIMITS = """## What it is for, and what not

- It says whether two photos show the same person, for photos like those it was measured on. Measure it on yours.
- It does not see whether a living person stood before the camera: a printed photo or a screen matches as well.
- Its errors differ between groups of people, and were not measured for each of them unless a table above says so.
- Faces are personal data: ask people first, and let a person decide where rights are at stake.
"""


def model_card(metadata: ModelMetadata, checks: dict[str, Any]) -> str:
    """Write the card in Markdown.

    Args:
        metadata: of the model.
        checks: how its network was compared with the weights.
    """
    spec, metrics = metadata.input_spec, metadata.metrics
    kind = str(metadata.configuration.get("_target_", "")).rpartition(".")[2]
    trained = ", ".join(f"{name}: {value}" for name, value in metadata.training.items() if value) or "unknown"
    lines = [
        f"# {kind}, {metadata.embedding_size} dimensions",
        "",
        "A model of face verification, made by siamese-verify: `siamese-verify verify A B --model FOLDER`.",
        "",
        "| | |",
        "| --- | --- |",
        f"| trained on | {trained} |",
        f"| input | RGB faces of {spec.size} x {spec.size} pixels, aligned as {alignment_name(spec.crop)} |",
        f"| computes in | {'float32' if metadata.quantization == 'none' else metadata.quantization} |",
        f"| licence of the weights | {metadata.licence or 'not stated: ask whoever made them'} |",
        f"| fingerprint | `{metadata.fingerprint}` |",
        "",
    ]
    lines += ["## Accuracy", ""]
    if metadata.operating_points:
        lines += [f"Measured on {metadata.measured_on}.", ""]
        if isinstance(metrics.get("eer"), float):
            lines += [f"Equal error rate {metrics['eer']:.2%}{_interval(metrics, 'eer')}.", ""]
        lines += [
            "| strangers accepted (FAR) | threshold | genuine pairs accepted (TAR) | |",
            "| --- | --- | --- | --- |",
        ]
        for point in metadata.operating_points:
            threshold = f"{point.threshold:.4f}{_threshold_interval(metadata, point.target)}"
            rough = "rough: fewer than ten impostors decide" if point.insufficient else ""
            lines.append(f"| {point.target:g} | {threshold} | {point.tar:.2%} | {rough} |")
        lines.append("")
    else:
        lines += ["It was never measured: it has no thresholds.", ""]
    if metadata.quality:
        lines += ["Measured on faces of this quality; others are answered with *inconclusive*:", ""]
        lines += ["| | lowest | highest |", "| --- | --- | --- |"]
        for name, (low, high) in metadata.quality.items():
            lines.append(
                f"| {name} | {'' if low is None else f'{low:.3g}'} | {'' if high is None else f'{high:.3g}'} |"
            )
        lines.append("")
    lines += ["## Checks", "", *[f"- {name.replace('_', ' ')}: {value}" for name, value in checks.items()], ""]
    return "\n".join([*lines, LIMITS])


def _interval(metrics: dict[str, Any], name: str) -> str:
    found = (metrics.get("intervals") or {}).get(name)
    if isinstance(found, dict):
        found = [found.get("low"), found.get("high")]
    return f" (95 % interval over people: {found[0]:.2%} to {found[1]:.2%})" if found and None not in found else ""


def _threshold_interval(metadata: ModelMetadata, far: float) -> str:
    if metadata.score_calibration is None or not 0 < far <= 0.5:
        return ""
    interval = metadata.score_calibration.impostor_tail.threshold(far)[1]
    if interval is None:
        return ""
    if math.isinf(interval.high):
        return f" ({interval.low:.4f} or more: too few impostors were measured)"
    return f" ({interval.low:.4f} to {interval.high:.4f})"
