"""What happens beside the steps: hard negatives, reproducible epochs, a warning before a run is wasted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from siamese_verify.atomic_write import write_whole
from siamese_verify.structures import FaceBatch

log = logging.getLogger(__name__)
NEAR = 0.5  # mean distance of unit embeddings below which a loss at its margin is no coincidence


@runtime_checkable
class Refreshable(Protocol):
    """A sampler that looks at the current embeddings."""

    def update(self, embeddings: Tensor) -> None:
        """Take (N,D) embeddings of all training photos, in their order."""


class RefreshHardNegatives(pl.Callback):
    """Show the hard-mining sampler the current embeddings; any other sampler is left alone.

    Args:
        every_n_epochs: after each so many epochs.
        every_n_steps: also after each so many steps; the rest of the running epoch is dealt anew then.
    """

    def __init__(self, every_n_epochs: int = 1, every_n_steps: int | None = None) -> None:
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.last_step = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Refresh by steps."""
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0 and step != self.last_step:
            self.last_step = step  # a step of several accumulated batches ends with the first of the next
            self.refresh(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refresh by epochs."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self.refresh(trainer, pl_module)

    def refresh(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Embed all training photos, without augmentation, and update the sampler."""
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(getattr(data, "sampler", None), Refreshable):
            return
        loader: DataLoader[FaceBatch] = data.embedding_dataloader()
        training = pl_module.training
        pl_module.eval()
        with torch.inference_mode():
            embeddings = [pl_module(batch.images.to(pl_module.device)).float().cpu() for batch in loader]
        pl_module.train(training)
        # Ranks may differ in their batch norms' statistics, but must find the same neighbours.
        data.sampler.update(trainer.strategy.broadcast(torch.cat(embeddings)))


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which brings the best epoch so far along when a run is resumed in a new folder."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy the earlier best, so that later epochs are measured against it."""
        earlier = Path(state_dict["best_model_path"])
        if self.dirpath and earlier.is_file() and earlier.parent.resolve() != Path(self.dirpath).resolve():
            copy = Path(self.dirpath) / earlier.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_whole(copy, earlier.read_bytes())
            state_dict = {
                **state_dict,
                "dirpath": self.dirpath,
                "best_model_path": str(copy),
                "kth_best_model_path": str(copy),
                "best_k_models": {str(copy): state_dict["best_model_score"]},
                "last_model_path": "",
            }
        super().load_state_dict(state_dict)


class ReseedEachBatch(pl.Callback):
    """Make every step depend on (seed, epoch, rank, batch) alone, so that a resumed run goes on as if never stopped.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the loader off torch's generator: in a resumed run it would draw before the reseeding, else after."""
        loader: Any = trainer.train_dataloader
        loader.generator = torch.Generator().manual_seed(self.seed)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch's generator, which dropout draws from; augmentation has seeds of its own."""
        torch.manual_seed(hash((self.seed, trainer.current_epoch, trainer.global_rank, batch_idx)) % 2**63)


class CollapseMonitor(pl.Callback):
    """Say in words when all embeddings are becoming one point.

    Args:
        spread: standard deviation of the embedding distances below which they count as one point; unit embeddings
            of a healthy model lie around 1.4 apart with a spread of 0.1 and more.
        patience: epochs in a row before it speaks, once a run.
    """

    def __init__(self, spread: float = 0.01, patience: int = 2) -> None:
        self.spread = spread
        self.patience = patience
        self.epochs = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the epoch's last figures."""
        metrics = trainer.callback_metrics
        signs = []
        if "train/distance_spread" in metrics:
            spread, mean = float(metrics["train/distance_spread"]), float(metrics["train/distance_mean"])
            if spread < self.spread and mean < 10 * self.spread:
                signs.append(f"the embeddings lie {mean:.4f} apart with a spread of {spread:.4f}")
            stuck, loss = getattr(pl_module.loss, "collapsed_loss", None), float(metrics["train/loss"])
            if stuck and abs(loss - stuck) < 0.02 * stuck and mean < NEAR:
                signs.append(f"the loss is stuck at the {stuck:g} that its margin gives to equal embeddings")
        self.epochs = self.epochs + 1 if signs else 0
        if self.epochs == self.patience:
            log.warning(
                "The model seems to be collapsing, all faces to one point: %s for %d epochs. Lower the learning rate, "
                "mine less hard triplets (miner=semi_hard), or train the first epochs on all of them.",
                " and ".join(signs),
                self.epochs,
            )
