"""A small encoder without batch norm in float64, batches of views, and training steps without a trainer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from siamese_verify.encoders import Encoder, wrap_module
from siamese_verify.methods import Method
from siamese_verify.structures import Crop, FaceBatch, InputSpec
from siamese_verify.training import VerificationModule

SIDE, IMAGES = 6, 40  # pixels, and images of the training set
SGD = partial(torch.optim.SGD, lr=0.5)


def small_encoder(norm: bool = False, size: int = 7) -> Encoder:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4)] if norm else []
    layers = (nn.Conv2d(3, 4, 3, 2), *norms, nn.Tanh(), nn.Flatten(), nn.Linear(16, size))
    return wrap_module(nn.Sequential(*layers), InputSpec(SIDE, crop=Crop("whole"))).double()


def without_batch_norm(module: nn.Module) -> nn.Module:
    """The module with layers that treat each row by itself in place of its batch norms."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.Identity())
        else:
            without_batch_norm(child)
    return module


def views_of(rows: Sequence[int], views: int = 2, seed: int = 0, labels: Tensor | None = None) -> FaceBatch:
    """Random images: views of one row differ, and depend on seed, row and view alone."""

    def image(row: int, view: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 10_000 + row * 100 + view)
        return torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator)

    images = torch.stack([image(row, view) for view in range(views) for row in rows])
    numbers = torch.tensor(rows)
    return FaceBatch(images, numbers.repeat(views) if labels is None else labels, None, numbers)


def trained_by(method: Method, encoder: Encoder, loss: nn.Module | None = None, **settings: Any) -> VerificationModule:
    return VerificationModule(encoder, loss, None, SGD, method=method.double(), **settings).double()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: one.grad for name, one in module.named_parameters() if one.grad is not None}


def take_steps(
    module: VerificationModule, batches: Sequence[FaceBatch], step: Any = None
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of training steps with the optimizer, and the state at the end; `step` may be a wrapped training step."""
    optimizer: Any = module.configure_optimizers()
    losses = []
    for index, batch in enumerate(batches):
        with warnings.catch_warnings(action="ignore"):  # there is no trainer to log to
            loss = (step or module.training_step)(batch, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert module.method is not None
        module.method.after_step(module.encoder, (index + 1) / len(batches))
        losses.append(loss.item())
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    return losses, {name: value.clone() for name, value in state.items()}
