"""A labelled batch as queries: everybody else in it is a negative."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.geometry import Batch, Identities, row_product, unit
from siamese_verify.losses.objective import BatchObjective
from siamese_verify.losses.query_objective import QueryObjective, in_bands
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

    def list_items(self, batch: Batch, mined: Pairs | Triplets | None) -> Tensor:
        """Compute (M,) losses of queries; see `BatchObjective.items`."""
        rows, columns = unit(batch.embeddings), unit(batch.candidates)
        if isinstance(mined, Triplets):
            genuine = row_product(rows, columns, mined.anchor, mined.positive)
            impostor = row_product(rows, columns, mined.anchor, mined.negative)
            temperature = self.objective.temperature
            return self.objective.score(genuine / temperature, impostor[:, None] / temperature)
        anchor, positive, rivals = every_query(batch) if mined is None else mined_queries(batch, mined)

        def losses(anchor: Tensor, positive: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
            owner, place = torch.unique(anchor, return_inverse=True)  # compared once for all its positives
            logits = rows[owner] @ columns.T / self.objective.temperature  # (n,B+R)
            negatives = logits.masked_fill(~rivals(owner), -torch.inf)
            return self.objective.score(logits[place, positive], negatives[place])

        return in_bands(losses, len(columns), (anchor, positive), (rows, columns))


def every_query(batch: Batch) -> tuple[Tensor, Tensor, Rivals]:
    """List (M,) anchors and (M,) positives of all ordered genuine pairs, and who their negatives are."""
    labels = batch.candidate_labels
    pairs = Identities(labels).pairs(batch.labels, itself=True)
    return pairs.row, pairs.column, lambda owner: labels[owner, None] != labels


def mined_queries(batch: Batch, mined: Pairs) -> tuple[Tensor, Tensor, Rivals]:
    """List (M,) anchors and (M,) positives of mined genuine pairs both ways, and who their negatives are."""
    within = mined.other < len(batch.labels)  # references are no anchors
    anchor = torch.cat([mined.anchor, mined.other[within]])
    partner = torch.cat([mined.other, mined.anchor[within]])
    same = torch.cat([mined.same, mined.same[within]]).bool()
    impostor = partner[~same]
    by_anchor = Identities(anchor[~same])

    def rivals(owner: Tensor) -> Tensor:
        named = torch.zeros(len(owner), len(batch.candidate_labels), dtype=torch.bool, device=owner.device)
        pairs = by_anchor.pairs(owner)
        named[pairs.row, impostor[pairs.column]] = True
        return named

    return anchor[same], partner[same], rivals
