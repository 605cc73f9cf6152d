from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from siamese_verify.data import FaceDataModule
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import SmallResNet
from siamese_verify.losses import ContrastiveLoss, TripletLoss
from siamese_verify.miners import BatchHard
from siamese_verify.samplers import IdentityBatchSampler
from siamese_verify.samplers.epoch import EpochSampler
from siamese_verify.structures import Crop, FaceBatch
from siamese_verify.training import (
    BestCheckpoint,
    CollapseMonitor,
    RefreshHardNegatives,
    ReseedEachBatch,
    VerificationModule,
)

STEPS = 10  # of an epoch: as often as the geometry is looked at


class Batches(Dataset[FaceBatch]):
    """The same people in every batch."""

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, row: int) -> FaceBatch:
        images = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(row))
        return FaceBatch(images, torch.arange(4).repeat_interleave(2), None)


class Point(nn.Module):
    """All embeddings are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.ones(1, 5))

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.point).expand(len(images), -1)


class Flat(nn.Module):
    """Pixels as embeddings: far apart, nothing learned."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(48))

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(images.flatten(1) * self.scale)


class StuckLoss(nn.Module):
    """A loss that stays at its margin."""

    margin = 0.2

    def forward(self, embeddings: Tensor, labels: Tensor, tuples: Any) -> Tensor:
        return self.margin + 0 * embeddings.sum()


def warnings_of(encoder: nn.Module, loss: nn.Module, epochs: int, log: pytest.LogCaptureFixture) -> list[str]:
    module = VerificationModule(encoder, loss, None, lambda groups: torch.optim.SGD(groups, lr=1e-4))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[CollapseMonitor()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with log.at_level(logging.WARNING, logger="siamese_verify"):
        trainer.fit(module, DataLoader(Batches(), batch_size=None))
    return [record.getMessage() for record in log.records if record.name == "siamese_verify.training.callbacks"]


def test_a_collapse_is_warned_of_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of(Point(), TripletLoss(), 4, caplog)
    assert "collapsing, all faces to one point" in message
    assert "the embeddings lie 0.0000 apart with a spread of 0.0000" in message
    assert "the loss is stuck at the 0.2 that its margin gives to equal embeddings" in message
    assert "for 2 epochs" in message
    assert "Lower the learning rate" in message


def test_a_loss_at_its_margin_is_no_collapse_while_the_embeddings_lie_apart(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(Flat(), StuckLoss(), 4, caplog) == []


@pytest.mark.parametrize("loss", [TripletLoss(soft=True), ContrastiveLoss(1.2, reduction="mean_nonzero")])
def test_losses_know_their_value_at_collapse(loss: TripletLoss | ContrastiveLoss) -> None:
    labels = torch.arange(3).repeat_interleave(2)
    assert float(loss(torch.ones(6, 4), labels)) == pytest.approx(loss.collapsed_loss)


def test_one_bad_epoch_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(Point(), TripletLoss(), 1, caplog) == []


def test_a_healthy_model_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(Flat(), TripletLoss(), 4, caplog) == []


class RecordingSampler(IdentityBatchSampler):
    """Keeps the embeddings of its updates."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(identities_per_batch=3, samples_per_identity=2, **arguments)
        self.updates: list[Tensor] = []

    def update(self, embeddings: Tensor) -> None:
        self.updates.append(embeddings)


class Watched(SmallResNet):
    """Keeps whether it was in training mode, for each batch."""

    def __init__(self) -> None:
        super().__init__(size=16, width=4, embedding_size=8, dropout=0.5, crop=Crop("whole"))
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        return super().forward(images)


def flip_everything(image: Tensor) -> Tensor:
    return 255 - image


def refreshed(
    sampler: type[EpochSampler[Any]], callback: RefreshHardNegatives, epochs: int
) -> tuple[Any, Any, list[bool]]:
    """Train, and return the data module, the encoder, and whether each epoch began in training mode."""
    encoder = Watched()
    data = FaceDataModule(SyntheticFaces(8, 3, 16), encoder.input_spec, sampler, flip_everything, workers=0)
    modes: list[bool] = []

    class Modes(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            modes.append(pl_module.training and encoder.training)

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            modes.append(pl_module.training and encoder.training)

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[callback, Modes()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = VerificationModule(encoder, TripletLoss(), BatchHard(), lambda g: torch.optim.SGD(g, lr=0.1))
    trainer.fit(module, datamodule=data)
    return data, encoder, modes


def test_a_sampler_is_updated_with_all_training_photos_in_order_as_in_evaluation() -> None:
    data, encoder, modes = refreshed(RecordingSampler, RefreshHardNegatives(), epochs=2)
    assert len(data.sampler.updates) == 2
    encoder.eval()
    with torch.no_grad():
        expected = encoder(data.train_set.faces[range(len(data.train_set))])  # as they are: without augmentation
    assert torch.equal(data.sampler.updates[-1], expected)
    assert not torch.equal(data.sampler.updates[0], expected)
    assert modes
    assert all(modes)


def test_a_sampler_can_be_updated_every_other_epoch() -> None:
    data, _, _ = refreshed(RecordingSampler, RefreshHardNegatives(every_n_epochs=2), epochs=3)
    assert len(data.sampler.updates) == 1


def test_a_sampler_without_update_costs_no_pass_over_the_photos() -> None:
    class PlainSampler(IdentityBatchSampler):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(identities_per_batch=3, samples_per_identity=2, **arguments)

    data, encoder, _ = refreshed(PlainSampler, RefreshHardNegatives(), epochs=2)
    assert encoder.modes.count(True) == 2 * len(data.sampler)
    assert encoder.modes.count(False) == 2  # the two validations


def first_numbers(seed: int, epoch: int, rank: int, batch: int) -> list[float]:
    class Trainer:
        current_epoch, global_rank = epoch, rank

    reseed: Any = ReseedEachBatch(seed)
    reseed.on_train_batch_start(Trainer(), None, None, batch)
    numbers: list[float] = torch.rand(4).tolist()
    return numbers


def test_every_seed_epoch_rank_and_batch_has_numbers_of_its_own_and_the_same_again() -> None:
    places = list(itertools.product((0, 1), repeat=4))
    found = [first_numbers(*place) for place in places]
    torch.rand(7)
    assert found == [first_numbers(*place) for place in places]
    assert len({tuple(numbers) for numbers in found}) == 16


@pytest.mark.parametrize("moved", [False, True], ids=["copied", "moved with the run"])
def test_the_best_checkpoint_so_far_comes_along(moved: bool, tmp_path: Path) -> None:
    earlier, here = tmp_path / "earlier" / "best.ckpt", tmp_path / "here" / "best.ckpt"
    for path in (earlier, here):
        path.parent.mkdir()
    (here if moved else earlier).write_bytes(b"weights")
    state = BestCheckpoint(earlier.parent, monitor="val/eer").state_dict()
    best = {"best_model_path": str(earlier), "best_model_score": torch.tensor(0.1), "kth_best_model_path": str(earlier)}
    callback = BestCheckpoint(here.parent, monitor="val/eer")
    callback.load_state_dict({**state, **best, "best_k_models": {str(earlier): torch.tensor(0.1)}})
    assert callback.best_model_path == callback.kth_best_model_path == str(here)
    assert callback.best_k_models == {str(here): torch.tensor(0.1)}
    assert here.read_bytes() == b"weights"
