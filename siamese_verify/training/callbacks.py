"""Lightning callbacks: hard negatives, checkpoints, averaged weights, reproducible steps, a warning of collapse."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.structures import FaceBatch

log = logging.getLogger(__name__)
OUTPUT_SPREAD, OUTPUT_RANK = 0.1, 2.0  # of a method's outputs; 1 and many where they differ
ADVICE_LABELS = (
    "Lower the learning rate, mine less hard triplets (miner=semi_hard), or train the first epochs on all of them."
)
ADVICE_VIEWS = "Lower the learning rate, or set a larger batch (sampler.images) or a method with negatives."
CLOSE = 0.5  # mean distance of unit embeddings below which a loss at its collapsed value is no coincidence


class RefreshHardNegatives(pl.Callback):
    """Give current embeddings to a sampler that mines hard negatives: one that has an `update` method.

    Args:
        every_n_epochs: epochs between updates.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Embed all training photos without augmentation and update the sampler."""
        data: Any = getattr(trainer, "datamodule", None)
        update = getattr(getattr(data, "sampler", None), "update", None)
        if update is None or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        loader: DataLoader[FaceBatch] = data.embedding_dataloader()
        training = pl_module.training
        pl_module.eval()
        with torch.inference_mode():
            embeddings = [pl_module(batch.images.to(pl_module.device)).float() for batch in loader]
        pl_module.train(training)
        found = torch.cat(embeddings)  # on its device, where neighbors are found too
        if trainer.world_size > 1:  # the batch norms of ranks may differ, but all ranks must find the same neighbors
            found = trainer.strategy.broadcast(found.cpu()).to(pl_module.device)
        update(found)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint whose best checkpoint so far comes along when a run is resumed in another folder."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best checkpoint so far from this folder, or copy it here: later epochs are compared with it."""
        earlier = Path(state_dict["best_model_path"])
        here = Path(self.dirpath or earlier.parent) / earlier.name
        if here.resolve() != earlier.resolve():
            if earlier.is_file():
                here.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(here, earlier.read_bytes())
            if here.is_file():  # else the run was moved without it
                state_dict = {
                    **state_dict,
                    "dirpath": self.dirpath,
                    "best_model_path": str(here),
                    "kth_best_model_path": str(here),
                    "best_k_models": {str(here): state_dict["best_model_score"]},
                    "last_model_path": "",
                }
        super().load_state_dict(state_dict)


class MovingWeightAveraging(WeightAveraging):
    """Exponential moving average of the weights, which is validated, saved and bundled in their place.

    After the first step the average is the weights; after each further one a share `decay` of it is kept, and the rest
    is that of the new weights. What did not change stays bit for bit, such as frozen layers; counts are not averaged.

    Args:
        decay: in [0, 1); the average is over about the last 1 / (1 - decay) steps.

    Raises:
        InputError: decay is out of range.

    Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM Journal on Control and Optimization
    1992, with exponential weights.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"callbacks.ema.decay is {decay}, but is a share in 0 ... 1 and below 1, such as 0.999.")
        super().__init__()
        self.decay = decay

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep the average where the model will be: Lightning would leave it on the CPU, and copy it in each step."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average after a step of the optimizer; torch's own update would wait for the GPU to count."""
        if trainer.global_step <= self._latest_update_step:
            return
        assert self._average_model is not None
        followed = [*pl_module.parameters(), *pl_module.buffers()]
        own = [*self._average_model.module.parameters(), *self._average_model.module.buffers()]
        share = 1 - self.decay if self._latest_update_step else 1.0  # the first average is the weights
        follow(own, followed, share)
        self._average_model.n_averaged += 1
        self._latest_update_step = trainer.global_step


@torch.no_grad()
def follow(averages: Sequence[Tensor], current: Sequence[Tensor], share: float) -> None:
    """Move averages by a share towards the current values; what is no floating-point number becomes the current one."""
    moved: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for average, now in zip(averages, current, strict=True):
        if share == 1 or not average.is_floating_point():
            average.copy_(now)
        else:
            mine, theirs = moved.setdefault(average.dtype, ([], []))
            mine.append(average)
            theirs.append(now)
    for mine, theirs in moved.values():
        torch._foreach_lerp_(mine, theirs, share)


class ReseedEachBatch(pl.Callback):
    """Seed torch's generator, which dropout draws from, for each step: by seed, epoch, rank and batch alone.

    A resumed run then draws what the uninterrupted run would have drawn. Augmentation has seeds of its own.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch's generator."""
        seed = hash((self.seed, trainer.current_epoch, trainer.global_rank, batch_idx)) % 2**63
        if torch.cuda.is_available() or torch.backends.mps.is_available():
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would note it for each kind of device


class CollapseMonitor(pl.Callback):
    """Warn, once a run, that all embeddings are becoming one point.

    Args:
        spread: standard deviation of the embedding distances below which they count as one point; unit embeddings of a
            healthy model are around 1.4 apart, with a standard deviation of 0.1 and more.
        patience: epochs in a row before the warning.
    """

    def __init__(self, spread: float = 0.01, patience: int = 2) -> None:
        self.spread = spread
        self.patience = patience
        self.epochs = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the last metrics of the epoch with those of a collapse."""
        metrics = trainer.callback_metrics
        signs = []
        if "train/distance_spread" in metrics:
            spread, mean = float(metrics["train/distance_spread"]), float(metrics["train/distance_mean"])
            if spread < self.spread and mean < 10 * self.spread:
                signs.append(f"the embeddings lie {mean:.4f} apart with a spread of {spread:.4f}")
            collapsed, loss = getattr(pl_module.loss, "collapsed_loss", None), float(metrics["train/loss"])
            if collapsed and abs(loss - collapsed) < 0.02 * collapsed and mean < CLOSE:
                signs.append(f"the loss is stuck at the {collapsed:g} that its margin gives to equal embeddings")
        if "train/output_spread" in metrics:
            spread, rank = float(metrics["train/output_spread"]), float(metrics["train/output_rank"])
            if spread < OUTPUT_SPREAD or rank < OUTPUT_RANK:
                signs.append(f"the outputs have {spread:.3f} of the spread of all directions and a rank of {rank:.1f}")
        self.epochs = self.epochs + 1 if signs else 0
        if self.epochs == self.patience:
            log.warning(
                "The model seems to be collapsing, all faces to one point: %s for %d epochs. %s",
                " and ".join(signs),
                self.epochs,
                ADVICE_LABELS if getattr(pl_module, "method", None) is None else ADVICE_VIEWS,
            )
