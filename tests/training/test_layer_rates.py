"""Frozen layers and learning rates by layer, against loops over the parameters of a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from siamese_verify.encoders import (
    AdaptedEncoder,
    InceptionResNet,
    IResNet,
    MirroredEncoder,
    Perceptron,
    ResNet18,
    SmallResNet,
    TimmEncoder,
    Towers,
    VisionTransformer,
    list_layers,
)
from siamese_verify.errors import InputError
from siamese_verify.losses import ArcFaceLoss, TripletLoss
from siamese_verify.structures import FaceBatch
from siamese_verify.training import MovingWeightAveraging, VerificationModule, one_cycle

SGD = partial(torch.optim.SGD, lr=0.5, momentum=0.9, weight_decay=0.01)


def small(**settings: Any) -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(size=16, width=4, embedding_size=8, **settings)


def batch(seed: int = 0) -> FaceBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return FaceBatch(images, torch.arange(4).repeat_interleave(2), None)


pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice


def fit(
    module: VerificationModule,
    folder: Path,
    steps: int = 3,
    checkpoint: Path | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    trainer = pl.Trainer(
        callbacks=[*callbacks],
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    batches: Any = [batch(seed) for seed in range(steps)]
    loader: DataLoader[FaceBatch] = DataLoader(batches, batch_size=None)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return trainer


# Layers


def test_layers_are_the_stages_of_the_networks_from_the_lowest() -> None:
    names = {network: [layer.name for layer in list_layers(network)] for network in (small(), ResNet18(size=32))}
    small_names, resnet_names = names.values()
    assert small_names == ["0", "3", "4", "5", "6", "10"], (
        "stem, four blocks, embedding; norms belong to what is before"
    )
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert resnet_names == ["conv1", *blocks, "fc.0"]
    assert [layer.name for layer in list_layers(MirroredEncoder(small()))] == small_names
    assert [layer.name for layer in list_layers(AdaptedEncoder(small()))] == [*small_names, "head"]
    assert len(list_layers(nn.Transformer(8, 2, 2, 3, 16, batch_first=True))) == 2 + 3
    assert [layer.name for layer in list_layers(InceptionResNet())][-1] == "last_linear"


def test_timm_groups_its_own_networks() -> None:
    vit = list_layers(VisionTransformer(size=32, patch_size=8, width=16, depth=3, heads=2, embedding_size=8))
    assert [layer.name for layer in vit] == ["0.pos_embed", *(f"0.blocks.{block}" for block in range(3)), "2", "4"]
    assert {"backbone.0.patch_embed.proj.weight", "backbone.0.pos_embed"} <= {*vit[0].parameters}
    assert len(list_layers(TimmEncoder("resnet18.a1_in1k"))) == 1 + 8 + 1


@pytest.mark.parametrize(
    "network",
    [
        small(),
        ResNet18(size=32),
        IResNet((1, 1, 1, 1), width=4),
        Perceptron([5]),
        nn.GRU(3, 4),
        TimmEncoder("resnet18"),
    ],
    ids=lambda network: type(network).__name__,
)
def test_every_parameter_is_in_one_layer_and_every_layer_has_a_matrix(network: nn.Module) -> None:
    layers, parameters = list_layers(network), dict(network.named_parameters())
    assert sorted(name for layer in layers for name in layer.parameters) == sorted(parameters)
    assert all(any(parameters[name].ndim > 1 for name in layer.parameters) for layer in layers)
    assert len({layer.name for layer in layers}) == len(layers)


class Recorder(pl.Callback):
    """Keeps the encoder's weights after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append({name: value.clone() for name, value in pl_module.encoder.state_dict().items()})


def test_averaged_weights_are_those_of_a_loop_and_frozen_ones_stay_bit_for_bit(tmp_path: Path) -> None:
    module = VerificationModule(small(), TripletLoss(0.2), None, SGD, frozen_layers=3)
    before, steps = {name: value.clone() for name, value in module.encoder.state_dict().items()}, Recorder()
    fit(module, tmp_path, 6, callbacks=[steps, MovingWeightAveraging(decay=0.9)])
    frozen = {name for name, value in before.items() if all(torch.equal(one[name], value) for one in steps.seen)}
    layers = [name for layer in list_layers(module.encoder)[:3] for name in layer.parameters]
    assert frozen >= {*layers} and any(name.endswith("running_mean") for name in frozen)
    assert (
        {name for name, _ in module.encoder.named_parameters()}
        > {*layers}
        == frozen & {name for name, _ in module.encoder.named_parameters()}
    )
    for name, value in module.encoder.state_dict().items():
        if name in frozen:
            assert torch.equal(value, before[name]), name
        elif not value.is_floating_point():
            assert value == steps.seen[-1][name], "a count"
        else:
            average = steps.seen[0][name].double()
            for one in steps.seen[1:]:
                average = 0.9 * average + 0.1 * one[name].double()
            assert torch.allclose(value.double(), average, atol=1e-6), name
            assert not torch.equal(value, steps.seen[-1][name]), name


# Rates


@pytest.mark.parametrize("decay", [0.7, 1.0])
def test_each_parameter_learns_at_the_rate_of_its_depth(decay: float, tmp_path: Path) -> None:
    loss = ArcFaceLoss(num_identities=4, embedding_size=8)
    module = VerificationModule(small(), loss, None, SGD, one_cycle, layer_decay=decay)
    trainer = fit(module, tmp_path)
    depth = {"0": 5, "3": 4, "4": 3, "5": 2, "6": 1, "10": 0}  # from the top
    of_module = {"1": "0", "2": "0", "11": "10"}  # norms and slopes
    found = {
        id(parameter): (group["initial_lr"], group["weight_decay"])
        for group in trainer.optimizers[0].param_groups
        for parameter in group["params"]
    }
    for name, parameter in module.named_parameters():
        place = name.split(".")[2] if name.startswith("encoder.") else "10"
        rate = 0.5 * decay ** depth[of_module.get(place, place)]
        # One cycle starts at a 25th of the rate.
        assert found.pop(id(parameter)) == (pytest.approx(rate / 25), 0.01 if parameter.ndim > 1 else 0.0), name
    assert not found
    assert trainer.optimizers[0].param_groups[0]["initial_lr"] == pytest.approx(0.5 / 25), "what is logged"


def test_a_step_with_decayed_rates_is_a_step_of_each_parameter_by_itself(tmp_path: Path) -> None:
    plain = partial(torch.optim.SGD, lr=0.5)
    module = VerificationModule(small(), TripletLoss(0.2), None, plain, layer_decay=0.5)
    before = {name: one.detach().clone() for name, one in module.encoder.named_parameters()}
    module.train()
    rows = batch()
    assert module.loss is not None
    module.loss(module.encoder(rows.images), rows.labels).backward()
    gradients = {name: one.grad.clone() for name, one in module.encoder.named_parameters() if one.grad is not None}
    fresh = VerificationModule(small(), TripletLoss(0.2), None, plain, layer_decay=0.5)
    fit(fresh, tmp_path, steps=1)
    after = dict(fresh.encoder.named_parameters())
    for depth, layer in enumerate(reversed(list_layers(fresh.encoder))):
        for name in layer.parameters:
            torch.testing.assert_close(after[name], before[name] - 0.5 * 0.5**depth * gradients[name])


@pytest.mark.parametrize("decay", [0, -0.5, 1.5, True, "half"])
def test_another_decay_is_refused(decay: Any) -> None:
    with pytest.raises(InputError, match="layer_decay must be above 0 and at most 1"):
        VerificationModule(small(), TripletLoss(0.2), None, SGD, layer_decay=decay)


def test_two_towers_have_no_one_order_for_rates_but_can_be_frozen_by_name() -> None:
    towers = Towers(Perceptron([3], [4]), Perceptron([2], [4]))
    with pytest.raises(InputError, match="layer_decay needs layers one above the other"):
        VerificationModule(towers, TripletLoss(0.2), None, SGD, layer_decay=0.5)
    VerificationModule(towers, TripletLoss(0.2), None, SGD, frozen_layers=[0])
    trained = [name for name, parameter in towers.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[1] for name in trained} == {"1"}


# Frozen layers


@pytest.mark.parametrize(("frozen", "places"), [(3, "01234"), (["0", 4], "0124"), (["10"], ["10", "11"])])
def test_frozen_layers_keep_weights_and_statistics_to_the_bit(frozen: Any, places: str, tmp_path: Path) -> None:
    module = VerificationModule(small(), TripletLoss(0.2), None, SGD, frozen_layers=frozen, layer_decay=0.9)
    before = {name: one.clone() for name, one in module.encoder.state_dict().items()}
    fit(module, tmp_path)
    for name, value in module.encoder.state_dict().items():
        assert torch.equal(value, before[name]) == (name.split(".")[1] in places), name
    assert all(one.grad is None for one in module.encoder.parameters() if not one.requires_grad)
    module.train()
    for name, norm in module.encoder.named_modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            assert norm.training != (name.split(".")[1] in places)


def test_batch_norms_without_weights_are_frozen_with_what_holds_them() -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))
    network = nn.Sequential(block, nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))
    module = VerificationModule(network, TripletLoss(0.2), None, SGD, frozen_layers=1)
    assert (block[1].training, network[2].training) == (False, True)
    assert module.train(False).train().encoder is network
    assert not block[1].training


def test_frozen_batch_norms_stay_frozen_when_they_become_those_across_processes() -> None:
    module = VerificationModule(small(), TripletLoss(0.2), None, SGD, frozen_layers=2)
    norms = nn.modules.batchnorm._BatchNorm
    plain = [norm.training for norm in module.modules() if isinstance(norm, norms)]
    assert {*plain} == {True, False}
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm  # as trainer.sync_batchnorm does
    synchronized = convert(module.eval()).train()
    assert any(isinstance(norm, nn.SyncBatchNorm) for norm in synchronized.modules())
    assert [norm.training for norm in synchronized.modules() if isinstance(norm, norms)] == plain


def test_the_weights_of_a_loss_train_although_all_layers_are_frozen(tmp_path: Path) -> None:
    loss = ArcFaceLoss(num_identities=4, embedding_size=8)
    before = loss.weights.detach().clone()
    fit(VerificationModule(small(), loss, None, SGD, frozen_layers=6), tmp_path)
    assert not torch.equal(loss.weights, before)
    with pytest.raises(InputError, match="Nothing is trained: all layers are frozen, and the loss has no weights"):
        VerificationModule(small(), TripletLoss(0.2), None, SGD, frozen_layers=6)


@pytest.mark.parametrize("frozen", [7, -1, ["conv1"], True, "0", 1.5])
def test_layers_that_do_not_exist_are_refused_with_those_that_do(frozen: Any) -> None:
    with pytest.raises(InputError, match=r"0, 3, 4, 5, 6, 10\.|is a number of layers or a list of their names"):
        VerificationModule(small(), TripletLoss(0.2), None, SGD, frozen_layers=frozen)


def test_one_rate_without_frozen_layers_is_the_optimizer_of_before() -> None:
    module = VerificationModule(small(), ArcFaceLoss(num_identities=4, embedding_size=8), None, SGD)
    optimizer: Any = module.configure_optimizers()
    parameters = [*module.parameters()]
    matrices, vectors = ([id(one) for one in parameters if (one.ndim > 1) == matrix] for matrix in (True, False))
    assert [[id(one) for one in group["params"]] for group in optimizer.param_groups] == [matrices, vectors]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.5, 0.01), (0.5, 0.0)]
