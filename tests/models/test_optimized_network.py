"""Networks as ONNX Runtime optimizes them: kept for the next start, and what runs where they cannot be."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from siamese_verify.cli import list_models, verify_photos
from siamese_verify.encoders import SmallResNet
from siamese_verify.errors import InputError
from siamese_verify.models import FaceModel, OnnxEngine, TorchEngine, save_bundle
from siamese_verify.models import optimized_network as module
from siamese_verify.models.bundle import NETWORK
from siamese_verify.models.optimized_network import HASH, NODES, WEIGHTS, optimized_network
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


def quickly(bundle: Path) -> Any:
    return Verifier.load(bundle, quick_start=True).embed_crops(crops(2))


def test_it_embeds_as_torch_does_whatever_the_batch(bundle: Path, encoder: SmallResNet) -> None:
    nodes = optimized_network(bundle / NETWORK, digest(bundle))
    assert nodes is not None
    engine = OnnxEngine(nodes, "mine", optimized=True)
    for count in (1, 3, 8):
        np.testing.assert_allclose(engine(crops(count)), TorchEngine(encoder)(crops(count)), atol=1e-5)


def test_a_start_takes_the_one_that_the_start_before_has_made(bundle: Path, kept: Path) -> None:
    first = quickly(bundle)
    (folder,) = kept.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    made = (folder / WEIGHTS).stat().st_mtime_ns
    np.testing.assert_array_equal(quickly(bundle), first)
    assert [*kept.iterdir()] == [folder]
    assert (folder / WEIGHTS).stat().st_mtime_ns == made


def test_only_a_quick_start_makes_and_takes_one(bundle: Path, kept: Path) -> None:
    Verifier.load(bundle).embed_crops(crops(1))
    assert not kept.exists()


@pytest.mark.parametrize("command", [verify_photos, list_models])
def test_verify_and_pull_start_quickly(
    command: ModuleType, bundle: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_verify.models.registry.pretrained_bundle", lambda *_, **__: bundle)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    missing = ["a.png", "b.png", "--threshold", "0.5", "--model", str(bundle)]
    command.run(parser.parse_args(["pull", "sface"] if command is list_models else missing))
    assert len([*kept.iterdir()]) == 1


def test_starts_at_the_same_time_keep_one(bundle: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, agree = threading.Barrier(3), module._agree

    def made_together(content: bytes, nodes: Path) -> bool:
        together.wait(60)  # all have found none, and have written theirs
        with nodes.with_name(WEIGHTS).open("ab") as file:  # ONNX Runtime writes no two alike
            file.write(os.urandom(8))
        return agree(content, nodes)

    monkeypatch.setattr(module, "_agree", made_together)
    with ThreadPoolExecutor(3) as pool:
        found = {*pool.map(lambda _: optimized_network(bundle / NETWORK, digest(bundle)), range(3))}
    (folder,) = kept.iterdir()
    assert found == {folder / NODES}


def test_what_a_killed_process_left_is_removed_later(bundle: Path, kept: Path) -> None:
    abandoned, present = kept / ".0.part", kept / ".1.part"
    for folder in (abandoned, present):
        folder.mkdir(parents=True)
        (folder / NODES).write_bytes(b"half")
    hours_ago = time.time() - 2 * 3600
    os.utime(abandoned, (hours_ago, hours_ago))
    assert optimized_network(bundle / NETWORK, digest(bundle))
    assert not abandoned.exists()
    assert present.exists(), "another process may be making it"


@pytest.mark.parametrize("damage", [NODES, WEIGHTS, HASH, "half", "a file", "a link", "read-only"])
def test_in_place_of_a_damaged_one_the_network_itself_is_opened(
    damage: str, bundle: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Verifier.load(bundle).embed_crops(crops(2))
    quickly(bundle)
    (folder,) = kept.iterdir()
    file = folder / (damage if damage in (NODES, HASH) else WEIGHTS)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content[: len(content) // 2] if damage == "half" else content)
    if damage in ("a file", "a link"):
        folder.rename(tmp_path / "elsewhere")
        folder.write_text("no folder") if damage == "a file" else folder.symlink_to(tmp_path / "elsewhere")
    elif damage == "read-only":
        monkeypatch.setattr("shutil.rmtree", refused)
    np.testing.assert_array_equal(quickly(bundle), expected)
    assert [*kept.iterdir()] == ([folder] if damage == "read-only" else [])
    np.testing.assert_allclose(quickly(bundle), expected, atol=1e-5)


def refused(*_: Any, **__: Any) -> None:
    raise PermissionError


def test_a_damaged_network_of_the_bundle_takes_the_place_of_no_damaged_one(
    bundle: Path, kept: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "mine")
    quickly(tmp_path / "mine")
    (folder,) = kept.iterdir()
    (folder / NODES).write_bytes(b"damaged")
    content = (tmp_path / "mine" / NETWORK).read_bytes()
    (tmp_path / "mine" / NETWORK).write_bytes(content[:-1] + b"?")
    with pytest.raises(InputError, match=r"model\.onnx does not have the SHA-256"):
        quickly(tmp_path / "mine")


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_network_that_cannot_be_compared_is_opened_itself(
    outputs: int, bundle: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(bundle / NETWORK)
    if outputs == 2:
        again = onnx.helper.make_node("Identity", [model.graph.output[0].name], ["again"])
        model.graph.node.append(again)
        model.graph.output.append(onnx.helper.make_tensor_value_info("again", onnx.TensorProto.FLOAT, None))
    else:  # it runs for one size only, which its input does not say
        shape = onnx.helper.make_tensor("three", onnx.TensorProto.INT64, [2], [3, 16])
        model.graph.initializer.append(shape)
        reshape = onnx.helper.make_node("Reshape", [model.graph.output[0].name, "three"], ["again"])
        model.graph.node.append(reshape)
        model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("again", onnx.TensorProto.FLOAT, None))
    file = tmp_path / NETWORK
    onnx.save(model, file)
    assert optimized_network(file, hashlib.sha256(file.read_bytes()).hexdigest()) is None
    assert not [*kept.iterdir()]


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
        assert quickly(bundle).shape == (2, 16)
