"""Training steps whose activations are cached have the gradients of the plain step."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from siamese_verify.encoders import SmallResNet
from siamese_verify.errors import InputError
from siamese_verify.losses import ContrastiveLoss, CrossBatchMemory, NTXentLoss, TripletLoss
from siamese_verify.miners import BatchHard
from siamese_verify.structures import FaceBatch, Pairs, Triplets
from siamese_verify.training import VerificationModule
from siamese_verify.training.chunks import embed_in_chunks

SGD = partial(torch.optim.SGD, lr=0.1)
BATCH = 11
PAIRS = Pairs(torch.tensor([0, 2, 9]), torch.tensor([10, 4, 1]), torch.tensor([True, False, True]))
TRIPLETS = Triplets(torch.tensor([0, 2]), torch.tensor([10, 3]), torch.tensor([4, 5]))
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")


def images() -> Tensor:
    return torch.randint(0, 256, (BATCH, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def labels() -> Tensor:
    return torch.arange(BATCH) % 3


def without_batch_norm() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(196, 6))
    return nn.Sequential(*layers).double()


def small_resnet(dropout: float = 0.0) -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(size=16, width=4, embedding_size=8, dropout=dropout).double()


class Scaled(nn.Module):
    """Floating-point images for plain layers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.inner(images.double() / 255 - 0.5))


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def step(
    encoder: nn.Module, loss: nn.Module, chunk: int | None, tuples: Any = None, miner: Any = None, **settings: Any
) -> tuple[list[float], VerificationModule]:
    """Two steps, so that a memory is used too."""
    module = VerificationModule(copy.deepcopy(encoder), copy.deepcopy(loss), miner, SGD, cached_chunk=chunk, **settings)
    values = []
    for index in range(2):
        value = module.training_step(FaceBatch(images(), labels(), tuples), index)
        value.backward()  # type: ignore[no-untyped-call]
        values.append(value.item())
    return values, module


@pytest.mark.parametrize("chunk", [1, 4, 10, 11, 500])
@pytest.mark.parametrize(
    ("loss", "tuples", "miner"),
    [
        (TripletLoss(), None, BatchHard()),
        (NTXentLoss(), None, None),
        (CrossBatchMemory(NTXentLoss(), 16), None, None),
        (CrossBatchMemory(TripletLoss(), 16, BatchHard()), None, None),
        (ContrastiveLoss(), PAIRS, None),
        (TripletLoss(), TRIPLETS, None),
    ],
)
def test_losses_and_gradients_are_those_of_the_plain_step(loss: nn.Module, tuples: Any, miner: Any, chunk: int) -> None:
    encoder = Scaled(without_batch_norm())
    expected, plain = step(encoder, loss, None, tuples, miner)
    values, cached = step(encoder, loss, chunk, tuples, miner)
    assert values == pytest.approx(expected, rel=0, abs=1e-12)
    torch.testing.assert_close(gradients(cached), gradients(plain), rtol=0, atol=1e-12)
    assert min(float(gradient.abs().max()) for gradient in gradients(plain)) > 1e-6


def test_frozen_batch_norm_makes_chunks_exact_and_stays_frozen() -> None:
    encoder = small_resnet()
    encoder(images())  # running statistics of its own
    state = copy.deepcopy(dict(encoder.named_buffers()))
    expected, plain = step(encoder, NTXentLoss(), None, freeze_batch_norm=True)
    values, cached = step(encoder, NTXentLoss(), 4, freeze_batch_norm=True)
    assert values == pytest.approx(expected, rel=0, abs=1e-12)
    torch.testing.assert_close(gradients(cached), gradients(plain), rtol=0, atol=1e-12)
    assert len(gradients(cached)) == len(list(encoder.parameters()))  # weights of batch norms are trained
    torch.testing.assert_close(dict(cached.encoder.named_buffers()), state, rtol=0, atol=0)
    assert not any(norm.training for norm in cached.eval().train().modules() if isinstance(norm, nn.BatchNorm2d))
    assert cached.training


def test_dropout_is_replayed_and_batch_norm_counts_each_chunk_once() -> None:
    encoder, other = small_resnet(dropout=0.4), small_resnet(dropout=0.4)
    torch.manual_seed(5)
    embeddings = torch.cat([encoder(chunk) for chunk in images().tensor_split(3)])  # holds everything
    drawn = torch.rand(())
    NTXentLoss()(embeddings, labels()).backward()
    torch.manual_seed(5)
    cached = embed_in_chunks(other, images(), 4)
    assert drawn == torch.rand(())
    NTXentLoss()(cached, labels()).backward()
    assert torch.equal(cached, embeddings)
    torch.testing.assert_close(gradients(other), gradients(encoder), rtol=0, atol=0)
    torch.testing.assert_close(dict(other.named_buffers()), dict(encoder.named_buffers()), rtol=0, atol=0)
    assert next(module for module in other.modules() if isinstance(module, nn.BatchNorm2d)).momentum == 0.1


@pytest.mark.parametrize(("dtype", "scale", "tolerance"), [(torch.bfloat16, 1, 2**-5), (torch.float16, 2**12, 2**-8)])
def test_autocast_and_scaled_gradients_are_those_of_the_plain_step_in_this_precision(
    dtype: torch.dtype, scale: float, tolerance: float
) -> None:
    """To a few roundings: chunks add up their gradients in float32, the plain step within the type."""
    found = {}
    for name, chunk in (("plain", BATCH), ("cached", 4), ("overflow", 4)):
        encoder = small_resnet(dropout=0.0).float()
        encoder(images())
        module = VerificationModule(encoder, NTXentLoss(), None, SGD, cached_chunk=chunk, freeze_batch_norm=True)
        scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=scale), SGD(encoder.parameters())
        before = copy.deepcopy(list(encoder.parameters()))
        with torch.autocast("cpu", dtype):
            loss = module.training_step(FaceBatch(images(), labels(), None), 0)
        scaled = scaler.scale(loss * float("inf") if name == "overflow" else loss)
        torch.autograd.backward(scaled)
        scaler.unscale_(optimizer)
        found[name] = gradients(encoder)
        scaler.step(optimizer)
        moved = [not torch.equal(old, new) for old, new in zip(before, encoder.parameters(), strict=True)]
        assert set(moved) == {name != "overflow"}
    assert len(found["cached"]) == len(found["plain"])
    for cached, plain in zip(found["cached"], found["plain"], strict=True):
        assert cached.dtype == torch.float32
        assert (cached - plain).norm() < tolerance * plain.norm()


def test_hooks_of_weights_see_the_gradient_of_all_chunks_and_frozen_weights_none() -> None:
    plain, cached = Scaled(without_batch_norm()), Scaled(without_batch_norm())
    seen: dict[nn.Module, list[Tensor]] = {plain: [], cached: []}
    for encoder, chunk in ((plain, BATCH), (cached, 3)):
        layers: Any = encoder.inner
        layers[0].weight.register_hook(seen[encoder].append)
        layers[-1].weight.requires_grad_(False)
        NTXentLoss()(embed_in_chunks(encoder, images(), chunk), labels()).backward()
        assert layers[-1].weight.grad is None
    torch.testing.assert_close(gradients(cached), gradients(plain), rtol=0, atol=1e-12)
    assert len(seen[cached]) == len(seen[plain]) == 1
    torch.testing.assert_close(seen[cached], seen[plain], rtol=0, atol=1e-12)
    assert not embed_in_chunks(cached.requires_grad_(False), images(), 3).requires_grad


@pytest.mark.parametrize(("chunk", "calls"), [(4, [4, 4, 3]), (6, [6, 5]), (11, [11])])
def test_every_chunk_but_the_last_is_embedded_again(chunk: int, calls: list[int]) -> None:
    encoder = Scaled(without_batch_norm())
    seen: list[int] = []
    encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    loss = embed_in_chunks(encoder, images(), chunk).sum()
    assert seen == calls
    loss.backward()  # type: ignore[no-untyped-call]
    assert seen == [*calls, *calls[-2::-1]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cached_chunk": 0}, "cached_chunk is 0, but is a whole number of images"),
        ({"cached_chunk": 2.5}, r"cached_chunk is 2\.5"),
        ({"cached_chunk": 2}, r"cached_chunk is 2, but batch norm needs two images"),
        ({"freeze_batch_norm": "yes"}, "freeze_batch_norm is 'yes', but is true or false"),
    ],
)
def test_what_is_no_chunk_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VerificationModule(nn.BatchNorm1d(4), NTXentLoss(), None, SGD, **settings)
