"""Encoders on a protocol: measured once, then as a table to read and a report to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from siamese_verify.data import FaceCropper, LFWPhotos, Protocol, has_training_people, lfw_category
from siamese_verify.encoders import Encoder
from siamese_verify.evaluation import VerificationReport, nearest_neighbour_accuracy, verification_report
from siamese_verify.faces import crop_face
from siamese_verify.verification import FaceModel, embed_photos, score_pairs


@dataclass(frozen=True)
class Result:
    """One encoder on one protocol.

    Attributes:
        name: of the encoder, for tables.
        report: its metrics.
        nearest_neighbour: share of photos whose nearest other photo shows the same person, over people with two.
        protocol: the pairs.
        cropper: after use, with its account of photos without a face.
        model: what is known about the encoder, with the threshold that was chosen elsewhere; None for a baseline.
    """

    name: str
    report: VerificationReport
    nearest_neighbour: float
    protocol: Protocol
    cropper: FaceCropper
    model: FaceModel | None = None

    def row(self) -> dict[str, Any]:
        """Figures for a table, in per cent."""
        report = self.report
        row = {
            "model": self.name,
            "EER": f"{report.eer:.2%}",
            "AUC": f"{report.auc:.4f}",
            "TAR@FAR=1%": f"{report.operating_points[1].tar:.2%}",
            "rank-1": f"{self.nearest_neighbour:.2%}",
        }
        if report.kfold:
            row["accuracy"] = f"{report.kfold.mean:.2%} +- {report.kfold.standard_error:.2%}"
        elif report.at_threshold:
            row["accuracy"] = f"{report.at_threshold.accuracy:.2%}"
        return row


def measure(
    name: str, encoder: Encoder, protocol: Protocol, cropper: FaceCropper, model: FaceModel | None = None
) -> Result:
    """Embed a protocol's photos, each once, and score its pairs.

    Args:
        name: for tables.
        encoder: in evaluation mode.
        protocol: which pairs.
        cropper: made with the encoder's input spec.
        model: gives the threshold for protocols without folds.
    """
    embeddings = embed_photos(encoder.eval(), protocol.photos, cropper)
    scores = score_pairs(embeddings, protocol.left, protocol.right)
    threshold = model.eer_threshold if model and protocol.folds is None else None
    report = verification_report(scores, protocol.same, protocol.folds, threshold)
    nearest = nearest_neighbour_accuracy(embeddings, protocol.photos.identities)
    return Result(name, report, nearest, protocol, cropper, model)


def save_results(folder: Path, result: Result, others: Sequence[Result], record: dict[str, Any]) -> Path:
    """Write the report of a result, beside the figures of others; returns the path of its page."""
    protocol, spec, model = result.protocol, result.cropper.spec, result.model

    def pictures(pair: int) -> tuple[Image.Image, Image.Image]:
        left, right = protocol.photos[int(protocol.left[pair])], protocol.photos[int(protocol.right[pair])]
        return (left, right) if spec.crop.kind == "box" else (crop_face(left, spec), crop_face(right, spec))

    chosen_elsewhere = result.report.at_threshold is not None
    details = {
        "protocol": protocol.name,
        "photos": len(protocol.photos),
        "photos without a face, their central square used": len(result.cropper.faceless),
        "threshold chosen on": model.measured_on if model and chosen_elsewhere else "these pairs",
        "data (SHA-256 of the crops)": result.cropper.digest,
        **record,
    }
    if model and isinstance(protocol.photos, LFWPhotos):
        data = model.training.get("data")
        strangers = data != "lfw" or not has_training_people(protocol.photos)
        details["LFW category"] = lfw_category(
            data, model.training.get("pretrained"), detector=spec.crop.kind == "box", strangers=strangers
        )
    page = result.report.save(
        folder,
        title=f"{result.name} on {protocol.name}",
        details=details,
        pictures=pictures,
        captions=protocol.describe,
        comparison=[entry.row() for entry in (result, *others)] if others else None,
    )
    result.cropper.save_account(folder)
    return page


def print_results(results: Sequence[Result], folder: Path) -> None:
    """Print a table, and where the rest lies."""
    table = Table(title=results[0].protocol.name)
    rows = [result.row() for result in results]
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        table.add_row(*(row.get(name, "") for name in names))
    console = Console()
    console.print(table)
    console.print(f"Report: {folder / 'report' / 'report.html'}", soft_wrap=True)
