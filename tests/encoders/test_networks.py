"""IResNet, ViT-S and the networks of timm: sizes as published, and outputs as timm's own."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from siamese_verify.encoders import IResNet, TimmEncoder, VisionTransformer
from siamese_verify.errors import InputError

GENERATOR = torch.Generator().manual_seed(0)


def weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("blocks", "millions"), [((3, 4, 14, 3), 43.59), ((3, 13, 30, 3), 65.16), ((2, 2, 2, 2), 24.03)]
)
def test_iresnets_have_the_published_numbers_of_weights(blocks: tuple[int, ...], millions: float) -> None:
    with torch.device("meta"):
        assert weights(IResNet(blocks).backbone) / 1e6 == pytest.approx(millions, abs=0.005)


def test_an_iresnet_halves_the_resolution_in_each_stage_and_normalizes_by_a_fixed_scale() -> None:
    encoder = IResNet((1, 2), size=21, width=4, embedding_size=8)
    layers = [*encoder.backbone.children()]
    shapes: list[tuple[int, ...]] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    encoder(torch.zeros(2, 3, 21, 21, dtype=torch.uint8))
    assert shapes[0] == (4, 21, 21), "the first convolution keeps it"
    assert [shape for shape in shapes if len(shape) == 3][3:6] == [(4, 11, 11), (8, 6, 6), (8, 6, 6)]
    fixed = [name for name, weight in encoder.named_parameters() if not weight.requires_grad]
    assert fixed == [f"backbone.{len(layers) - 1}.weight"]
    assert next(layers[0].parameters()).std().item() == pytest.approx(0.1, rel=0.3)


def test_the_vision_transformer_has_the_weights_of_vit_s() -> None:
    width, patches, hidden = 512, 12 * 12, 2048
    block = 3 * width**2 + width**2 + width + 2 * width * hidden + hidden + width + 4 * width
    head = width * patches * width + 2 * width + width * 512 + 2 * 512
    expected = (9 * 9 * 3 + 1) * width + patches * width + 12 * block + 2 * width + head
    with torch.device("meta"):
        network = VisionTransformer()
    assert weights(network) == expected == 76_022_784


def test_a_vision_transformer_reads_every_whole_patch() -> None:
    encoder = VisionTransformer(20, patch_size=9, width=16, depth=1, heads=2, embedding_size=8).eval()
    images = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8, generator=GENERATOR)
    moved = images.clone()
    moved[:, :, 18:], moved[:, :, :, 18:] = 0, 0  # fill no patch
    assert torch.equal(encoder(images), encoder(moved))
    for row, column in ((0, 0), (0, 17), (17, 0), (17, 17)):
        moved = images.clone()
        moved[:, :, row, column] = 255 - moved[:, :, row, column]
        assert not torch.equal(encoder(images), encoder(moved))
    with pytest.raises(InputError, match="multiple of its heads"):
        VisionTransformer(width=16, heads=3)


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 32), ("test_vit", 48), ("test_efficientnet", 40)])
def test_features_of_a_timm_network_are_timms_own(name: str, size: int) -> None:
    torch.manual_seed(0)
    encoder = TimmEncoder(name, size=size, embedding_size=None, normalize=False).eval()
    options: dict[str, Any] = {"img_size": size} if "vit" in name else {}
    network: Any = timm.create_model(name, num_classes=0, **options).eval()
    network.load_state_dict({key.removeprefix("0."): value for key, value in encoder.backbone.state_dict().items()})
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=GENERATOR)
    mean, std = (torch.tensor(network.pretrained_cfg[part]).view(3, 1, 1) for part in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), network((images / 255 - mean) / std), rtol=1e-4, atol=1e-5)
    assert encoder.embedding_size == network.num_features


def test_a_head_gives_embeddings_of_any_size() -> None:
    encoder = TimmEncoder("test_resnet", size=32, embedding_size=5, dropout=0.1, drop_path=0.1)
    assert encoder(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 5)
    assert isinstance([*encoder.backbone.children()][-1], nn.BatchNorm1d)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("test_resnett", "timm has no network 'test_resnett': did you mean test_resnet"),
        ("hf-hub:somebody/model", "timm has no network 'hf-hub:somebody/model'"),
        ("local-dir:/tmp/model", "timm has no network"),
        ("resnet18.nobody", "timm cannot make resnet18.nobody .*Invalid pretrained tag"),
    ],
)
def test_what_timm_does_not_have_is_one_sentence(name: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as error:
        TimmEncoder(name)
    assert "\n" not in str(error.value)
