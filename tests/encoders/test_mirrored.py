from __future__ import annotations

import numpy as np
import pytest
import torch

from siamese_verify.encoders import MirroredEncoder, SmallResNet
from siamese_verify.errors import InputError
from siamese_verify.models.bundle import build_encoder
from siamese_verify.structures import Crop

IMAGES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
INNER = {"_target_": "siamese_verify.encoders.SmallResNet", "size": 32, "width": 8, "crop": {"kind": "five_point"}}
CONFIGURATION = {"_target_": "siamese_verify.encoders.MirroredEncoder", "encoder": INNER, "mirror": True}


def small() -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(size=32, width=8, crop=Crop("five_point")).eval()


@pytest.mark.parametrize("mirror", [True, False])
def test_the_embedding_is_that_of_both_sides_less_the_center(mirror: bool) -> None:
    inner = small()
    encoder = MirroredEncoder(inner, mirror).eval()
    center = torch.randn(encoder.embedding_size) / 10
    encoder.center.copy_(center)
    with torch.no_grad():
        found = encoder(IMAGES).double().numpy()
        sides = [inner(IMAGES)] + [inner(IMAGES.flip(3))] * mirror
    for row in range(3):
        parts = [side[row].double().numpy() / np.linalg.norm(side[row].double().numpy()) for side in sides]
        whole = np.concatenate(parts) / np.sqrt(len(parts)) - center.double().numpy()
        np.testing.assert_allclose(found[row], whole / np.linalg.norm(whole), atol=1e-6)


def test_a_face_and_its_mirror_image_are_as_alike_as_their_halves() -> None:
    encoder = MirroredEncoder(small()).eval()
    with torch.no_grad():
        one, other = encoder(IMAGES), encoder(IMAGES.flip(3))
    half = encoder.embedding_size // 2
    torch.testing.assert_close(one[:, :half], other[:, half:])
    torch.testing.assert_close(one[:, half:], other[:, :half])


def test_weights_and_center_survive_and_nothing_else_is_built() -> None:
    encoder = MirroredEncoder(small()).eval()
    encoder.center.normal_()
    again = build_encoder(CONFIGURATION, encoder.state_dict())
    assert again.input_spec == encoder.input_spec
    with torch.no_grad():
        assert torch.equal(again(IMAGES), encoder(IMAGES))
    with pytest.raises(InputError, match="wrap one encoder"):
        build_encoder({**CONFIGURATION, "encoder": CONFIGURATION}, encoder.state_dict())
    with pytest.raises(InputError, match=r"os\.system"):
        build_encoder({**CONFIGURATION, "encoder": {"_target_": "os.system"}}, encoder.state_dict())


@pytest.mark.parametrize("normalize", [True, False])
def test_outside_of_training_an_encoder_can_give_the_mean_of_both_sides(normalize: bool) -> None:
    plain = SmallResNet(size=32, width=8, feature_norm=True, normalize=normalize).eval()
    encoder = SmallResNet(size=32, width=8, feature_norm=True, normalize=normalize, mirror=True).eval()
    encoder.load_state_dict(plain.state_dict())
    with torch.no_grad():
        expected = (plain(IMAGES).double() + plain(IMAGES.flip(3)).double()).numpy() / 2
        if normalize:
            expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(encoder(IMAGES).numpy(), expected, atol=1e-6)
        torch.testing.assert_close(encoder(IMAGES), encoder(IMAGES.flip(3)))
        for network in (plain, encoder):
            network.train()
        assert torch.equal(encoder(IMAGES), plain(IMAGES)), "in training each image is embedded once"


def test_only_photos_are_mirrored() -> None:
    with pytest.raises(InputError, match="Only photos have a mirror image"):
        SmallResNet(shape=(1, 16, 16), crop=None, mirror=True)
