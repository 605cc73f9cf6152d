"""A labelled batch as queries: everybody else in it is a negative."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.geometry import Batch, Identities, row_product, unit
from siamese_verify.losses.objective import BatchObjective, by_anchor
from siamese_verify.losses.query_objective import QueryObjective, in_bands
from siamese_verify.losses.reduction import Items
from siamese_verify.types import Pairs, Triplets

Rivals = Callable[[Tensor], Tensor]  # (n,) int64 anchors -> (n, B + R) bool: who is a negative of theirs


class InBatchNegatives(BatchObjective):
    """A `QueryObjective` on labelled batches: each ordered genuine pair (i, p) is a query with its positive.

    Its negatives are all rows of other identities, references included; other positives of the anchor are left out,
    unlike in `NTXentLoss`. Of mined triplets each is a query with one negative. Mined genuine pairs are queries in
    both directions (references are never anchors), against the impostors mined for the same anchor, in either
    direction too; one that is named twice counts once. An anchor without negatives has none: nothing is made up.

    Items come ordered by i, then p, if nothing was mined; else in the order of the triplets, or of the genuine pairs
    and then of their reverse. Memory is O((B + R) D) and a few numbers for each pair. On a GPU the lists of pairs wait
    for their lengths.

    Args:
        objective: `InfoNCELoss` or `NCELoss`; its reduction is the reduction.

    Raises:
        InputError: an objective of another kind.
    """

    needs_rivals = True

    def __init__(self, objective: QueryObjective) -> None:
        if not isinstance(objective, QueryObjective):
            raise InputError(
                f"objective is of type {type(objective).__name__}, but must take queries, such as InfoNCELoss: "
                f"objectives over batches need no in-batch negatives."
            )
        super().__init__(objective.reduction)
        self.objective = objective

    def list_items(self, batch: Batch, mined: Pairs | Triplets | None) -> Items:
        """Compute the items of queries; see `BatchObjective.items`."""
        rows, columns = unit(batch.embeddings), unit(batch.candidates)
        if isinstance(mined, Triplets):
            genuine = row_product(rows, columns, mined.anchor, mined.positive)
            impostor = row_product(rows, columns, mined.anchor, mined.negative)
            temperature = self.objective.temperature
            losses = self.objective.score(genuine / temperature, impostor[:, None] / temperature)
            return Items(losses, self.objective.active(torch.ones_like(losses, dtype=torch.bool)))
        queries = every_query(batch) if mined is None else mined_queries(batch, mined)

        def score(anchor: Tensor, positive: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
            owner, place = torch.unique(anchor, return_inverse=True)  # compared once for all its positives
            logits = rows[owner] @ columns.T / self.objective.temperature  # (n,B+R)
            negatives = logits.masked_fill(~queries.rivals(owner), -torch.inf)
            return self.objective.score(logits[place, positive], negatives[place])

        losses = in_bands(score, len(columns), (queries.anchor, queries.positive), (rows, columns))
        return Items(losses, self.objective.active(queries.contested))


class Queries(NamedTuple):
    """Ordered genuine pairs, and who the negatives of their anchors are."""

    anchor: Tensor  # (M,) int64
    positive: Tensor  # (M,) int64
    contested: Tensor  # (M,) bool, whether there are negatives
    rivals: Rivals


def every_query(batch: Batch) -> Queries:
    """All ordered genuine pairs against everybody of another identity."""
    labels = batch.candidate_labels
    identities = Identities(labels)
    anchor, positive = identities.pairs(batch.labels, itself=True)
    first, last = identities.span(batch.labels)
    contested = (last - first < len(labels))[anchor]
    return Queries(anchor, positive, contested, lambda owner: labels[owner, None] != labels)


def mined_queries(batch: Batch, mined: Pairs) -> Queries:
    """Mined genuine pairs against the impostors mined for their anchor."""
    anchor, partner, same = by_anchor(batch, mined)
    impostor = partner[~same]
    asking = Identities(anchor[~same])

    def rivals(owner: Tensor) -> Tensor:
        named = torch.zeros(len(owner), len(batch.candidate_labels), dtype=torch.bool, device=owner.device)
        pairs = asking.pairs(owner)
        named[pairs.row, impostor[pairs.column]] = True
        return named

    first, last = asking.span(anchor[same])
    return Queries(anchor[same], partner[same], last > first, rivals)
