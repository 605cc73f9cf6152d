"""SimSiam: each view predicts the other, whose gradient is stopped; there are no negatives."""

from __future__ import annotations

import math
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F

from siamese_verify.encoders import Encoder
from siamese_verify.evaluation.representation import effective_rank
from siamese_verify.methods.heads import mlp
from siamese_verify.methods.method import Learner, Method, mean_over_ranks, unit_rows
from siamese_verify.structures import FaceBatch


class SimSiam(Method):
    """Negative cosine of the prediction from one view and the projection of another, over all ordered pairs of views.

    Nothing keeps different images apart but the stopped gradient and the predictor, so it is logged how far the outputs
    of the projection head are from one point (`train/output_spread`, see `output_spread`) and from one line
    (`train/output_rank`, their effective rank); `CollapseMonitor` warns of both.

    Args:
        encoder: whose embeddings are projected.
        hidden_size: of the projection head; 2048 in the paper.
        output_size: of both heads; 2048 in the paper.
        bottleneck: hidden size of the prediction head, a quarter of the output in the paper.

    Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021, algorithm 1.
    """

    views = (2, torch.inf)

    def __init__(self, encoder: Encoder, hidden_size: int = 512, output_size: int = 512, bottleneck: int = 128) -> None:
        super().__init__()
        self.projector = mlp((encoder.embedding_size, hidden_size, hidden_size, output_size), last_norm="fixed")
        self.predictor = mlp((output_size, bottleneck, output_size))

    def step(self, batch: FaceBatch, learner: Learner) -> Tensor:
        """See `Method.step`."""
        projected = [self.projector(learner.embed(view)) for view in self.split(batch)]  # (N,D) each
        predicted = [self.predictor(view) for view in projected]
        if learner.logs_figures:
            outputs = projected[0].detach()
            learner.log("train/output_spread", output_spread(outputs))
            learner.log("train/output_rank", effective_rank(outputs.float().cpu())[0])
        pairs = [*permutations(range(len(projected)), 2)]
        losses = [negative_cosine(predicted[a], projected[b].detach()) for a, b in pairs]
        return mean_over_ranks(torch.stack(losses).mean(dim=0))


def negative_cosine(predicted: Tensor, projected: Tensor) -> Tensor:
    """(N,) losses of (N,D) rows: minus their cosine, in [-1, 1]."""
    return -F.cosine_similarity(predicted, projected)


def output_spread(outputs: Tensor) -> Tensor:
    """Standard deviation of the coordinates of normalized (N,D) outputs, times the root of D.

    Near 1 for outputs in all directions, 0 for outputs in one (Chen & He 2021, section 4.1).
    """
    deviations: Tensor = unit_rows(outputs).std(dim=0, correction=0)  # (D,)
    return deviations.mean() * math.sqrt(outputs.shape[1])
