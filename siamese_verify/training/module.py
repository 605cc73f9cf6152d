"""The training step: one encoder over all images of a batch, a miner, an objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from siamese_verify.errors import InputError
from siamese_verify.evaluation import VerificationReport, all_pairs_report
from siamese_verify.losses.base import refuse_miner
from siamese_verify.pairwise import both_directions
from siamese_verify.structures import FaceBatch, Pairs, Triplets
from siamese_verify.training.distributed import gather_batch, gather_objects
from siamese_verify.training.log_figures import publish_validation

VALIDATION_TARGETS = (1e-1, 1e-2, 1e-3)
GEOMETRY_EVERY = 10  # steps between two looks at the distances within a batch

Miner = Callable[[Tensor, Tensor], Pairs | Triplets]


class VerificationModule(pl.LightningModule):
    """A Siamese network in training: the twins are rows of one batch, not second networks.

    Args:
        encoder: (N,3,S,S) uint8 images -> (N,D) embeddings.
        loss: called as `loss(embeddings, labels, tuples)`; parameters of its own are trained along. One that is not of
            `siamese_verify.losses` is given pairs and triplets as pytorch-metric-learning's miners return them: pairs
            both ways.
        miner: chooses pairs or triplets of a batch that comes without; None leaves all of them to the loss.
        optimizer: makes the optimizer from parameter groups.
        scheduler: makes the scheduler from the optimizer and the number of steps; None keeps the learning rate.
        configuration: the run's composed config, kept in every checkpoint and sent to the logger.

    Raises:
        InputError: a loss without a reduction, or one that cannot use what the miner chooses; when fitting, a schedule
            without an end, or another one than a resumed run's.

    Attributes:
        validation: report of the last validation, on people held out from training; its operating points go into the
            checkpoint, so that a checkpoint knows its thresholds.
    """

    def __init__(
        self,
        encoder: nn.Module,
        loss: nn.Module,
        miner: Miner | None,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        configuration: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if getattr(loss, "reduction", "") == "none":
            raise InputError("Training needs one number to descend, but loss.reduction is none: choose mean.")
        refuse_miner(type(loss), miner)
        self.save_hyperparameters(configuration or {})
        self.encoder = encoder
        self.loss = loss
        self.miner = miner
        self.seed = int((configuration or {}).get("seed", 0))
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.validation: VerificationReport | None = None
        self._planned_steps: float | None = None
        self._validation_rows: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Embed (N,3,S,S) images."""
        embeddings: Tensor = self.encoder(images)
        return embeddings

    def training_step(self, batch: FaceBatch, index: int) -> Tensor:
        """Return the loss of a batch: of all ranks' batches together, unless it brings its own pairs or triplets."""
        embeddings, labels, tuples = self(batch.images), batch.labels, batch.tuples  # (N,D)
        if tuples is None:
            embeddings, labels = gather_batch(embeddings, labels)
        elif isinstance(tuples, Pairs) and getattr(self.loss, "needs_negatives", False):
            raise InputError(
                f"{type(self.loss).__name__} lets an anchor choose among many partners, but pair feeding brings one: "
                f"set sampler=identity, or loss=contrastive."
            )
        # Every rank draws the same, and a resumed run what the uninterrupted one would have drawn.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(hash((self.seed, self.current_epoch, index)) % 2**63)
            if tuples is None and self.miner is not None:
                tuples = self.miner(embeddings.detach(), labels)
            loss, active = self._compare(embeddings, labels, tuples)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False, batch_size=len(labels))
        self._log_geometry(embeddings.detach(), active)
        return loss

    def _compare(
        self, embeddings: Tensor, labels: Tensor, tuples: Pairs | Triplets | None
    ) -> tuple[Tensor, Tensor | None]:
        objective: Any = self.loss
        if hasattr(objective, "measure"):  # ours: the share of active items comes with it
            loss, active = objective.measure(embeddings, labels, tuples)
            return loss, active
        return objective(embeddings, labels, for_others(tuples, len(labels))), None

    def _log_geometry(self, embeddings: Tensor, active: Tensor | None) -> None:
        if (self.global_step + 1) % GEOMETRY_EVERY:  # the steps that Lightning's loggers take
            return
        distance = torch.pdist(embeddings.float())  # (N(N-1)/2,)
        self.log("train/distance_mean", distance.mean())
        self.log("train/distance_spread", distance.std())
        if active is not None:
            self.log("train/fraction_nonzero", active)

    def validation_step(self, batch: FaceBatch, _: int) -> None:
        """Embed some of the validation photos."""
        self._validation_rows.append((F.normalize(self(batch.images).float()).cpu(), batch.labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Score every pair of the validation set, whichever rank embedded its photos, and log how well they verify."""
        embeddings = torch.cat([rows for rows, _ in self._validation_rows])  # (V,D) of this rank
        labels = torch.cat([rows for _, rows in self._validation_rows])  # (V,)
        self._validation_rows.clear()
        everyone = gather_objects((embeddings, labels))
        self.validation = all_pairs_report(
            torch.cat([rows for rows, _ in everyone]),
            torch.cat([rows for _, rows in everyone]),
            targets=VALIDATION_TARGETS,
            rank=self.global_rank,
            world_size=len(everyone),
            gather=gather_objects,
        )
        # The same on every rank: to average it could only round it.
        self.log("val/eer", self.validation.eer, prog_bar=True)
        self.log("val/auc", self.validation.auc, prog_bar=True)
        self.log("val/tar_at_far_1e-2", self.validation.operating_points[1].tar)
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            for logger in self.loggers:
                publish_validation(logger, self.validation, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the last validation measured beside the weights it was measured on."""
        checkpoint["validation"] = self.validation.to_metadata() if self.validation else None
        checkpoint["steps"] = self.trainer.estimated_stepping_batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember for how many steps the resumed run was planned."""
        self._planned_steps = checkpoint.get("steps")

    def on_train_epoch_start(self) -> None:
        """Forget the last validation: it was of other weights."""
        self.validation = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Decay the weights of matrices and kernels only: biases, norms and slopes are left alone."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        optimizer = self.make_optimizer([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])
        if self.make_scheduler is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise InputError("A schedule needs to know its end: set trainer.max_epochs, or scheduler=constant.")
        if self._planned_steps is not None and steps != self._planned_steps:
            raise InputError(
                f"The run was planned for {self._planned_steps} steps and would now have {steps}: its schedule cannot "
                "be stretched, so resume with the same trainer.max_epochs, or train with scheduler=constant."
            )
        scheduler = self.make_scheduler(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def for_others(tuples: Pairs | Triplets | None, anchors: int) -> tuple[Tensor, ...] | None:
    """Say it in the terms of pytorch-metric-learning: (a, p, n), or genuine pairs (a, p), then impostors (a, n).

    There a pair counts for its anchor, so ours are given both ways.

    Args:
        tuples: of a batch of `anchors` rows; what another library's miner returned is left as it is.
        anchors: rows of the batch.
    """
    if not isinstance(tuples, Pairs):
        return tuples
    anchor, other, same = both_directions(tuples, anchors)
    return anchor[same], other[same], anchor[~same], other[~same]
