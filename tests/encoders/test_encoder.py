"""Properties of every encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from siamese_verify.encoders import Encoder, InceptionResNet, MobileFaceNet, Pixels, ResNet18, SmallResNet
from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec

Make = Callable[..., Encoder]


def inception_resnet(**options: Any) -> Encoder:
    return InceptionResNet(size=96, **options)


def mobilefacenet(**options: Any) -> Encoder:
    return MobileFaceNet(size=48, embedding_size=24, **options)


def resnet18(**options: Any) -> Encoder:
    return ResNet18(size=40, embedding_size=20, **options)


def small(**options: Any) -> Encoder:
    return SmallResNet(size=32, width=4, embedding_size=16, **options)


def small_and_deep(**options: Any) -> Encoder:
    return SmallResNet(size=32, width=4, blocks=(2, 1, 3), embedding_size=16, dropout=0.1, **options)


TRAINABLE: list[Make] = [inception_resnet, mobilefacenet, resnet18, small, small_and_deep]
ALL: list[Make] = [*TRAINABLE, lambda: Pixels(size=16)]
NAMES = ["inception_resnet", "mobilefacenet", "resnet18", "small", "small_and_deep", "pixels"]


@pytest.fixture(autouse=True)
def fixed_draws() -> None:
    torch.manual_seed(0)


def photos(encoder: Encoder, count: int) -> Tensor:
    size = encoder.input_spec.size
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.mark.parametrize("make", ALL, ids=NAMES)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
def test_embeddings_are_float32_rows_of_unit_length(make: Make, training: bool) -> None:
    encoder = make().train(training)
    embeddings = encoder(photos(encoder, 3))
    assert embeddings.shape == (3, encoder.embedding_size)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("make", ALL, ids=NAMES)
def test_uint8_and_float_images_give_the_same(make: Make) -> None:
    encoder = make().eval()
    images = photos(encoder, 2)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images), encoder(images.float()), rtol=0, atol=0)


@pytest.mark.parametrize("make", ALL, ids=NAMES)
def test_a_batch_of_one_gives_what_it_gives_in_company(make: Make) -> None:
    encoder = make().eval()
    images = photos(encoder, 3)
    with torch.inference_mode():
        together, alone = encoder(images), [encoder(images[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", TRAINABLE)
def test_a_gradient_reaches_every_parameter(make: Make) -> None:
    encoder = make().train()
    embeddings = encoder(photos(encoder, 4))
    (embeddings * torch.randn_like(embeddings)).sum().backward()
    still = [name for name, p in encoder.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not still


@pytest.mark.parametrize("make", TRAINABLE)
def test_embeddings_keep_their_length_when_asked_to(make: Make) -> None:
    encoder = make(normalize=False).eval()
    images = photos(encoder, 3)
    with torch.inference_mode():
        raw = encoder(images)
        encoder.normalize = True
        unit = encoder(images)
    assert not torch.allclose(raw.norm(dim=1), torch.ones(3), atol=1e-3)
    torch.testing.assert_close(raw / raw.norm(dim=1, keepdim=True), unit)


@pytest.mark.parametrize("make", TRAINABLE)
def test_the_state_dict_makes_an_equal_encoder(make: Make) -> None:
    encoder, other = make().eval(), make().eval()
    images = photos(encoder, 2)
    other.load_state_dict(encoder.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(other(images), encoder(images), rtol=0, atol=0)


@pytest.mark.parametrize("make", ALL, ids=NAMES)
@pytest.mark.parametrize("wrong", ["size", "gray", "channels last", "no batch"])
def test_images_of_another_shape_are_refused_with_both_shapes(make: Make, wrong: str) -> None:
    encoder = make().eval()
    size = encoder.input_spec.size
    shape = {
        "size": (2, 3, size + 8, size + 8),
        "gray": (2, 1, size, size),
        "channels last": (2, size, size, 3),
        "no batch": (3, size, size),
    }[wrong]
    with pytest.raises(InputError) as raised:
        encoder(torch.zeros(shape))
    assert f"(B, 3, {size}, {size})" in str(raised.value)
    assert str(shape) in str(raised.value)


def test_pixels_are_standardized_by_channel_inside_the_network() -> None:
    spec = InputSpec(2, mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
    encoder = Encoder(nn.Flatten(), 12, spec, normalize=False)
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 2, 2), dtype=np.uint8)
    expected = (images - np.array(spec.mean).reshape(3, 1, 1)) / np.array(spec.std).reshape(3, 1, 1)
    np.testing.assert_allclose(encoder(torch.from_numpy(images)), expected.reshape(5, 12), rtol=1e-6)


def test_mean_and_std_move_with_the_encoder_but_are_no_weights() -> None:
    encoder = Encoder(nn.Flatten(), 12, InputSpec(2))
    assert not encoder.state_dict()
    assert encoder.double()(torch.ones(1, 3, 2, 2)).dtype == torch.float64


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(112),
        InputSpec(160, (127.5, 127.5, 127.5), (128.0, 128.0, 128.0), Crop("box", margin=14)),
        InputSpec(64, (1.0, 2.5, 3.0), (4.0, 5.0, 6.25), Crop("center", fraction=0.6)),
        InputSpec(64, crop=Crop("whole")),
    ],
)
def test_an_input_spec_survives_a_round_trip_through_json(spec: InputSpec) -> None:
    assert InputSpec.from_dict(asdict(spec)) == spec
    assert InputSpec.from_dict(json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize("make", ALL, ids=NAMES)
def test_the_input_spec_of_every_encoder_survives_it_too(make: Make) -> None:
    spec = make().input_spec
    again = InputSpec.from_dict(json.loads(json.dumps(asdict(spec))))
    assert again == spec
    assert hash(again) == hash(spec)


@pytest.mark.parametrize("size", [0, -16, 100, 40])
def test_a_mobilefacenet_of_another_than_a_multiple_of_16_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"multiple of 16, got {size}"):
        MobileFaceNet(size=size)


def test_a_mobilefacenet_has_about_a_million_weights() -> None:
    weights = sum(p.numel() for p in MobileFaceNet().parameters())
    assert 0.9e6 < weights < 1.1e6  # "0.99 M", table 2 of the paper
