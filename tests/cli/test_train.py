from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from siamese_verify.cli.evaluate import evaluate
from siamese_verify.cli.sweep_callbacks import RefuseUsedFolder
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.evaluation import all_pairs_report
from siamese_verify.models import embed_faces, load_checkpoint
from siamese_verify.run_record import RunRecord
from tests.cli.conftest import CHOICES, Command, save_faces
from tests.conftest import SMALL_BATCHES, TINY

Configured = Callable[..., DictConfig]
Trained = Callable[..., Path]

PAIRS_OF_PEOPLE = ("sampler.identities_per_batch=2", "sampler.samples_per_identity=2")
SMALL_NETWORK = ("threads=1", "encoder.width=8", "encoder.size=16", "trainer.max_epochs=1", *PAIRS_OF_PEOPLE)


def weights(run: Path, file: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / file, weights_only=True)["state_dict"]
    return state


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        assert list(a) == list(b)
        return all(equal(a[name], b[name]) for name in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def read_metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def untimed(run: Path) -> list[dict[str, str]]:
    timed = ("train/step_seconds", "train/images_per_second")
    return [{name: value for name, value in row.items() if name not in timed} for row in read_metrics(run)]


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
    assert "left_out.csv" not in left


def test_a_run_prints_no_warning(tiny_run: Path) -> None:
    assert (tiny_run.parent / "stderr.txt").read_text() == ""


def test_the_settings_for_a_gpu_train_the_same_network_on_a_cpu(fitted: Trained, tmp_path: Path) -> None:
    short = (*TINY, *SMALL_BATCHES, "trainer.max_epochs=1", "augmentation=strong")
    alike = ("trainer=gpu", "trainer.accelerator=cpu", "datamodule.device=cpu", "datamodule.workers=1")
    runs = [fitted(tmp_path / name, *short, *more) for name, more in (("cpu", ()), ("gpu", alike))]
    assert equal(weights(runs[1]), weights(runs[0]))


def test_the_last_checkpoint_is_of_the_last_epoch(tiny_run: Path) -> None:
    last, best = (torch.load(tiny_run / "checkpoints" / name, weights_only=True) for name in ("last.ckpt", "best.ckpt"))
    assert last["epoch"] == 3
    assert best["epoch"] <= 3
    assert sorted(path.name for path in (tiny_run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_run_json_records_the_run_from_its_command_to_its_results(tiny_run: Path) -> None:
    record, composed = RunRecord.read(tiny_run), OmegaConf.load(tiny_run / ".hydra" / "config.yaml")
    assert (record.status, record.error, record.exit_status) == ("finished", None, 0)
    assert shlex.split(record.command) == ["siamese-verify", "train", *record.overrides]
    assert record.overrides == [*TINY, *SMALL_BATCHES, "trainer.max_epochs=4"]
    assert record.host == socket.gethostname()
    assert datetime.fromisoformat(record.started) <= datetime.now().astimezone()
    assert record.seconds > 0
    assert record.versions["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "siamese-verify", "commit"} <= set(record.versions)
    assert len(record.data) == 64
    assert (record.filtered, record.tested_people) == ("no", "held out from training")
    assert record.configuration["seed"] == composed.seed
    assert record.configuration["encoder"]["width"] == 8
    assert record.configuration["datamodule"]["photos"]["identities"] == 12  # resolved


def test_run_json_has_the_metrics_of_each_validation_of_the_best_epoch_and_of_the_test(tiny_run: Path) -> None:
    record = RunRecord.read(tiny_run)
    steps = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] // 4
    assert [(epoch, step) for epoch, step, _ in record.history] == [(n, steps * (n + 1)) for n in range(4)]
    logged = [float(row["val/eer"]) for row in read_metrics(tiny_run) if row["val/eer"]]
    assert [metrics["val/eer"] for *_, metrics in record.history] == pytest.approx(logged)
    epoch = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"]
    assert record.metrics == {"epoch": epoch, **record.history[epoch][2]}
    assert record.metrics["val/eer"] == pytest.approx(min(logged))
    report = json.loads((tiny_run / "report" / "metrics.json").read_text())
    (test,) = record.test.values()
    low, high = test["eer_interval"]
    assert (test["eer"], test["auc"]) == (report["eer"], report["auc"])
    assert low <= test["eer"] <= high


def test_the_log_has_the_command_the_validations_and_what_is_printed(tiny_run: Path) -> None:
    text = (tiny_run / "train.log").read_text()
    assert RunRecord.read(tiny_run).command in text
    assert [text.count(f"Epoch {epoch}/4: ") for epoch in range(6)] == [0, 1, 1, 1, 1, 0]
    assert f"Report: {tiny_run / 'report' / 'report.html'}" in text


class BrokenLoss(nn.Module):
    """A loss with a bug."""

    def __init__(self, **_: object) -> None:
        super().__init__()

    def forward(self, *_: object) -> torch.Tensor:
        raise ZeroDivisionError("a bug")


def test_an_error_in_a_users_own_loss_is_recorded_and_shown_from_there_on(command: Command, tmp_path: Path) -> None:
    ended = command(
        "train", *TINY, *SMALL_BATCHES, "loss._target_=tests.cli.test_train.BrokenLoss", "hydra.run.dir=run"
    )
    assert ended.code == 70
    record = RunRecord.read(tmp_path / "run")
    place = rf"This was raised in code of your own: BrokenLoss.forward, line \d+ of {re.escape(__file__)}\."
    assert (record.status, record.exit_status) == ("failed", 70)
    assert re.fullmatch(f"ZeroDivisionError: a bug. {place}", str(record.error))
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("Traceback (most recent call last)") == 1 and "in training_step" in log
    shown = ended.err[ended.err.index("Traceback") :].splitlines()
    assert __file__ in shown[1] and "in training_step" not in ended.err
    assert shown[-2] == "ZeroDivisionError: a bug" and re.fullmatch(f"siamese-verify: {place}", shown[-1])


def test_the_metric_of_a_sweep_decides_which_epoch_is_the_best(fitted: Trained, tmp_path: Path) -> None:
    auc = ("sweep.metric=val/auc", "sweep.mode=max")
    run = fitted(tmp_path, *TINY, *SMALL_BATCHES, "trainer.max_epochs=3", *auc)
    logged = [float(row["val/auc"]) for row in read_metrics(run) if row["val/auc"]]
    assert RunRecord.read(run).metrics["val/auc"] == pytest.approx(max(logged))
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == logged.index(max(logged))


def test_metrics_are_logged(tiny_run: Path) -> None:
    rows = read_metrics(tiny_run)
    training = ("train/loss", "train/fraction_nonzero", "train/distance_mean", "train/distance_spread")
    steps = ("train/learning_rate", "train/gradient_norm", "train/step_seconds", "train/images_per_second")
    for name in (*training, *steps, "val/eer", "val/auc", "test/eer", "test/auc"):
        values = [float(row[name]) for row in rows if row[name]]
        assert values
        assert np.isfinite(values).all()
    assert len([row for row in rows if row["val/eer"]]) == 4


def test_the_report_compares_with_raw_pixels(tiny_run: Path) -> None:
    metrics = json.loads((tiny_run / "report" / "metrics.json").read_text())
    assert [row["model"] for row in metrics["comparison"]] == ["trained network", "raw pixels"]
    assert metrics["pairs"] == 18 * 17 // 2
    assert metrics["details"]["versions"]["torch"]


@pytest.mark.parametrize("named", [True, False])
def test_of_two_runs_at_once_the_second_takes_another_folder_or_ends(
    named: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hydra = {
        "run": {"dir": str(tmp_path / "run")},
        "output_subdir": ".hydra",
        "overrides": {"hydra": ["hydra.run.dir=run"] * named},
    }
    first, second = (OmegaConf.create({"hydra": hydra, "resume": None}) for _ in range(2))
    callbacks = RefuseUsedFolder(), RefuseUsedFolder()
    callbacks[0].on_run_start(first)
    with pytest.raises(SystemExit) if named else nullcontext():
        callbacks[1].on_run_start(second)
    assert first.hydra.run.dir == str(tmp_path / "run")
    assert second.hydra.run.dir == str(tmp_path / ("run" if named else "run-2"))
    assert ("Another training writes to" in capsys.readouterr().err) == named


def test_steps_that_end_before_the_first_validation_are_refused(fitted: Trained, tmp_path: Path) -> None:
    short = (*TINY, *SMALL_BATCHES, "sampler.batches=3", "trainer.check_val_every_n_epoch=2")
    with pytest.raises(InputError, match=r"trainer\.max_steps=5 ends before .* set it to 6 or more"):
        fitted(tmp_path / "refused", *short, "+trainer.max_steps=5")
    fitted(tmp_path / "run", *short, "+trainer.max_steps=6")
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


def test_a_run_needs_neither_loggers_nor_monitors(trained: Trained, tmp_path: Path) -> None:
    trained(tmp_path, *TINY, *SMALL_BATCHES, "trainer.max_epochs=1", "logger=none", "callbacks=none")
    assert (tmp_path / "report" / "report.html").is_file()
    assert not (tmp_path / "metrics").exists()


def test_a_folder_that_holds_a_run_is_left_as_it_is(tiny_run: Path, fitted: Trained, command: Command) -> None:
    before = {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"holds a run already \(checkpoints/best.ckpt\): resume it by resume="):
        fitted(tiny_run, *TINY, *SMALL_BATCHES)
    ended = command("train", *TINY, f"hydra.run.dir={tiny_run}", "seed=1")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("encoder.width", 16, "encoder.width is 8 there and 16 here"),
        ("encoder.size", 48, "encoder.size is 32 there and 48 here"),
        (
            "loss",
            {"_target_": "siamese_verify.losses.ArcFaceLoss", "num_identities": None, "embedding_size": None},
            "loss._target_ is siamese_verify.losses.TripletLoss there and siamese_verify.losses.ArcFaceLoss",
        ),
        ("optimizer._target_", "torch.optim.SGD", "optimizer._target_ is torch.optim.AdamW there and torch.optim.SGD"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_by_what_differs(
    setting: str, value: object, told: str, tiny_run: Path, fitted: Trained, tmp_path: Path
) -> None:
    for part in (".hydra", "checkpoints"):
        shutil.copytree(tiny_run / part, tmp_path / part)
    RunRecord(status="stopped").write(tmp_path)
    configuration = OmegaConf.load(tmp_path / ".hydra" / "config.yaml")
    OmegaConf.update(configuration, setting, value, merge=False)
    OmegaConf.save(configuration, tmp_path / ".hydra" / "config.yaml")
    with pytest.raises(InputError, match=re.escape(f"is of another configuration: {told}")):
        fitted(tmp_path, f"resume='{tmp_path}'")


def test_a_folder_is_tested_on_people_held_out_and_evaluated_on_the_same_people_again(
    trained: Trained, configured: Configured, tmp_path: Path
) -> None:
    save_faces(tmp_path / "album", 9, 3)
    album = ("data=folder", f"data.root='{tmp_path / 'album'}'", "data.crop=whole", *SMALL_NETWORK)
    run = trained(tmp_path / "run", *album)
    people = json.loads((run / "people.json").read_text())
    tested = {name.partition("/")[0] for name in people["tested photos"]}
    parts = [set(part["people"]) for part in people["seen"]] + [tested]
    assert sorted(one for part in parts for one in part) == [f"p{number:02}" for number in range(9)]
    report = json.loads((run / "report" / "metrics.json").read_text())
    assert report["details"]["protocol"] == people["protocol"] == "folder, all pairs of 2 people held out for testing"
    assert report["details"]["tested people"] == "held out from training"

    for model in (run, run / "checkpoints" / "best.ckpt"):
        cfg = configured("evaluate", tmp_path / "again", f"model='{model}'", "resamples=0", "threads=1")
        assert evaluate(cfg, tmp_path / "again") == pytest.approx(report["eer"])
    everybody = (f"model='{run}'", "resamples=0", "threads=1", "protocol=folder", f"protocol.root='{tmp_path}/album'")
    with pytest.raises(InputError, match=r"7 of its 9 people .* and 21 of its 27 photos are trained on"):
        evaluate(configured("evaluate", tmp_path / "all", *everybody), tmp_path / "all")
    evaluate(configured("evaluate", tmp_path / "all", *everybody, "allow_leakage=true"), tmp_path / "all")
    marked = json.loads((tmp_path / "all" / "report" / "metrics.json").read_text())
    assert marked["details"]["tested people"].startswith("trained on in part: 7 of its 9 people")
    with pytest.raises(InputError, match="overlaps with the training set: 9 of its 9 people"):
        trained(tmp_path / "other", *album, "protocol=folder", f"protocol.root='{tmp_path}/album'")


def test_further_protocols_are_measured_once_each_and_checked_for_leakage(
    trained: Trained, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_faces(tmp_path / "album", 4, 3)
    album = ("+protocol@protocols.album=folder", f"protocols.album.root='{tmp_path / 'album'}'")
    drawn = ("+protocol@protocols.drawn=synthetic", "protocols.drawn.photos={identities: 5, images: 2, size: 32}")
    run = trained(tmp_path / "run", *TINY, *SMALL_BATCHES, "trainer.max_epochs=1", *album, *drawn)
    told = capsys.readouterr().out
    assert told.count("\n┡") == 1, "one table"
    pages = [run / "report" / name / "report.html" for name in ("", "album", "drawn")]
    assert [line.rpartition(": ")[2] for line in told.splitlines() if line.startswith("Report")] == [*map(str, pages)]
    logged = {name: value for row in read_metrics(run) for name, value in row.items() if value}
    for name, genuine in (("", 6 * 3), ("album", 4 * 3), ("drawn", 5)):
        metrics = json.loads((run / "report" / name / "metrics.json").read_text())
        assert metrics["genuine"] == genuine
        assert float(logged["test/" + (f"{name}/" if name else "") + "eer"]) == metrics["eer"]
        assert metrics["details"]["tested people"] == "held out from training"

    cfg = configured("evaluate", tmp_path / "again", f"model='{run}'", "resamples=0", "threads=1", *album)
    evaluate(cfg, tmp_path / "again")
    again = json.loads((tmp_path / "again" / "report" / "album" / "metrics.json").read_text())
    assert again["eer"] == pytest.approx(json.loads((run / "report" / "album" / "metrics.json").read_text())["eer"])

    seen = (*drawn, "protocols.drawn.photos.first=0")
    with pytest.raises(InputError, match=r"overlaps with the training set: 5 of its 5 people"):
        trained(tmp_path / "seen", *TINY, *SMALL_BATCHES, *seen)
    with pytest.raises(InputError, match=r"overlaps with the training set: 5 of its 5 people"):
        evaluate(configured("evaluate", tmp_path / "again", f"model='{run}'", *seen), tmp_path / "again")
    for wrong, sentence in (
        ("++protocols={a/b: {_target_: x.y}}", "A name in protocols is made of letters"),
        ("+protocol@protocols.rest=held_out", "protocols.rest cannot hold people out"),
    ):
        with pytest.raises(InputError, match=sentence):  # before data are looked for
            trained(tmp_path / "wrong", "data=folder", "data.root=nowhere", wrong)


# Training


@pytest.mark.parametrize("loss", CHOICES["loss"])
def test_every_loss_trains(loss: str, fitted: Trained, tmp_path: Path) -> None:
    run = fitted(tmp_path, *TINY, *SMALL_BATCHES, "trainer.max_epochs=1", f"loss={loss}")
    assert all(tensor.isfinite().all() for name, tensor in weights(run).items() if "extra_state" not in name)
    assert max(float(row["train/loss"]) for row in read_metrics(run) if row["train/loss"]) > 0


def test_weights_of_a_margin_softmax_are_in_the_checkpoint_but_not_in_the_model(
    fitted: Trained, tmp_path: Path
) -> None:
    run = fitted(tmp_path, *TINY, *SMALL_BATCHES, "loss=arc_face", "trainer.max_epochs=1")
    held_out = 2  # of 12 people
    assert weights(run)["loss.weights"].shape == (12 - held_out, 128)
    kept = load_checkpoint(run / "checkpoints" / "last.ckpt").encoder.state_dict()
    assert {f"encoder.{name}" for name in kept} == weights(run).keys() - {"loss.weights"}


class SignalAt(pl.Callback):
    """Sends a signal to its own process in the step after a number of steps; at once for -1."""

    def __init__(self, step: int, name: str = "SIGTERM") -> None:
        self.step, self.number = step, signal.Signals[name]
        if step < 0:
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)
            time.sleep(0.1)  # it is received in a thread


class SleepAt(pl.Callback):
    """Makes the step after a number of steps last a minute."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            time.sleep(60)


def signal_at(step: int, name: str = "SIGTERM") -> str:
    return f"+callbacks.signal={{_target_: tests.cli.test_train.SignalAt, step: {step}, name: {name}}}"


TRUSTED = "trust_code=tests.cli.test_train.SignalAt"
WITHIN, LAST = 4, 5  # steps of the second epoch of three


@pytest.mark.parametrize(
    ("step", "overrides"),
    [
        pytest.param(WITHIN, (), id="identities"),
        pytest.param(LAST, (), id="identities, at the end of an epoch"),
        pytest.param(WITHIN, ("sampler=hard", "datamodule.in_memory=false", "datamodule.workers=1"), id="hard"),
        pytest.param(LAST, ("sampler=hard", "datamodule.workers=1"), id="hard, at the end of an epoch"),
        pytest.param(WITHIN, ("loss=cos_face", "loss.scale=8"), id="margin softmax"),
        pytest.param(WITHIN, ("loss=triplet", "miner=distance_weighted"), id="drawn triplets"),
        pytest.param(
            WITHIN,
            ("loss=cross_batch_memory", "loss.size=20", "loss.warm_up=3", "miner@loss.miner=hard_pairs"),
            id="memory",
        ),
        pytest.param(WITHIN, ("sampler=pairs", "sampler.pairs=4", "loss=contrastive"), id="pairs"),
        pytest.param(
            WITHIN,
            (
                "sampler=images",
                "sampler.images=8",
                "loss=nt_xent",
                "datamodule.multi_view=2",
                "datamodule.instances=true",
            ),
            id="images",
        ),
    ],
)
def test_a_run_stopped_by_a_signal_and_resumed_ends_bit_for_bit_as_the_uninterrupted_one(
    step: int, overrides: tuple[str, ...], fitted: Trained, tmp_path: Path
) -> None:
    batches = () if {"sampler=pairs", "sampler=images"} & {*overrides} else SMALL_BATCHES
    more = ("sampler.batches=3", "encoder.dropout=0.3", "trainer.max_epochs=3")
    settings = (*TINY, *overrides, *batches, *more)
    whole = fitted(tmp_path / "whole", *settings)
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        fitted(run, *settings, signal_at(step))
    record, checkpoint = RunRecord.read(run), torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert end.value.code == record.exit_status == 75
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (1, step + 1)
    assert record.status == "stopped"
    assert f"Stopped by SIGTERM after step {step + 1}: resume with `siamese-verify train resume=" in str(record.error)
    fitted(run, f"resume='{run}'", TRUSTED)
    assert equal(weights(run), weights(whole))
    assert equal(weights(run, "best.ckpt"), weights(whole, "best.ckpt"))
    assert untimed(run) == untimed(whole)
    assert RunRecord.read(run).history == RunRecord.read(whole).history
    assert RunRecord.read(run).metrics == RunRecord.read(whole).metrics
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGUSR2", 75), ("SIGINT", 130)])
def test_a_signal_before_training_ends_at_once(
    name: str, status: int, fitted: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(signal.Signals[one]) for one in ("SIGTERM", "SIGUSR1", "SIGINT")]
    with pytest.raises(SystemExit) as end:
        fitted(tmp_path, *TINY, *SMALL_BATCHES, signal_at(-1, name))
    record = RunRecord.read(tmp_path)
    assert end.value.code == record.exit_status == status
    assert record.status == "stopped"
    assert "before training: resume with" in str(record.error)
    assert capsys.readouterr().err == f"{record.error}\n"
    assert [signal.getsignal(signal.Signals[one]) for one in ("SIGTERM", "SIGUSR1", "SIGINT")] == handlers


def test_a_run_can_go_on_in_another_folder(fitted: Trained, tmp_path: Path) -> None:
    settings = (*TINY, *SMALL_BATCHES, "sampler.batches=3", "trainer.max_epochs=3")
    with pytest.raises(SystemExit):
        fitted(tmp_path / "run", *settings, signal_at(LAST))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    other = fitted(tmp_path / "other", f"resume='{tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}'", TRUSTED)
    assert len(RunRecord.read(other).history) == 3
    assert sorted(path.name for path in (other / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_finished_run_is_not_stretched_under_its_schedule(tiny_run: Path, fitted: Trained, tmp_path: Path) -> None:
    last = tiny_run / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match=r"planned for .* its schedule cannot be stretched"):
        fitted(tmp_path, f"resume='{last}'", "trainer.max_epochs=9")
    assert RunRecord.read(tmp_path).exit_status == 2
    assert not (tmp_path / "people.json").exists()


def test_the_seed_decides_all(fitted: Trained, tmp_path: Path) -> None:
    settings = (*TINY, *SMALL_BATCHES, "encoder.dropout=0.3", "trainer.max_epochs=2")
    runs = [fitted(tmp_path / str(number), *settings, f"seed={seed}") for number, seed in enumerate((3, 3, 4))]
    first, second, third = (weights(run) for run in runs)
    assert equal(first, second)
    assert not equal(first, third)
    assert untimed(runs[0]) == untimed(runs[1])


ENDLESS = (*TINY, *SMALL_BATCHES, "trainer.max_epochs=100000", "scheduler=constant", "hydra.run.dir=run")
TWO_RANKS = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.sync_batchnorm=false")
STOPPED = re.compile(r"Stopped by (.+) after step (\d+): resume with `siamese-verify train resume=run`\.\n$")


def start(place: Path, *overrides: str, by: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a training in `place`, perhaps by torchrun, and wait for its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, *by, "-m", "siamese_verify.cli.main", "train", *overrides],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    last = place / "run" / "checkpoints" / "last.ckpt"
    while not last.is_file() and process.poll() is None:
        time.sleep(0.05)
    return process


def children(process: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_ctrl_c_ends_with_a_whole_checkpoint_and_the_run_goes_on_without_overrides(
    tmp_path: Path, command: Command
) -> None:
    process = start(tmp_path, *ENDLESS)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    stopped = STOPPED.search(err)
    assert stopped, err
    assert stopped[1] == "Ctrl-C"
    record = RunRecord.read(tmp_path / "run")
    assert (record.status, record.exit_status) == ("stopped", 130)
    assert record.error == stopped[0].rstrip()
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == int(stopped[2])
    assert not (tmp_path / "run" / "bundle").exists()

    other = command("train", "resume=run", "loss.margin=0.9", "sampler=hard", *ENDLESS[:-1])
    assert other.code == 2
    assert "but loss.margin=0.9 (0.2 in the run), sampler=hard (identity in the run) would change them" in other.err
    ended = command("train", "resume=run", f"trainer.max_epochs={saved['epoch'] + 1}")
    assert ended.code is None or ended.code == 0, ended.err
    record = RunRecord.read(tmp_path / "run")
    assert record.status == "finished"
    assert [epoch for epoch, *_ in record.history] == list(range(saved["epoch"] + 1))
    assert (tmp_path / "run" / "bundle").is_dir()
    again = command("train", "resume=run")
    assert (again.code, again.err) == (0, "")
    assert again.out == "run is finished: its results are in run/report.\n"


def test_a_second_signal_ends_within_the_step(tmp_path: Path) -> None:
    sleep = "+callbacks.sleep={_target_: tests.cli.test_train.SleepAt, step: 4}"
    process = start(tmp_path, *ENDLESS, "sampler.batches=3", sleep)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    time.sleep(2)  # sooner, it counts as the first one that came twice
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=40)  # the step lasts 60
    assert process.returncode == 75
    assert (
        "Stopped by SIGTERM for the second time, within a step: resume with `siamese-verify train resume=run`." in err
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rank"), [("SIGUSR1", 1), ("SIGKILL", 0), ("SIGKILL", 1)])
def test_two_processes_end_after_the_same_step_or_both_if_one_is_killed(name: str, rank: int, tmp_path: Path) -> None:
    process = start(tmp_path, *ENDLESS, *TWO_RANKS)
    (other,) = children(process.pid)
    os.kill((process.pid, other)[rank], signal.Signals[name])
    _, err = process.communicate(timeout=60)  # of both: they share its pipes
    record = RunRecord.read(tmp_path / "run")
    while Path(f"/proc/{other}").exists() and "\nState:\tZ" not in Path(f"/proc/{other}/status").read_text():
        time.sleep(0.05)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    if name == "SIGKILL":
        assert process.returncode == (71 if rank else -signal.SIGKILL)
        how = "Rank 1 was killed by SIGKILL" if rank else "Rank 0 has ended"
        assert err.endswith(f"{how}: resume with `siamese-verify train resume=run`.\n")
        assert (record.status, record.exit_status) == ("failed", 71)
    else:
        stopped = STOPPED.search(err)
        assert stopped, err
        assert stopped[1] == name
        assert process.returncode == record.exit_status == 75
        assert saved["global_step"] == int(stopped[2])
        assert record.status == "stopped"


@pytest.mark.slow
def test_of_two_processes_that_torchrun_starts_one_ends_when_the_other_is_killed(tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--monitor-interval=5")
    launcher = start(tmp_path, *ENDLESS, *TWO_RANKS, by=torchrun)
    (first,) = (
        one
        for one in children(launcher.pid)
        if b"LOCAL_RANK=0" in Path(f"/proc/{one}/environ").read_bytes().split(b"\0")
    )
    os.kill(first, signal.SIGKILL)  # which writes the record if it lives
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 1  # torchrun's own
    assert err.count("Another rank has ended: resume with `siamese-verify train resume=run`.\n") == 1
    record = RunRecord.read(tmp_path / "run")
    assert (record.status, record.exit_status) == ("failed", 71)


def test_cached_chunks_train_the_network_of_the_plain_step(fitted: Trained, tmp_path: Path) -> None:
    frozen = (*TINY, *SMALL_BATCHES, "trainer.max_epochs=1", "loss=ada_face", "trainer.freeze_batch_norm=true")
    plain, cached = (fitted(tmp_path / f"{size}", *frozen, f"trainer.cached_chunk={size}") for size in ("null", 3))
    torch.testing.assert_close(weights(cached), weights(plain), rtol=0, atol=1e-4)
    model = load_checkpoint(plain / "checkpoints" / "last.ckpt")
    assert model.encoder.normalize  # training left it out for the loss; the bundle has what is configured
    assert not 0.5 < weights(plain)["loss.mean"] < 2


@pytest.mark.slow
def test_two_processes_share_the_people_of_a_softmax_and_leave_one_run_validated_on_each_photo_once(
    configured: Configured, tmp_path: Path
) -> None:
    odd = ("data.photos.identities=30", "data.photos.images=5")  # 15 photos to validate on, so the ranks' shares differ
    partial = ("loss=arc_face", "loss.sharded=true", "loss.sample_rate=0.7", "trainer.cached_chunk=4")
    overrides = (*TINY, *SMALL_BATCHES, *odd, *partial, "trainer.max_epochs=1")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "siamese_verify.cli.main", "train", *overrides, *TWO_RANKS, f"hydra.run.dir={run}"]
    loopback = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=loopback)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("Report:") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (run / "bundle" / "bundle.json").is_file()
    assert weights(run)["loss.weights"].shape == (27, 128)  # all shards
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    assert [values["exp_avg"].shape for values in state.values()].count((27, 128)) == 1

    model = load_checkpoint(run / "checkpoints" / "last.ckpt")
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
    return (*SMALL_NETWORK, "data=lfw", f"data.root='{root}'", "protocol=lfw_view1")


def left_out(run: Path) -> dict[str, str]:
    with (run / "left_out.csv").open() as file:
        return {row["photo"]: row["reason"] for row in csv.DictReader(file)}


def test_damaged_photos_are_left_out_and_listed(fitted: Trained, tmp_path: Path) -> None:
    photos = small_lfw(tmp_path)
    photos[0].write_bytes(photos[0].read_bytes()[:300])
    photos[4].write_text("a text file")
    photos[8].unlink()
    run = fitted(tmp_path / "run", *lfw_overrides(tmp_path), "datamodule.max_damaged=3")
    reasons = left_out(run)
    assert set(reasons) == {f"{photo.parent.name}/{photo.name}" for photo in (photos[0], photos[4], photos[8])}
    assert all(photo.split("/")[1] in reason for photo, reason in reasons.items())


def test_too_many_damaged_photos_are_an_error_and_leave_nothing(fitted: Trained, tmp_path: Path) -> None:
    photos = small_lfw(tmp_path)
    for photo in photos[:3]:
        photo.write_text("a text file")
    with pytest.raises(InputError, match=r"More than 2 of \d+ photos cannot be read \(max_damaged\)"):
        fitted(tmp_path / "run", *lfw_overrides(tmp_path), "datamodule.max_damaged=2")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    assert str(RunRecord.read(tmp_path / "run").error).startswith("More than 2 of ")


def test_a_missing_photo_of_the_protocol_is_an_error_before_training(fitted: Trained, tmp_path: Path) -> None:
    small_lfw(tmp_path)
    (tmp_path / "lfw" / "Person_7" / "Person_7_0002.jpg").unlink()
    with pytest.raises(
        InstantiationException, match=r"1 of the 6 images in pairsDevTest\.txt are missing.*Person_7_0002\.jpg"
    ):
        fitted(tmp_path / "run", *lfw_overrides(tmp_path))


def test_photos_without_a_face_are_counted_apart_from_damaged_ones(fitted: Trained, tmp_path: Path) -> None:
    photos = small_lfw(tmp_path)
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "lfw").rglob("*.jpg")):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    photos[0].write_text("a text file")
    box = ("encoder.crop.kind=box", "encoder.crop.margin=6")
    with pytest.raises(InputError, match=r"no photos to crop \(\d+ given, 1 damaged, \d+ without a face\)"):
        fitted(tmp_path / "run", *lfw_overrides(tmp_path), *box)


def test_a_run_without_baseline_and_embeddings(trained: Callable[..., Path], tmp_path: Path) -> None:
    options = ("trainer.max_epochs=1", "baseline=null", "keep_embeddings=false")
    run = trained(tmp_path / "run", *TINY, *SMALL_BATCHES, *options)
    assert json.loads((run / "report" / "metrics.json").read_text())["comparison"] == []
    assert not (run / "report" / "embeddings.npz").exists()
    (test,) = RunRecord.read(run).test.values()
    assert 0 <= test["eer_interval"][0] <= test["eer"] <= test["eer_interval"][1] <= 1
