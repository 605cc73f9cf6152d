"""Model card: what a model is, what it was measured on, and what it must not be used for, for people to read.

Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import math
from typing import Any

from siamese_verify.faces import alignment_name
from siamese_verify.verification.record import ModelRecord

LIMITS = """## What it is for, and what not

- It says whether two photos show the same person, for photos like those it was measured on. Measure it on yours.
- It does not see whether a living person stood before the camera: a printed photo or a screen matches as well.
- Its errors differ between groups of people, and were not measured for each of them unless a table above says so.
- Faces are personal data: ask people first, and let a person decide where rights are at stake.
"""


def model_card(record: ModelRecord, checks: dict[str, Any]) -> str:
    """Write the card in Markdown.

    Args:
        record: of the model.
        checks: how its network was compared with the weights.
    """
    spec, metrics = record.input_spec, record.metrics
    kind = str(record.configuration.get("_target_", "")).rpartition(".")[2]
    trained = ", ".join(f"{name}: {value}" for name, value in record.training.items() if value) or "unknown"
    lines = [
        f"# {kind}, {record.dimension} dimensions",
        "",
        "A model of face verification, made by siamese-verify: `siamese-verify verify A B --model FOLDER`.",
        "",
        "| | |",
        "| --- | --- |",
        f"| trained on | {trained} |",
        f"| input | RGB faces of {spec.size} x {spec.size} pixels, aligned as {alignment_name(spec.crop)} |",
        f"| computes in | {'float32' if record.quantization == 'none' else record.quantization} |",
        f"| licence of the weights | {record.licence or 'not stated: ask whoever made them'} |",
        f"| fingerprint | `{record.fingerprint}` |",
        "",
    ]
    lines += ["## Accuracy", ""]
    if record.operating_points:
        lines += [f"Measured on {record.measured_on}.", ""]
        if isinstance(metrics.get("eer"), float):
            lines += [f"Equal error rate {metrics['eer']:.2%}{_interval(metrics, 'eer')}.", ""]
        lines += [
            "| strangers accepted (FAR) | threshold | genuine pairs accepted (TAR) | |",
            "| --- | --- | --- | --- |",
        ]
        for point in record.operating_points:
            threshold = f"{point.threshold:.4f}{_threshold_interval(record, point.target)}"
            rough = "rough: fewer than ten impostors decide" if point.insufficient else ""
            lines.append(f"| {point.target:g} | {threshold} | {point.tar:.2%} | {rough} |")
        lines.append("")
    else:
        lines += ["It was never measured: it has no thresholds.", ""]
    if record.quality:
        lines += ["Measured on faces of this quality; others are answered with *inconclusive*:", ""]
        lines += ["| | lowest | highest |", "| --- | --- | --- |"]
        for name, (low, high) in record.quality.items():
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


def _threshold_interval(record: ModelRecord, far: float) -> str:
    if record.meaning is None or not 0 < far <= 0.5:
        return ""
    interval = record.meaning.strangers.threshold(far)[1]
    if interval is None:
        return ""
    if math.isinf(interval.high):
        return f" ({interval.low:.4f} or more: too few impostors were measured)"
    return f" ({interval.low:.4f} to {interval.high:.4f})"
