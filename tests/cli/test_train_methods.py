"""Every method of learning without labels by `siamese-verify train`: trains, goes on, and refuses what cannot work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from siamese_verify.cli.user_errors import report_user_errors
from siamese_verify.models import load_bundle, load_checkpoint
from siamese_verify.run_record import RunRecord
from tests.cli.conftest import CHOICES
from tests.cli.test_train import TRUSTED, WITHIN, equal, read_metrics, signal_at, untimed, weights
from tests.conftest import TINY

Trained = Callable[..., Path]

IMAGES = ("sampler.images=8", "sampler.batches=3", "trainer.max_epochs=3", "baseline=null")
LABELED = ("datamodule.labeled_identities=4", "sampler.identities_per_batch=2", "sampler.samples_per_identity=2")
SMALL: dict[str, tuple[str, ...]] = {
    "simclr": ("method.hidden_size=16",),
    "multi_crop": ("method.hidden_size=16", "datamodule.local_views=1"),
    "moco": ("method.queue_size=20",),
    "moco_v3": ("method.hidden_size=16",),
    "memory_bank": ("method.negatives=10",),
    "pirl": ("method.negatives=10", "method.grid=2"),
    "simsiam": ("method.hidden_size=16", "method.output_size=16"),
    "semi": (*LABELED, "method.threshold=0.3"),
}


def overrides(method: str) -> tuple[str, ...]:
    return (*TINY, *IMAGES, f"method={method}", *SMALL[method])


def test_every_method_is_tried() -> None:
    assert {*SMALL, "supervised"} == {*CHOICES["method"]}


@pytest.mark.parametrize("method", SMALL)
def test_a_stopped_run_of_every_method_ends_with_the_weights_of_the_uninterrupted_run(
    method: str, fitted: Trained, tmp_path: Path
) -> None:
    whole, run = fitted(tmp_path / "whole", *overrides(method)), tmp_path / "run"
    with pytest.raises(SystemExit):
        fitted(run, *overrides(method), signal_at(WITHIN))
    fitted(run, f"resume='{run}'", TRUSTED)
    assert equal(weights(run), weights(whole))
    assert untimed(run) == untimed(whole)
    assert RunRecord.read(run).history == RunRecord.read(whole).history


@pytest.mark.parametrize("method", SMALL)
def test_every_method_learns_in_mixed_precision_and_leaves_an_encoder_without_heads(
    method: str, fitted: Trained, tmp_path: Path
) -> None:
    run = fitted(tmp_path, *overrides(method), "trainer.max_epochs=1", "trainer.precision=bf16-mixed")
    state = weights(run)
    assert all(value.isfinite().all() for name, value in state.items() if "extra_state" not in name)
    kept = load_checkpoint(run / "checkpoints" / "last.ckpt").encoder
    assert kept.normalize
    own = {f"encoder.{name}" for name in kept.state_dict()}
    assert own < state.keys()
    assert all(name.startswith("method.") for name in state.keys() - own)
    rows = read_metrics(run)
    logged = {name for row in rows for name, value in row.items() if value}
    assert {"train/loss", "val/eer", "val/knn_accuracy", "val/effective_rank"} <= logged
    if method == "moco":
        assert max(float(row["train/queue_age"]) for row in rows if row["train/queue_age"]) == 20 / 8
    if method == "semi":
        assert "train/pseudo_label_share" in logged


def test_averaged_weights_are_validated_and_bundled_and_resumed(
    trained: Trained, fitted: Trained, tmp_path: Path
) -> None:
    settings = (*overrides("simclr"), "callbacks=ema", "callbacks.ema.decay=0.5", "optimizer.lr=0.01")
    whole, run = fitted(tmp_path / "whole", *settings), tmp_path / "run"
    with pytest.raises(SystemExit):
        fitted(run, *settings, signal_at(WITHIN))
    trained(run, f"resume='{run}'", TRUSTED)
    saved: list[Any] = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (run, whole)]
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert equal(saved[0][part], saved[1][part])
    averaged, current = saved[1]["state_dict"], saved[1]["current_model_state"]
    name = next(name for name, value in averaged.items() if name.startswith("encoder.") and value.ndim > 1)
    assert not torch.equal(averaged[name], current[name])
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    bundled = load_bundle(run / "bundle").encoder.state_dict()
    for key, value in bundled.items():
        assert torch.equal(value, best[f"encoder.{key}"])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("method=moco datamodule.multi_view=3", "MoCo takes 2 views of an image, got 3: set datamodule.multi_view."),
        ("method=simclr datamodule.multi_view=1", "SimCLR takes 2 or more views of an image, got 1"),
        (
            "method=simclr sampler=pairs",
            "SimCLR takes the batches of ImageSampler, not of PairSampler: leave",
        ),
        ("method=simsiam sampler=identity", "SimSiam takes the batches of ImageSampler, not of IdentityBatchSampler"),
        ("method=simclr loss=arc_face", "SimCLR cannot use ArcFaceLoss: set loss=nt_xent."),
        ("method=moco loss=triplet", "MoCo cannot use TripletLoss: set loss=info_nce or nce."),
        ("method=pirl loss=nt_xent", "PIRL cannot use NTXentLoss: leave loss out (add ~loss where an experiment sets"),
        ("method=moco_v3 miner=batch_hard", "MoCoV3 compares everything, but BatchHard chooses: set miner=none."),
        ("method=simclr augmentation=none", "The views of an image are all the same without augmentation"),
        ("experiment=demo method=simclr", "The views of an image are all the same without augmentation"),
        ("method=semi", "SemiSupervised needs photos without labels: set datamodule.labeled_identities, "),
        ("method=semi datamodule.labeled_samples=2 sampler=identity", "takes the batches of SemiSupervisedSampler"),
        (
            "method=semi datamodule.labeled_samples=2 datamodule.instances=true method.threshold=0.9",
            "SemiSupervised learns from the labels of identities: set datamodule.instances=false.",
        ),
        ("datamodule.unlabeled=true", "Learning from labels has no use for photos without: set method=semi."),
        ("loss.sharded=true loss=arc_face callbacks=ema", "Weights that ranks share are not averaged"),
    ],
)
def test_what_a_method_cannot_use_is_refused_in_a_sentence_before_photos_are_looked_for(
    wrong: str, told: str, fitted: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ("data=folder", f"data.root={tmp_path / 'nowhere'}", *wrong.split())
    with pytest.raises(SystemExit):
        report_user_errors(fitted)(tmp_path / "run", *nowhere)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and told in said
