from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import load_file

from siamese_verify.cli.configuration import CONF
from siamese_verify.cli.user_errors import report_user_errors
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError
from siamese_verify.evaluation import all_pairs_report
from siamese_verify.losses import ContrastiveLoss
from siamese_verify.miners import HardPairs
from siamese_verify.models import load_checkpoint
from siamese_verify.structures import Pairs
from siamese_verify.training import VerificationModule
from siamese_verify.training.module import pml_tuples
from siamese_verify.verification import embed_faces

Configured = Callable[..., DictConfig]
Trained = Callable[..., Path]


REFUSING = {"arc_face", "cos_face", "cross_batch_memory", "magnet"}  # losses for which nobody else may choose
TINY_BATCH = (
    torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0))),
    torch.arange(4).repeat_interleave(2),
)


def group(name: str) -> list[str]:
    return sorted(path.stem for path in (CONF / name).glob("*.yaml"))


def weights(run: Path, file: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / file, weights_only=True)["state_dict"]
    return state


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        assert list(a) == list(b)
        return all(equal(a[name], b[name]) for name in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


# What a run leaves


def test_a_run_leaves_its_configuration_metrics_checkpoints_bundle_and_report(tiny_run: Path) -> None:
    left = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    assert left >= {
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        "run.json",
        "metrics/metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "bundle/bundle.json",
        "bundle/model.safetensors",
        *(f"report/{name}" for name in ("report.html", "metrics.json", "roc.png", "det.png", "histogram.png")),
    }
    assert not {path for path in left if path.endswith(".part")}
    assert "skipped.csv" not in left


def test_the_last_checkpoint_is_of_the_last_epoch(tiny_run: Path) -> None:
    last, best = (torch.load(tiny_run / "checkpoints" / name, weights_only=True) for name in ("last.ckpt", "best.ckpt"))
    assert last["epoch"] == 3
    assert best["epoch"] <= 3
    assert sorted(path.name for path in (tiny_run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_the_record_says_which_code_data_and_configuration(tiny_run: Path) -> None:
    record = json.loads((tiny_run / "run.json").read_text())
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "siamese-verify", "commit"} <= set(record["versions"])
    assert len(record["data"]) == 64
    composed = OmegaConf.load(tiny_run / ".hydra" / "config.yaml")
    assert record["configuration"]["seed"] == composed.seed
    assert record["configuration"]["encoder"]["width"] == 8
    assert record["configuration"]["datamodule"]["photos"]["identities"] == 12  # resolved


def test_the_metrics_hold_every_figure(tiny_run: Path) -> None:
    with (tiny_run / "metrics" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    training = ("train/loss", "train/fraction_nonzero", "train/distance_mean", "train/distance_spread")
    for name in (*training, "val/eer", "val/auc", "test/eer", "test/auc"):
        values = [float(row[name]) for row in rows if row[name]]
        assert values
        assert np.isfinite(values).all()
    assert len([row for row in rows if row["val/eer"]]) == 4


def test_the_report_compares_with_raw_pixels(tiny_run: Path) -> None:
    metrics = json.loads((tiny_run / "report" / "metrics.json").read_text())
    assert [row["model"] for row in metrics["comparison"]] == ["trained network", "raw pixels"]
    assert metrics["pairs"] == 18 * 17 // 2
    assert metrics["details"]["versions"]["torch"]


def test_a_folder_that_holds_a_run_is_left_as_it_is(
    tiny_run: Path, trained: Trained, tiny: tuple[str, ...], small_batches: tuple[str, ...], tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"holds a run already \(checkpoints/best.ckpt\): resume it by ckpt_path="):
        trained(tiny_run, *tiny, *small_batches)
    command = [sys.executable, "-m", "siamese_verify.cli.main", "train", *tiny, f"hydra.run.dir={tiny_run}", "seed=1"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()} == before


def test_a_run_goes_on_in_its_own_folder_and_keeps_its_metrics(
    tiny_run: Path, trained: Trained, tiny: tuple[str, ...], small_batches: tuple[str, ...], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    last = run / "checkpoints" / "last.ckpt"
    trained(run, *tiny, *small_batches, "trainer.max_epochs=4", f"ckpt_path='{last}'")
    with (run / "metrics" / "metrics.csv").open() as resumed, (tiny_run / "metrics" / "metrics.csv").open() as whole:
        assert list(csv.DictReader(resumed)) == list(csv.DictReader(whole))
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("encoder.width=16", "encoder.width is 8 there and 16 here"),
        ("encoder.size=48", "encoder.size is 32 there and 48 here"),
        (
            "loss=arc_face",
            "loss._target_ is siamese_verify.losses.TripletLoss there and siamese_verify.losses.ArcFaceLoss",
        ),
        ("optimizer=sgd", "optimizer._target_ is torch.optim.AdamW there and torch.optim.SGD here"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_by_what_differs(
    override: str, told: str, tiny_run: Path, trained: Trained, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    settings = [one for one in tiny if one.partition("=")[0] != override.partition("=")[0]]
    last = tiny_run / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match=re.escape(f"is of another configuration: {told}")):
        trained(
            tmp_path / "run",
            *settings,
            "sampler.identities_per_batch=4",
            "sampler.samples_per_identity=2",
            override,
            f"ckpt_path='{last}'",
        )


def test_a_folder_is_tested_on_people_held_out_and_evaluated_on_the_same_people_again(
    trained: Trained, configured: Configured, tmp_path: Path
) -> None:
    from siamese_verify.cli.evaluate import evaluate

    faces = SyntheticFaces(9, 3, 32)
    for row in range(len(faces)):
        (tmp_path / "album" / f"p{row // 3}").mkdir(parents=True, exist_ok=True)
        faces[row].save(tmp_path / "album" / f"p{row // 3}" / f"{row % 3}.png")
    album = ("threads=1", "data=folder", f"data.root='{tmp_path / 'album'}'", "data.crop=whole")
    small = (
        "encoder.width=8",
        "encoder.size=32",
        "sampler.identities_per_batch=2",
        "sampler.samples_per_identity=2",
        "trainer.max_epochs=1",
    )
    run = trained(tmp_path / "run", *album, *small)
    people = json.loads((run / "people.json").read_text())
    tested = {name.partition("/")[0] for name in people["tested photos"]}
    parts = [set(part["people"]) for part in people["seen"]] + [tested]
    assert sorted(one for part in parts for one in part) == [f"p{number}" for number in range(9)]
    report = json.loads((run / "report" / "metrics.json").read_text())
    assert report["details"]["protocol"] == people["protocol"] == "folder, all pairs of 2 people held out for testing"
    assert report["details"]["tested people"] == "held out from training"

    for model in (run, run / "checkpoints" / "best.ckpt"):
        cfg = configured("evaluate", tmp_path / "again", f"model='{model}'", "resamples=0", "threads=1")
        assert evaluate(cfg, tmp_path / "again") == pytest.approx(report["eer"])
    everybody = (
        f"model='{run}'",
        "resamples=0",
        "threads=1",
        "protocol=folder",
        f"protocol.root='{tmp_path / 'album'}'",
    )
    with pytest.raises(InputError, match=r"7 of its 9 people .* and 21 of its 27 photos are training photos"):
        evaluate(configured("evaluate", tmp_path / "all", *everybody), tmp_path / "all")
    evaluate(configured("evaluate", tmp_path / "all", *everybody, "allow_leakage=true"), tmp_path / "all")
    marked = json.loads((tmp_path / "all" / "report" / "metrics.json").read_text())
    assert marked["details"]["tested people"].startswith("trained on in part: 7 of its 9 people")
    with pytest.raises(InputError, match="would measure what was learned by heart"):
        trained(tmp_path / "other", *album, *small, "protocol=folder", f"protocol.root='{tmp_path / 'album'}'")


# Every file of the configuration


@pytest.mark.parametrize("name", group("encoder"))
def test_every_encoder_can_be_made(name: str, configured: Configured, tmp_path: Path) -> None:
    encoder = instantiate(configured("train", tmp_path, f"encoder={name}").encoder)
    assert isinstance(encoder, Encoder)
    size = encoder.input_spec.size
    with torch.inference_mode():
        embedding = encoder.eval()(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    assert embedding.shape == (1, encoder.embedding_size)


@pytest.fixture(scope="module")
def chosen(configured: Configured, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Every miner, and what it chooses of a tiny batch."""
    made = {}
    for name in group("miner"):
        cfg = configured("train", tmp_path_factory.mktemp("miner"), f"miner={name}")
        miner = instantiate(cfg.miner) if cfg.get("miner") else None
        made[name] = miner, miner(*TINY_BATCH) if miner else None
    return made


@pytest.mark.parametrize("experiment", group("experiment"))
@pytest.mark.parametrize("loss", group("loss"))
def test_every_experiment_takes_every_loss_and_every_miner_that_the_loss_takes(
    experiment: str, loss: str, chosen: dict[str, tuple[Any, Any]], configured: Configured, tmp_path: Path
) -> None:
    cfg = configured("train", tmp_path, f"experiment={experiment}", f"loss={loss}")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    objective = instantiate(cfg.loss, **({"identities": 4, "dimensions": 4} if "identities" in cfg.loss else {}))
    own_miner = instantiate(cfg.miner) if cfg.get("miner") else None
    embeddings, labels = TINY_BATCH
    for name, (miner, tuples) in {**chosen, "the experiment's": (own_miner, None)}.items():
        triplets_only = loss.startswith("triplet") and (isinstance(tuples, Pairs) or name == "multi_similarity")
        if tuples is not None and (loss in REFUSING or triplets_only):
            with pytest.raises(InputError, match=rf"{type(miner).__name__} chooses: set miner=none"):
                VerificationModule(torch.nn.Identity(), objective, miner, torch.optim.SGD)
            continue
        module = VerificationModule(torch.nn.Identity(), objective, miner, torch.optim.SGD)
        rows = embeddings.clone().requires_grad_()
        value = module.loss(rows, labels, tuples if hasattr(objective, "measure") else pml_tuples(tuples, len(labels)))
        value.backward()
        assert value.isfinite()
        assert rows.grad is not None and rows.grad.isfinite().all()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("loss=triplet", "miner=hard_pairs"),
            "TripletLoss takes no pairs, which HardPairs chooses: set miner=none, or",
        ),
        (("loss=triplet", "miner=multi_similarity"), "TripletLoss takes no pairs, which MultiSimilarityMiner chooses"),
        (
            ("loss=arc_face", "miner=batch_hard"),
            "ArcFaceLoss takes no triplets, which BatchHard chooses: set miner=none.",
        ),
        (("loss=cross_batch_memory", "miner=all_pairs"), "CrossBatchMemory takes no pairs, which AllPairs chooses"),
        (
            ("loss=cross_batch_memory", "loss@loss.objective=triplet", "miner@loss.miner=hard_pairs"),
            "TripletLoss takes no pairs, which HardPairs chooses",
        ),
        (("loss=sup_con", "sampler=pairs"), "SupConLoss cannot use the tuples of PairSampler"),
        (("loss=triplet", "sampler=pairs"), "TripletLoss cannot use the tuples of PairSampler"),
        (("loss=magnet", "sampler=triplets"), "MagnetLoss cannot use the tuples of TripletSampler"),
    ],
)
def test_a_loss_that_cannot_use_what_it_is_given_is_refused_before_photos_are_looked_for(
    overrides: tuple[str, ...], sentence: str, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ("experiment=lfw_triplet", f"data.root={tmp_path / 'nowhere'}")
    with pytest.raises(SystemExit):
        report_user_errors(trained)(tmp_path / "run", *nowhere, *overrides)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and sentence in said


def test_a_package_that_is_missing_is_named(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    cfg = configured("train", tmp_path, "loss=multi_similarity")
    with pytest.raises(SystemExit) as ended:
        report_user_errors(instantiate)(cfg.loss)
    assert ended.value.code == 2
    expected = "asks for pytorch-metric-learning, which is not installed: pip install pytorch-metric-learning.\n"
    assert capsys.readouterr().err == f"siamese-verify: The configuration {expected}"


@pytest.mark.parametrize("optimizer", group("optimizer"))
@pytest.mark.parametrize("scheduler", group("scheduler"))
def test_every_optimizer_and_scheduler_can_be_made(
    optimizer: str, scheduler: str, configured: Configured, tmp_path: Path
) -> None:
    cfg = configured("train", tmp_path, f"optimizer={optimizer}", f"scheduler={scheduler}")
    made = instantiate(cfg.optimizer)([{"params": [torch.zeros(2, 2)]}])
    assert made.param_groups[0]["weight_decay"] > 0
    if cfg.get("scheduler"):
        instantiate(cfg.scheduler)(made, 100).step()


@pytest.mark.parametrize("name", group("sampler"))
def test_every_sampler_can_be_made(name: str, configured: Configured, tmp_path: Path) -> None:
    cfg = configured("train", tmp_path, f"sampler={name}")
    sampler = instantiate(cfg.sampler)(identities=np.arange(200) // 4, seed=0, rank=0, world_size=1)
    assert len(list(sampler)) == len(sampler) > 0


@pytest.mark.parametrize("name", group("trainer"))
@pytest.mark.parametrize("callbacks", group("callbacks"))
def test_every_trainer_and_set_of_callbacks_can_be_made(
    name: str, callbacks: str, configured: Configured, tmp_path: Path
) -> None:
    on_this_machine = ("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=1")
    cfg = configured("train", tmp_path, f"trainer={name}", f"callbacks={callbacks}", *on_this_machine)
    try:
        instantiate(cfg.trainer, callbacks=[instantiate(callback) for callback in cfg.callbacks.values()])
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", group("logger"))
def test_every_logger_can_be_made(name: str, configured: Configured, tmp_path: Path) -> None:
    cfg = configured("train", tmp_path / "run", f"logger={name}")
    assert "csv" in cfg.logger
    assert all(instantiate(logger) for logger in cfg.logger.values())


@pytest.mark.parametrize("name", group("data"))
@pytest.mark.parametrize("protocol", group("protocol"))
def test_every_data_set_and_protocol_composes(name: str, protocol: str, configured: Configured, tmp_path: Path) -> None:
    places = {"list": ("data.path=x",)} | dict.fromkeys(("folder", "prepared", "recordio"), ("data.root=x",))
    overrides = (f"data={name}", f"protocol={protocol}", *places.get(name, ()))
    own = {"folder": ("protocol.root=x",), "pair_file": ("protocol.path=x",), "insightface": ("protocol.path=x",)}
    for entry in (("train",), ("evaluate", "model=casia-webface")):
        cfg = configured(entry[0], tmp_path, *overrides, *entry[1:], *own.get(protocol, ()))
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("name", group("experiment"))
def test_every_experiment_composes(name: str, configured: Configured, tmp_path: Path) -> None:
    cfg = configured("train", tmp_path, f"experiment={name}")
    values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert values["name"] == name
    assert {"_target_"} <= set(values["encoder"]) & set(values["loss"]) & set(values["trainer"])


# Training


@pytest.mark.parametrize(
    "overrides",
    [
        ("sampler=pairs", "sampler.pairs=8", "loss=contrastive"),
        ("sampler=triplets", "sampler.triplets=6"),
        (
            "sampler=hard",
            "sampler.identities_per_batch=4",
            "sampler.samples_per_identity=2",
            "miner=semi_hard",
            "optimizer=sgd",
            "scheduler=cosine",
        ),
    ],
)
def test_every_way_of_feeding_trains(
    overrides: tuple[str, ...], trained: Trained, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    run = trained(tmp_path / "run", *tiny, *overrides, "trainer.max_epochs=1")
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
    assert (run / "report" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("loss", group("loss"))
@pytest.mark.parametrize("miner", ["none", "multi_similarity"])
def test_every_loss_trains(
    loss: str, miner: str, trained: Trained, tiny: tuple[str, ...], small_batches: tuple[str, ...], tmp_path: Path
) -> None:
    steps = ("trainer.max_epochs=1", "trainer.log_every_n_steps=1")
    overrides = (*tiny, *small_batches, *steps, f"loss={loss}", f"miner={miner}")
    if miner != "none" and (loss in REFUSING or loss.startswith("triplet")):
        with pytest.raises(InputError):
            trained(tmp_path / "run", *overrides)
        return
    run = trained(tmp_path / "run", *overrides)
    assert all(tensor.isfinite().all() for name, tensor in weights(run).items() if "extra_state" not in name)
    with (run / "metrics" / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses
    assert max(losses) > 0


def test_class_weights_are_in_the_checkpoint_but_not_in_the_bundle(
    trained: Trained, tiny: tuple[str, ...], small_batches: tuple[str, ...], tmp_path: Path
) -> None:
    run = trained(tmp_path / "run", *tiny, *small_batches, "loss=arc_face", "trainer.max_epochs=1")
    learned = weights(run)["loss.weights"]
    held_out = 2  # of 12 people
    assert learned.shape == (12 - held_out, 128)
    kept = load_file(run / "bundle" / "model.safetensors")
    assert kept
    assert not any(tensor.shape == learned.shape for tensor in kept.values())
    assert {f"encoder.{name}" for name in kept} == weights(run).keys() - {"loss.weights"}


def test_a_memory_takes_its_objective_and_its_miner_from_the_command_line(
    configured: Configured, tmp_path: Path
) -> None:
    overrides = ("experiment=demo", "loss=cross_batch_memory", "loss@loss.objective=contrastive")
    memory = instantiate(configured("train", tmp_path, *overrides, "miner@loss.miner=hard_pairs").loss)
    assert isinstance(memory.objective, ContrastiveLoss)
    assert isinstance(memory.miner, HardPairs)
    assert instantiate(configured("train", tmp_path, *overrides).loss).miner is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("sampler=identity",), id="uniform"),
        pytest.param(("sampler=hard",), id="hard"),
        pytest.param(("sampler=hard", "datamodule.workers=1"), id="hard, with a worker"),
        pytest.param(("loss=cos_face", "loss.scale=8"), id="margin softmax"),
        pytest.param(("loss=triplet", "miner=distance_weighted"), id="drawn triplets"),
        pytest.param(
            ("loss=cross_batch_memory", "loss.size=20", "loss.warm_up=3", "miner@loss.miner=hard_pairs"), id="memory"
        ),
    ],
)
def test_a_resumed_run_ends_bit_for_bit_as_the_uninterrupted_one(
    overrides: tuple[str, ...], trained: Trained, tiny: tuple[str, ...], small_batches: tuple[str, ...], tmp_path: Path
) -> None:
    settings = (*tiny, *overrides, *small_batches, "encoder.dropout=0.3", "trainer.max_epochs=4")
    whole = trained(tmp_path / "whole", *settings)
    stop = ("callbacks=early_stopping", "+callbacks.early_stopping.stopping_threshold=2", "+trainer.min_epochs=2")
    stopped = trained(tmp_path / "stopped", *settings, *stop)
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
    assert not equal(weights(stopped), weights(whole))
    resumed = trained(tmp_path / "resumed", *settings, f"ckpt_path='{checkpoint}'")
    assert equal(weights(resumed), weights(whole))
    assert (resumed / "bundle" / "model.safetensors").read_bytes() == (
        whole / "bundle" / "model.safetensors"
    ).read_bytes(), "the best epoch so far came along"


@pytest.mark.parametrize(
    "overrides",
    [
        ("sampler.identities_per_batch=4", "sampler.samples_per_identity=2"),
        (
            "sampler=hard",
            "sampler.identities_per_batch=4",
            "sampler.samples_per_identity=2",
            "datamodule.in_memory=false",
            "datamodule.workers=1",
        ),
        ("sampler=pairs", "sampler.pairs=4", "loss=contrastive"),
        ("sampler=images", "sampler.images=8", "loss=nt_xent", "datamodule.multi_view=2", "datamodule.instances=true"),
    ],
    ids=["identity", "hard", "pairs", "images"],
)
def test_a_run_that_was_stopped_within_an_epoch_ends_bit_for_bit_as_the_uninterrupted_one(
    overrides: tuple[str, ...], trained: Trained, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    settings = (*tiny, *overrides, "sampler.batches=5", "encoder.dropout=0.3", "trainer.max_epochs=3")
    steps = f"dirpath: '{tmp_path / 'steps'}', every_n_train_steps: 7, save_top_k: -1, filename: '{{step}}'"
    callback = f"{{_target_: pytorch_lightning.callbacks.ModelCheckpoint, {steps}}}"
    whole = trained(tmp_path / "whole", *settings, f"+callbacks.steps={callback}")
    checkpoint = tmp_path / "steps" / "step=7.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    assert (content["epoch"], content["global_step"]) == (1, 7)
    resumed = trained(tmp_path / "resumed", *settings, f"ckpt_path='{checkpoint}'")
    assert torch.load(resumed / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 15
    assert equal(weights(resumed), weights(whole))


def test_a_finished_run_is_not_stretched_under_its_schedule(
    tiny_run: Path, trained: Trained, tiny: tuple[str, ...], small_batches: tuple[str, ...], tmp_path: Path
) -> None:
    last = tiny_run / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match=r"planned for .* its schedule cannot be stretched"):
        trained(tmp_path / "run", *tiny, *small_batches, f"ckpt_path='{last}'", "trainer.max_epochs=9")
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.slow
def test_a_seed_decides_all(
    trained: Trained, tiny: tuple[str, ...], small_batches: tuple[str, ...], tmp_path: Path
) -> None:
    settings = (*tiny, *small_batches, "encoder.dropout=0.3", "trainer.max_epochs=2")
    runs = [trained(tmp_path / str(number), *settings, f"seed={seed}") for number, seed in enumerate((3, 3, 4))]
    first, second, third = (weights(run) for run in runs)
    assert equal(first, second)
    assert not equal(first, third)
    figures = [(run / "report" / "metrics.json").read_text() for run in runs]
    assert json.loads(figures[0])["eer"] == json.loads(figures[1])["eer"]


@pytest.mark.slow
def test_ctrl_c_ends_without_a_traceback_and_with_a_whole_checkpoint(
    tiny: tuple[str, ...], small_batches: tuple[str, ...], tmp_path: Path
) -> None:
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # off in a background job
        "from siamese_verify.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    overrides = (*tiny, *small_batches, "trainer.max_epochs=100000", f"hydra.run.dir={tmp_path}/run")
    process = subprocess.Popen(
        [sys.executable, "-c", program, "train", *overrides],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    while not last.is_file() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert err.endswith("Interrupted.\n")
    assert weights(tmp_path / "run")
    assert not (tmp_path / "run" / "bundle").exists()


@pytest.mark.slow
def test_two_processes_train_and_leave_one_run_that_is_validated_on_each_photo_once(
    tiny: tuple[str, ...],
    small_batches: tuple[str, ...],
    configured: Configured,
    tmp_path: Path,
) -> None:
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.sync_batchnorm=false")
    odd = ("data.photos.identities=30", "data.photos.images=5")  # 15 photos to validate on, so the ranks' shares differ
    overrides = (*tiny, *small_batches, *odd, "trainer.max_epochs=1")
    ended = subprocess.run(
        [sys.executable, "-m", "siamese_verify.cli.main", "train", *overrides, *two, f"hydra.run.dir={tmp_path}/run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("Report:") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "bundle" / "bundle.json").is_file()

    model = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    cfg = configured("train", tmp_path / "one", *overrides)
    data = instantiate(cfg.datamodule, _partial_=True)(input_spec=model.encoder.input_spec)
    data.setup()
    held_out = embed_faces(model.encoder, data.validation_set.faces)
    expected = all_pairs_report(held_out, data.validation_set.labels).to_dict()
    assert expected["pairs"] == 15 * 14 // 2
    names = ("pairs", "genuine", "impostors", "eer", "auc")
    assert {name: model.metadata.metrics[name] for name in names} == pytest.approx(
        {name: expected[name] for name in names}
    )


# Photos that cannot be read


def small_lfw(root: Path) -> list[Path]:
    """Lay out drawn faces as LFW does; returns the photos that training and validation see."""
    faces = SyntheticFaces(9, 3, 64)
    names = [f"Person_{number}" for number in range(9)]
    for row in range(len(faces)):
        person = names[row // 3]
        (root / "lfw" / person).mkdir(parents=True, exist_ok=True)
        faces[row].save(root / "lfw" / person / f"{person}_{row % 3 + 1:04d}.jpg")
    (root / "peopleDevTrain.txt").write_text("6\n" + "".join(f"{name}\t3\n" for name in names[:6]))
    genuine = "".join(f"{name}\t1\t2\n" for name in names[6:])
    impostors = "".join(
        f"{a}\t1\t{b}\t2\n" for a, b in ((names[6], names[7]), (names[7], names[8]), (names[8], names[6]))
    )
    (root / "pairsDevTest.txt").write_text(f"3\n{genuine}{impostors}")
    return sorted(path for name in names[:6] for path in (root / "lfw" / name).iterdir())


def lfw_overrides(root: Path) -> tuple[str, ...]:
    small = (
        "threads=1",
        "encoder.width=8",
        "encoder.size=32",
        "sampler.identities_per_batch=2",
        "sampler.samples_per_identity=2",
    )
    return (*small, "data=lfw", f"data.root='{root}'", "protocol=lfw_view1", "trainer.max_epochs=1")


def skipped(run: Path) -> dict[str, str]:
    with (run / "skipped.csv").open() as file:
        return {row["photo"]: row["reason"] for row in csv.DictReader(file)}


def test_damaged_photos_are_skipped_and_listed(trained: Trained, tmp_path: Path) -> None:
    photos = small_lfw(tmp_path)
    photos[0].write_bytes(photos[0].read_bytes()[:300])
    photos[4].write_text("a text file")
    photos[8].unlink()
    run = trained(tmp_path / "run", *lfw_overrides(tmp_path), "datamodule.max_damaged=3")
    reasons = skipped(run)
    assert set(reasons) == {f"{photo.parent.name}/{photo.name}" for photo in (photos[0], photos[4], photos[8])}
    assert all(photo.split("/")[1] in reason for photo, reason in reasons.items())
    assert (run / "report" / "report.html").is_file()


def test_too_many_damaged_photos_are_an_error_and_leave_nothing(trained: Trained, tmp_path: Path) -> None:
    photos = small_lfw(tmp_path)
    for photo in photos[:3]:
        photo.write_text("a text file")
    with pytest.raises(InputError, match=r"More than 2 of \d+ photos cannot be read \(max_damaged\)"):
        trained(tmp_path / "run", *lfw_overrides(tmp_path), "datamodule.max_damaged=2")
    assert [path for path in (tmp_path / "run").rglob("*") if path.suffix != ".yaml" and path.is_file()] == []


def test_a_missing_photo_of_the_protocol_is_an_error_before_training(trained: Trained, tmp_path: Path) -> None:
    small_lfw(tmp_path)
    (tmp_path / "lfw" / "Person_7" / "Person_7_0002.jpg").unlink()
    with pytest.raises(
        InstantiationException, match=r"1 of the 6 images in pairsDevTest\.txt are missing.*Person_7_0002\.jpg"
    ):
        trained(tmp_path / "run", *lfw_overrides(tmp_path))


def test_photos_without_a_face_do_not_hide_the_damaged_ones(trained: Trained, tmp_path: Path) -> None:
    photos = small_lfw(tmp_path)
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "lfw").rglob("*.jpg")):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    photos[0].write_text("a text file")
    box = ("encoder.crop.kind=box", "encoder.crop.margin=6")
    run = trained(tmp_path / "run", *lfw_overrides(tmp_path), *box)
    reasons = skipped(run)
    assert "not an image" in reasons[f"{photos[0].parent.name}/{photos[0].name}"]
    assert sum("no face" in reason for reason in reasons.values()) == 17
