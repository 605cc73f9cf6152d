"""Figures, curves and pictures of a report for the loggers of a run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamese_verify.evaluation import VerificationReport
from siamese_verify.evaluation.base_report import Report

PICTURES = ("roc", "det", "histogram", "errors", "cmc")
POINTS = 200  # of the ROC curve
LEFT_OUT = ("logger", "callbacks", "baseline", "datamodule.photos", "datamodule.sampler")  # the last two are copies


def publish_report(
    logger: Any,
    report: Report,
    folder: Path,
    step: int | None = None,
    further: Mapping[str, Report] | None = None,
    best: float | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> None:
    """Log the reports of a finished run, and end the run.

    Args:
        logger: one of Lightning; pictures go to W&B, TensorBoard and MLflow, the points of the curve to W&B.
        report: of the run, as `test/eer` and so on.
        folder: with the pictures that `report.save` wrote.
        step: of training.
        further: reports on other protocols by name, as `test/NAME/eer` and so on; their pictures are in `folder/NAME`.
        best: what the epoch was chosen by, as `hp_metric`; None if that is unknown.
        configuration: of the run, for TensorBoard's table of runs (HPARAMS), beside `hp_metric` and the test result.
    """
    for name, one in {"": report, **(further or {})}.items():
        publish_one(logger, one, folder / name, step, f"{name}/" if name else "")
    if best is not None:
        summary = {"hp_metric": best, f"test/{report.metric}": report.value}
        if hasattr(logger.experiment, "add_hparams"):  # TensorBoard
            logger.log_hyperparams(flat_settings(configuration or {}), summary, step=step)
        else:
            logger.log_metrics({"hp_metric": best}, step=step)
    logger.save()
    if hasattr(logger.experiment, "finish"):  # W&B: the next run of a sweep would go on in this one
        logger.experiment.finish()


def publish_one(logger: Any, report: Report, folder: Path, step: int | None, prefix: str) -> None:
    """Log one report; `prefix` is put before the names of its figures and pictures."""
    logger.log_metrics({f"test/{prefix}{name}": value for name, value in report.logged().items()}, step=step)
    if takes_pictures(logger):
        for name in PICTURES:
            if (folder / f"{name}.png").is_file():
                show(logger, f"report/{prefix}{name}", folder / f"{name}.png", step)
    if hasattr(logger, "log_table") and isinstance(report, VerificationReport):  # W&B
        curve = report.curve
        rows = np.unique(np.linspace(0, len(curve.far) - 1, POINTS).astype(int))
        points = np.stack([curve.thresholds, curve.far, curve.tar], axis=1)[rows]
        finite = points[np.isfinite(points[:, 0])]
        columns = ["threshold", "far", "tar"]
        logger.log_table(key=f"report/{prefix}roc_curve", columns=columns, data=finite.tolist())


def flat_settings(configuration: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names, such as `loss.margin`, without those that are null or say where results go."""
    found: dict[str, Any] = {}
    for name, value in configuration.items():
        if isinstance(value, Mapping):
            found |= {} if f"{prefix}{name}" in LEFT_OUT else flat_settings(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def publish_validation(logger: Any, report: VerificationReport, step: int) -> None:
    """Log the ROC curve of a validation, if the logger takes pictures."""
    if takes_pictures(logger):
        from siamese_verify.evaluation.pages.figures import roc_figure

        show(logger, "val/roc", io.BytesIO(roc_figure(report).png), step)


def takes_pictures(logger: Any) -> bool:
    """Whether it is W&B, TensorBoard or MLflow."""
    places = ((logger, "log_image"), (logger.experiment, "add_image"), (logger.experiment, "log_image"))
    return any(hasattr(place, method) for place, method in places)


def show(logger: Any, name: str, source: Path | io.BytesIO, step: int | None) -> None:
    """Log one picture."""
    with Image.open(source) as picture:
        if hasattr(logger, "log_image"):
            logger.log_image(key=name, images=[str(source) if isinstance(source, Path) else picture])
        elif hasattr(logger.experiment, "log_image"):  # MLflow
            logger.experiment.log_image(logger.run_id, picture, artifact_file=f"{name}/{step}.png")
        else:
            logger.experiment.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
