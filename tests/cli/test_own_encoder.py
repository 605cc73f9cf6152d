"""An encoder of one's own, from the command line to the bundle, as the page of training tells it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from siamese_verify.cli.configuration import trusted_code
from siamese_verify.cli.preview import preview
from siamese_verify.cli.resume import resumed_arguments
from siamese_verify.errors import InputError
from siamese_verify.models import open_bundle
from siamese_verify.run_record import has_plain_interpolations
from tests import own_networks
from tests.cli.conftest import SENTENCE, Command, save_faces
from tests.conftest import SMALL_BATCHES, TINY

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text()
FILES = dict(re.findall(r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
OWN = "tests.own_networks.OwnNet"
SETTINGS = tuple(one for one in (*TINY, *SMALL_BATCHES) if not one.startswith("encoder."))
MODULE = ("encoder=module", f"encoder._target_={OWN}", "encoder.size=16", "+encoder.width=3", *SETTINGS)


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the page's command with its files, in a folder of photos."""
    place = tmp_path_factory.mktemp("own")
    for name, content in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content)
    save_faces(place / "photos", 12, 3)
    [command] = re.findall(r"^\$ siamese-verify (train --config-dir .+)$", PAGE, re.MULTILINE)
    tiny = ("threads=1", "trainer.max_epochs=1", f"hydra.run.dir={place / 'run'}", *SMALL_BATCHES)
    ended = subprocess.run(
        [sys.executable, "-m", "siamese_verify.cli.main", *shlex.split(command), *tiny],
        cwd=place,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{place}"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return place / "run"


def test_the_page_shows_its_files() -> None:
    configs = {f"my_conf/{group}/mine.yaml" for group in ("encoder", "data", "loss")}
    assert set(FILES) == {"my_network.py", "my_loss.py", *configs}


def test_a_run_with_configs_of_ones_own_is_evaluated_where_its_class_is_not(own_run: Path, command: Command) -> None:
    metadata = open_bundle(own_run / "bundle").metadata
    assert metadata.needs_code == ("my_network.MyNet",)
    assert metadata.training["data"] == "mine"
    assert (metadata.embedding_size, metadata.input_spec.size, metadata.input_spec.crop.kind) == (64, 32, "whole")
    ended = command("evaluate", f"model={own_run}", "resamples=0", "threads=1", "hydra.run.dir=again")
    assert ended.code == 0, ended.err
    found, expected = (json.loads((run / "report" / "metrics.json").read_text()) for run in (Path("again"), own_run))
    assert found["eer"] == pytest.approx(expected["eer"])
    faces = own_run.parent / "photos" / "p00"
    ended = command("verify", str(faces / "0.png"), str(faces / "1.png"), "--model", str(own_run), "--threshold", "0")
    assert ended.code == 0, ended.err


def test_torch_asks_for_permission_in_every_command(
    own_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(own_run.parent))  # importable, and not imported
    checkpoint, photo = own_run / "checkpoints" / "best.ckpt", own_run.parent / "photos" / "p00" / "0.png"
    for arguments in (
        ("evaluate", f"model={own_run}", "device=cuda"),
        ("evaluate", f"model={checkpoint}"),
        ("center", f"model={own_run}", "output=out"),
        ("export", str(checkpoint), "--output", "out", "--synthetic"),
        ("verify", str(photo), str(photo), "--model", str(own_run), "--engine", "torch"),
    ):
        ended = command(*arguments)
        assert ended.code == 2, arguments
        assert SENTENCE.fullmatch(ended.err) and "trust_code=my_network.MyNet" in ended.err, arguments
    assert "my_network" not in sys.modules
    ended = command("export", str(checkpoint), "--output", "out", "--synthetic", "--trust-code", "my_network.MyNet")
    assert ended.code == 0, ended.err
    assert open_bundle(Path("out")).metadata.fingerprint == open_bundle(own_run / "bundle").metadata.fingerprint
    trusted = ("--engine", "torch", "--trust-code", "my_network.MyNet", "--threshold", "0")
    assert command("verify", str(photo), str(photo), "--model", str(own_run), *trusted).code == 0


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("${data.root}", True),
        ("${..size}/${name}", True),
        ("runs/${now:%Y-%m-%d_%H-%M-%S}", True),
        ("${oc.env:XDG_CACHE_HOME,'~/.cache'}/siamese-verify", True),
        ("${oc.select:data.test,null}", True),
        ("${oc.select:data.test,{_target_: os.mkdir}}", False),
        ("${oc.create:{_target_: os.mkdir}}", False),
        ("${ oc.decode:'x'}", False),
        ("${${name}}", False),
    ],
)
def test_interpolations_that_could_make_settings_are_known(text: str, plain: bool) -> None:
    assert has_plain_interpolations(text) is plain


@pytest.mark.parametrize("part", ["photos", "protocol", "interpolation"])
def test_a_run_of_somebody_else_calls_no_code_when_it_is_evaluated(
    part: str, own_run: Path, command: Command, tmp_path: Path
) -> None:
    run, trace = tmp_path / "run", tmp_path / "trace"
    shutil.copytree(own_run, run)
    record = json.loads((run / "run.json").read_text())
    evil = {"_target_": "os.mkdir", "path": str(trace)}
    configuration = record["configuration"]
    if part == "photos":
        configuration["datamodule"]["photos"] = evil
    elif part == "interpolation":
        configuration["datamodule"]["photos"]["root"] = f"${{oc.create:{{_target_: os.mkdir, path: {trace}}}}}"
    else:
        configuration["protocol"] = evil
    (run / "run.json").write_text(json.dumps(record))
    ended = command("evaluate", f"model={run}", "resamples=0", "threads=1")
    assert ended.code == 2
    told = "which could hide code" if part == "interpolation" else "names code of others, os.mkdir, which is never"
    assert SENTENCE.fullmatch(ended.err) and told in ended.err
    assert not trace.exists()


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def test_a_module_named_on_the_command_line_is_resumed_bit_for_bit(fitted: Callable[..., Path], tmp_path: Path) -> None:
    constant = (*MODULE, "scheduler=constant")
    whole = fitted(tmp_path / "whole", *constant, "trainer.max_epochs=2")
    half = fitted(tmp_path / "half", *constant, "trainer.max_epochs=1")
    checkpoint = f"resume='{half / 'checkpoints' / 'last.ckpt'}'"
    own_networks.CREATED.clear()
    for trusted in ("[]", "tests.own_networks.OwnEncoder"):
        with pytest.raises(InputError, match=rf"names code of others, {OWN}, which is never imported unasked"):
            fitted(half, "trainer.max_epochs=2", checkpoint, f"trust_code={trusted}")
    assert own_networks.CREATED == []
    resumed = fitted(half, "trainer.max_epochs=2", checkpoint, f"trust_code={OWN}")
    assert weights(whole).keys() == weights(resumed).keys()
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_what_the_command_itself_names_is_trusted_when_a_run_is_resumed(own_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(own_run, run)
    record = json.loads((run / "run.json").read_text()) | {"status": "stopped"}
    (run / "run.json").write_text(json.dumps(record))
    longer = (f"resume={run}", "trainer.max_epochs=2")
    assert [trusted_code(OmegaConf.create({"trust_code": one})) for one in (None, [], "a.B", ["a.B", "c.D"])] == [
        [],
        [],
        ["a.B"],
        ["a.B", "c.D"],
    ]
    folder = ("--config-dir", str(own_run.parent / "my_conf"))
    trusted = "trust_code=[my_loss.MyLoss,my_network.MyNet]"
    assert {"encoder=mine", trusted, *folder} <= {*resumed_arguments([*folder, *longer])}
    named = resumed_arguments([*longer, "trust_code=my_network.MyNet"])
    assert "trust_code=[my_network.MyNet]" in named
    assert not any("trust_code" in one for one in resumed_arguments(longer))

    trap = "+callbacks.trap={_target_: os.mkdir, path: trace}"
    searched = "hydra.searchpath=[file://elsewhere]"
    for overrides, complaint in (
        (["encoder._target_=os.mkdir"], "names code of others, os.mkdir"),
        ([trap], "names code of others, os.mkdir"),
        (["hydra.callbacks.trap._target_=os.mkdir", "trust_code=os.mkdir"], "names code of others, os.mkdir"),
        ([searched], "configs of its own"),
        (["loss='${oc.create:{_target_: os.mkdir}}'"], "which could hide code of others"),
        (["loss='${oc.select:none,{_target_: os.mkdir}}'"], "which could hide code of others"),
    ):
        (run / "run.json").write_text(json.dumps({**record, "overrides": overrides}))
        with pytest.raises(InputError, match=complaint):
            resumed_arguments(longer)
    (run / "run.json").write_text(json.dumps({**record, "overrides": [trap]}))
    assert trap in resumed_arguments([f"resume={run}", "trust_code=[os.mkdir]"])


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (("encoder._target_=tests.own_networks.Undecided",), "Undecided cannot be exported to ONNX"),
        (("encoder._target_=tests.own_networks.FeatureMaps",), r"an encoder gives \(B, D\)"),
        ((f"encoder._target_={OWN}", "encoder.embedding_size=5"), "24 dimensions, not 5"),
        ((f"encoder._target_={OWN}", "+encoder.heads=2"), "unexpected keyword argument 'heads'"),
        (("encoder._target_=tests.own_networks.Nothing",), "cannot be imported"),
    ],
)
def test_an_encoder_that_could_not_be_bundled_is_refused_before_photos_are_looked_for(
    overrides: tuple[str, ...], complaint: str, fitted: Callable[..., Path], tmp_path: Path
) -> None:
    nowhere = ("encoder=module", "encoder.size=16", "data=folder", f"data.root={tmp_path / 'nowhere'}")
    with pytest.raises(InputError, match=complaint):
        fitted(tmp_path / "run", *nowhere, *overrides)


def test_a_preview_of_its_batches_can_be_drawn(configured: Callable[..., object], tmp_path: Path) -> None:
    few = (one for one in MODULE if not one.startswith("trainer."))
    cfg = configured("preview", tmp_path, *few, "batches=1", f"output='{tmp_path}'")
    assert [path.name for path in preview(cfg)] == ["batch_1.png"]  # type: ignore[arg-type]
