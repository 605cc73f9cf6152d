"""Figures, curves and pictures of a report for the loggers of a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamese_verify.evaluation import VerificationReport

PICTURES = ("roc", "det", "histogram", "errors")
POINTS = 200  # of the ROC curve


def publish_report(logger: Any, report: VerificationReport, folder: Path, step: int | None = None) -> None:
    """Log the report of a finished run, and end the run.

    Args:
        logger: one of Lightning; pictures go to W&B and TensorBoard only, the points of the curve to W&B.
        report: of the run.
        folder: with the pictures that `report.save` wrote.
        step: of training.
    """
    figures = {"test/eer": report.eer, "test/auc": report.auc}
    figures |= {f"test/tar_at_far_{point.target:g}": point.tar for point in report.operating_points}
    if report.at_threshold:
        figures["test/balanced_accuracy"] = report.at_threshold.balanced_accuracy
    logger.log_metrics(figures, step=step)
    if takes_pictures(logger):
        for name in PICTURES:
            show(logger, f"report/{name}", folder / f"{name}.png", step)
    if hasattr(logger, "log_table"):  # W&B
        curve = report.curve
        rows = np.unique(np.linspace(0, len(curve.far) - 1, POINTS).astype(int))
        points = np.stack([curve.thresholds, curve.far, curve.tar], axis=1)[rows]
        finite = points[np.isfinite(points[:, 0])]
        logger.log_table(key="report/roc_curve", columns=["threshold", "far", "tar"], data=finite.tolist())
    logger.save()
    if hasattr(logger.experiment, "finish"):  # W&B: the next run of a sweep would go on in this one
        logger.experiment.finish()


def publish_validation(logger: Any, report: VerificationReport, step: int) -> None:
    """Log the ROC curve of a validation, if the logger takes pictures."""
    if takes_pictures(logger):
        from siamese_verify.evaluation.pages.figures import roc_figure

        show(logger, "val/roc", io.BytesIO(roc_figure(report).png), step)


def takes_pictures(logger: Any) -> bool:
    """Whether it is W&B or TensorBoard."""
    return hasattr(logger, "log_image") or hasattr(logger.experiment, "add_image")


def show(logger: Any, name: str, source: Path | io.BytesIO, step: int | None) -> None:
    """Log one picture."""
    with Image.open(source) as picture:
        if hasattr(logger, "log_image"):
            logger.log_image(key=name, images=[str(source) if isinstance(source, Path) else picture])
        else:
            logger.experiment.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
