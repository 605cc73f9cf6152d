from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from siamese_verify import encoders
from siamese_verify.encoders import SmallResNet
from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint, verification_report
from siamese_verify.models import FaceModel, load_bundle, load_checkpoint, load_model, store_thresholds


def point(far: float, threshold: float, insufficient: bool = False) -> OperatingPoint:
    return OperatingPoint(far, far / 2, 0.9, threshold, insufficient, 1000, round(500 * far))


def model_with(*points: OperatingPoint, name: str = "mine") -> FaceModel:
    return FaceModel.create(name, SmallResNet(size=16, width=4), {}, points)


def test_the_strictest_rate_with_enough_impostors_is_the_default() -> None:
    points = [point(1e-2, 0.5), point(1e-3, 0.7, insufficient=True), point(1e-1, 0.3)]
    assert model_with(*points).metadata.operating_point() == points[0]


@pytest.mark.parametrize("enough", [False, True])
def test_one_per_cent_is_the_default_where_no_stricter_rate_has_enough_impostors(enough: bool) -> None:
    points = [point(1e-2, 0.5, insufficient=True), point(1e-1, 0.3, insufficient=not enough)]
    assert model_with(*points).metadata.operating_point() == points[0]


def test_a_rate_is_found_whatever_its_rounding() -> None:
    points = [point(1e-1, 0.3), point(1e-2, 0.5)]
    assert model_with(*points).metadata.operating_point(1 / 100) == points[1]
    assert model_with(*points).metadata.operating_point(0.3 - 0.2) == points[0]


@pytest.mark.parametrize("far", [0.05, 0.0, -0.1, 2.0, float("nan")])
def test_a_rate_that_was_not_measured_is_an_error_that_lists_those_that_were(far: float) -> None:
    with pytest.raises(InputError, match=r"was measured: use 0\.01, 0\.1\."):
        model_with(point(1e-1, 0.3), point(1e-2, 0.5)).metadata.operating_point(far)


def test_a_model_without_thresholds_says_the_two_ways_out() -> None:
    with pytest.raises(InputError, match=r"No threshold of vggface2.*--threshold.*evaluate model=vggface2"):
        model_with(name="vggface2").metadata.operating_point()


@pytest.mark.parametrize("name", ["nobody", "casia", "/no/such/folder", ""])
def test_an_unknown_model_is_an_error_that_lists_what_there_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"There is no model {name}.*casia-webface, vggface2, a bundle folder"):
        load_model(name)


def test_pretrained_weights_that_cannot_be_had_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"weights of vggface2.*cannot be downloaded.*TORCH_HOME"):
        load_model("vggface2")


def test_one_measurement_gives_a_pretrained_model_its_own_thresholds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(encoders, "InceptionResNet", lambda pretrained: SmallResNet(size=16, width=4))
    assert load_model("vggface2").metadata.operating_points == ()
    report = verification_report([0.9, 0.8, 0.3, 0.1], [True, True, False, False])
    path = store_thresholds("vggface2", {**report.to_dict(), "measured_on": "four pairs"})
    assert tmp_path in path.parents
    model = load_model("vggface2")
    assert model.metadata.operating_points == report.operating_points
    assert model.metadata.measured_on == "four pairs"
    if casia := load_model("casia-webface").metadata.operating_points:  # its own, where it ships with some
        assert casia != report.operating_points


@pytest.mark.parametrize("form", ["run", "bundle", "best.ckpt", "last.ckpt"])
def test_every_form_of_a_run_loads(form: str, tiny_run: Path) -> None:
    path = {"run": tiny_run, "bundle": tiny_run / "bundle"}.get(form, tiny_run / "checkpoints" / form)
    model = load_model(path)
    assert len(model.metadata.operating_points) == 3
    assert not model.encoder.training
    assert "held out from synthetic training" in model.metadata.measured_on
    assert model.metadata.training == {"data": "synthetic", "pretrained": None}


def test_a_checkpoint_is_its_bundle(tiny_run: Path) -> None:
    checkpoint, bundle = load_checkpoint(tiny_run / "checkpoints" / "best.ckpt"), load_bundle(tiny_run / "bundle")
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(checkpoint.encoder(images), bundle.encoder(images))
    for name in ("configuration", "operating_points", "eer_threshold", "measured_on", "training", "metrics"):
        assert getattr(checkpoint.metadata, name) == getattr(bundle.metadata, name)


def test_the_thresholds_of_a_checkpoint_were_measured_on_its_weights(tiny_run: Path) -> None:
    best = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    rows = (tiny_run / "metrics" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/eer")
    rates = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert best["validation"]["eer"] == pytest.approx(min(rates), abs=1e-6)


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    torch.save({"hyper_parameters": {"encoder": {}}, "state_dict": {}, "extra": Trap(trace)}, path)
    with pytest.raises(InputError, match="is not a checkpoint of siamese-verify") as error:
        load_model(path)
    assert not trace.exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"state_dict": {}},
        {"hyper_parameters": {}, "state_dict": {}},
        {"hyper_parameters": {"encoder": None}, "state_dict": {}},
        {"hyper_parameters": {"encoder": {}}, "state_dict": {}},
        {"hyper_parameters": {"encoder": {"_target_": "os.system", "command": "true"}}, "state_dict": {}},
        {"hyper_parameters": {"encoder": {"_target_": "siamese_verify.encoders.SmallResNet"}}, "state_dict": {}},
    ],
)
def test_somebody_elses_checkpoint_is_one_sentence(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(InputError) as error:
        load_model(tmp_path / "other.ckpt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"some text\n", b"\x89PNG\r\n\x1a\n", json.dumps({}).encode(), b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(content)
    with pytest.raises(InputError, match="is not a checkpoint of siamese-verify") as error:
        load_model(tmp_path / "model.ckpt")
    assert "\n" not in str(error.value)
