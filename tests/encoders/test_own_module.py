"""Any torch.nn.Module as an encoder, and encoders from configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from siamese_verify.encoders import Encoder, SmallResNet, check_encoder, create_encoder, wrap_module
from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec
from tests import own_networks
from tests.own_networks import FeatureMaps, OwnEncoder, OwnNet, Raising

HERE = "tests.own_networks"
SPEC = InputSpec(16, crop=Crop("whole"))
WHOLE = {"_target_": "siamese_verify.structures.Crop", "kind": "whole"}
IMAGES = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_wrapped_module_gets_standardized_pixels_and_gives_unit_vectors() -> None:
    net = OwnNet()
    expected = nn.functional.normalize(net((IMAGES.float() - 127.5) / 127.5))
    torch.testing.assert_close(wrap_module(net, SPEC)(IMAGES), expected)
    torch.testing.assert_close(
        wrap_module(net, InputSpec(16, mean=(0, 0, 0), std=(1, 1, 1)), normalize=False)(IMAGES), net(IMAGES.float())
    )


def test_the_size_of_embeddings_is_found_without_a_trace() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), OwnNet())
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert wrap_module(net, SPEC).embedding_size == 24
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [part.training for part in net] == [True, False, True]
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(7))
    assert wrap_module(lazy, SPEC, 7).embedding_size == 7
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in lazy.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 8, 8, 8)])
def test_images_and_volumes_are_convolved(shape: tuple[int, ...]) -> None:
    kind = nn.Conv2d if len(shape) == 3 else nn.Conv3d
    net = nn.Sequential(kind(1, 2, 3), kind(2, 3, 3), nn.Flatten())
    inputs = torch.rand(2, *shape)
    expected = nn.functional.normalize(net(inputs))
    encoder = wrap_module(net, InputSpec.of_arrays(shape))
    torch.testing.assert_close(encoder(inputs), expected)
    kernel = net[1].weight
    assert isinstance(kernel, torch.Tensor)
    assert kernel.ndim == 5 or kernel.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("module", "size", "complaint"),
    [
        (FeatureMaps(), None, r"gives \(2, 3, 16, 16\) .* an encoder gives \(B, D\): pool or flatten"),
        (nn.Linear(5, 5), None, "Linear cannot be run on images of shape"),
        (Raising(AssertionError()), None, r"Raising cannot be run on images of shape \(2, 3, 16, 16\): AssertionError"),
        (Raising(AttributeError("no pool")), None, "cannot be run on images of shape .*: no pool"),
        (OwnNet(), 23, "gives embeddings of 24 dimensions, not 23"),
    ],
)
def test_a_module_that_gives_no_embeddings_is_refused(module: nn.Module, size: int | None, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        wrap_module(module, SPEC, size)


def test_a_class_of_others_gets_its_own_settings_and_the_encoder_the_rest() -> None:
    activation = {"_target_": "torch.nn.LeakyReLU", "negative_slope": 0.3}
    settings = {"_target_": f"{HERE}.OwnNet", "width": 6, "size": 16, "crop": WHOLE, "embedding_size": None}
    encoder = create_encoder({**settings, "activation": activation}, [f"{HERE}.OwnNet", "torch.nn.LeakyReLU"])
    net = encoder.backbone
    assert type(encoder) is Encoder and isinstance(net, OwnNet)
    assert net.first.out_channels == 6
    assert isinstance(net.activation, nn.LeakyReLU) and net.activation.negative_slope == 0.3
    assert (encoder.input_spec, encoder.embedding_size, encoder.normalize) == (SPEC, 24, True)
    settings |= {"normalize": False, "mean": [0, 0, 0], "std": [255, 255, 255], "embedding_size": 24}
    encoder = create_encoder(settings, [f"{HERE}.OwnNet"])
    assert not encoder.normalize
    assert [*encoder.std.flatten()] == [255, 255, 255]


def test_a_function_and_an_encoder_of_others_name_settings_of_the_encoder_among_their_own() -> None:
    settings: dict[str, Any] = {"_target_": f"{HERE}.own_function", "size": 16, "embedding_size": None}
    assert create_encoder(settings, [settings["_target_"]]).embedding_size == 8
    assert create_encoder({**settings, "embedding_size": 5}, [settings["_target_"]]).embedding_size == 5
    own: dict[str, Any] = {
        "_target_": f"{HERE}.OwnEncoder",
        "size": 32,
        "crop": WHOLE,
        "normalize": True,
        "embedding_size": None,
    }
    encoder = create_encoder(own, [own["_target_"]])
    assert type(encoder) is OwnEncoder and encoder.input_spec.size == 32
    with pytest.raises(InputError, match=r"OwnEncoder has normalize True, not False"):
        create_encoder({**own, "normalize": False}, [own["_target_"]])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"_target_": "nowhere.Net"}, r"nowhere.Net cannot be imported .*PYTHONPATH"),
        ({"_target_": f"{HERE}.Nothing"}, r"Nothing cannot be imported"),
        ({"_target_": "Net"}, r"Net cannot be imported"),
        ({"_target_": f"{HERE}.CREATED"}, r"is a list: name a class or a function"),
        ({"_target_": f"{HERE}.OwnNet"}, r"needs the side of its input in pixels: set encoder.size"),
        (
            {"_target_": f"{HERE}.OwnNet", "size": 16, "blocks": 3},
            r"unexpected keyword argument 'blocks'.*encoder=module",
        ),
        ({"_target_": f"{HERE}.OwnNet", "size": 16, "_recursive_": False}, r"setting _recursive_ .* leave it out"),
        ({"_target_": f"{HERE}.trap", "size": 16}, r"trap gives NoneType, an encoder is a torch.nn.Module"),
        ({"_target_": f"{HERE}.OwnNet", "size": 16, "crop": {**WHOLE, "kin": 1}}, r"Crop cannot be created .*'kin'"),
    ],
)
def test_what_is_no_encoder_is_one_sentence(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as error:
        create_encoder(settings, [settings["_target_"]])
    assert "\n" not in str(error.value)


def test_only_what_is_trusted_is_called_and_each_target_needs_trust() -> None:
    own_networks.CREATED.clear()
    inner = {"_target_": f"{HERE}.trap"}
    settings = {"_target_": f"{HERE}.OwnNet", "size": 16, "activation": inner}
    for trusted, refused in (
        ([], "OwnNet"),
        (f"{HERE}.OwnNet", "trap"),
        (f"{HERE}.OwnNetwork", "OwnNet"),
        ([f"{HERE}.OwnNet"], "trap"),
        ([f"{HERE}.trap"], "OwnNet"),
    ):
        with pytest.raises(InputError, match=rf"{refused}' is not one of .* never imported unasked.*trust_code={HERE}"):
            create_encoder(settings, trusted)
    wrapped = {"_target_": "siamese_verify.encoders.MirroredEncoder", "encoder": {**settings, "activation": [inner]}}
    with pytest.raises(InputError, match="trap' is not one of"):
        create_encoder(wrapped, [f"{HERE}.OwnNet"])
    assert own_networks.CREATED == []


def test_a_class_of_this_package_needs_no_trust_and_other_names_in_it_are_not_called() -> None:
    settings = {"_target_": "siamese_verify.encoders.SmallResNet", "size": 16, "width": 4, "crop": WHOLE}
    check_encoder(settings)
    assert isinstance(create_encoder(settings), SmallResNet)
    for name in ("wrap_module", "create_encoder", "Encoder", "own_module.pkgutil.resolve_name", "torch"):
        with pytest.raises(InputError, match="never imported unasked"):
            create_encoder({"_target_": f"siamese_verify.encoders.{name}"})
