"""Distances between embeddings, differentiable everywhere, two identical embeddings included."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Metric = Literal["euclidean", "squared", "cosine"]


def unit(embeddings: Tensor) -> Tensor:
    """Scale every row to length 1.

    Args:
        embeddings: (B, D).

    Returns:
        (B, D) unit rows. A row of zeros has no direction: it stays zero, and its gradient stays finite.
    """
    length = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)  # (B,1)
    return embeddings / torch.where(length == 0, 1, length)


def distance_matrix(embeddings: Tensor, metric: Metric = "euclidean") -> Tensor:
    """Distances of all rows from all rows.

    Euclidean distances come from differences, never from `|a|^2 + |b|^2 - 2 a.b`: in float32 the expansion is wrong by
    3e-4 between near-identical unit vectors, which is where genuine pairs end up. At zero distance the gradient is 0,
    the smallest of the subgradients.

    Args:
        embeddings: (B, D).
        metric: `euclidean` |a - b|; `squared` |a - b|^2; `cosine` 1 - cos(a, b), in [0, 2].

    Returns:
        (B, B) distances, >= 0.
    """
    if metric == "cosine":
        directions = unit(embeddings)
        return (1 - directions @ directions.T).clamp(min=0)  # rounding alone would make 1 - s negative
    distance = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.square() if metric == "squared" else distance


def row_distance(embeddings: Tensor, rows: Tensor, others: Tensor, metric: Metric = "euclidean") -> Tensor:
    """Distances of chosen rows, two by two.

    Args:
        embeddings: (B, D).
        rows: (M,) int64 rows.
        others: (M,) int64, the row each is measured from.
        metric: as in `distance_matrix`.

    Returns:
        (M,) distances, >= 0, with the gradient 0 at zero distance.
    """
    count = len(embeddings)
    if len(rows) * 16 > count * count:  # (M,D) differences would outweigh the (B,B) matrix
        return distance_matrix(embeddings, metric)[rows, others]
    if metric == "cosine":
        directions = unit(embeddings)
        return (1 - (directions[rows] * directions[others]).sum(dim=1)).clamp(min=0)
    difference = embeddings[rows] - embeddings[others]  # (M,D)
    if metric == "squared":
        return difference.square().sum(dim=1)
    length: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return length
