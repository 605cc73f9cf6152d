"""SFace on torch: the embeddings of the published file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from siamese_verify.encoders import SFace
from siamese_verify.errors import InputError
from siamese_verify.onnx_runtime import open_session
from siamese_verify.opencv_zoo import SFACE, folded

SHARED = Path(__file__).resolve().parents[2].parent / "shared/weights/opencv_zoo"


def test_the_pretrained_weights_embed_as_the_published_network() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"the files of OpenCV's model zoo are not in {SHARED}")
    network = open_session(folded(SFACE, [SHARED]), "sface", 1)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 112, 112), dtype=np.uint8)
    theirs = network.run(None, {"images": images})[0]
    with torch.inference_mode():
        ours = SFace("sface", normalize=False).eval()(torch.from_numpy(images)).numpy()
    largest = np.abs(theirs).max()
    np.testing.assert_allclose(ours / largest, theirs / largest, atol=1e-5)


def test_it_trains_from_random_weights() -> None:
    encoder = SFace().train()
    embeddings = encoder(torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8))
    embeddings[:, 0].sum().backward()
    assert embeddings.shape == (2, 128)
    assert all(one.grad is not None and one.grad.isfinite().all() for one in encoder.parameters())


def test_other_weights_are_refused() -> None:
    with pytest.raises(InputError, match="pretrained must be sface or null, got 'vggface2'"):
        SFace("vggface2")
