from __future__ import annotations

import csv
import importlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from siamese_verify.evaluation import verification_report
from siamese_verify.training import publish_report
from siamese_verify.training.loggers import mlflow_logger, run_name, sweep_name
from tests.cli.test_train import TRUSTED, signal_at
from tests.conftest import SMALL_BATCHES, TINY

BOARD = "pytorch_lightning.loggers.TensorBoardLogger"
PICTURES = ("roc", "det", "histogram", "errors")


class Figures:
    """A logger that takes figures only, as CSVLogger does."""

    experiment = object()

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    def log_metrics(self, figures: dict[str, float], step: int | None = None) -> None:
        self.figures |= figures
        self.step = step

    def save(self) -> None:
        """There is no file to finish."""


def test_every_logger_gets_the_figures(tmp_path: Path) -> None:
    report = verification_report([0.9, 0.8, 0.3, 0.7, 0.1, 0.0], [True, True, True, False, False, False], threshold=0.5)
    logger = Figures()
    publish_report(logger, report, tmp_path, step=7)
    assert logger.step == 7
    assert logger.figures["test/eer"] == report.eer
    assert logger.figures["test/auc"] == report.auc
    assert logger.figures["test/balanced_accuracy"] == pytest.approx(4 / 6)
    assert {name for name in logger.figures if "tar" in name} == {
        f"test/tar_at_far_{far}" for far in (0.1, 0.01, 0.001)
    }


def test_tensorboard_gets_metrics_and_pictures(trained: Callable[..., Path], tmp_path: Path) -> None:
    run = trained(tmp_path / "run", *TINY, *SMALL_BATCHES, "logger=tensorboard", "trainer.max_epochs=1")
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")  # untyped
    events: Any = reader.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {"val/roc", *(f"report/{name}" for name in PICTURES)}
    assert {"val/eer", "val/auc", "test/eer", "test/tar_at_far_0.01"} <= set(tags["scalars"])
    steps = {"train/learning_rate", "train/gradient_norm", "train/step_seconds", "train/images_per_second"}
    assert steps <= set(tags["scalars"])
    # without the -1 that Lightning writes first
    assert [event.value for event in events.Scalars("hp_metric")] == [events.Scalars("val/eer")[0].value]
    plugin = importlib.import_module("tensorboard.plugins.hparams.plugin_data_pb2")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["loss.margin"].number_value == 0.2
    assert settings["encoder.width"].number_value == 8
    assert not [name for name in settings if name.startswith(("logger", "callbacks"))]
    for name in PICTURES:
        (event,) = events.Images(f"report/{name}")
        with Image.open(run / "report" / f"{name}.png") as picture:
            assert (event.width, event.height) == picture.size
    assert (run / "metrics" / "metrics.csv").is_file()  # beside the others, not in their place


@pytest.mark.slow
def test_wandb_gets_metrics_configuration_pictures_and_curve_without_a_network(tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    start = [sys.executable, "-m", "siamese_verify.cli.main", "train"]
    settings = [
        "scheduler=constant",
        "logger=wandb",
        "trainer.max_epochs=1",
        f"hydra.run.dir={tmp_path}/sweep/0",
        "loss.margin=0.3",
    ]
    environment = {**os.environ, **nowhere, "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    command = [*start, *TINY, *SMALL_BATCHES, *settings]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "WARNING" not in ended.stdout + ended.stderr
    run = tmp_path / "sweep" / "0"
    (offline,) = (run / "wandb").glob("offline-run-*")
    media = offline / "files" / "media"
    pictures = {path.name.split("_")[0]: path for path in (media / "images" / "report").glob("*.png")}
    assert set(pictures) == set(PICTURES)
    for name, path in pictures.items():
        assert path.read_bytes() == (run / "report" / f"{name}.png").read_bytes()
    (table,) = (media / "table" / "report").glob("roc_curve*.table.json")
    curve = json.loads(table.read_text())
    assert curve["columns"] == ["threshold", "far", "tar"]
    assert 2 <= len(curve["data"]) <= 200
    assert curve["data"][-1][1:] == [1.0, 1.0]
    (record,) = offline.glob("*.wandb")
    content = record.read_bytes()
    group = f"{tmp_path.name}/sweep".encode()
    for text in (b"val/eer", b"test/eer", b"train/gradient_norm", b"TripletLoss", b"loss.margin=0.3", group):
        assert text in content
    resume = [*start, f"resume={run}", "trainer.max_epochs=2"]
    ended = subprocess.run(resume, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    resumed = {path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")}
    assert resumed == {offline.name.rpartition("-")[2]}, "two files of one run, which are put together when sent"
    assert len([*(run / "wandb").glob("offline-run-*")]) == 2


def test_mlflow_gets_metrics_and_settings_in_a_database_of_the_run(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    pictures = ("callbacks=pictures", "callbacks.pictures.every_n_epochs=1")
    run = trained(tmp_path / "run", *TINY, *SMALL_BATCHES, "logger=mlflow", "trainer.max_epochs=1", *pictures)
    with closing(sqlite3.connect(run / "mlflow.db")) as database:
        metrics = dict(database.execute("select key, value from latest_metrics"))
        settings = dict(database.execute("select key, value from params"))
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
    logged = {"val/eer", "test/eer", "hp_metric", "train/gradient_norm", "train/images_per_second"}
    assert logged <= set(metrics)
    assert metrics["hp_metric"] == pytest.approx(metrics["val/eer"])
    assert settings["loss/margin"] == "0.2"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    shown = {path.parent.name for path in (run / "mlflow").rglob("*.png")}
    assert shown == {"map", "neighbors", *PICTURES}


def test_a_run_that_is_stopped_and_resumed_is_one_run_of_mlflow_and_tensorboard(
    fitted: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run, steps = tmp_path / "run", (*SMALL_BATCHES, "sampler.batches=3", "trainer.log_every_n_steps=1")
    board = f"+logger.board={{_target_: {BOARD}, save_dir: '{run}', name: '', version: tensorboard}}"
    with pytest.raises(SystemExit):
        fitted(run, *TINY, *steps, "trainer.max_epochs=3", "logger=mlflow", board, signal_at(4))
    with closing(sqlite3.connect(run / "mlflow.db")) as database:
        ((name, status),) = database.execute("select run_uuid, status from runs").fetchall()
        settings = database.execute("select key, value from params order by key").fetchall()
    assert status == "FAILED"
    fitted(run, f"resume='{run}'", TRUSTED)
    with closing(sqlite3.connect(run / "mlflow.db")) as database:
        assert database.execute("select run_uuid, status from runs").fetchall() == [(name, "FINISHED")]
        assert database.execute("select key, value from params order by key").fetchall() == settings
        logged = database.execute("select distinct step from metrics where key = 'train/loss' order by step").fetchall()
        validated = database.execute("select step from metrics where key = 'val/eer' order by step").fetchall()
    assert [step for (step,) in logged] == list(range(9))
    assert [step for (step,) in validated] == [2, 5, 8]
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events: Any = reader.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val/eer")] == [2, 5, 8]
    assert {event.step for event in events.Scalars("train/loss")} == {*range(9)}
    with (run / "metrics" / "metrics.csv").open() as table:
        assert [row["step"] for row in csv.DictReader(table) if row["val/eer"]] == ["2", "5", "8"]


def test_a_run_that_is_gone_from_mlflow_is_started_there_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = mlflow_logger(str(tmp_path), "faces")
    first.log_hyperparams({"resume": None})
    again = mlflow_logger(str(tmp_path), "faces")
    again.log_hyperparams({"resume": "last.ckpt"})  # MLflow would refuse the change
    assert again.run_id == first.run_id == (tmp_path / "mlflow_run.txt").read_text()
    first.experiment.delete_run(first.run_id)
    new = mlflow_logger(str(tmp_path), "faces")
    assert new.run_id != first.run_id
    assert mlflow_logger(str(tmp_path), "faces").run_id == new.run_id


def test_runs_are_named_by_what_is_overridden_and_grouped_by_their_sweep(tmp_path: Path) -> None:
    single, part = tmp_path / "demo" / "noon", tmp_path / "demo" / "night" / "3"
    for folder in (single, part):
        folder.mkdir(parents=True)
    (part.parent / "multirun.yaml").touch()
    overrides = ["experiment=demo", "loss.margin=0.3", "+seed=1", "data.root=/photos", "logger=wandb", "threads=1"]
    assert run_name(part, overrides) == "loss.margin=0.3 +seed=1"
    assert run_name(single, ["experiment=demo"]) == "noon"
    assert len(run_name(single, [f"loss.margin{number}=1" for number in range(100)])) == 120
    assert (sweep_name(single), sweep_name(part)) == ("", "demo/night")


def test_pictures_of_the_validation_photos_go_to_the_logger_every_n_epochs_if_asked_for(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    pictures = ("callbacks=pictures", "callbacks.pictures.every_n_epochs=2", "callbacks.pictures.strips=3")
    run = trained(
        tmp_path / "run",
        *TINY,
        *SMALL_BATCHES,
        "logger=tensorboard",
        "trainer.max_epochs=3",
        "baseline=null",
        *pictures,
    )
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events: Any = reader.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for name, size in (("val/map", None), ("val/neighbors", (8 * 72 + 8, 3 * 72))):
        (event,) = events.Images(name)
        assert event.step == [one.step for one in events.Images("val/roc")][1], "of the second epoch"
        if size:
            assert (event.width, event.height) == size, "three of the eight photos, with all others"
