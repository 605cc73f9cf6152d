"""Which arguments `resume=RUN` stands for, and which runs and overrides it refuses; trainings are in test_train.py."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from siamese_verify.cli.configuration import CONF, as_dict
from siamese_verify.cli.resume import find_run, resumed_arguments
from siamese_verify.errors import InputError
from siamese_verify.evaluation.run_comparison import read_evaluation
from siamese_verify.models import load_model
from siamese_verify.run_record import RECORD, RunRecord

OVERRIDES = ["loss=contrastive", "loss.margin=0.4", "+note='two words'"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A stopped run as Hydra and `train` leave it, without checkpoints."""
    folder = tmp_path / "a run"
    (folder / ".hydra").mkdir(parents=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", OVERRIDES, return_hydra_config=True)
    settings = as_dict(composed)
    del settings["hydra"]
    OmegaConf.save(settings, folder / ".hydra/config.yaml")
    OmegaConf.save({"hydra": {"runtime": {"choices": composed.hydra.runtime.choices}}}, folder / ".hydra/hydra.yaml")
    RunRecord(status="stopped", overrides=OVERRIDES, working_folder=str(Path.cwd())).write(folder)
    return folder


def test_a_run_brings_its_overrides_and_its_folder(run: Path) -> None:
    resume = f"resume='{run}'"
    arguments = resumed_arguments([resume])
    assert arguments == [*OVERRIDES, resume, f"hydra.run.dir='{run}'", "hydra.output_subdir=null"]
    assert resumed_arguments(arguments) == arguments, "as another rank gets them"
    elsewhere = resumed_arguments([resume, "hydra.run.dir=other"])
    assert elsewhere == [*OVERRIDES, resume, "hydra.run.dir=other"]


def test_what_does_not_change_the_run_may_be_given(run: Path) -> None:
    more = ["loss.margin=0.4", "loss=contrastive", "sampler=identity", "seed=0", "logger=tensorboard", "threads=2"]
    arguments = resumed_arguments([f"resume='{run}'", *more])
    assert arguments[0] == "+note='two words'"
    assert set(more) <= {*arguments}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("loss.margin=0.5", "loss.margin=0.5 (0.4 in the run)"),
        ("loss=triplet", "loss=triplet (contrastive in the run)"),
        ("sampler=hard", "sampler=hard (identity in the run)"),
        ("seed=1", "seed=1 (0 in the run)"),
        ("+encoder.depth=3", "+encoder.depth=3 (None in the run)"),
        ("~miner", "~miner"),
    ],
)
def test_an_override_that_changes_the_run_is_named(override: str, told: str, run: Path) -> None:
    with pytest.raises(InputError, match=re.escape(f"keeps its settings, but {told}")):
        resumed_arguments([f"resume='{run}'", override])


def test_a_finished_run_is_not_started_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunRecord(status="finished", overrides=OVERRIDES).write(run)
    with pytest.raises(SystemExit) as end:
        resumed_arguments([f"resume='{run}'"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"{run} is finished: its results are in {run / 'report'}.\n"
    assert resumed_arguments([f"resume='{run}'", "trainer.max_epochs=99"])[-3:-2] == ["trainer.max_epochs=99"]


def test_a_run_is_not_resumed_while_it_runs(run: Path) -> None:
    program = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        RunRecord(process=process.pid, host=socket.gethostname(), overrides=OVERRIDES).write(run)
        if sys.platform == "linux":
            earlier = json.loads((run / RECORD).read_text()) | {"written": 1.0}
            (run / RECORD).write_text(json.dumps(earlier))  # long before that process began: its number was another's
            assert resumed_arguments([f"resume='{run}'"])[0] == OVERRIDES[0]
            RunRecord(process=process.pid, host=socket.gethostname(), overrides=OVERRIDES).write(run)
        with pytest.raises(InputError, match=f"still runs, as process {process.pid}: stop it first"):
            resumed_arguments([f"resume='{run}'"])
        process.kill()
    assert resumed_arguments([f"resume='{run}'"])[0] == OVERRIDES[0], "it was killed"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no run nowhere"):
        resumed_arguments(["resume=nowhere"])
    with pytest.raises(InputError, match=r"is no run: it holds no run\.json"):
        resumed_arguments([f"resume='{tmp_path}'"])
    assert resumed_arguments(["seed=1", "-m"]) == ["seed=1", "-m"]


def test_the_newest_run_of_a_folder_is_suggested(tmp_path: Path) -> None:
    for time, name in enumerate(("zzz", "aaa")):
        folder = tmp_path / "demo" / name
        folder.mkdir(parents=True)
        RunRecord().write(folder)
        os.utime(folder / "run.json", (time, time))
    for asked in (tmp_path, tmp_path / "demo"):
        for find in (find_run, load_model, read_evaluation):
            with pytest.raises(InputError, match=r"is a folder of runs \(2\): .* such as the newest, .*/demo/aaa\."):
                find(asked)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no model: give a run"):
        load_model(tmp_path / "empty")
