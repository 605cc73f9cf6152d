"""MoCo v3: without a queue, each view predicts the momentum encoder's key of the other among those of the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.encoders import Encoder
from siamese_verify.losses.softmax import check_temperature
from siamese_verify.methods.heads import mlp
from siamese_verify.methods.method import Learner, Method, check_momentum, mean_over_ranks, products, unit_rows
from siamese_verify.methods.momentum import MomentumEncoder
from siamese_verify.pairwise.ranks import gather_rows, rank, sizes_of_ranks
from siamese_verify.structures import FaceBatch


class MoCoV3(Method):
    """MoCo v3: symmetric, negatives are the keys of the other images of all ranks' batches.

    Further keys of the query's own image, which several ranks can have in one step, are no negatives.

    Args:
        encoder: whose embeddings are projected.
        hidden_size: of projection and prediction head; 4096 in the paper.
        output_size: of both; 256 in the paper.
        temperature: divides the cosines; the loss is multiplied by twice of it, as in the paper's code.
        momentum: share of its weights that the momentum encoder keeps in the first step; it rises to 1 by a cosine.

    Raises:
        InputError: a momentum outside [0, 1]; a temperature that is too small; a size below 1.

    Chen, Xie & He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021, algorithm 1.
    """

    scheduled = True

    def __init__(
        self,
        encoder: Encoder,
        hidden_size: int = 512,
        output_size: int = 128,
        temperature: float = 0.2,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        check_momentum(momentum)
        check_temperature(temperature)
        self.projector = mlp((encoder.embedding_size, hidden_size, hidden_size, output_size), last_norm="fixed")
        self.predictor = mlp((output_size, hidden_size, output_size), last_norm="fixed")
        self.momentum_encoder = MomentumEncoder(encoder, self.projector)
        self.temperature, self.momentum = temperature, momentum

    def step(self, batch: FaceBatch, learner: Learner) -> Tensor:
        """See `Method.step`."""
        first, second = self.split(batch)
        rows = batch.rows
        assert rows is not None
        query_1, query_2 = (self.predictor(self.projector(learner.embed(view))) for view in (first, second))
        sizes = sizes_of_ranks(len(rows), rows.device)
        key_1, key_2 = (gather_rows(unit_rows(self.momentum_encoder(view)), sizes) for view in (first, second))  # (B,D)
        start = sum(sizes[: rank()])
        own = torch.arange(start, start + len(rows), device=rows.device)  # (N,)
        absent = rows[:, None] == gather_rows(rows, sizes)  # (N,B)
        absent.scatter_(1, own[:, None], False)
        return self.contrast(query_1, key_2, own, absent) + self.contrast(query_2, key_1, own, absent)

    def contrast(self, query: Tensor, keys: Tensor, own: Tensor, absent: Tensor) -> Tensor:
        """Loss of (N,D) queries, each of which finds key number `own` among (B,D) keys, but for (N,B) absent ones."""
        logits = (products(unit_rows(query), keys) / self.temperature).masked_fill(absent, -torch.inf)  # (N,B)
        return 2 * self.temperature * mean_over_ranks(F.cross_entropy(logits, own, reduction="none"))

    def after_step(self, encoder: nn.Module, progress: float) -> None:
        """Follow the encoder; m = 1 - (1 - momentum) (1 + cos(pi progress)) / 2."""
        momentum = 1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2
        self.momentum_encoder.update((encoder, self.projector), momentum)
