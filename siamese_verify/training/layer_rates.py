"""Frozen layers, and learning rates by layer: what of an encoder is trained, and how fast."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from siamese_verify.encoders.layers import frozen_names, list_layers
from siamese_verify.errors import InputError


class RateGroup(NamedTuple):
    """Parameters that learn at one rate and decay alike.

    Attributes:
        parameters: that are trained.
        decays: whether the optimizer's weight decay applies: to matrices and kernels, not to biases, norms and slopes.
        scale: their learning rate, as a multiple of the optimizer's.
    """

    parameters: list[nn.Parameter]
    decays: bool
    scale: float


def freeze_layers(encoder: nn.Module, frozen: int | Sequence[str | int]) -> list[str]:
    """Freeze layers of an encoder: their parameters get no gradient.

    Args:
        encoder: see `siamese_verify.encoders.list_layers`.
        frozen: how many layers, from the lowest, or their names.

    Returns:
        Names of their batch norms, as `encoder.get_submodule` takes them, which are to be held in evaluation mode. One
        without weights of its own is frozen with all weights of the module that holds it.

    Raises:
        InputError: there are no such layers; it lists those that there are.
    """
    layers = list_layers(encoder)
    names = frozen_names(layers, frozen)
    parameters = dict(encoder.named_parameters())
    chosen = {id(parameters[name]) for layer in layers if layer.name in names for name in layer.parameters}
    for parameter in encoder.parameters():
        if id(parameter) in chosen:
            parameter.requires_grad_(False)
    frozen_norms = {id(norm) for norm in _norms_of(encoder, chosen, inherited=False)} if chosen else set()
    return [name for name, module in encoder.named_modules() if id(module) in frozen_norms]


def _norms_of(module: nn.Module, chosen: Collection[int], inherited: bool) -> list[_BatchNorm]:
    own = [id(parameter) in chosen for parameter in module.parameters()]
    frozen = all(own) if own else inherited
    if isinstance(module, _BatchNorm):
        return [module] if frozen else []
    return [norm for child in module.children() for norm in _norms_of(child, chosen, frozen)]


def rate_groups(encoder: nn.Module, others: Sequence[nn.Parameter], layer_decay: float | None) -> list[RateGroup]:
    """Groups of trained parameters for the optimizer: first matrices, then vectors, each from the highest rate down.

    Args:
        encoder: its layer of depth d from the top learns at layer_decay ** d times the rate; the top has depth 0.
        others: parameters that learn at the full rate, such as the weights of a margin softmax.
        layer_decay: in (0, 1]; None for one rate, and always the same two groups.

    Raises:
        InputError: nothing is trained; a decay out of range; towers, which have no one order of layers.

    Clark, Luong, Le & Manning, "ELECTRA", ICLR 2020, appendix B; Bao, Dong, Piao & Wei, "BEiT", ICLR 2022.
    """
    layers = [list(encoder.parameters())]  # from the top
    if layer_decay is not None:
        if isinstance(layer_decay, bool) or not isinstance(layer_decay, int | float) or not 0 < layer_decay <= 1:
            raise InputError(f"layer_decay must be above 0 and at most 1, such as 0.7, or null, got {layer_decay!r}.")
        if getattr(encoder, "is_parallel", False):
            raise InputError("layer_decay needs layers one above the other, not two towers: leave it out.")
        parameters = dict(encoder.named_parameters())
        layers = [[parameters[name] for name in layer.parameters] for layer in reversed(list_layers(encoder))]
    groups = []
    for matrix in (True, False):
        for depth, layer in enumerate(layers):
            found = [*layer, *([] if depth else others)]
            trained = [one for one in found if one.requires_grad and (one.ndim > 1) == matrix]
            if trained or layer_decay is None:
                groups.append(RateGroup(trained, matrix, 1.0 if layer_decay is None else layer_decay**depth))
    if any(True for _ in encoder.parameters()) and not any(group.parameters for group in groups):
        raise InputError(
            "Nothing is trained: all layers are frozen, and the loss has no weights: set trainer.frozen_layers lower."
        )
    return groups
