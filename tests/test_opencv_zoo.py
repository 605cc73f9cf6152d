"""SFace and YuNet of OpenCV's model zoo: what is folded computes what was published, and other files are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from siamese_verify.errors import InputError
from siamese_verify.onnx_runtime import open_session
from siamese_verify.opencv_zoo import SFACE, YUNET, folded, published

SHARED = Path(__file__).resolve().parents[2] / "shared/weights/opencv_zoo"
needs_files = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the files of OpenCV's model zoo are not in {SHARED}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache/siamese-verify/opencv_zoo"


@needs_files
def test_the_embeddings_of_sface_are_those_of_the_published_file() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 112, 112), dtype=np.uint8)
    model = onnx.load(SHARED / SFACE.name)
    del model.graph.input[1:]  # weights
    evaluator: Any = ReferenceEvaluator(model)
    theirs = np.concatenate([evaluator.run(None, {"data": image[None].astype(np.float32)})[0] for image in images])
    ours = open_session(folded(SFACE, [SHARED]), "sface", 1).run(None, {"images": images})[0]
    largest = np.abs(theirs).max()
    np.testing.assert_allclose(ours / largest, theirs / largest, atol=1e-5)


@needs_files
def test_the_outputs_of_yunet_are_those_of_the_published_file() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    model = onnx.load(SHARED / YUNET.name)
    for side, length in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], photo.shape[:2], strict=True):
        side.dim_value = length
    pixels = photo[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)  # blue, green, red
    theirs = ReferenceEvaluator(model).run(None, {"input": pixels})
    ours = open_session(folded(YUNET, [SHARED]), "yunet", 1).run(None, {"photo": photo})
    assert len(ours) == len(theirs) == 12
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


@needs_files
def test_a_file_is_folded_once_and_again_where_the_cache_is_damaged(own_cache: Path) -> None:
    content = folded(YUNET, [SHARED / YUNET.name])
    assert folded(YUNET) == content  # no network is asked
    (cached,) = own_cache.glob("*folded*")
    cached.write_bytes(b"damaged")
    assert folded(YUNET) == content
    assert cached.read_bytes() == content
    assert published(YUNET) == (SHARED / YUNET.name).read_bytes()


def test_a_file_with_another_hash_is_no_file_of_the_zoo(tmp_path: Path, own_cache: Path) -> None:
    (tmp_path / YUNET.name).write_bytes(bytes(YUNET.size))
    for source in (tmp_path, tmp_path / YUNET.name):
        with pytest.raises(
            InputError, match=rf"{source} holds no {YUNET.name} \(SHA-256 {YUNET.sha256}\): get it from"
        ):
            published(YUNET, [source])
    assert not own_cache.exists()
