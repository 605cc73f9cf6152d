"""ONNX Runtime: no telemetry, and errors in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from siamese_verify.errors import InputError
from siamese_verify.onnx_runtime import open_session

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
