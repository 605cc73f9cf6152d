"""Whether kernels compute what PyTorch does, tried on a small batch before they are used: see `tiles.has_kernels`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import Batch
from siamese_verify.pairwise.log_softmax import log_sum_exp_of_others
from siamese_verify.pairwise.nearest import ComparedRows, exact_distance, farthest_positives, nearest_negatives
from siamese_verify.pairwise.pair_sum import Hinge, pair_sum

ROWS, REFERENCES, SIZE = 70, 30, 40  # a block has 64 rows; of a tile
TOLERANCE = 0.02  # what bfloat16 may lose, relative to the largest value
MARGIN = 1.0


def wrong_kernel(device: torch.device) -> str | None:
    """The first of losses and searches that kernels get wrong; None if all are as PyTorch has them in float64.

    Products are of bfloat16, and of float32 as `torch.get_float32_matmul_precision()` says.
    """
    number = torch.arange((ROWS + REFERENCES) * 24, dtype=torch.float64, device=device)
    rows = torch.nn.functional.normalize((number.square() * 0.37).sin().view(-1, 24))
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for name, results in _RESULTS.items():
            exact = results(rows.clone().requires_grad_(), torch.float64)
            for factors in (torch.float32, torch.bfloat16):
                found = results(rows.float().requires_grad_(), factors)
                for value, expected in zip(found, exact, strict=True):
                    if not (value - expected).abs().max() <= TOLERANCE * expected.abs().max():
                        return name
    return None


def _labels(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device) // 3


def _softmax(rows: Tensor, factors: torch.dtype) -> tuple[Tensor, ...]:
    parts, labels = rows.tensor_split([ROWS]), _labels(rows).tensor_split([ROWS])
    found = []
    for kind in (None, (labels[0], labels[1])):
        sums = log_sum_exp_of_others(parts[0], parts[1], 0.5, SIZE, factors=factors, labels=kind)
        found += [sums.detach(), *torch.autograd.grad(sums.square().sum(), rows)]
    return tuple(found)


def _pairs(rows: Tensor, factors: torch.dtype) -> tuple[Tensor, ...]:
    (embeddings, references), labels = rows.tensor_split([ROWS]), _labels(rows).tensor_split([ROWS])
    batch = Batch(embeddings, labels[0], references, labels[1], factors=factors)
    found = []
    for cosine in (False, True):

        def loss(measure: Tensor, same: Tensor, cosine: bool = cosine) -> Tensor:
            distance = 1 - measure if cosine else measure
            return torch.where(same, distance, (MARGIN - distance).clamp(min=0)).square()

        total = pair_sum(batch, loss, cosine, SIZE, Hinge(MARGIN, 1, 2)).total
        found += [total.detach(), *torch.autograd.grad(total, rows)]
    return tuple(found)


def _nearest(rows: Tensor, factors: torch.dtype) -> tuple[Tensor, ...]:
    rows, labels = rows.detach(), _labels(rows)
    compared = ComparedRows(rows[:ROWS], labels[:ROWS], rows, labels, True, factors=factors)
    anchor = torch.arange(ROWS, device=rows.device)
    inner = rows.new_full((ROWS,), MARGIN)
    columns = [nearest_negatives(compared, anchor), nearest_negatives(compared, anchor, inner, 2 * inner)]
    farthest = farthest_positives(compared) if factors != torch.float64 else _farthest(compared)
    found = [column.clamp(min=0) for column in (*columns, farthest) if column is not None]
    return tuple(exact_distance(compared, anchor, column) for column in found)


def _farthest(compared: ComparedRows) -> Tensor:
    distance = torch.cdist(compared.rows, compared.columns)
    return distance.masked_fill(compared.labels[:, None] != compared.column_labels, -1).argmax(dim=1)


_RESULTS: dict[str, Callable[[Tensor, torch.dtype], tuple[Tensor, ...]]] = {
    "log-sum-exp": _softmax,
    "sum over pairs": _pairs,
    "search of the nearest": _nearest,
}
