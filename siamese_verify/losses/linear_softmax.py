"""The softmax head of a classifier, without normalization or margin."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from siamese_verify.losses.base import BatchLoss, Items, Reduction
from siamese_verify.losses.margin_softmax import check_counts, check_identities, check_smoothing
from siamese_verify.pairwise import Batch
from siamese_verify.structures import Pairs, Triplets


class LinearSoftmaxLoss(BatchLoss):
    """Cross-entropy of a linear layer with bias over all identities of the training set: (B,) items.

    Rows are taken as they are, of any length. The layer is trained too: give its parameters to the optimizer, and
    labels that number the identities from 0.

    Args:
        num_identities: identities of the training set, >= 1.
        embedding_size: >= 1.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.
        label_smoothing: share of the target that is spread evenly over all identities, in [0, 1).

    Attributes:
        linear: the layer; its weights are (num_identities, embedding_size).
        needs_norms: embeddings of unit length are refused, as their logits could hardly differ.

    Raises:
        InputError: an argument out of its range; when called with tuples, with references, with embeddings of another
            size, and on a CPU with labels outside of [0, num_identities) or with unit embeddings.

    Taigman, Yang, Ranzato & Wolf, "DeepFace", CVPR 2014, section 3.2.
    """

    takes = ()
    takes_references = False
    compares_rows = False
    needs_norms = True

    def __init__(
        self,
        num_identities: int,
        embedding_size: int = 512,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        check_counts(num_identities=num_identities, embedding_size=embedding_size)
        check_smoothing(label_smoothing)
        self.num_identities = num_identities
        self.embedding_size = embedding_size
        self.label_smoothing = label_smoothing
        self.linear = nn.Linear(embedding_size, num_identities)

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of rows; see `BatchLoss.items`."""
        check_identities(self, batch)
        rows = batch.embeddings
        logits = functional.linear(rows, self.linear.weight.to(rows.dtype), self.linear.bias.to(rows.dtype))  # (B,C)
        smoothing = self.label_smoothing
        losses = functional.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=smoothing)
        nonzero = torch.full_like(batch.labels, self.num_identities > 1, dtype=torch.bool)
        return Items(losses[batch.anchors], nonzero[batch.anchors])
