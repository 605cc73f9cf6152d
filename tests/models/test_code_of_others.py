"""Bundles and checkpoints of encoders whose class is not of this package: what runs, and what is refused."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from siamese_verify.encoders import Encoder, create_encoder, wrap_module
from siamese_verify.errors import InputError
from siamese_verify.losses import ContrastiveLoss
from siamese_verify.models import FaceModel, embed_faces, load_checkpoint, load_model, open_bundle, save_bundle
from siamese_verify.models.bundle import manifest_digest, manifest_text
from siamese_verify.models.metadata import code_of_others
from siamese_verify.structures import Crop, FaceBatch, InputSpec
from siamese_verify.training import VerificationModule
from siamese_verify.verification import Verifier
from tests import own_networks
from tests.own_networks import OwnNet, Undecided

OWN = "tests.own_networks.OwnNet"
WHOLE = {"_target_": "siamese_verify.structures.Crop", "kind": "whole"}
SETTINGS = {"_target_": OWN, "width": 3, "size": 16, "crop": WHOLE}
SPEC = InputSpec(16, crop=Crop("whole"))
IMAGES = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CROPS = IMAGES.permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return create_encoder(SETTINGS, [OWN]).eval()


@pytest.fixture(scope="module")
def bundle(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "bundle"
    save_bundle(folder, FaceModel.create("mine", encoder, SETTINGS))
    return folder


@pytest.fixture(scope="module")
def nameless(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose manifest names no class."""
    folder = tmp_path_factory.mktemp("nameless") / "bundle"
    save_bundle(folder, FaceModel.create("mine", encoder))
    return folder


@pytest.fixture
def expected(encoder: Encoder) -> np.ndarray:
    return embed_faces(encoder, IMAGES)


def test_a_bundle_verifies_on_onnx_where_its_class_cannot_be_imported(
    bundle: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    program = (
        "import sys, numpy as np; from siamese_verify import Verifier\n"
        f"crops = np.load({str(tmp_path / 'crops.npy')!r})\n"
        f"np.save({str(tmp_path / 'found.npy')!r}, Verifier.load({str(bundle)!r}).embed_crops(crops))\n"
        "assert not {'torch', 'tests', 'tests.own_networks'} & set(sys.modules)"
    )
    np.save(tmp_path / "crops.npy", CROPS)
    package = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=package, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-5)


def test_the_manifest_and_the_card_say_what_the_weights_need(bundle: Path, nameless: Path, tiny_run: Path) -> None:
    assert json.loads((bundle / "bundle.json").read_text())["needs_code"] == [OWN]
    assert f"need `{OWN}`, the ONNX network needs no code" in (bundle / "README.md").read_text()
    assert open_bundle(bundle).metadata.needs_code == (OWN,)
    assert json.loads((nameless / "bundle.json").read_text())["needs_code"] == [""]
    assert "need its author's class" in (nameless / "README.md").read_text()
    assert "needs_code" not in json.loads((tiny_run / "bundle" / "bundle.json").read_text())


def test_torch_needs_permission_that_names_the_class(bundle: Path, expected: np.ndarray) -> None:
    own_networks.CREATED.clear()
    for trusted in ((), "OwnNet", "tests.own_networks.OwnEncoder", ["torch.nn.Linear"]):
        with pytest.raises(InputError, match=rf"never imported unasked.* trust_code={OWN} .* engine onnx"):
            load_model(bundle, trust_code=trusted)
    with pytest.raises(InputError, match="never imported unasked"):
        Verifier.load(bundle, engine="torch")
    assert own_networks.CREATED == []
    for trusted in (OWN, [OWN, "torch.nn.Linear"]):
        np.testing.assert_allclose(embed_faces(load_model(bundle, trust_code=trusted).encoder, IMAGES), expected)
    by_torch = Verifier.load(bundle, engine="torch", trust_code=OWN)
    np.testing.assert_allclose(by_torch.embed_crops(CROPS), expected, atol=1e-6)


@pytest.mark.parametrize("named", [True, False])
def test_an_encoder_of_the_caller_takes_the_weights_as_a_copy(
    named: bool, bundle: Path, nameless: Path, expected: np.ndarray
) -> None:
    folder = bundle if named else nameless
    given = wrap_module(OwnNet(3), SPEC)
    before = copy.deepcopy(given.state_dict())
    verifier = Verifier.load(folder, engine="torch", encoder=given)
    np.testing.assert_allclose(verifier.embed_crops(CROPS), expected, atol=1e-6)
    with pytest.raises(InputError, match="weights do not fit the encoder"):  # so it is not ignored
        Verifier.load(folder, encoder=wrap_module(OwnNet(4), SPEC))
    with pytest.raises(InputError, match="engine onnx runs the bundle's own network: leave encoder out"):
        Verifier.load(folder, engine="onnx", encoder=given)
    assert all(torch.equal(before[name], value) for name, value in given.state_dict().items())
    assert verifier.metadata.fingerprint == Verifier.load(folder).metadata.fingerprint
    with pytest.raises(InputError, match=r"weights do not fit the encoder Encoder: .*size mismatch"):
        load_model(folder, encoder=wrap_module(OwnNet(4), SPEC))
    with pytest.raises(InputError, match=r"size=16.* 24 dimensions, the one given has .*size=32"):
        load_model(folder, encoder=wrap_module(OwnNet(3), InputSpec(32, crop=Crop("whole"))))
    with pytest.raises(InputError, match=r"OwnNet is not an Encoder: wrap it by"):
        load_checkpoint_of(given, folder.parent, OwnNet(3))
    with pytest.raises(InputError, match="The pretrained model vggface2 has an encoder of its own: leave encoder out"):
        Verifier.load("vggface2", encoder=given)


def load_checkpoint_of(encoder: Encoder, folder: Path, given: Any = None) -> FaceModel:
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"hyper_parameters": {}, "state_dict": state}, folder / "any.ckpt")
    return load_checkpoint(folder / "any.ckpt", encoder=given)


def test_a_bundle_of_a_nameless_class_asks_for_the_module(nameless: Path) -> None:
    with pytest.raises(InputError, match=r"class of the encoder is not named: .*encoder=MODULE"):
        load_model(nameless, trust_code=OWN)


def test_to_measure_it_the_onnx_network_is_enough(bundle: Path, nameless: Path, expected: np.ndarray) -> None:
    own_networks.CREATED.clear()
    for folder in (bundle, nameless):
        model = load_model(folder, or_onnx=True)
        np.testing.assert_allclose(embed_faces(model.encoder, IMAGES), expected, atol=1e-5)
        assert model.metadata == open_bundle(folder).metadata
    assert own_networks.CREATED == []
    assert load_model(bundle, trust_code=OWN, or_onnx=True).encoder.backbone.__class__ is OwnNet
    with pytest.raises(InputError, match="never imported unasked"):
        load_model(bundle, "cuda", or_onnx=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"_target_": "os.mkdir", "path": "PATH"},
        {"_target_": "pathlib.Path.mkdir", "self": "PATH"},
        {**SETTINGS, "activation": {"_target_": "os.mkdir", "path": "PATH"}},
        {**SETTINGS, "crop": {"_target_": "os.mkdir", "path": "PATH"}},
        {"_target_": "siamese_verify.encoders.MirroredEncoder", "encoder": {"_target_": "os.mkdir", "path": "PATH"}},
        {"_target_": "siamese_verify.encoders.SmallResNet", "blocks": [{"_target_": "os.mkdir", "path": "PATH"}]},
        {"_target_": "siamese_verify.structures.os.mkdir", "path": "PATH"},
    ],
)
def test_a_checkpoint_and_a_bundle_call_nothing_that_is_not_named_by_the_permission(
    settings: dict[str, Any], encoder: Encoder, bundle: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    settings = json.loads(json.dumps(settings).replace("PATH", str(trace)))
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"hyper_parameters": {"encoder": settings}, "state_dict": state}, tmp_path / "evil.ckpt")
    shutil.copytree(bundle, tmp_path / "bundle")
    content = json.loads((bundle / "bundle.json").read_text()) | {"encoder": settings}
    content["sha256"] = manifest_digest(content)
    (tmp_path / "bundle" / "bundle.json").write_text(manifest_text(content))
    for model in (tmp_path / "evil.ckpt", tmp_path / "bundle"):
        for trusted in ((), OWN):
            with pytest.raises(InputError) as error:
                load_model(model, trust_code=trusted)
            assert "\n" not in str(error.value)
    load_model(tmp_path / "bundle", or_onnx=True)
    assert not trace.exists()


def test_a_bundle_of_a_timm_encoder_is_embedded_by_its_network_where_timm_is_missing(
    encoder: Encoder, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"_target_": "siamese_verify.encoders.TimmEncoder", "name": "resnet18", "size": 16}
    wrapper: dict[str, Any] = {"_target_": "siamese_verify.encoders.MirroredEncoder", "encoder": settings}
    monkeypatch.setitem(sys.modules, "timm", None)
    for number, configuration in enumerate((settings, wrapper)):
        save_bundle(tmp_path / str(number), FaceModel.create("mine", encoder, configuration))
        model = load_model(tmp_path / str(number), or_onnx=True)
        np.testing.assert_allclose(embed_faces(model.encoder, IMAGES), expected, atol=1e-5)


def test_code_of_others_is_every_target_besides_ours() -> None:
    inner = {"_target_": "siamese_verify.encoders.SmallResNet", "crop": WHOLE}
    assert code_of_others(inner) == ()
    assert code_of_others({"_target_": "siamese_verify.encoders.MirroredEncoder", "encoder": inner}) == ()
    nested = {"_target_": OWN, "parts": [{"_target_": "torch.nn.GELU"}, inner, {"_target_": "torch.nn.GELU"}]}
    assert code_of_others(nested) == (OWN, "torch.nn.GELU")
    assert code_of_others({}) == code_of_others({"width": 3}) == ("",)


def test_a_network_that_cannot_be_exported_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Undecided cannot be exported to ONNX, which bundles need") as error:
        save_bundle(tmp_path / "bundle", FaceModel.create("mine", wrap_module(Undecided(), SPEC)))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "bundle").exists()


def fitted(module: VerificationModule, folder: Path, epochs: int, resumed: Path | None = None) -> Path:
    """Train in a script of one's own, without any configuration; return the checkpoint."""
    labels = torch.arange(3).repeat_interleave(2)
    batch = FaceBatch(IMAGES, labels, None)
    loader: Any = DataLoader([batch, batch], batch_size=None)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, loader, ckpt_path=resumed, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def module_of(net: OwnNet) -> VerificationModule:
    def optimizer(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    return VerificationModule(wrap_module(net, SPEC), ContrastiveLoss(margin=0.5), None, optimizer)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_what_a_script_trained_is_resumed_bundled_and_verified(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = OwnNet(3)
    whole, part = module_of(copy.deepcopy(net)), module_of(copy.deepcopy(net))
    fitted(whole, tmp_path, 3)
    checkpoint = fitted(part, tmp_path, 2)
    resumed = module_of(OwnNet(3))
    checkpoint = fitted(resumed, tmp_path, 3, checkpoint)
    for name, value in whole.encoder.state_dict().items():
        assert torch.equal(value, resumed.encoder.state_dict()[name])

    model = load_checkpoint(checkpoint, encoder=wrap_module(OwnNet(3), SPEC))
    assert resumed.validation is not None
    assert model.metadata.operating_points == resumed.validation.operating_points
    save_bundle(tmp_path / "bundle", model)
    verifier = Verifier.load(tmp_path / "bundle")
    expected = embed_faces(resumed.encoder.eval(), IMAGES)  # type: ignore[arg-type]
    np.testing.assert_allclose(verifier.embed_crops(CROPS), expected, atol=1e-5)
    assert verifier.metadata.eer_threshold == model.metadata.eer_threshold is not None
    with pytest.raises(InputError, match=r"class of the encoder is not named"):
        load_model(checkpoint)
