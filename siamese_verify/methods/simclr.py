"""SimCLR: all views of an image are alike, and unlike the views of all other images of the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from siamese_verify.encoders import Encoder
from siamese_verify.losses import QueryLoss
from siamese_verify.methods.heads import mlp
from siamese_verify.methods.method import Learner, Method
from siamese_verify.samplers.epoch import check_whole
from siamese_verify.structures import FaceBatch


class SimCLR(Method):
    """A loss over a batch, with each image as an identity of its own, on embeddings behind a projection head.

    Any number of views: with two and `NTXentLoss` the loss of the paper, with more each ordered pair of views is a
    positive pair, crops of a part of the image (`datamodule.local_views`) among them.

    Args:
        encoder: whose embeddings are projected.
        hidden_size: of the projection head.
        output_size: of the projection head.
        layers: linear layers of the projection head: 2 in the paper, 3 in its second version.

    Raises:
        InputError: a size or number of layers below 1.

    Chen, Kornblith, Norouzi & Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML
    2020, algorithm 1.
    """

    views = (2, torch.inf)
    instead = "set loss=nt_xent"
    takes_miner = True

    def __init__(self, encoder: Encoder, hidden_size: int = 512, output_size: int = 128, layers: int = 2) -> None:
        super().__init__()
        check_whole(layers=(layers, 1))
        sizes = (encoder.embedding_size, *[hidden_size] * (layers - 1), output_size)
        self.head = mlp(sizes, last_norm="trained")

    @classmethod
    def accepts(cls, loss: type[nn.Module] | None) -> bool:
        """Whether a loss compares the rows of a batch with each other."""
        return loss is not None and getattr(loss, "compares_rows", True) and not issubclass(loss, QueryLoss)

    def step(self, batch: FaceBatch, learner: Learner) -> Tensor:
        """See `Method.step`."""
        views = self.split(batch)
        assert batch.rows is not None
        projected: Tensor = self.head(learner.embed(batch.images))  # (V*N,D)
        return learner.compare(projected, batch.rows.repeat(len(views)))
