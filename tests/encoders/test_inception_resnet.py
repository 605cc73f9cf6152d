"""InceptionResNet: facenet-pytorch's weights, or one sentence that says how to get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import facenet_pytorch
import pytest
import torch

from siamese_verify.encoders import InceptionResNet
from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec

WEIGHTS = Path(__file__).resolve().parents[2].parent / "shared/weights"


def test_pretrained_embeddings_are_those_of_facenet_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    if not list(WEIGHTS.glob("checkpoints/*casia-webface.pt")):
        pytest.skip(f"the weights of casia-webface are not in {WEIGHTS}/checkpoints")
    monkeypatch.setenv("TORCH_HOME", str(WEIGHTS))
    images = torch.randint(0, 256, (2, 3, 160, 160), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.inference_mode():
        theirs = facenet_pytorch.InceptionResnetV1(pretrained="casia-webface").eval()
        expected = theirs(facenet_pytorch.fixed_image_standardization(images.float()))
        embeddings = InceptionResNet("casia-webface").eval()(images)
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-6)


def test_it_sees_what_the_weights_were_trained_on() -> None:
    spec = InputSpec(160, (127.5, 127.5, 127.5), (128.0, 128.0, 128.0), Crop("box", margin=32))
    encoder = InceptionResNet()
    assert encoder.input_spec == spec
    assert encoder.embedding_size == 512


def test_the_classifier_is_left_out_of_the_weights() -> None:
    assert not [name for name in InceptionResNet().state_dict() if "logits" in name]


@pytest.mark.parametrize("name", ["vggface", "casia", "", "CASIA-WEBFACE"])
def test_unknown_weights_are_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(InputError) as raised:
        InceptionResNet(name)
    message = str(raised.value)
    assert repr(name) in message
    assert "casia-webface" in message
    assert "vggface2" in message


@pytest.mark.parametrize("name", ["casia-webface", "vggface2"])
@pytest.mark.parametrize("error", [URLError("no route to host"), PermissionError(13, "Permission denied")])
def test_without_cache_and_network_the_way_out_is_said(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(**_: Any) -> None:
        raise error

    monkeypatch.setattr(facenet_pytorch, "InceptionResnetV1", offline)
    with pytest.raises(InputError) as raised:
        InceptionResNet(name)
    message = str(raised.value)
    assert message.endswith(".")
    assert all(word in message for word in (name, str(error), "network", "TORCH_HOME"))
