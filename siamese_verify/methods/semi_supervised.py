"""Semi-supervised learning: a few labeled identities, and many images of anyone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError
from siamese_verify.losses import BatchLoss, NTXentLoss, QueryLoss
from siamese_verify.losses.softmax import check_temperature
from siamese_verify.methods.heads import mlp
from siamese_verify.methods.method import Learner, Method, check_momentum, gather_without_gradient, products, unit_rows
from siamese_verify.pairwise.blocks import copied_ahead
from siamese_verify.pairwise.ranks import add_ranks_
from siamese_verify.samplers import UNLABELED, SemiSupervisedSampler
from siamese_verify.structures import FaceBatch


class SemiSupervised(Method):
    """The configured loss on labeled images, and a contrastive loss, pseudo-labels or both on the others.

    - The configured loss and miner get the embeddings of all views of the labeled images.
    - All views of an image without label are alike, and unlike those of the others of the batch: `contrastive`, behind
      a projection head.
    - Each labeled identity has a centroid, a moving average of its embeddings. An image without label whose first view
      has a softmax probability of at least `threshold` for the nearest centroid joins the labeled images with that
      pseudo-label. `train/pseudo_label_share` is the share of images that got one, and `train/pseudo_label_accuracy`
      the share of those that are right, where the identity is known after all (its label is not -1).

    Args:
        encoder: whose embeddings are compared.
        identities: I, with labels, numbered 0 ... I - 1.
        contrastive: loss over images without label; None = NT-Xent with a temperature of 0.5.
        contrastive_weight: its weight; 0 leaves it out.
        threshold: probability from which a pseudo-label counts, in (0, 1]; None = no pseudo-labels.
        temperature: divides the cosines with the centroids, before the softmax.
        momentum: share of a centroid that is kept in a step.
        hidden_size: of the projection head.
        output_size: of the projection head.

    Raises:
        InputError: a number out of range; neither a contrastive loss nor pseudo-labels; a contrastive loss without a
            reduction, or one that cannot compare the rows of several processes.

    Pseudo-labels: Lee, "Pseudo-Label", ICML Workshop 2013; their threshold on the probability: Sohn et al.,
    "FixMatch", NeurIPS 2020, eq. 4. Here a softmax over centroids takes the place of a classifier, and the guess comes
    from a view that is augmented like the others and trained on that guess itself; FixMatch guesses from a weakly
    augmented view and trains a strongly augmented one.
    """

    views = (2, torch.inf)
    sampler = SemiSupervisedSampler
    instead = "set a loss for labeled identities, such as loss=triplet"
    takes_miner = True
    centroids: Tensor

    def __init__(
        self,
        encoder: Encoder,
        identities: int,
        contrastive: BatchLoss | None = None,
        contrastive_weight: float = 1.0,
        threshold: float | None = None,
        temperature: float = 0.1,
        momentum: float = 0.9,
        hidden_size: int = 512,
        output_size: int = 128,
    ) -> None:
        super().__init__()
        if threshold is not None and not 0 < threshold <= 1:
            raise InputError(f"threshold is {threshold}, but is a probability above 0 and at most 1, or null.")
        check_temperature(temperature)
        check_momentum(momentum)
        if not contrastive_weight and threshold is None:
            raise InputError(
                "Images without labels are used by contrastive_weight or threshold: set one of them, or "
                "method=supervised datamodule.unlabeled=false."
            )
        contrastive = contrastive or NTXentLoss(0.5)
        if not (isinstance(contrastive, BatchLoss) and contrastive.compares_rows):
            raise InputError(
                "The loss over images without label compares the rows of a batch and knows those of each process, "
                f"which {type(contrastive).__name__} does not: set method.contrastive to another loss of ours, such as "
                "NTXentLoss."
            )
        if contrastive.reduction == "none":
            raise InputError("Training needs a scalar loss, but method.contrastive.reduction is none: set it to mean.")
        self.contrastive = contrastive
        self.weight, self.threshold = contrastive_weight, threshold
        self.temperature, self.momentum = temperature, momentum
        sizes = (encoder.embedding_size, hidden_size, output_size)
        self.head = mlp(sizes, last_norm="trained") if contrastive_weight else None
        self.register_buffer("centroids", torch.zeros(identities, encoder.embedding_size))  # 0 = not seen yet

    @classmethod
    def accepts(cls, loss: type[nn.Module] | None) -> bool:
        """Whether a loss takes labels."""
        return loss is not None and not issubclass(loss, QueryLoss)

    def step(self, batch: FaceBatch, learner: Learner) -> Tensor:
        """See `Method.step`."""
        views = len(self.split(batch))
        if batch.rows is None or batch.labeled is None:
            raise InputError("SemiSupervised needs images without labels: set datamodule.unlabeled=true.")
        embeddings = learner.embed(batch.images)  # (V*N,D)
        # From a mask on a GPU the CPU would wait for how many there are.
        places = [one.repeat(views).nonzero()[:, 0] for one in (batch.labeled, ~batch.labeled)]
        labeled, unlabeled = (copied_ahead(place, embeddings.device) for place in places)
        known, others = embeddings[labeled], embeddings[unlabeled]
        labels, first = batch.labels[labeled], unlabeled[: len(others) // views]
        if self.threshold is not None:
            self.follow(known, labels)
            guesses, confident = self.guess(embeddings[first], batch.labels[first], learner)
            chosen = confident.repeat(views)
            known, labels = torch.cat([known, others[chosen]]), torch.cat([labels, guesses.repeat(views)[chosen]])
        loss = learner.compare(known, labels)
        if self.head is not None:
            projected, rows = unit_rows(self.head(others)), batch.rows[first].repeat(views)
            loss = loss + self.weight * learner.compare(projected, rows, loss=self.contrastive)
        return loss

    @torch.no_grad()
    def follow(self, embeddings: Tensor, labels: Tensor) -> None:
        """Move the centroids of the labeled identities of all ranks towards the mean of their (N,D) embeddings."""
        rows, numbers = gather_without_gradient(unit_rows(embeddings), labels)
        sums = torch.zeros_like(self.centroids).index_add_(0, numbers, rows.to(self.centroids))
        counts = sums.new_zeros(len(sums), 1).index_add_(0, numbers, sums.new_ones(len(rows), 1))
        kept = self.momentum * self.centroids.ne(0).any(dim=1, keepdim=True).to(self.centroids)  # 0 for the first ones
        moved = kept * self.centroids + (1 - kept) * sums / counts.clamp(min=1)
        self.centroids.copy_(torch.where(counts > 0, moved, self.centroids))

    @torch.no_grad()
    def guess(self, embeddings: Tensor, truth: Tensor, learner: Learner) -> tuple[Tensor, Tensor]:
        """(N,) nearest identities of (N,D) embeddings, and (N,) whether they are confident enough."""
        assert self.threshold is not None
        logits = products(unit_rows(embeddings), unit_rows(self.centroids)) / self.temperature  # (N,I)
        seen = self.centroids.ne(0).any(dim=1)
        probability, guesses = logits.masked_fill(~seen, -torch.inf).softmax(dim=1).max(dim=1)
        confident = probability >= self.threshold
        right, told = confident & (guesses == truth), confident & (truth != UNLABELED)
        counts = torch.stack([confident.sum(), torch.ones_like(guesses).sum(), right.sum(), told.sum()])
        given, images, correct, known = add_ranks_(counts.double()).tolist()
        learner.log("train/pseudo_label_share", given / max(images, 1))
        if known:
            learner.log("train/pseudo_label_accuracy", correct / known)
        return guesses, confident
