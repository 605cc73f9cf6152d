from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from siamese_verify.encoders import SmallResNet
from siamese_verify.evaluation import verification_report
from siamese_verify.models import FaceModel, save_bundle
from siamese_verify.verification import Verification
from tests.cli.conftest import SENTENCE, Command, save_faces


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(path) for path in save_faces(tmp_path_factory.mktemp("photos"), 2, 1, 64)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose strictest threshold nothing reaches."""
    torch.manual_seed(0)
    report = verification_report([0.999, 0.998, *[0.9] * 20], [True, False, *[False] * 20])
    configuration = {"_target_": "siamese_verify.encoders.SmallResNet", "size": 32, "width": 4}
    scores = verification_report([0.9, 0.8, 0.8, *[-1] * 199], [True, True, *[False] * 200])
    points = (*scores.operating_points[:2], report.operating_points[2]._replace(threshold=float("inf")))
    model = FaceModel.create(
        "", SmallResNet(size=32, width=4), configuration, points, eer_threshold=0.8, measured_on="202 drawn scores"
    )
    folder = tmp_path_factory.mktemp("model") / "bundle"
    save_bundle(folder, model, {})
    return str(folder)


@pytest.mark.parametrize(("other", "same"), [(0, True), (1, False)])
def test_a_decision_is_a_status_a_sentence_and_json(
    other: int, same: bool, command: Command, bundle: str, photos: list[str]
) -> None:
    arguments = ("verify", photos[0], photos[other], "--model", bundle, *(() if same else ("--threshold", "1")))
    ended = command(*arguments)
    assert (ended.code, ended.err) == (0 if same else 1, "")
    if same:
        assert ended.out.startswith("The same person: score 1.000, threshold ")
        assert "impostor pairs were accepted" in ended.out
        assert "measured on 202 drawn scores." in ended.out
    else:
        assert re.fullmatch(r"Different people: score -?0\.\d{3}, threshold 1\.000\.\n", ended.out)
    ended = command(*arguments, "--json")
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
def test_control_characters_of_a_file_name_never_reach_the_terminal(
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
        (["verify", "--pairs", "pairs.csv", "--output", "out.csv", "--model", bundle], None),
        (["people", "--gallery", name, "--key", name], 2),
        (["export", name, "--output", f"no{name}", "--synthetic"], 2),
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


def test_a_file_name_never_becomes_a_formula_of_a_spreadsheet(
    command: Command, bundle: str, photos: list[str], tmp_path: Path
) -> None:
    for name in ("=1+1.jpg", "@a.jpg", "-1.jpg"):
        (tmp_path / name).write_bytes(Path(photos[0]).read_bytes())
    (tmp_path / "pairs.csv").write_text("a,b,note\n=1+1.jpg,@a.jpg,-0.5\n-1.jpg,=none.jpg,+x\n")
    assert command("verify", "--pairs", "pairs.csv", "--output", "out.csv", "--model", bundle).code == 0
    cells = [cell for row in csv.reader((tmp_path / "out.csv").open(newline="")) for cell in row]
    assert {"'=1+1.jpg", "'@a.jpg", "'-1.jpg", "'=none.jpg", "-0.5", "'+x"} <= set(cells)
    assert not [cell for cell in cells if re.match(r"[=+@\t\r]|-(?![\d.]+$)", cell)]
    (tmp_path / "again").mkdir()  # and what was written is read as it was meant
    again = command("verify", "--pairs", "out.csv", "--output", "again/out.csv", "--root", ".", "--model", bundle)
    assert again.code == 0
    assert "'=1+1.jpg" in (tmp_path / "again/out.csv").read_text()
    assert "''=" not in (tmp_path / "again/out.csv").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_ends_with_74_and_a_sentence(
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
    for model, sentence in (
        ("piped", "model.onnx is missing or not a regular file"),
        ("fifo", "fifo is a pipe or a device"),
    ):
        ended = command("verify", *photos, "--model", model)
        assert (ended.code, sentence in ended.err) == (2, True), ended
        assert SENTENCE.fullmatch(ended.err)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--prior", "0.5"], "never calibrated"),
        (["--prior", "1"], "lies between 0 and 1"),
        (["--prior", "nan"], "lies between 0 and 1"),
        (["--far", "0.5"], "use 0.001, 0.01, 0.1"),
        (["--far", "nan"], "above 0 and at most 0.5"),
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
    assert SENTENCE.fullmatch(ended.err)
    assert complaint in ended.err


def test_a_trained_run_verifies(command: Command, tiny_run: Path, photos: list[str]) -> None:
    ended = command("verify", photos[0], photos[0], "--model", str(tiny_run), "--decide")
    assert ended.code == 0
    assert "held out from synthetic training" in ended.out


def test_a_bundle_that_is_damaged_or_unfinished_ends_with_2_and_a_sentence(
    command: Command, photos: list[str], tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "bundle.json").write_text("{")
    (tmp_path / "stopped" / "checkpoints").mkdir(parents=True)
    for model, sentence in (("broken", "broken"), ("stopped", "did not finish: give stopped/checkpoints/best.ckpt")):
        ended = command("verify", *photos, "--model", model)
        assert (ended.code, sentence in ended.err) == (2, True), ended
        assert SENTENCE.fullmatch(ended.err)
