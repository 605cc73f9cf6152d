"""MoCo: a view of an image finds the other one among a queue of keys of past images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from siamese_verify.encoders import Encoder
from siamese_verify.losses import EmbeddingQueue, InBatchNegatives, QueryLoss
from siamese_verify.losses.base import Items, reduce_totals, sum_items
from siamese_verify.methods.heads import mlp
from siamese_verify.methods.method import Learner, Method, check_momentum, gather_without_gradient, unit_rows
from siamese_verify.methods.momentum import MomentumEncoder
from siamese_verify.pairwise.blocks import copied_ahead
from siamese_verify.structures import FaceBatch


class MoCo(Method):
    """MoCo v2: queries of the encoder, keys of its momentum encoder, and a queue of past keys as negatives.

    The first view of an image is the query, the second one its key. The queue is empty at first, so that the first
    step has no negatives: by InfoNCE it learns nothing. Keys of images that the batch holds too are no negatives: a
    queue that is no shorter than the data set has other views of the queries themselves. Keys of all ranks join the
    queue in the order of the ranks.

    Args:
        encoder: whose embeddings are projected.
        hidden_size: of the projection head.
        output_size: of the projection head.
        queue_size: keys to keep; 65,536 in the paper.
        momentum: share of its weights that the momentum encoder keeps in a step; 0.999 in the paper.

    Raises:
        InputError: a momentum outside [0, 1]; see also `EmbeddingQueue`.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, algorithm 1, with the
    projection head of Chen, Fan, Girshick & He, "Improved Baselines with Momentum Contrastive Learning", 2020.
    """

    instead = "set loss=info_nce or nce"

    def __init__(
        self,
        encoder: Encoder,
        hidden_size: int = 512,
        output_size: int = 128,
        queue_size: int = 4096,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        check_momentum(momentum)
        self.head = mlp((encoder.embedding_size, hidden_size, output_size), norm=False)
        self.momentum_encoder = MomentumEncoder(encoder, self.head)
        self.queue = EmbeddingQueue(queue_size)
        self.momentum = momentum

    @classmethod
    def accepts(cls, loss: type[nn.Module] | None) -> bool:
        """Whether a loss compares queries with a positive and negatives."""
        return loss is not None and issubclass(loss, QueryLoss | InBatchNegatives)

    def step(self, batch: FaceBatch, learner: Learner) -> Tensor:
        """See `Method.step`."""
        first, second = self.split(batch)
        assert batch.rows is not None
        query = self.head(learner.embed(first))  # (N,D)
        key = unit_rows(self.momentum_encoder(second))  # (N,D)
        keys, rows = gather_without_gradient(key, batch.rows)
        negatives, absent = key[:0], None
        if len(self.queue):
            # A checkpoint's queue is on the CPU.
            negatives, labels = (copied_ahead(one, rows.device) for one in (self.queue.embeddings, self.queue.labels))
            absent = is_among(labels, rows)
        self.queue.enqueue(keys, rows)
        learner.log("train/queue_age", len(self.queue) / len(keys))  # steps, of the oldest key
        return query_loss(learner.loss, query, key, negatives, absent)

    def after_step(self, encoder: nn.Module, progress: float) -> None:
        """See `Method.after_step`."""
        self.momentum_encoder.update((encoder, self.head), self.momentum)


def is_among(numbers: Tensor, others: Tensor) -> Tensor:
    """(K,) whether each of (K,) integers is one of (N,), N >= 1, for which `torch.isin` would wait for a GPU."""
    ordered = others.sort().values
    return ordered[torch.searchsorted(ordered, numbers).clamp(max=len(ordered) - 1)] == numbers


def query_loss(
    loss: QueryLoss | InBatchNegatives, query: Tensor, positive: Tensor, negatives: Tensor, absent: Tensor | None
) -> Tensor:
    """Reduced loss of the queries of all ranks together; arguments as in `QueryLoss.items`."""
    objective = loss.objective if isinstance(loss, InBatchNegatives) else loss
    items = Items.from_losses(objective.items(query, positive, negatives, absent))
    return reduce_totals(sum_items(items).over_ranks(), objective.reduction)
