"""A finished report, sent to whatever logger there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamese_verify.evaluation import VerificationReport, roc_curve

PICTURES = ("roc", "det", "histogram", "errors")
POINTS = 200  # of the ROC curve that are sent


def publish_report(logger: Any, report: VerificationReport, folder: Path, step: int | None = None) -> None:
    """Send a report's figures, ROC curve and pictures.

    Args:
        logger: any of Lightning's: figures go to all, pictures to W&B and TensorBoard, the curve to W&B.
        report: the figures.
        folder: where `report.save` put the pictures.
        step: of training, that the figures belong to.
    """
    figures = {"test/eer": report.eer, "test/auc": report.auc}
    figures |= {f"test/tar_at_far_{point.target:g}": point.tar for point in report.operating_points}
    if report.at_threshold:
        figures["test/accuracy"] = report.at_threshold.accuracy
    logger.log_metrics(figures, step=step)
    if hasattr(logger, "log_image"):  # W&B
        for name in PICTURES:
            logger.log_image(key=f"report/{name}", images=[str(folder / f"{name}.png")])
        curve = roc_curve(report.scores, report.same)
        rows = np.unique(np.linspace(0, len(curve.far) - 1, POINTS).astype(int))
        points = np.stack([curve.thresholds, curve.far, curve.tar], axis=1)[rows]
        finite = points[np.isfinite(points[:, 0])]
        logger.log_table(key="report/roc_curve", columns=["threshold", "far", "tar"], data=finite.tolist())
    elif hasattr(logger.experiment, "add_image"):  # TensorBoard
        for name in PICTURES:
            with Image.open(folder / f"{name}.png") as picture:
                logger.experiment.add_image(f"report/{name}", np.asarray(picture.convert("RGB")), dataformats="HWC")
    logger.save()
    if hasattr(logger.experiment, "finish"):  # W&B: the next run of a sweep would go on in this one
        logger.experiment.finish()
