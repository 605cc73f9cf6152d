"""ONNX Runtime: no telemetry, and errors in one sentence."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from siamese_verify.errors import InputError
from siamese_verify.models.engines import BATCH, GPU_BATCH, OnnxEngine
from siamese_verify.onnx_runtime import CPU, CUDA, open_session

RUN = """
import sys
from siamese_verify.faces import Mtcnn
from PIL import Image
Mtcnn().detect(Image.new("RGB", (64, 64)))
"""


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x0a"])
def test_what_is_no_network_is_one_sentence(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^mine\.onnx cannot be run: ") as error:
        open_session(content, "mine.onnx")
    assert "\n" not in str(error.value)


def test_nothing_is_kept_for_the_runtimes_maker(tmp_path: Path, home: Path) -> None:
    import shutil

    cache, known = tmp_path / "cache", Path(os.environ["XDG_CACHE_HOME"]) / "siamese-verify"
    from siamese_verify.faces import detector_files

    detector_files("mtcnn")  # once for all tests
    shutil.copytree(known, cache / "siamese-verify")
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", RUN], check=True, env=environment, timeout=60)
    assert [path.name for path in cache.iterdir()] == ["siamese-verify"]
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def doubling() -> bytes:
    """A network that adds its input to itself."""
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 2]) for name in ("images", "out")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["images"] * 2, ["out"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


class Machine:
    """Stands for a machine whose ONNX Runtime knows GPUs; what runs there runs on the CPU here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, starts: bool = True, fails: str = "") -> None:
        self.asked: list[Any] = []
        real = onnxruntime.InferenceSession

        def session(model: Any, options: Any, providers: list[Any], **_: Any) -> Any:
            self.asked.append(providers)
            if providers != [CPU] and fails:
                raise RuntimeError(f"{fails}.\nmore lines")
            found = real(model, options, providers=[CPU])
            if providers != [CPU] and starts:
                monkeypatch.setattr(found, "get_providers", lambda: [CUDA, CPU])
            return found

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)


def test_a_gpu_is_chosen_where_there_is_one_and_takes_larger_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    engine = OnnxEngine(doubling(), "mine", arrays="float32", device="auto")
    (provider, settings), fallback = machine.asked[0]
    assert (provider, settings["device_id"], settings["use_tf32"], fallback) == (CUDA, "0", "0", CPU)
    assert engine.batch == GPU_BATCH
    assert engine(np.ones((3, 2), np.uint8)).tolist() == [[2, 2]] * 3
    open_session(doubling(), "mine", device="cuda:1")
    assert machine.asked[1][0][1]["device_id"] == "1"


def test_the_cpu_refuses_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    assert OnnxEngine(doubling(), "mine", arrays="float32", device="cpu").batch == BATCH
    assert machine.asked == [[CPU]]


@pytest.mark.parametrize("trouble", [{"starts": False}, {"fails": "CUDA failure 35: the driver is too old"}])
def test_a_gpu_that_does_not_start_is_one_sentence(
    trouble: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(monkeypatch, **trouble)
    with caplog.at_level(logging.WARNING):
        assert open_session(doubling(), "mine", device="auto").get_providers() == [CPU]
    reason = trouble.get("fails", "a library of CUDA or cuDNN, or the GPU itself, is missing")
    assert caplog.messages == [f"mine runs on the CPU, since ONNX Runtime cannot use a GPU here: {reason}."]
    with pytest.raises(InputError, match=rf"^mine cannot be run on cuda: {reason}\.$"):
        open_session(doubling(), "mine", device="cuda")


def test_a_broken_network_is_not_blamed_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(monkeypatch)
    with pytest.raises(InputError, match=r"^mine cannot be run: "):
        open_session(b"text", "mine", device="auto")
    assert not caplog.messages


@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu and a GPU")
def test_embeddings_on_the_gpu_are_those_of_the_cpu() -> None:
    from siamese_verify.encoders import MobileFaceNet
    from siamese_verify.models import export_network
    from siamese_verify.models.engines import embed_crops

    network = export_network(MobileFaceNet(size=112, embedding_size=128).eval())
    crops = np.random.default_rng(0).integers(0, 256, (300, 112, 112, 3), dtype=np.uint8)
    there, here = (embed_crops(OnnxEngine(network, "mine", device=device), crops, 128) for device in ("cuda", "cpu"))
    assert (there * here).sum(axis=1).min() > 1 - 1e-3
