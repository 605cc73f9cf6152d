from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from siamese_verify import __version__
from siamese_verify.cli.main import flags_first, pass_on_search_path
from siamese_verify.cli.user_errors import report_user_errors, user_message
from siamese_verify.encoders import wrap_module
from siamese_verify.errors import InputError
from siamese_verify.pairwise.pair_scores import torch_device
from siamese_verify.structures import InputSpec
from tests.cli.conftest import Command
from tests.own_networks import Raising


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["trian"],
        ["verify"],
        ["verify", "a.jpg"],
        ["verify", "a", "b", "c"],
        ["verify", "a", "b", "--far", "x"],
        ["verify", "a", "b", "--far", "0.1", "--threshold", "0.5"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], command: Command) -> None:
    ended = command(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("usage: siamese-verify")
    assert "Traceback" not in ended.err


def test_help_and_version_end_with_0(command: Command) -> None:
    helped = command("--help")
    assert helped.code == 0
    assert all(name in helped.out for name in ("train", "evaluate", "verify", "demo"))
    assert command("--version") == (0, f"siamese-verify {__version__}\n", "")


@pytest.mark.parametrize("name", ["train", "demo", "preview", "prepare", "evaluate", "probe", "center"])
def test_the_help_of_a_hydra_command_is_a_sentence_examples_and_groups(name: str, command: Command) -> None:
    ended = command(name, "seed=1", "--help")
    assert (ended.code, ended.err) == (0, "")
    usage, _, sentence, *lines = ended.out.splitlines()
    assert usage.startswith(f"usage: siamese-verify {name} ")
    assert sentence.endswith(".") and len(lines) < 80
    assert sum(line.startswith(f"  siamese-verify {name} ") for line in lines) == 2
    if name != "probe":
        assert any(line.startswith("  data: array_pairs, arrays, ") for line in lines)


def test_a_command_is_suggested_and_flags_may_follow_overrides(command: Command) -> None:
    assert "there is no command trian: did you mean train?" in command("trian").err
    arguments = ["seed=1", "-m", "--config-dir", "a=b", "x=1,2", "-c", "job"]
    assert flags_first(arguments) == ["-m", "--config-dir", "a=b", "-c", "job", "seed=1", "x=1,2"]


def test_a_model_is_pulled_from_files_that_are_those_of_the_zoo_only(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refused = command("models", "pull", "sface", "--from", ".")
    assert (refused.code, refused.out) == (2, "")
    assert ". holds no face_recognition_sface_2021dec_int8bq.onnx (SHA-256 fb143eea" in refused.err
    assert not list((tmp_path / "cache").rglob("*.onnx"))
    assert "--from goes with pull" in command("models", "--from", ".").err
    assert "\nvggface2: 107 MB to download\n  to get it: siamese-verify models pull vggface2\n" in command("models").out
    listed = command("models", "--json")
    assert {one["name"] for one in json.loads(listed.out)} >= {"sface", "casia-webface", "vggface2"}


def test_the_job_is_shown_as_yaml(command: Command, tmp_path: Path) -> None:
    ended = command("train", "--cfg", "job", "experiment=lfw_triplet")
    assert (ended.code, ended.err) == (0, "")
    shown = OmegaConf.create(ended.out)
    assert (shown.name, shown.data.name) == ("lfw_triplet", "lfw")
    assert not list(tmp_path.iterdir())  # and nothing was run


@pytest.mark.parametrize(
    "statement",
    [
        "import siamese_verify",
        "from siamese_verify.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
    ],
    ids=["the package", "--help"],
)
def test_nothing_heavy_is_loaded_by(statement: str) -> None:
    program = f"import sys\n{statement}\nprint('modules', *sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    modules = {name.partition(".")[0] for name in ended.stdout.rpartition("modules ")[2].split()}
    assert modules.isdisjoint({"torch", "numpy", "hydra", "omegaconf", "PIL", "pytorch_lightning", "matplotlib"})


@pytest.mark.parametrize(("first", "expected"), [("", "here"), ("/usr/bin", "random")])
def test_further_processes_find_the_modules_of_the_first(
    first: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("__name__ = 'here'")  # beside the standard library's
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "path", [first, *sys.path])
    pass_on_search_path()
    program = "import random; print(random.__name__)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)  # -c looks there as -m does
    assert ended.stdout.strip() == expected, ended.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no pseudo-terminals")
def test_a_progress_bar_shows_in_a_terminal_without_a_size() -> None:
    reader, terminal = os.openpty()
    draw = "from tqdm import tqdm; list(tqdm(range(3), 'Embedding', disable=None))"
    program = f"from siamese_verify.cli.main import main; main(['models']); {draw}"
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=terminal)
    os.close(terminal)
    assert ended.returncode == 0
    assert b"Embedding: 100%" in os.read(reader, 4096)
    os.close(reader)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_a_users_own_network_raises_is_told_with_its_line() -> None:
    with pytest.raises(InputError) as found:
        wrap_module(Raising(ValueError("odd")), InputSpec(8))
    place = r"This was raised in code of your own: Raising\.forward, line \d+ of .*own_networks\.py\."
    said = rf"Raising cannot be run on images of shape \(2, 3, 8, 8\): odd\. {place}"
    assert re.fullmatch(said, str(user_message(found.value, ())))


def test_a_gpu_that_is_not_there_has_a_way_out() -> None:
    with pytest.raises(InputError, match=r"torch finds no GPU here\): give cpu or auto"):
        torch_device("cuda")
    with pytest.raises(InstantiationException) as found:
        instantiate({"_target_": "pytorch_lightning.Trainer", "accelerator": "gpu"})
    assert str(user_message(found.value, ())).endswith("asks for a GPU, and torch finds none here: write trainer=cpu.")


def test_ctrl_c_is_reported_once_by_a_command_within_another(capfd: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904 (Lightning's answer)

    with pytest.raises(SystemExit) as end:
        report_user_errors(report_user_errors(stopped))()
    assert (end.value.code, capfd.readouterr().err) == (130, "Stopped by Ctrl-C.\n")
