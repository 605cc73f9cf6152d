from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from siamese_verify.encoders import SmallResNet
from siamese_verify.errors import InputError
from siamese_verify.evaluation import calibrate, verification_report
from siamese_verify.faces.alignment import VERSIONS
from siamese_verify.models import FaceModel, load_bundle, open_bundle, save_bundle
from siamese_verify.models.export import with_weights_hash
from siamese_verify.structures import Crop
from siamese_verify.verification import Verifier

ENCODER = {
    "_target_": "siamese_verify.encoders.SmallResNet",
    "size": 32,
    "width": 4,
    "embedding_size": 16,
    "crop": {"_target_": "siamese_verify.structures.Crop", "kind": "center", "fraction": 0.8},
}
FIELDS: dict[str, Any] = {
    "alignment": None,
    "format": "1",
    "encoder": [],
    "input": [],
    "embedding_size": "16",
    "quantization": None,
    "license": 7,
    "quality": [],
    "checks": [],
    "files": [],
    "operating_points": {},
    "eer_threshold": "0.5",
    "measured_on": None,
    "training": [],
    "metrics": None,
    "score_calibration": [],
    "versions": "1",
    "sha256": 7,
}  # and a value of another type for each
Change = Callable[[dict[str, Any]], None]


def measured_model() -> FaceModel:
    torch.manual_seed(0)
    scores = np.random.default_rng(0).normal(size=400)
    report = verification_report(np.concatenate([scores[:100] + 2, scores[100:]]), np.arange(400) < 100)
    return FaceModel.create(
        "mine",
        SmallResNet(size=32, width=4, embedding_size=16, crop=Crop("center", fraction=0.8)),
        ENCODER,
        operating_points=report.operating_points,
        eer_threshold=report.eer_threshold,
        measured_on="400 drawn scores",
        training={"data": "synthetic", "pretrained": None},
        metrics=report.to_dict(),
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "bundle"
    save_bundle(folder, measured_model(), {"python": "3.11"})
    return folder


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    """A copy to be damaged: making one takes seconds."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def rewrite(bundle: Path, change: Change, sign: bool = False) -> None:
    """Change bundle.json; with `sign` as somebody would who knows how its hash is made."""
    content = json.loads((bundle / "bundle.json").read_text())
    change(content)
    if sign:
        rest = {name: value for name, value in content.items() if name != "sha256"}
        content["sha256"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(content, indent=1))


def complaint(bundle: Path) -> str:
    with pytest.raises(InputError) as error:
        load_bundle(bundle)
    message = str(error.value)
    assert str(bundle) in message
    assert "\n" not in message
    return message


def test_a_round_trip_gives_the_same_embeddings_thresholds_and_knowledge(bundle: Path) -> None:
    model, loaded = measured_model(), load_bundle(bundle)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded.encoder(images), model.encoder.eval()(images))
    assert not loaded.encoder.training
    assert loaded.encoder.input_spec == model.encoder.input_spec
    for name in ("configuration", "operating_points", "eer_threshold", "measured_on", "training", "metrics"):
        assert getattr(loaded.metadata, name) == getattr(model.metadata, name)
    assert loaded.metadata.name == str(bundle)


def test_a_model_has_one_fingerprint_wherever_it_is_shown(bundle: Path) -> None:
    known = open_bundle(bundle).metadata.fingerprint
    assert f"| fingerprint | `{known}` |" in (bundle / "README.md").read_text()
    assert Verifier.load(bundle).metadata.fingerprint == known
    assert Verifier.load(bundle, engine="torch").metadata.fingerprint == known
    assert with_weights_hash(measured_model()).metadata.fingerprint == known


def test_a_bundle_holds_no_pickle(bundle: Path) -> None:
    names = ["README.md", "bundle.json", "model.onnx", "model.safetensors"]
    assert sorted(path.name for path in bundle.iterdir()) == names
    assert sorted(json.loads((bundle / "bundle.json").read_text())) == sorted(FIELDS)


def test_a_threshold_that_nothing_reaches_survives_as_null(tmp_path: Path) -> None:
    report = verification_report([0.9, 0.1, 0.9, 0.2], [True, True, False, False])
    model = FaceModel.create("mine", measured_model().encoder, ENCODER, report.operating_points)
    save_bundle(tmp_path, model, {}, network=False)
    assert "Infinity" not in (tmp_path / "bundle.json").read_text()
    assert load_bundle(tmp_path).metadata.operating_points == report.operating_points


def test_what_scores_mean_round_trips(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 8)) + np.repeat(np.eye(8), 5, axis=0)
    score_calibration = calibrate(rows, np.arange(40) // 5, "these people")
    model = FaceModel.create("mine", measured_model().encoder, ENCODER, score_calibration=score_calibration)
    save_bundle(tmp_path, model, {}, network=False)
    assert load_bundle(tmp_path).metadata.score_calibration == score_calibration


def test_a_model_that_was_never_measured_round_trips(tmp_path: Path) -> None:
    save_bundle(tmp_path, FaceModel.create("mine", measured_model().encoder, ENCODER), {}, network=False)
    loaded = load_bundle(tmp_path)
    assert (loaded.metadata.operating_points, loaded.metadata.eer_threshold) == ((), None)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_changed_byte_of_the_weights_is_noticed(place: int, bundle: Path) -> None:
    weights = bytearray((bundle / "model.safetensors").read_bytes())
    weights[place] ^= 1
    (bundle / "model.safetensors").write_bytes(weights)
    assert "model.safetensors does not have the SHA-256" in complaint(bundle)


def test_cut_weights_are_noticed(bundle: Path) -> None:
    weights = (bundle / "model.safetensors").read_bytes()
    (bundle / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "model.safetensors does not have the SHA-256" in complaint(bundle)


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(field: str, bundle: Path) -> None:
    rewrite(bundle, lambda content: content.__delitem__(field))
    assert field in complaint(bundle)


@pytest.mark.parametrize(("field", "value"), FIELDS.items())
def test_a_field_of_another_type_is_named(field: str, value: object, bundle: Path) -> None:
    rewrite(bundle, lambda content: content.__setitem__(field, value))
    assert field in complaint(bundle)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoder", {**ENCODER, "width": 8}),
        ("operating_points", []),
        ("eer_threshold", -1.0),
        ("measured_on", "something grander"),
        ("training", {}),
        ("metrics", {"eer": 0.0}),
        ("versions", {}),
        ("sha256", "0" * 64),
    ],
)
def test_a_changed_value_is_noticed(field: str, value: object, bundle: Path) -> None:
    rewrite(bundle, lambda content: content.__setitem__(field, value))
    assert "sha256" in complaint(bundle)


def test_another_version_says_which_and_what_to_do(bundle: Path) -> None:
    rewrite(bundle, lambda content: content.__setitem__("format", 9))
    message = complaint(bundle)
    assert "has format 9, this version reads 6" in message
    assert "export it again" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: text.replace(" ", "\t", 1),
        lambda text: text.replace('"format": 6', '"format": 9,\n "format": 6'),
        lambda text: text.replace("\n", "\r\n"),
    ],
)
def test_a_byte_that_changes_no_value_is_noticed_too(change: Callable[[str], str], bundle: Path) -> None:
    text = (bundle / "bundle.json").read_text()
    (bundle / "bundle.json").write_bytes(change(text).encode())
    assert "sha256" in complaint(bundle)


@pytest.mark.parametrize(
    ("field", "value"),
    [("embedding_size", 0), ("embedding_size", 10**12), ("embedding_size", True), ("embedding_size", 17)],
)
def test_a_dimension_that_is_not_the_networks_is_noticed(field: str, value: object, bundle: Path) -> None:
    rewrite(bundle, lambda content: content.__setitem__(field, value), sign=True)
    with pytest.raises(InputError) as error:
        Verifier.load(bundle).embed_crops(np.zeros((1, 32, 32, 3), np.uint8))
    assert "\n" not in str(error.value)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(bundle: Path) -> None:
    for name in ("model.safetensors", "bundle.json"):
        (bundle / name).unlink()
        os.mkfifo(bundle / name)
        assert "missing or not a regular file" in complaint(bundle)


@pytest.mark.parametrize("text", ["{", "", "not json", "[]", "null", "\x00"])
def test_what_is_no_json_object_is_said(text: str, bundle: Path) -> None:
    (bundle / "bundle.json").write_text(text)
    complaint(bundle)


@pytest.mark.parametrize("file", ["bundle.json", "model.safetensors"])
def test_a_missing_file_is_named(file: str, bundle: Path) -> None:
    (bundle / file).unlink()
    assert file in complaint(bundle)


def test_an_input_that_is_not_the_encoders_is_noticed_even_with_a_right_hash(bundle: Path) -> None:
    rewrite(bundle, lambda content: content["input"].__setitem__("size", 64), sign=True)
    assert "field input" in complaint(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["input"].__delitem__("crop"),
        lambda content: content["input"]["crop"].__setitem__("color", "blue"),
        lambda content: content["encoder"].__setitem__("color", "blue"),
        lambda content: content["encoder"].__setitem__("width", 8),
        lambda content: content["encoder"].__setitem__("width", "wide"),
        lambda content: content["encoder"]["crop"].__setitem__("color", "blue"),
        lambda content: content["operating_points"][0].__delitem__("threshold"),
        lambda content: content["operating_points"][0].__setitem__("color", "blue"),
        lambda content: content["operating_points"].__setitem__(0, 7),
        lambda content: content["operating_points"][0].__setitem__("threshold", "x"),
        lambda content: content["quality"].__setitem__("light", [0.9, 0.1]),
        lambda content: content["quality"].__setitem__("taste", [0.1, 0.9]),
        lambda content: content["input"].__setitem__("size", 10**6),
    ],
)
def test_nonsense_with_a_right_hash_is_one_sentence(change: Change, bundle: Path) -> None:
    rewrite(bundle, change, sign=True)
    with pytest.raises(InputError) as error:
        load_bundle(bundle)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "siamese_verify.encoders.encoder.torch.load",
        "siamese_verify.encoders.resnet.nn.Linear",
        "siamese_verify.encoders.Encoder",
        "siamese_verify.encoders.__builtins__",
        "siamese_verify.losses.TripletLoss",
        "",
    ],
)
def test_an_encoder_that_is_none_of_ours_is_refused_and_nothing_is_run(
    target: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "run"
    for importing in ("pkgutil.resolve_name", "importlib.import_module"):
        monkeypatch.setattr(importing, lambda name: pytest.fail(f"{name} was imported"))
    encoder = {"_target_": target, "command": f"touch {trace}", "args": f"touch {trace}"}
    rewrite(bundle, lambda content: content.__setitem__("encoder", encoder), sign=True)
    with pytest.raises(InputError, match=r"code of others is never imported unasked" if target else "is not named"):
        load_bundle(bundle)
    assert not trace.exists()


def test_faces_that_this_version_would_align_in_another_way_are_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_bundle(bundle).encoder.input_spec
    monkeypatch.setitem(VERSIONS, spec.crop.kind, 99)
    kind = spec.crop.kind
    with pytest.raises(InputError, match=rf"aligned as {kind}-1.* this version aligns as {kind}-99"):
        load_bundle(bundle)
