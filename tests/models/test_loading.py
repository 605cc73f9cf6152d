"""A model by any of its names, on either engine; verifying imports no torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from siamese_verify import encoders
from siamese_verify.encoders import MirroredEncoder, MobileFaceNet, Pixels, ResNet18, SmallResNet
from siamese_verify.encoders.encoder import Encoder
from siamese_verify.errors import InputError
from siamese_verify.evaluation import verification_report
from siamese_verify.faces import Mtcnn
from siamese_verify.models import (
    FaceModel,
    TorchEngine,
    load_bundle,
    load_checkpoint,
    load_model,
    open_bundle,
    save_bundle,
    store_thresholds,
)
from siamese_verify.models.engines import OnnxEngine, embed_crops
from siamese_verify.models.export import export_network
from siamese_verify.models.registry import (
    list_models,
    pretrained_bundle,
    pretrained_folder,
    pretrained_metadata,
    read_thresholds,
    ships_thresholds,
)
from siamese_verify.structures import Crop, InputSpec
from siamese_verify.verification import Verifier

ROOT = Path(__file__).resolve().parents[2]
LFW = ROOT.parent / "shared/data/lfw/lfw-deepfunneled"
WEIGHTS = ROOT.parent / "shared/weights"
SMALL = {"_target_": "siamese_verify.encoders.SmallResNet", "size": 32, "width": 4, "embedding_size": 16}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    crop = {"_target_": "siamese_verify.structures.Crop", "kind": "whole"}
    encoder = SmallResNet(size=32, width=4, embedding_size=16, crop=Crop("whole"))
    folder = tmp_path_factory.mktemp("loading") / "bundle"
    save_bundle(folder, FaceModel.create("mine", encoder, {**SMALL, "crop": crop}), {"python": "3.11"})
    return folder


def test_both_engines_give_the_same_embeddings_and_the_same_name_to_their_space(
    bundle: Path, photos: list[Path]
) -> None:
    by_onnx, by_torch = Verifier.load(bundle), Verifier.load(bundle, engine="torch")
    np.testing.assert_allclose(by_onnx.embed(photos), by_torch.embed(photos), atol=1e-5)
    assert by_onnx.metadata.fingerprint == by_torch.metadata.fingerprint
    assert by_onnx.metadata == by_torch.metadata


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle as training leaves it, without a network, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(1)
    crop = {"_target_": "siamese_verify.structures.Crop", "kind": "whole"}
    encoder = SmallResNet(size=32, width=4, embedding_size=16, crop=Crop("whole"))
    save_bundle(tmp_path / "bundle", FaceModel.create("mine", encoder, {**SMALL, "crop": crop}), network=False)
    return tmp_path / "bundle"


def test_a_network_is_exported_at_the_first_use_and_kept(
    unfinished: Path, tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in unfinished.iterdir()}
    assert set(before) == {"bundle.json", "model.safetensors", "README.md"}
    (tmp_path / "cache" / "siamese-verify" / "networks").mkdir(parents=True)
    for number in range(20):
        (tmp_path / "cache" / "siamese-verify" / "networks" / f"{number}.onnx").touch()
    expected = Verifier.load(unfinished, engine="torch").embed(photos)
    np.testing.assert_allclose(Verifier.load(unfinished).embed(photos), expected, atol=1e-5)
    assert len(list((tmp_path / "cache" / "siamese-verify" / "networks").iterdir())) == 16

    monkeypatch.setattr("siamese_verify.models.export.compared_network", lambda *_: pytest.fail("exported again"))
    copied = shutil.copytree(unfinished, tmp_path / "elsewhere")
    np.testing.assert_allclose(Verifier.load(copied).embed(photos), expected, atol=1e-5)
    assert {path.name: path.read_bytes() for path in unfinished.iterdir()} == before


def test_a_network_that_other_code_has_exported_is_exported_again(
    unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Verifier.load(unfinished)
    monkeypatch.setattr("siamese_verify.models.exported_network._exporting_code", lambda: "of another commit")
    Verifier.load(unfinished)
    assert len(list((tmp_path / "cache/siamese-verify/networks").iterdir())) == 2


def test_a_damaged_or_foreign_network_of_the_cache_is_exported_again(
    unfinished: Path, bundle: Path, tmp_path: Path, photos: list[Path]
) -> None:
    expected = Verifier.load(unfinished).embed(photos)
    for content in (b"", b"damaged", (bundle / "model.onnx").read_bytes()):
        (kept,) = (tmp_path / "cache/siamese-verify/networks").iterdir()
        kept.write_bytes(content)
        np.testing.assert_allclose(Verifier.load(unfinished).embed(photos), expected, atol=1e-6)


def test_a_network_that_cannot_be_kept_is_used_all_the_same(
    unfinished: Path, tmp_path: Path, photos: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("no folder")
    verifier = Verifier.load(unfinished)
    np.testing.assert_allclose(
        verifier.embed(photos), Verifier.load(unfinished, engine="torch").embed(photos), atol=1e-5
    )
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert ["at its first use" in warned[0], "make room below" in warned[1]] == [True, True]


def test_a_checkpoint_runs_on_torch_and_lies_in_the_space_of_its_bundle(tiny_run: Path, photos: list[Path]) -> None:
    checkpoint = Verifier.load(tiny_run / "checkpoints" / "best.ckpt")
    run = Verifier.load(tiny_run)
    np.testing.assert_allclose(run.embed(photos), checkpoint.embed(photos), atol=1e-5)
    assert run.metadata.fingerprint == checkpoint.metadata.fingerprint


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"engine": "tensorrt"}, "'onnx' or 'torch'"),
        ({"threads": 0}, "1 to 256 threads"),
        ({"threads": 100_000}, "1 to 256 threads"),
        ({"engine": "onnx", "device": "cuda"}, "computes on the CPU only"),
        ({"engine": "onnx", "device": "abacus"}, "'abacus' cannot be used"),
        ({"engine": "torch", "device": "abacus"}, "'abacus' cannot be used"),
        ({"on_multiple_faces": "all"}, "on_multiple_faces must be one of"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(arguments: dict[str, Any], complaint: str, bundle: Path) -> None:
    with pytest.raises(InputError, match=complaint) as error:
        Verifier.load(bundle, **arguments)
    assert "\n" not in str(error.value)


def test_a_checkpoint_on_onnx_says_how_to_make_a_bundle(tiny_run: Path) -> None:
    with pytest.raises(InputError, match="siamese-verify export"):
        Verifier.load(tiny_run / "checkpoints" / "best.ckpt", engine="onnx")


@pytest.mark.parametrize(
    "encoder",
    [
        SmallResNet(size=32, width=4),
        MobileFaceNet(size=32, embedding_size=16),
        ResNet18(size=64, embedding_size=16),
        Pixels(size=16),
        MirroredEncoder(SmallResNet(size=32, width=4)),
        SmallResNet(size=32, width=4, normalize=False),
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_the_network_of_every_encoder_is_translated_rightly(encoder: Encoder) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in encoder.modules():  # as after training: no neutral values that would hide a mistake
            if isinstance(module, torch.nn.PReLU):
                module.weight.uniform_(-0.5, 1.5, generator=generator)
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        if isinstance(encoder, MirroredEncoder):
            encoder.center.normal_(0, 0.05, generator=generator)
    encoder.eval()
    size = encoder.input_spec.size
    crops = np.random.default_rng(0).integers(0, 256, (11, size, size, 3), dtype=np.uint8)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    engine = OnnxEngine(export_network(encoder), "network")
    found = embed_crops(engine, crops, encoder.embedding_size)
    expected = embed_crops(TorchEngine(encoder), crops, encoder.embedding_size)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_no_faces_give_no_embeddings(bundle: Path) -> None:
    verifier = Verifier.load(bundle)
    assert verifier.embed_faces([]).shape == (0, 16)
    assert verifier.embed_crops(np.empty((0, 32, 32, 3), np.uint8)).shape == (0, 16)


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 3, 32, 32), (1, 31, 32, 3), (1, 32, 32, 4)])
def test_crops_of_another_shape_are_refused(shape: tuple[int, ...], bundle: Path) -> None:
    with pytest.raises(InputError, match=r"\(N, 32, 32, 3\)"):
        Verifier.load(bundle).embed_crops(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("file", ["model.onnx", "model.safetensors", "README.md"])
def test_a_byte_changed_in_any_file_gives_no_embedding(
    file: str, bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    content = bytearray((copy / file).read_bytes())
    for place in np.linspace(0, len(content) - 1, 12).astype(int):
        damaged = bytes(content[:place]) + bytes([content[place] ^ 1]) + bytes(content[place + 1 :])
        (copy / file).write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{file} does not have the SHA-256"):
            Verifier.load(copy).embed(photos[:1])


def test_a_file_that_the_manifest_does_not_list_is_never_opened(
    bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / "extra.pkl").write_bytes(b"\x80\x04\x95")
    (copy / "extra.pkl").chmod(0)
    assert Verifier.load(copy).embed(photos[:1]).shape == (1, 16)
    content = json.loads((copy / "bundle.json").read_text())
    content["files"]["../../secret"] = "0" * 64
    from siamese_verify.models.bundle import manifest_digest, manifest_text

    content["sha256"] = manifest_digest(content)
    (copy / "bundle.json").write_text(manifest_text(content))
    with pytest.raises(InputError, match=r"lists '\.\./\.\./secret'"):
        Verifier.load(copy)


def test_a_pickle_in_place_of_the_weights_is_not_unpickled(bundle: Path, tmp_path: Path) -> None:
    import hashlib
    import pickle

    from siamese_verify.models.bundle import manifest_digest, manifest_text

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.mkdir, (tmp_path / "trace",)

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    for file in ("model.safetensors", "model.onnx"):
        (copy / file).write_bytes(pickle.dumps(Trap()))
    content = json.loads((copy / "bundle.json").read_text())
    for file in ("model.safetensors", "model.onnx"):
        content["files"][file] = hashlib.sha256((copy / file).read_bytes()).hexdigest()
    content["sha256"] = manifest_digest(content)
    (copy / "bundle.json").write_text(manifest_text(content))
    for engine in ("onnx", "torch"):
        with pytest.raises(InputError) as error:
            Verifier.load(copy, engine=engine)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "trace").exists()


def test_a_bundle_never_takes_the_place_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    model = FaceModel.create(
        "mine", SmallResNet(size=32, width=4, embedding_size=16), SMALL
    )  # not even in evaluation mode
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        save_bundle(tmp_path, model, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


VERIFY = """
import sys
from siamese_verify.cli.main import main
status = main(sys.argv[1:])
heavy = {"torch", "torchvision", "pytorch_lightning", "matplotlib", "scipy", "pandas", "pyarrow", "hydra", "onnx"}
ours = {f"siamese_verify.evaluation.{name}" for name in ("all_pairs", "report", "run_comparison", "differentials")}
print(sorted((heavy | ours | {"rich", "zipfile", "csv"}) & set(sys.modules)), status)
"""


def test_verifying_imports_neither_torch_nor_torchvision(bundle: Path, photos: list[Path]) -> None:
    command = ["verify", str(photos[0]), str(photos[0]), "--model", str(bundle), "--threshold", "0.5"]
    ended = subprocess.run(
        [sys.executable, "-c", VERIFY, *command], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert ended.stdout.splitlines()[-1] == "[] 0", ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def sface() -> Path:
    if not (WEIGHTS / "opencv_zoo").is_dir() or not LFW.is_dir():
        pytest.skip("needs SFace and YuNet in ../shared/weights/opencv_zoo and LFW in ../shared/data/lfw")
    return pretrained_bundle("sface", [WEIGHTS / "opencv_zoo"])


def test_sface_with_yunet_is_pulled_from_files_and_verifies_without_torch(sface: Path) -> None:
    bush = [str(LFW / f"George_W_Bush/George_W_Bush_000{number}.jpg") for number in (1, 2)]
    command = ["verify", *bush]  # the default
    ended = subprocess.run(
        [sys.executable, "-c", VERIFY, *command], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert ended.stdout.splitlines()[-1] == "[] 0", ended.stdout + ended.stderr
    bundle = open_bundle(sface)
    assert {"detector/yunet.onnx", "model.onnx", "README.md"} == set(bundle.files)
    card = bundle.read("README.md").decode()
    assert "Apache-2.0, training data not disclosed by the authors; detector YuNet MIT" in card
    assert "five_point-1 after yunet-1" in card
    assert "EER 0.68" in {one.name: one for one in list_models(sface)}["sface"].accuracy
    assert 0.3 < bundle.metadata.decision_threshold().threshold < 0.4  # OpenCV recommends 0.363


def test_sface_on_torch_gives_the_embeddings_of_its_bundle(sface: Path) -> None:
    photo = LFW / "George_W_Bush/George_W_Bush_0001.jpg"
    left, right = (Verifier.load("sface", engine=engine) for engine in ("onnx", "torch"))
    np.testing.assert_allclose(left.embed([photo]), right.embed([photo]), atol=1e-5)
    assert left.metadata.fingerprint == right.metadata.fingerprint


@pytest.mark.parametrize("name", ["model.onnx", "bundle.json"])
def test_pulling_repairs_a_damaged_bundle_and_looks_at_files_that_are_given(
    name: str, sface: Path, tmp_path: Path
) -> None:
    whole = (sface / name).read_bytes()
    (sface / name).write_bytes(whole[:1000])
    assert pretrained_bundle("sface", check=True) == sface
    if name == "model.onnx":
        assert (sface / name).read_bytes() == whole
    bundle = open_bundle(sface)
    bundle.check(bundle.files)
    with pytest.raises(InputError, match=f"{tmp_path} holds no face_recognition_sface"):
        pretrained_bundle("sface", [tmp_path])


def test_a_cache_that_cannot_be_written_is_not_reported_as_a_download(
    sface: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"^The bundle cannot be written to .*file/siamese-verify.*Not a directory"):
        pretrained_bundle("sface", [WEIGHTS / "opencv_zoo"])


def test_files_of_a_model_of_torch_are_not_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"from torch's cache \(TORCH_HOME\), not from {tmp_path}"):
        pretrained_bundle("casia-webface", [tmp_path])


def test_any_encoder_can_have_any_detector(sface: Path, tmp_path: Path) -> None:
    encoder = SmallResNet(size=32, width=4, crop=Crop("box", margin=4, detector="yunet")).eval()
    save_bundle(tmp_path / "bundle", FaceModel.create("mine", encoder))
    bundle = open_bundle(tmp_path / "bundle")
    assert "detector/yunet.onnx" in bundle.files
    assert bundle.metadata.input_spec.crop.detector == "yunet"
    (face,) = Verifier.load(tmp_path / "bundle").find(LFW / "George_W_Bush/George_W_Bush_0001.jpg")
    assert face.landmarks is not None
    assert len(face.landmarks) == 5
    with pytest.raises(InputError, match="A crop's detector must be mtcnn or yunet, got 'haar'"):
        Crop(detector="haar")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def casia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (WEIGHTS / "checkpoints/20180408-102900-casia-webface.pt").is_file() or not LFW.is_dir():
        pytest.skip("needs casia-webface's weights in ../shared/weights and LFW in ../shared/data/lfw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(WEIGHTS))
        return pretrained_bundle("casia-webface")


def test_a_pretrained_model_is_made_once_and_then_needs_neither_torch_nor_its_weights(
    casia: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    bush = [str(LFW / f"George_W_Bush/George_W_Bush_000{number}.jpg") for number in (1, 2)]
    ended = subprocess.run(
        [sys.executable, "-c", VERIFY, "verify", *bush, "--model", "casia-webface"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert ended.stdout.splitlines()[-1] == "[] 0", ended.stdout + ended.stderr
    assert pretrained_folder("casia-webface") == casia
    listed = {one.name: one for one in list_models(tmp_path)}
    assert listed["casia-webface"].available
    assert "EER 1.3" in listed["casia-webface"].accuracy
    assert not listed["vggface2"].available
    assert "models pull vggface2" in listed["vggface2"].note


def test_a_photo_of_two_people_is_compared_as_one_asks(casia: Path) -> None:
    from PIL import Image

    bush, powell = (LFW / f"{name}/{name}_0001.jpg" for name in ("George_W_Bush", "Colin_Powell"))
    both = Image.new("RGB", (500, 300))
    with Image.open(bush) as left, Image.open(powell) as right:
        both.paste(left.resize((200, 200)), (0, 50))
        both.paste(right.resize((300, 300)), (200, 0))
    verifier = Verifier.load("casia-webface")
    assert [len(verifier.find(both, on_multiple_faces=way)) for way in ("largest", "central", "any")] == [1, 1, 2]
    largest = verifier.verify(bush, both, on_multiple_faces="largest", decide=True)
    anyone = verifier.verify(bush, both, on_multiple_faces="any", decide=True)
    assert (largest.same, anyone.same) == (False, True)
    assert anyone.threshold > verifier.verify(bush, bush).threshold
    assert anyone.faces[1].faces == 2


def test_a_liveness_hook_runs_first_and_can_refuse(bundle: Path, photos: list[Path]) -> None:
    from siamese_verify.verification import NoDecision

    seen: list[str] = []

    def hook(photo: Any, face: Any) -> str | None:
        seen.append(face.name)
        return "it is a printed photo." if face.name == str(photos[1]) else None

    verifier = Verifier.load(bundle, liveness=hook)
    assert verifier.verify(photos[0], photos[2], threshold=0.5).same is not None
    with pytest.raises(NoDecision, match=r"was refused: it is a printed photo\."):
        verifier.verify(photos[0], photos[1], threshold=0.5)
    with pytest.raises(NoDecision, match="was refused"):
        verifier.embed([photos[1]])
    assert seen.count(str(photos[0])) == 2


@pytest.mark.parametrize("name", ["nobody", "casia", "/no/such/folder", ""])
def test_an_unknown_model_is_an_error_that_lists_what_there_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=rf"There is no model {name}.*casia-webface, vggface2, openface, a run, a bundle folder"
    ):
        load_model(name)


def test_a_model_that_is_nearly_named_is_suggested() -> None:
    with pytest.raises(InputError, match=r"There is no model sfcae: did you mean sface\?"):
        load_model("sfcae")
    with pytest.raises(InputError, match=r"There is no pretrained model 'sfac': did you mean sface\?"):
        pretrained_bundle("sfac")


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


@pytest.mark.parametrize("name", ["sface", "casia-webface", "openface"])
def test_shipped_thresholds_are_of_all_pairs_of_view_1(name: str) -> None:
    shipped = read_thresholds(name)
    assert ships_thresholds(name)
    assert (shipped["genuine"], shipped["impostors"]) == (24_620, 6_848_158)
    metadata = pretrained_metadata(name, InputSpec(112), 1)
    assert metadata.score_calibration is not None
    far, thresholds = zip(*((point.far, point.threshold) for point in metadata.operating_points), strict=True)
    assert list(far) == sorted(far, reverse=True) and list(thresholds) == sorted(thresholds)
    assert metadata.decision_threshold(1e-3).threshold == pytest.approx(thresholds[2])


def test_thresholds_of_another_face_detector_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert ships_thresholds("casia-webface")
    assert read_thresholds("casia-webface")["detector"] == Mtcnn.identifier
    store_thresholds("vggface2", {"measured_on": "four pairs"})
    assert read_thresholds("vggface2")["measured_on"] == "four pairs"
    monkeypatch.setattr(Mtcnn, "identifier", "another")
    assert not ships_thresholds("casia-webface")
    assert read_thresholds("casia-webface") == read_thresholds("vggface2") == {}


@pytest.mark.parametrize("form", ["run", "bundle", "best.ckpt", "last.ckpt"])
def test_every_form_of_a_run_loads(form: str, tiny_run: Path) -> None:
    path = {"run": tiny_run, "bundle": tiny_run / "bundle"}.get(form, tiny_run / "checkpoints" / form)
    model = load_model(path)
    assert len(model.metadata.operating_points) == 3
    assert not model.encoder.training
    assert "held out from synthetic training" in model.metadata.measured_on
    (stage,) = model.metadata.training.pop("stages")
    assert model.metadata.training == {"data": "synthetic", "pretrained": None}
    assert (stage["method"], stage["loss"], stage["data"]) == ("supervised", "TripletLoss", "synthetic")


def test_a_checkpoint_is_its_bundle(tiny_run: Path) -> None:
    checkpoint, bundle = load_checkpoint(tiny_run / "checkpoints" / "best.ckpt"), load_bundle(tiny_run / "bundle")
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(checkpoint.encoder(images), bundle.encoder(images))
    for name in ("configuration", "operating_points", "eer_threshold", "measured_on", "metrics"):
        assert getattr(checkpoint.metadata, name) == getattr(bundle.metadata, name)
    (stage,), (recorded,) = (one.metadata.training.pop("stages") for one in (checkpoint, bundle))
    assert checkpoint.metadata.training == bundle.metadata.training
    assert stage.items() <= recorded.items(), "the run knows the data's hash, the times and the command"


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


@pytest.mark.parametrize(("threshold", "status"), [("-1", 0), ("1", 1)])
def test_the_command_ends_with_its_status_after_what_was_left_for_the_end(
    threshold: str, status: int, bundle: Path, photos: list[Path]
) -> None:
    program = "import atexit; from siamese_verify.cli.main import main; atexit.register(print, 'ended'); main()"
    command = ["verify", *map(str, photos[:2]), "--model", str(bundle), f"--threshold={threshold}"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (status, "")
    first, *_, last = ended.stdout.splitlines()
    assert first.startswith("Different people" if status else "The same person")
    assert last == "ended"
