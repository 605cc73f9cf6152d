from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import DataLoader, Dataset

from siamese_verify.encoders import MirroredEncoder, Perceptron, SmallResNet, Towers
from siamese_verify.errors import InputError
from siamese_verify.evaluation import measure_representation, verification_report
from siamese_verify.losses import (
    AdaFaceLoss,
    ArcFaceLoss,
    ContrastiveLoss,
    CrossBatchMemory,
    InBatchNegatives,
    MagFaceLoss,
    NCELoss,
    SupConLoss,
    TripletLoss,
)
from siamese_verify.miners import AllPairs, BatchHard, SemiHard
from siamese_verify.structures import FaceBatch, Pairs, Triplets
from siamese_verify.training import VerificationModule, one_cycle
from siamese_verify.training.loss_over_ranks import Miner
from tests.own_networks import OwnLoss

ADAM = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.05)
Schedule = Callable[[torch.optim.Optimizer, int], LRScheduler]
REPRESENTATION = ("knn_accuracy", "alignment", "uniformity", "effective_rank")
VALIDATION = {"val/eer", "val/auc", "val/tar_at_far_1e-2", *(f"val/{name}" for name in REPRESENTATION)}
FIGURES = {"train/loss", "train/fraction_nonzero", "train/distance_mean", "train/distance_spread", *VALIDATION}


class Recorder(nn.Module):
    """A loss of another library that keeps the tuples it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[Tensor, ...] | None] = []

    def forward(self, embeddings: Tensor, labels: Tensor, tuples: tuple[Tensor, ...] | None) -> Tensor:
        self.given.append(tuples)
        return embeddings.sum()


class SumLoss(nn.Module):
    """A loss of another library, without items."""

    def forward(self, embeddings: Tensor, labels: Tensor, tuples: Pairs | Triplets | None) -> Tensor:
        assert tuples is None
        return (embeddings * labels[:, None]).sum()


def encoder() -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(size=16, width=4, embedding_size=8)


def batch(people: int = 3, photos: int = 2, tuples: Pairs | Triplets | None = None, seed: int = 0) -> FaceBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (people * photos, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return FaceBatch(images, torch.arange(people).repeat_interleave(photos), tuples)


class Batches(Dataset[FaceBatch]):
    """Whole batches, as they are."""

    def __init__(self, batches: Sequence[FaceBatch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, row: int) -> FaceBatch:
        return self.batches[row]


def loader(batches: Sequence[FaceBatch]) -> DataLoader[FaceBatch]:
    return DataLoader(Batches(batches), batch_size=None)


def fit(
    module: VerificationModule,
    batches: Sequence[FaceBatch],
    folder: Path,
    epochs: int = 1,
    validation: int = 1,
    callbacks: Sequence[pl.Callback] = (),
    val_check_interval: int | None = None,
) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=CSVLogger(folder, name="", version="metrics"),
        callbacks=list(callbacks),
        log_every_n_steps=10,  # as in conf/trainer
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=val_check_interval,
    )
    trainer.fit(module, loader(batches), loader([batch(4, 3, seed=number) for number in range(validation)]))
    return trainer


@pytest.mark.parametrize("miner", [BatchHard(), SemiHard(margin=0.2), AllPairs(), None])
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_the_loss_is_that_of_encoder_miner_and_objective(miner: Miner | None) -> None:
    objective = ContrastiveLoss() if isinstance(miner, AllPairs) else TripletLoss()
    module = VerificationModule(encoder(), objective, miner, ADAM).eval()
    given = batch()
    embeddings = module.encoder(given.images)
    expected = objective(embeddings, given.labels, miner(embeddings, given.labels) if miner else None)
    assert torch.equal(module.training_step(given, 0), expected)
    assert expected > 0


@pytest.mark.parametrize(
    ("objective", "tuples"),
    [
        (ContrastiveLoss(), Pairs(torch.tensor([0, 2]), torch.tensor([1, 4]), torch.tensor([True, False]))),
        (TripletLoss(), Triplets(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([4, 5]))),
    ],
)
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_pairs_and_triplets_of_the_batch_are_used_and_no_miner_is_asked(
    objective: nn.Module, tuples: Pairs | Triplets
) -> None:
    def miner(embeddings: Tensor, labels: Tensor) -> Pairs | Triplets:
        raise AssertionError("the miner was asked")

    module = VerificationModule(encoder(), objective, miner, ADAM).eval()
    given = batch(tuples=tuples)
    assert torch.equal(module.training_step(given, 0), objective(module.encoder(given.images), given.labels, tuples))


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_another_librarys_loss_gets_what_its_miners_return() -> None:
    pairs = Pairs(torch.tensor([0, 2, 1]), torch.tensor([1, 4, 5]), torch.tensor([1, 0, 0]))
    triplets = Triplets(torch.tensor([0]), torch.tensor([1]), torch.tensor([4]))
    recorder = Recorder()
    module = VerificationModule(encoder(), recorder, None, ADAM)
    for tuples in (pairs, triplets, None):
        module.training_step(batch(tuples=tuples), 0)
    genuine_and_impostors, three, none = recorder.given
    assert genuine_and_impostors is not None
    assert [field.tolist() for field in genuine_and_impostors] == [[0, 1], [1, 0], [1, 2, 4, 5], [5, 4, 2, 1]]
    assert three == triplets
    assert none is None


def test_a_loss_that_needs_negatives_refuses_the_pairs_of_a_sampler() -> None:
    pairs = Pairs(torch.tensor([0, 2]), torch.tensor([1, 4]), torch.tensor([True, False]))
    for objective in (SupConLoss(), InBatchNegatives(NCELoss())):
        module = VerificationModule(encoder(), objective, None, ADAM)
        with pytest.raises(InputError, match=f"{type(objective).__name__} compares .* sampler=identity"):
            module.training_step(batch(tuples=pairs), 0)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("kind", [AdaFaceLoss, MagFaceLoss])
def test_a_loss_that_reads_lengths_refuses_an_encoder_that_always_normalizes(kind: Any) -> None:
    tower = Perceptron((4,), [4], embedding_size=16)
    for always in (MirroredEncoder(encoder(), mirror=False), Towers(tower, Perceptron((3,), [4], embedding_size=16))):
        with pytest.raises(
            InputError, match=f"{kind.__name__} reads .* but {type(always).__name__} always gives length 1"
        ):
            VerificationModule(always, kind(4, embedding_size=16), None, ADAM)
    trained = VerificationModule(tower, kind(4, embedding_size=16), None, ADAM).eval()
    assert abs(float(trained(torch.ones(1, 4)).detach().norm()) - 1) > 0.01


def test_what_a_miner_draws_depends_on_seed_epoch_and_step_alone() -> None:
    drawn: list[float] = []

    def miner(embeddings: Tensor, labels: Tensor) -> Triplets:
        drawn.append(float(torch.rand(())))
        return BatchHard()(embeddings, labels)

    for turn, (seed, index) in enumerate(((0, 0), (0, 0), (0, 1), (1, 0))):
        configuration = {"seed": seed}
        module = VerificationModule(encoder(), TripletLoss(), miner, ADAM, configuration=configuration)
        if turn == 1:  # a memory's own miner draws no less
            memory = CrossBatchMemory(TripletLoss(), 8, miner)
            module = VerificationModule(encoder(), memory, None, ADAM, configuration=configuration)
        torch.manual_seed(17)
        module.training_step(batch(), index)
        after = torch.rand(())
        torch.manual_seed(17)
        assert after == torch.rand(())  # what others draw goes on as without a miner
        torch.rand(5)
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_a_loss_with_parameters_is_trained_along(tmp_path: Path) -> None:
    objective = ArcFaceLoss(3, scale=8.0, embedding_size=8)
    before = [parameter.detach().clone() for parameter in objective.parameters()]
    module = VerificationModule(encoder(), objective, None, ADAM)
    fit(module, [batch(seed=number) for number in range(4)], tmp_path)
    moved = [(now - old).abs().max() for now, old in zip(objective.parameters(), before, strict=True)]
    assert moved
    assert min(moved) > 1e-4


def test_a_loss_without_items_trains_and_logs_no_fraction_nonzero(tmp_path: Path) -> None:
    module = VerificationModule(encoder(), SumLoss(), None, ADAM)
    before = [parameter.clone() for parameter in module.parameters()]
    trainer = fit(module, [batch(seed=number) for number in range(10)], tmp_path)
    assert not all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert set(trainer.callback_metrics) == FIGURES - {"train/fraction_nonzero"}


def test_a_loss_of_embeddings_and_labels_trains(tmp_path: Path) -> None:
    module = VerificationModule(encoder(), OwnLoss(), None, partial(torch.optim.SGD, lr=0.01))
    expected = OwnLoss()(module(batch().images), batch().labels)
    trainer = fit(module, [batch()], tmp_path)
    assert trainer.callback_metrics["train/loss"] == pytest.approx(float(expected.detach()))
    with pytest.raises(InputError, match="OwnLoss takes no triplets, which BatchHard chooses: set miner=none"):
        VerificationModule(encoder(), OwnLoss(), BatchHard(), ADAM)
    chosen = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([True]))
    with pytest.raises(InputError, match="OwnLoss takes no tuples, but was given 1: set miner=none and sampler"):
        module.compare(module(batch().images), batch().labels, chosen)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (torch.clone, r"OwnLoss returned a tensor of shape \(3,\), but the loss must return one number"),
        (lambda losses: losses.mean().item(), "OwnLoss returned a float, but the loss must return one number"),
        (lambda losses: losses.mean().detach(), "OwnLoss returned a number without a gradient"),
    ],
    ids=["several numbers", "a float", "no gradient"],
)
def test_a_loss_that_returns_no_number_to_train_by_is_named(change: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        fit(VerificationModule(encoder(), OwnLoss(change), None, ADAM), [batch()], tmp_path)


def test_the_last_validation_is_the_report_on_all_its_embeddings(tmp_path: Path) -> None:
    module = VerificationModule(encoder(), TripletLoss(), BatchHard(), ADAM)
    trainer = fit(module, [batch()], tmp_path, validation=2)
    module.eval()
    with torch.no_grad():
        embeddings = torch.cat([module(batch(4, 3, seed=number).images) for number in range(2)])
        rows = torch.nn.functional.normalize(embeddings).numpy()
    labels = np.tile(np.arange(4).repeat(3), 2)
    scores, same = [], []
    for left in range(24):
        for right in range(left + 1, 24):
            scores.append(float(rows[left] @ rows[right]))
            same.append(bool(labels[left] == labels[right]))
    expected = verification_report(scores, same)
    one_swap = 1 / (60 * 216)  # two scores that differ by rounding alone may change places
    assert module.validation is not None
    assert (module.validation.pairs, module.validation.genuine) == (276, 60)
    assert module.validation.eer == pytest.approx(expected.eer, abs=one_swap)
    assert module.validation.auc == pytest.approx(expected.auc, abs=one_swap)
    assert float(trainer.callback_metrics["val/eer"]) == pytest.approx(expected.eer, abs=one_swap)
    assert float(trainer.callback_metrics["val/auc"]) == pytest.approx(expected.auc, abs=one_swap)
    found = measure_representation(rows, labels)
    for name in REPRESENTATION:
        assert float(trainer.callback_metrics[f"val/{name}"]) == pytest.approx(getattr(found, name), rel=1e-4)


class CheckpointWithinEpoch(pl.Callback):
    """Keeps the checkpoint of every step."""

    def __init__(self) -> None:
        self.validations: list[Any] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        checkpoint: dict[str, Any] = {}
        pl_module.on_save_checkpoint(checkpoint)
        self.validations.append(checkpoint["validation"])


def test_a_checkpoint_has_no_thresholds_of_other_weights(tmp_path: Path) -> None:
    """As after a validation within an epoch."""
    kept = CheckpointWithinEpoch()
    module = VerificationModule(encoder(), TripletLoss(), BatchHard(), ADAM)
    fit(module, [batch(seed=number) for number in range(4)], tmp_path, callbacks=[kept], val_check_interval=2)
    assert kept.validations == [None] * 4
    assert module.validation is not None


@pytest.mark.parametrize("steps", [3, 12])
def test_the_metrics_file_holds_all_figures_however_short_an_epoch(steps: int, tmp_path: Path) -> None:
    module = VerificationModule(encoder(), TripletLoss(), BatchHard(), ADAM)
    fit(module, [batch(seed=number) for number in range(steps)], tmp_path, epochs=12 // steps)
    columns = (tmp_path / "metrics" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(columns) >= FIGURES


def test_only_matrices_and_kernels_decay() -> None:
    module = VerificationModule(encoder(), TripletLoss(), None, ADAM)
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2, 4}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(module.parameters()))


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_under_fused_optimizers_too(fused: bool | None, precision: Any, tmp_path: Path) -> None:
    module = VerificationModule(encoder(), SupConLoss(), None, partial(torch.optim.SGD, lr=1.0, fused=fused))
    before = [weight.detach().clone() for weight in module.parameters()]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        precision=precision,
        gradient_clip_val=0.01,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader([batch()]))
    assert trainer.optimizers[0].defaults["fused"] is fused
    moved = [(now - then).flatten() for now, then in zip(module.parameters(), before, strict=True)]
    assert float(torch.cat(moved).norm()) == pytest.approx(0.01, rel=0.01)


class Compiled(pl.Callback):
    """Sees whether the encoder is compiled in a step."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(pl_module.encoder._compiled_call_impl is not None)


def test_a_compiled_encoder_trains_as_the_plain_one_and_is_plain_afterwards(tmp_path: Path) -> None:
    backend = "aot_eager"  # the default one takes a minute to start on a CPU
    module, plain = (
        VerificationModule(encoder(), SupConLoss(), None, ADAM, compile_encoder=choice) for choice in (backend, False)
    )
    steps, given = Compiled(), [batch(seed=number) for number in range(2)]
    fit(module, given, tmp_path / "compiled", callbacks=[steps])
    fit(plain, given, tmp_path / "plain")
    assert steps.seen == [True] * 2
    assert module.encoder._compiled_call_impl is None
    torch.testing.assert_close(module.state_dict(), plain.state_dict(), rtol=0, atol=1e-3)


def test_frozen_parameters_are_left_out() -> None:
    module = VerificationModule(encoder(), TripletLoss(), None, ADAM)
    first = next(module.parameters()).requires_grad_(False)
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert not any(parameter is first for group in optimizer.param_groups for parameter in group["params"])


class Rates(pl.Callback):
    """Keeps the learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("schedule", [one_cycle, CosineAnnealingLR, None])
def test_a_schedule_goes_by_steps_and_ends_with_the_run(schedule: Schedule | None, tmp_path: Path) -> None:
    rates = Rates()
    module = VerificationModule(encoder(), TripletLoss(), BatchHard(), ADAM, schedule)
    fit(module, [batch(seed=number) for number in range(3)], tmp_path, epochs=4, callbacks=[rates])
    assert len(rates.seen) == 12
    if schedule is None:
        assert set(rates.seen) == {1e-3}
    else:
        assert len(set(rates.seen)) > 10
        assert rates.seen[-1] < 5e-5
