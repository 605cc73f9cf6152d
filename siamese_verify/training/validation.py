"""What a validation measures: error rates over all pairs of all ranks' photos, and what the embeddings are like."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.evaluation import VerificationReport, all_pairs_report, measure_representation
from siamese_verify.training.distributed import gather_objects

VALIDATION_TARGETS = (1e-1, 1e-2, 1e-3)
VALIDATION_METRICS = {  # and which of two is better
    "val/eer": "min",
    "val/auc": "max",
    "val/tar_at_far_1e-2": "max",
    "val/knn_accuracy": "max",
    "val/alignment": "min",
    "val/uniformity": "min",
    "val/effective_rank": "max",
}
REPRESENTATION_PHOTOS = 2500  # validation photos whose representation is measured: costs little beside all pairs


def measure_validation(embeddings: Tensor, labels: Tensor, rank: int) -> tuple[VerificationReport, dict[str, float]]:
    """Score all pairs of the validation photos of all ranks; return the report and the figures to log.

    Args:
        embeddings: (V,D) unit rows of this rank.
        labels: (V,) of them.
        rank: this one's number.

    Returns:
        The same on all ranks; figures by the names of `VALIDATION_METRICS`.
    """
    everyone = gather_objects((embeddings, labels))
    embeddings, labels = (torch.cat(rows) for rows in zip(*everyone, strict=True))
    report = all_pairs_report(
        embeddings,
        labels,
        targets=VALIDATION_TARGETS,
        rank=rank,
        world_size=len(everyone),
        gather=gather_objects,
    )
    found = measure_representation(embeddings, labels, REPRESENTATION_PHOTOS) if rank == 0 else None
    found = gather_objects(found)[0]  # the same numbers on all ranks
    figures = {
        "val/eer": report.eer,
        "val/auc": report.auc,
        "val/tar_at_far_1e-2": report.operating_points[1].tar,
    }
    for name in ("knn_accuracy", "alignment", "uniformity", "effective_rank"):
        figures[f"val/{name}"] = getattr(found, name)
    return report, figures
