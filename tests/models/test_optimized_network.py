"""Networks as ONNX Runtime optimizes them: kept for the next start, checked, and made anew where they do not fit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from siamese_verify.encoders import SmallResNet
from siamese_verify.errors import InputError
from siamese_verify.models import FaceModel, OnnxEngine, TorchEngine, save_bundle
from siamese_verify.models import optimized_network as module
from siamese_verify.models.bundle import NETWORK
from siamese_verify.models.optimized_network import NODES, WEIGHTS, optimized_network
from siamese_verify.structures import Crop
from siamese_verify.verification import Verifier


@pytest.fixture(scope="module")
def encoder() -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(size=32, width=4, embedding_size=16, crop=Crop("whole")).eval()


@pytest.fixture(scope="module")
def bundle(encoder: SmallResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"_target_": "siamese_verify.encoders.SmallResNet", "size": 32, "width": 4, "embedding_size": 16}
    settings["crop"] = {"_target_": "siamese_verify.structures.Crop", "kind": "whole"}
    folder = tmp_path_factory.mktemp("optimized") / "bundle"
    save_bundle(folder, FaceModel.create("mine", encoder, settings), {})
    return folder


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they are kept: an empty cache, on a known processor, also for small networks."""
    (tmp_path / "cpuinfo").write_text(
        "processor : 0\nmodel name : mine\nflags : sse\nbogomips : 1.0\n\nprocessor : 1\n"
    )
    monkeypatch.setattr(module, "PROCESSOR", tmp_path / "cpuinfo")
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/siamese-verify/optimized"


def digest(bundle: Path) -> str:
    return hashlib.sha256((bundle / NETWORK).read_bytes()).hexdigest()


def crops(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_it_embeds_as_torch_does_whatever_the_batch(bundle: Path, encoder: SmallResNet) -> None:
    nodes = optimized_network(bundle / NETWORK, digest(bundle))
    assert nodes is not None
    engine = OnnxEngine(nodes, "mine", optimized=True)
    for count in (1, 3, 8):
        np.testing.assert_allclose(engine(crops(count)), TorchEngine(encoder)(crops(count)), atol=1e-5)


def test_a_start_takes_the_one_that_the_start_before_has_made(bundle: Path, kept: Path) -> None:
    first = Verifier.load(bundle).embed_crops(crops(2))
    (folder,) = kept.iterdir()
    made = (folder / WEIGHTS).stat().st_mtime_ns
    np.testing.assert_array_equal(Verifier.load(bundle).embed_crops(crops(2)), first)
    assert [*kept.iterdir()] == [folder]
    assert (folder / WEIGHTS).stat().st_mtime_ns == made


@pytest.mark.parametrize("name", [NODES, WEIGHTS])
def test_a_damaged_one_is_refused_and_removed(name: str, bundle: Path, kept: Path) -> None:
    expected = Verifier.load(bundle).embed_crops(crops(2))
    (folder,) = kept.iterdir()
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="was damaged, and is removed: start again"):
        Verifier.load(bundle).embed_crops(crops(2))
    assert not [*kept.iterdir()]
    np.testing.assert_array_equal(Verifier.load(bundle).embed_crops(crops(2)), expected)


def test_another_version_or_processor_gets_its_own_and_the_oldest_go(
    bundle: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    for number in range(module.KEPT + 2):
        if number % 2:
            module.PROCESSOR.write_text(f"model name : {number}\nflags : avx\n\n")
        else:
            monkeypatch.setattr(onnxruntime, "__version__", str(number))
        found.add(optimized_network(bundle / NETWORK, digest(bundle)))
    assert len(found) == module.KEPT + 2
    assert len([*kept.iterdir()]) == module.KEPT


@pytest.mark.parametrize("reason", ["no processor", "no flags", "small", "another hash", "no room", "another result"])
def test_where_there_can_be_none_the_network_itself_is_opened(
    reason: str, bundle: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = digest(bundle)
    if reason == "no processor":
        module.PROCESSOR.unlink()
    elif reason == "no flags":
        module.PROCESSOR.write_text("model name : mine\n")
    elif reason == "small":
        monkeypatch.setattr(module, "LEAST_BYTES", 2**30)
    elif reason == "another hash":
        expected = "0" * 64
    elif reason == "no room":
        kept.parent.mkdir(parents=True)
        kept.write_text("not a folder")
    else:
        monkeypatch.setattr(module, "AGREEMENT", -1.0)
    assert optimized_network(bundle / NETWORK, expected) is None
    assert not kept.is_dir() or not [*kept.iterdir()]
    if reason != "another hash":
        assert Verifier.load(bundle).embed_crops(crops(1)).shape == (1, 16)
