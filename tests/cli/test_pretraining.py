"""Two stages by one command: what both share, how either is stopped and resumed, what failing looks like."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from siamese_verify.cli.pretraining import composed, first_stage_overrides, leaves
from siamese_verify.cli.resume import save_configuration
from siamese_verify.cli.training_checks import check_run
from siamese_verify.errors import InputError
from siamese_verify.models import load_model, open_bundle
from siamese_verify.run_record import RunRecord
from siamese_verify.sweeps.child_run import quote_elements, quoted
from tests.cli.test_train import TRUSTED, equal, signal_at, weights
from tests.conftest import SMALL_BATCHES, TINY

Configured = Callable[..., DictConfig]
Trained = Callable[..., Path]

STEPS = ("sampler.batches=3", "trainer.max_epochs=2")
FIRST = (*SMALL_BATCHES, *STEPS, "loss=contrastive")
SECOND = (*TINY, *SMALL_BATCHES, "sampler.batches=2", "trainer.max_epochs=1", "data.photos.seed=3")


def pretrain(*overrides: str) -> str:
    return f"pretrain=[{','.join(map(quoted, overrides))}]"


@pytest.fixture(scope="module")
def two_stages(fitted: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose second stage trains nothing of the encoder."""
    folder = tmp_path_factory.mktemp("stages") / "run"
    return fitted(folder, *SECOND, pretrain(*FIRST), "loss=arc_face", "trainer.frozen_layers=6", "encoder.dropout=0.2")


# What is shared


@pytest.mark.parametrize(
    "overrides",
    [
        SECOND,
        ("experiment=demo", "datamodule.validation_share=0.3", "datamodule.split_seed=4", "seed=7"),
        ("experiment=sweep_faces", "protocol.seed=3", "encoder.dropout=0.25"),
        ("data=folder", "data.root='my photos/it\\'s'", "encoder=timm", "protocol=folder", "protocol.root=other"),
        (
            "data=lfw",
            "protocol=lfw_view1",
            "trainer=gpu",
            "trainer.devices=2",
            "encoder.blocks=[1,2]",
            "encoder.stem=1",
        ),
        ("data=arrays", "data.path=a.npz", "encoder=array_resnet", "encoder.shape=[1,8,8]", "cache=null"),
    ],
)
def test_data_encoder_protocol_and_machine_are_shared_and_what_is_learned_is_not(
    overrides: tuple[str, ...], configured: Configured, tmp_path: Path
) -> None:
    more = ("loss=arc_face", "optimizer.lr=0.5", "trainer.max_epochs=3", "trainer.frozen_layers=1", "sampler=identity")
    unknown = "datamodule.unlabeled_identity=unknown"
    own = ("loss=nt_xent", "trainer.max_epochs=5", "encoder.dropout=0.5")
    cfg = configured("train", tmp_path, *overrides, *more, unknown, pretrain(*own))
    first = composed(first_stage_overrides(cfg))
    held_out = ("split_seed", "validation_share", "unlabeled_identity")
    for place in ("data", "protocol", "seed", "cache", *(f"datamodule.{name}" for name in held_out)):
        assert leaves(first, place) == leaves(cfg, place), place
    assert {**leaves(cfg, "encoder"), "encoder.dropout": 0.5} == leaves(first, "encoder")
    differing = {name for name, value in leaves(cfg, "trainer").items() if leaves(first, "trainer").get(name) != value}
    assert differing == {"trainer.max_epochs", "trainer.frozen_layers"}
    assert (first.trainer.max_epochs, first.loss._target_.rpartition(".")[2]) == (5, "NTXentLoss")
    assert first.optimizer == composed([]).optimizer
    assert first.pretrain is None


def test_another_data_set_of_the_first_stage_is_tested_on_the_protocol_of_the_second(
    configured: Configured, tmp_path: Path
) -> None:
    place = ("data=lfw", "data.root=LFW", "protocol=lfw_view1")
    cfg = configured("train", tmp_path, *place, pretrain("data=folder", "data.root=other", "data.crop=whole"))
    first = composed(first_stage_overrides(cfg))
    assert OmegaConf.to_container(first.protocol, resolve=True) == OmegaConf.to_container(cfg.protocol, resolve=True)
    assert (first.protocol.root, first.data.root, first.datamodule.photos.root) == ("LFW", "other", "other")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("pretrain=3", r"pretrain is a list of overrides, such as \[loss=nt_xent,trainer.max_epochs=9\], got 3"),
        (pretrain("resume=x"), "pretrain cannot set resume, which is of the whole run"),
        (pretrain("hydra.run.dir=x"), "pretrain cannot set hydra.run.dir"),
        (pretrain("loss"), "pretrain has an invalid override"),
        (pretrain("loss=tripel"), "The first stage: There is no loss=tripel: did you mean triplet"),
        (pretrain("loss.margn=1"), "The first stage: There is no setting loss.margn: did you mean loss.margin"),
        (pretrain("sweep.metric=val/x"), "sweep.metric must be one of"),
        (pretrain("method=moco", "method.momentum=3"), "momentum is 3, but is a share that is kept"),
    ],
)
def test_a_wrong_first_stage_is_refused_before_anything_is_trained(
    given: str, told: str, configured: Configured, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told):
        check_run(configured("train", tmp_path, given))


@pytest.mark.parametrize(
    ("typed", "quoted_elements"),
    [
        ("pretrain=[loss=nt_xent, seed=1]", "pretrain=['loss=nt_xent','seed=1']"),
        ("+pretrain=[a=[1,2],'b=3']", "+pretrain=['a=[1,2]','b=3']"),
        ("pretrain=[a=1],[a={b:2}]", "pretrain=['a=1'],['a={b:2}']"),
        ("pretrain=null", "pretrain=null"),
        ("other=[a=1]", "other=[a=1]"),
    ],
)
def test_overrides_of_the_first_stage_need_no_quotes(typed: str, quoted_elements: str) -> None:
    assert quote_elements(typed) == quote_elements(quoted_elements) == quoted_elements


# Runs


def test_the_second_stage_starts_from_the_first_and_holds_the_same_people_out(two_stages: Path) -> None:
    first = two_stages / "pretraining"
    record = RunRecord.read(first)
    assert (record.status, record.exit_status) == ("finished", 0)
    assert equal(
        load_model(first).encoder.state_dict(), load_model(two_stages / "checkpoints/last.ckpt").encoder.state_dict()
    )
    people = [json.loads((folder / "people.json").read_text()) for folder in (first, two_stages)]
    assert people[1]["seen"] == [*people[0]["seen"], *people[0]["seen"]]
    assert people[0]["tested photos"] == people[1]["tested photos"]
    assert record.data == RunRecord.read(two_stages).data
    stages = load_model(two_stages / "checkpoints/best.ckpt").metadata.training["stages"]
    assert [stage["loss"] for stage in stages] == ["ContrastiveLoss", "ArcFaceLoss"]
    assert stages[0]["command"] == record.command
    assert stages[0]["weights_sha256"] == open_bundle(first / "bundle").metadata.weights_sha256
    assert "encoder.dropout=0.2" in record.command


@pytest.mark.slow
def test_a_first_stage_that_is_stopped_goes_on_and_a_finished_one_is_not_repeated(
    two_stages: Path, fitted: Trained, configured: Configured, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    second = (*SECOND, "loss=arc_face", "trainer.frozen_layers=6", "encoder.dropout=0.2")
    settings = (*second, pretrain(*FIRST, signal_at(4)), signal_at(0))
    with pytest.raises(SystemExit) as end:
        fitted(run, *settings)
    records = [RunRecord.read(folder) for folder in (run, run / "pretraining")]
    assert [record.status for record in records] == ["stopped", "stopped"]
    assert end.value.code == records[0].exit_status == 75
    assert "in the first stage: resume with" in str(records[0].error)
    save_configuration(configured("train", run, *settings), run)  # as Hydra has when it starts a command
    with pytest.raises(InputError, match="names code of others"):
        fitted(run, f"resume='{run}'")
    with pytest.raises(SystemExit):
        fitted(run, f"resume='{run}'", TRUSTED)  # the second stage stops after its first step
    finished = RunRecord.read(run / "pretraining")
    assert finished.status == "finished"
    fitted(run, f"resume='{run}'", TRUSTED)
    assert RunRecord.read(run / "pretraining") == finished, "not repeated"
    for folder in ("pretraining", "."):
        assert equal(weights(run / folder), weights(two_stages / folder))


def test_a_failed_first_stage_is_reported_with_its_reason(fitted: Trained, tmp_path: Path) -> None:
    broken = pretrain(*FIRST, "loss._target_=tests.cli.test_train.BrokenLoss")
    with pytest.raises(
        InputError, match=r"The first stage failed: ZeroDivisionError: a bug.* output is in .*output\.log"
    ):
        fitted(tmp_path / "run", *SECOND, broken)
    assert RunRecord.read(tmp_path / "run").status == "failed"
    with pytest.raises(InputError, match="holds another run"):
        fitted(tmp_path / "run", *SECOND, pretrain("seed=5"))
    with pytest.raises(InputError, match="put initialize_from into pretrain"):
        fitted(tmp_path / "both", *SECOND, broken, f"initialize_from='{tmp_path}/run'")


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "siamese_verify.cli.main", "train", *SECOND, *arguments]
    with (folder / "printed").open("wb") as printed:
        return subprocess.Popen(command, cwd=folder, stdout=printed, stderr=printed)


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not reached():
        assert process.poll() is None
        time.sleep(0.2)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_ctrl_c_stops_both_stages_of_a_sweeps_run(tmp_path: Path) -> None:
    long = pretrain(
        *SMALL_BATCHES, "sampler.batches=2", "trainer.max_epochs=400", "loss=contrastive", "scheduler=constant"
    )
    sweep, first = tmp_path / "sweep", tmp_path / "sweep" / "0" / "pretraining"
    process = start(tmp_path, long, "seed=0,1", "hydra.sweep.dir=sweep", "-m")
    wait_until(lambda: (first / "checkpoints" / "last.ckpt").is_file(), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    records = [RunRecord.read(folder) for folder in (sweep / "0", first)]
    assert [record.status for record in records] == ["stopped", "stopped"]
    assert not any(is_alive(record.process) for record in records)


@pytest.mark.slow
def test_two_ranks_train_one_first_stage(tmp_path: Path) -> None:
    ranks = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.sync_batchnorm=false")
    process = start(tmp_path, pretrain(*FIRST), *ranks, "hydra.run.dir=run")
    assert process.wait(300) == 0, (tmp_path / "printed").read_text()
    assert RunRecord.read(tmp_path / "run" / "pretraining").status == "finished"
    stages = open_bundle(tmp_path / "run" / "bundle").metadata.training["stages"]
    assert [stage["loss"] for stage in stages] == ["ContrastiveLoss", "TripletLoss"]
    assert (tmp_path / "printed").read_text().count("First stage: run/pretraining") == 1
