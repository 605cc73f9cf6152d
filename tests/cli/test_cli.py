from __future__ import annotations

import csv
import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf

from siamese_verify import __version__
from siamese_verify.cli import main as cli
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import SmallResNet
from siamese_verify.evaluation import verification_report
from siamese_verify.models import FaceModel, save_bundle
from siamese_verify.verification import Verification


class Ended(NamedTuple):
    code: object
    out: str
    err: str


Command = Callable[..., Ended]
LONE = re.compile(r"siamese-verify: [^\n]+\.\n")  # one sentence and nothing else


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run a command line within this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str) -> Ended:
        code: object
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'siamese_verify", RuntimeWarning)  # runpy, of modules imported before
            try:
                code = cli.main([*arguments])
            except SystemExit as end:
                code = end.code
        return Ended(code, *capfd.readouterr())

    yield run
    logging.root.handlers[:] = handlers  # Hydra puts its own in their place
    logging.root.setLevel(level)


def shell(*arguments: str, folder: Path) -> Ended:
    ended = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    faces = SyntheticFaces(2, 1, 64)
    folder = tmp_path_factory.mktemp("photos")
    for row in range(2):
        faces[row].save(folder / f"{row}.png")
    return [str(folder / f"{row}.png") for row in range(2)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose strictest threshold nothing reaches."""
    torch.manual_seed(0)
    report = verification_report([0.999, 0.998, *[0.9] * 20], [True, False, *[False] * 20])
    configuration = {"_target_": "siamese_verify.encoders.SmallResNet", "size": 32, "width": 4}
    scores = verification_report([0.9, 0.8, 0.8, *[-1] * 199], [True, True, *[False] * 200])
    points = (*scores.operating_points[:2], report.operating_points[2]._replace(threshold=float("inf")))
    model = FaceModel.create(
        "",
        SmallResNet(size=32, width=4),
        configuration,
        points,
        eer_threshold=0.8,
        measured_on="202 drawn scores",
    )
    folder = tmp_path_factory.mktemp("model") / "bundle"
    save_bundle(folder, model, {})
    return str(folder)


def test_one_person_ends_with_0_and_a_sentence(command: Command, bundle: str, photos: list[str]) -> None:
    ended = command("verify", photos[0], photos[0], "--model", bundle)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("The same person: score 1.000, threshold ")
    assert "impostor pairs were accepted" in ended.out
    assert "measured on 202 drawn scores." in ended.out


def test_two_people_end_with_1_and_a_sentence(command: Command, bundle: str, photos: list[str]) -> None:
    ended = command("verify", *photos, "--model", bundle, "--threshold", "1")
    assert (ended.code, ended.err) == (1, "")
    assert re.fullmatch(r"Different people: score -?0\.\d{3}, threshold 1\.000\.\n", ended.out)


@pytest.mark.parametrize(("other", "same"), [(0, True), (1, False)])
def test_json_holds_the_whole_decision(
    other: int, same: bool, command: Command, bundle: str, photos: list[str]
) -> None:
    threshold = () if same else ("--threshold", "1")
    ended = command("verify", photos[0], photos[other], "--model", bundle, "--json", *threshold)
    result = json.loads(ended.out)
    assert (ended.code, ended.err, result["same"]) == (0 if same else 1, "", same)
    assert set(result) == {field.name for field in dataclasses.fields(Verification)} | {"reason", "detail"}


def test_json_is_strict_where_no_score_reaches_the_threshold(command: Command, bundle: str, photos: list[str]) -> None:
    ended = command("verify", photos[0], photos[0], "--model", bundle, "--json", "--far", "1e-3")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    result = json.loads(ended.out, parse_constant=refuse)
    assert (ended.code, result["same"], result["threshold"]) == (1, False, None)


@pytest.mark.parametrize("content", [b"just text\n", b"\xff\xd8\xff\xe0" + bytes(99), None])
def test_no_decision_ends_with_3_and_a_sentence(
    content: bytes | None, command: Command, bundle: str, photos: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "text.jpg"
    if content is not None:
        path.write_bytes(content)
    ended = command("verify", photos[0], str(path), "--model", bundle)
    assert (ended.code, ended.out) == (3, "")
    assert re.fullmatch(r"No decision: [^\n]*text\.jpg[^\n]*\.\n", ended.err)


def test_no_decision_is_json_too(command: Command, bundle: str, photos: list[str]) -> None:
    ended = command("verify", photos[0], "nowhere.jpg", "--model", bundle, "--json")
    assert ended.code == 3
    told = json.loads(ended.out)
    assert (told["same"], told["reason"], told["detail"]) == (None, "unreadable_photo", "There is no file nowhere.jpg.")
    decided = json.loads(command("verify", *photos, "--model", bundle, "--json").out)
    assert set(told) == set(decided)
    assert all(type(told[name]) is type(decided[name]) for name in ("reasons", "warnings", "faces", "milliseconds"))


HOSTILE = (
    "\x1b]0;x\x07.jpg",
    "a\nFAKE: The same person: score 0.999.jpg",
    "\u202egpj.exe",
    "\x9b31m\r.jpg",
    "\udcff.jpg",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_of_a_file_writes_to_the_terminal_what_is_no_name(
    name: str, command: Command, bundle: str, photos: list[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(Path(photos[0]).read_bytes())
    (tmp_path / f"bad{name}").write_text("no photo")
    (tmp_path / "pairs.csv").write_bytes(f'a,b\n"bad{name}","{name}"\n'.encode("utf-8", "surrogatepass"))
    (tmp_path / "[bold]b").mkdir()
    cases = [
        (["verify", name, photos[0], "--model", bundle], 0),
        (["verify", f"bad{name}", photos[0], "--model", bundle], 3),
        (["verify", photos[0], photos[0], "--model", name], 2),
        (["verify", photos[0], photos[0], "--model", bundle, f"-{name}"], 2),
        (["verify", photos[0], name, "--model", bundle, "--picture", f"no/{name}.png"], 2),
        (["verify", "--pairs", "pairs.csv", "--out", "out.csv", "--model", bundle], None),
        (["people", "--gallery", name, "--key", name], 2),
        (["export", name, "--to", f"no{name}", "--drawn"], 2),
        (["compare", name, name], 2),
        (
            ["evaluate", f"model={name}", "hydra.run.dir=run", "protocol=synthetic", "protocol.photos.identities=3"],
            None,
        ),
    ]
    for arguments, code in cases:
        ended = command(*arguments)
        assert code is None or ended.code == code, (arguments, ended)
        told = ended.out + ended.err
        told.encode()  # and can be shown
        assert not set(told) & {"\x1b", "\x07", "\u202e", "\x9b", "\r"}, (arguments, told)
        assert not re.search("^FAKE", told, re.MULTILINE), (arguments, told)


def test_a_name_is_no_formula_of_a_spreadsheet(
    command: Command, bundle: str, photos: list[str], tmp_path: Path
) -> None:
    for name in ("=1+1.jpg", "@a.jpg", "-1.jpg"):
        (tmp_path / name).write_bytes(Path(photos[0]).read_bytes())
    (tmp_path / "pairs.csv").write_text("a,b,note\n=1+1.jpg,@a.jpg,-0.5\n-1.jpg,=none.jpg,+x\n")
    assert command("verify", "--pairs", "pairs.csv", "--out", "out.csv", "--model", bundle).code == 0
    cells = [cell for row in csv.reader((tmp_path / "out.csv").open(newline="")) for cell in row]
    assert {"'=1+1.jpg", "'@a.jpg", "'-1.jpg", "'=none.jpg", "-0.5", "'+x"} <= set(cells)
    assert not [cell for cell in cells if re.match(r"[=+@\t\r]|-(?![\d.]+$)", cell)]
    (tmp_path / "again").mkdir()  # and what was written is read as it was meant
    again = command("verify", "--pairs", "out.csv", "--out", "again/out.csv", "--root", ".", "--model", bundle)
    assert again.code == 0
    assert "'=1+1.jpg" in (tmp_path / "again/out.csv").read_text()
    assert "''=" not in (tmp_path / "again/out.csv").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_answer_that_cannot_be_written_is_said_and_is_no_other_answer(
    unbuffered: str, bundle: str, photos: list[str], tmp_path: Path
) -> None:
    def ended(*arguments: str, **streams: Any) -> tuple[int, str]:
        program = [sys.executable, "-m", "siamese_verify.cli.main", *arguments]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        streams = {"stderr": subprocess.PIPE, **streams}
        run = subprocess.run(program, cwd=tmp_path, env=environment, text=True, timeout=120, **streams)
        return run.returncode, run.stderr or ""

    with Path("/dev/full").open("w") as full:
        code, said = ended("verify", *photos, "--model", bundle, stdout=full)
        assert (code, said.count("\n"), "cannot be written" in said) == (74, 1, True), said
        assert ended("verify", "a", "b", "--model", "nowhere", stdout=full, stderr=full)[0] == 74


def test_a_pipe_in_place_of_the_network_is_not_waited_for(
    command: Command, bundle: str, photos: list[str], tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "piped")
    (tmp_path / "piped/model.onnx").unlink()
    os.mkfifo(tmp_path / "piped/model.onnx")
    os.mkfifo(tmp_path / "fifo")
    for model, sentence in (("piped", "model.onnx is missing or no file"), ("fifo", "fifo is a pipe or a device")):
        ended = command("verify", *photos, "--model", model)
        assert (ended.code, sentence in ended.err) == (2, True), ended
        assert LONE.fullmatch(ended.err)


@pytest.mark.parametrize("prior", ["0", "1", "nan", "0.5"])
def test_a_prior_needs_a_calibrated_model(prior: str, command: Command, bundle: str, photos: list[str]) -> None:
    ended = command("verify", *photos, "--model", bundle, "--prior", prior)
    assert (ended.code, ended.out) == (2, "")
    assert ("never calibrated" if prior == "0.5" else "lies between 0 and 1") in ended.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--far", "0.5"], "use 0.001, 0.01, 0.1"),
        (["--far", "nan"], "above 0 and up to 0.5"),
        (["--threshold", "1.5"], "between -1 and 1"),
        (["--threshold", "nan"], "between -1 and 1"),
        (["--model", "nobody"], "There is no model nobody"),
    ],
)
def test_wrong_values_end_with_2_and_a_sentence(
    options: list[str], complaint: str, command: Command, bundle: str, photos: list[str]
) -> None:
    ended = command("verify", *photos, "--model", bundle, *options)
    assert (ended.code, ended.out) == (2, "")
    assert LONE.fullmatch(ended.err)
    assert complaint in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
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


def test_a_damaged_bundle_ends_with_2_and_a_sentence(
    command: Command, bundle: str, photos: list[str], tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "bundle.json").write_text("{")
    ended = command("verify", *photos, "--model", "broken")
    assert ended.code == 2
    assert LONE.fullmatch(ended.err)


def test_a_trained_run_verifies(command: Command, tiny_run: Path, photos: list[str]) -> None:
    ended = command("verify", photos[0], photos[0], "--model", str(tiny_run))
    assert ended.code == 0
    assert "held out from synthetic training" in ended.out


def test_help_and_version_end_with_0(command: Command) -> None:
    helped = command("--help")
    assert helped.code == 0
    assert all(name in helped.out for name in ("train", "evaluate", "verify", "demo"))
    assert command("--version") == (0, f"siamese-verify {__version__}\n", "")


def test_the_job_is_shown_as_yaml(command: Command, tmp_path: Path) -> None:
    ended = command("train", "--cfg", "job", "experiment=lfw_triplet")
    assert (ended.code, ended.err) == (0, "")
    shown = OmegaConf.create(ended.out)
    assert (shown.name, shown.data.name) == ("lfw_triplet", "lfw")
    assert not list(tmp_path.iterdir())  # and nothing was run


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("trainer.max_epoch=3", "no setting trainer.max_epoch: did you mean trainer.max_epochs?"),
        ("loss=nonsense", "There is no loss=nonsense: loss has arc_face, contrastive"),
        ("experiment=nonsense", "There is no experiment=nonsense: experiment has demo"),
        ("=", "="),
        ("data.photos.identities", "write KEY=VALUE"),
    ],
)
def test_a_wrong_override_ends_with_2_and_a_line_without_a_traceback(
    override: str, complaint: str, command: Command, tmp_path: Path
) -> None:
    ended = command("train", override)
    assert ended.code == 2
    assert re.fullmatch(r"siamese-verify: [^\n]+\n", ended.err)
    assert complaint in ended.err
    assert "Traceback" not in ended.err + ended.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["data=lfw", "data.root=/no/such/folder", "protocol=lfw_view1"], "There is no folder /no/such/folder"),
        (["data=lfw", "data.root=.", "protocol=lfw_view1"], "holds none of lfw-deepfunneled"),
        (["data.photos.identities=1"], "4 photos of 1 people"),
        (["data.test.photos.identities=1"], "no impostors"),
        (["sampler.identities_per_batch=100"], "identities_per_batch is 100, but only"),
        (["ckpt_path=nowhere.ckpt"], "There is no checkpoint nowhere.ckpt"),
        (["threads=-1"], "threads must be a whole number of 1 or more, got -1"),
        (["seed=-1"], "seed must be a whole number from 0 to 4294967295, got -1"),
        (["trainer.max_epochs=abc"], "trainer.max_epochs must be a whole number or null, got 'abc'"),
        (
            ["sampler.identities_per_batch=4", "optimizer.lr=-1"],
            "The optimizer cannot be created as configured (Invalid learning rate: -1)",
        ),
        (["data=folder"], "data.root is required: add data.root=..."),
        (
            ["sampler.identities_per_batch=4", "trainer=ddp", "trainer.accelerator=cpu"],
            "trainer.sync_batchnorm=true needs GPUs",
        ),
        (["sampler.identities_per_batch=4", "loss.reduction=none"], "loss.reduction is none"),
        (["data.root=null", "protocol=lfw_view1"], "There is no folder None: set data.root"),
        (["encoder._target_=os.system"], "'os.system' is not one of siamese_verify.encoders"),
        (["datamodule.validation_share=2"], "hold out must lie between 0 and 1, got 2"),
    ],
)
def test_a_run_that_cannot_be_ends_with_2_and_a_sentence_and_leaves_no_results(
    overrides: list[str], complaint: str, command: Command, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    small = [] if {"protocol=lfw_view1", "data=folder"} & {*overrides} else tiny
    ended = command("train", *small, *overrides, "hydra.run.dir=run")
    assert ended.code == 2
    assert LONE.fullmatch(ended.err), ended.err
    assert complaint in ended.err
    left = {path.relative_to(tmp_path / "run").parts[0] for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert left <= {".hydra", "train.log", "__main__.log"}


def test_a_setting_that_is_needed_is_named(command: Command, tiny_run: Path) -> None:
    ended = command("evaluate", "protocol=pair_file", f"model={tiny_run}", "hydra.run.dir=run")
    assert ended.code == 2
    assert ended.err == "siamese-verify: protocol.path is required: add protocol.path=... to the command.\n"


@pytest.mark.parametrize(
    "override", ["data.photos.identities=abc", "sampler.identities_per_batch=4.5", "trainer.max_epochs=abc"]
)
def test_a_value_of_the_wrong_type_ends_with_2_and_no_traceback(
    override: str, command: Command, tiny: tuple[str, ...]
) -> None:
    ended = command("train", *tiny, override, "hydra.run.dir=run")
    assert ended.code == 2
    assert ended.err.startswith("siamese-verify: ")
    assert "Traceback" not in ended.err


def test_a_run_that_did_not_finish_is_told_from_an_unknown_model(
    command: Command, tmp_path: Path, photos: list[str]
) -> None:
    (tmp_path / "stopped" / "checkpoints").mkdir(parents=True)
    ended = command("verify", *photos, "--model", "stopped")
    assert ended.code == 2
    assert "did not finish: give stopped/checkpoints/best.ckpt" in ended.err


def test_an_evaluation_without_a_model_ends_with_2_and_a_sentence(command: Command) -> None:
    ended = command("evaluate", "hydra.run.dir=run")
    assert ended.code == 2
    assert LONE.fullmatch(ended.err)
    assert "model=casia-webface" in ended.err


def test_an_evaluation_of_an_unknown_model_ends_with_2_and_a_sentence(command: Command, tiny: tuple[str, ...]) -> None:
    small = ["protocol=synthetic", "protocol.photos.identities=3", "protocol.photos.images=2"]
    ended = command("evaluate", *small, "model=nobody", "hydra.run.dir=run")
    assert ended.code == 2
    assert LONE.fullmatch(ended.err)
    assert "There is no model nobody" in ended.err


@pytest.mark.slow
def test_an_exit_code_is_that_of_the_process(bundle: str, photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("text")
    ended = shell("-m", "siamese_verify.cli.main", "verify", photos[0], "text.jpg", "--model", bundle, folder=tmp_path)
    assert (ended.code, ended.err.count("\n"), ended.out) == (3, 1, "")


def loaded(statement: str, folder: Path) -> set[str]:
    """Top-level modules in memory after a statement, in a new interpreter."""
    ended = shell("-c", f"import sys\n{statement}\nprint('modules', *sys.modules)", folder=folder)
    assert ended.code == 0, ended.err
    return {name.partition(".")[0] for name in ended.out.rpartition("modules ")[2].split()}


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    modules = loaded("import siamese_verify", tmp_path)
    assert modules.isdisjoint({"torch", "numpy", "hydra", "PIL", "pytorch_lightning", "matplotlib"})


def test_help_loads_neither_torch_nor_hydra(tmp_path: Path) -> None:
    statement = "from siamese_verify.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    modules = loaded(statement, tmp_path)
    assert modules.isdisjoint({"torch", "numpy", "hydra", "omegaconf", "PIL", "pytorch_lightning", "matplotlib"})
