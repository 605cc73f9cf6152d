"""Instance discrimination: each image is a class of its own, whose weight is its vector in a memory bank."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.encoders import Encoder
from siamese_verify.losses import nce_loss
from siamese_verify.losses.softmax import check_temperature
from siamese_verify.methods.memory_bank import MemoryBank
from siamese_verify.methods.method import Learner, Method, gather_without_gradient, mean_over_ranks, products, unit_rows
from siamese_verify.pairwise.blocks import copied_ahead
from siamese_verify.samplers.epoch import check_whole
from siamese_verify.structures import FaceBatch


class InstanceDiscrimination(Method):
    """Wu et al.'s softmax over all images of the training set, by noise-contrastive estimation or as it is.

    A step draws its negatives once, for all images of all ranks' batches; the paper draws some for each image.

    Args:
        encoder: whose embeddings are projected by one linear layer.
        images: of the training set.
        output_size: of the projection, and of the bank.
        negatives: vectors of the bank that are drawn in each step, with repetition; None = the full softmax.
        temperature: divides the cosines.
        momentum: of the bank, see `MemoryBank`.
        proximal: weight of the squared distance between an image's embedding and its vector in the bank, which damps
            the changes from epoch to epoch.

    Raises:
        InputError: see `MemoryBank`; a temperature that is too small; negatives below 1.

    Wu, Xiong, Yu & Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, eq. 2
    (full softmax), 4 to 8 (NCE) and 9 (proximal regularization).
    """

    views = (1, 1)

    def __init__(
        self,
        encoder: Encoder,
        images: int,
        output_size: int = 128,
        negatives: int | None = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
        proximal: float = 0.0,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        if negatives is not None:
            check_whole(negatives=(negatives, 1))
        self.bank = MemoryBank(images, output_size, momentum)
        self.head = nn.Linear(encoder.embedding_size, output_size)
        self.negatives, self.temperature, self.proximal = negatives, temperature, proximal
        self.log_normalizer: Tensor | float | None = None  # log Z, estimated in the first step

    def step(self, batch: FaceBatch, learner: Learner) -> Tensor:
        """See `Method.step`."""
        (images,) = self.split(batch)
        assert batch.rows is not None
        embedding = unit_rows(self.head(learner.embed(images)))  # (N,D)
        own = self.bank[batch.rows].to(embedding)
        if self.negatives is None:
            logits = products(embedding, self.bank.vectors) / self.temperature
            losses = F.cross_entropy(logits, batch.rows, reduction="none")
        else:
            drawn = torch.randint(len(self.bank), (self.negatives,), generator=learner.generator())
            noise = self.bank[copied_ahead(drawn, batch.rows.device)]  # (K,D)
            positive = torch.linalg.vecdot(embedding, own) / self.temperature
            losses = self.nce(positive, products(embedding, noise) / self.temperature)
        losses = losses + self.proximal * (embedding - own).square().sum(dim=1)
        self.bank.update(*gather_without_gradient(batch.rows, embedding))
        return mean_over_ranks(losses)

    def nce(self, positive: Tensor, negatives: Tensor) -> Tensor:
        """(N,) losses of (N,) logits of the images' own vectors and (N,K) logits of K vectors drawn from N images.

        P(i|v) = exp(v_i f / t) / Z is compared with K times the noise's density 1 / N. Z is estimated in the first
        step, as N times the mean of exp(v_k f / t) over everything drawn, and constant from then on (eq. 8).
        """
        if self.log_normalizer is None:
            mean = mean_over_ranks(negatives.detach().double().exp().mean(dim=1))
            self.log_normalizer = math.log(len(self.bank)) + mean.log()
        odds = self.log_normalizer + math.log(negatives.shape[1] / len(self.bank))  # log Z K / N
        return nce_loss(positive - odds, negatives - odds)

    def get_extra_state(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"log_normalizer": self.log_normalizer if self.log_normalizer is None else float(self.log_normalizer)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint."""
        self.log_normalizer = state["log_normalizer"]
