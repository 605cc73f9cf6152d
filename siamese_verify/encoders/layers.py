"""Layers of an encoder in order, from the input to the embedding: what is frozen, and what learns more slowly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from siamese_verify.errors import InputError

WRAPPERS = re.compile(r"^(backbone\.)+")  # of an encoder, in the names of its parameters
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class EncoderLayer(NamedTuple):
    """A layer of a network.

    Attributes:
        name: of its first module with weights, such as `layer1.0`, within the backbone.
        parameters: their names within the network.
    """

    name: str
    parameters: tuple[str, ...]


def list_layers(network: nn.Module) -> list[EncoderLayer]:
    """The layers of a network, from the lowest: in order of registration, which in most networks is that of `forward`.

    A layer is a module with weights. `Sequential`, `ModuleList` and `ModuleDict` are as many as they hold; so is the
    network itself, the one module that it wraps, and a module that holds a `ModuleList`, such as a transformer. A
    module all of whose weights are vectors, such as a norm or a PReLU, belongs to the layer before it. Weights of a
    module that is many layers, such as a transformer's positions, belong to its first. A network of timm is grouped as
    timm does it, by its `group_matcher`. Each parameter is in exactly one layer; a shared one in the first.
    """
    matrices = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    unique = {name for name, _ in network.named_parameters()}  # the first name of a shared one
    layers: list[EncoderLayer] = []
    for name, parameters in _parts(network, ""):
        own = tuple(one for one in parameters if one in unique)
        vectors = matrices.isdisjoint(own)
        if layers and own and (vectors or matrices.isdisjoint(layers[-1].parameters)):
            layers[-1] = EncoderLayer(layers[-1].name, layers[-1].parameters + own)
        elif own:
            layers.append(EncoderLayer(WRAPPERS.sub("", name), own))
    return layers


def _parts(module: nn.Module, prefix: str, top: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Names of the parts of a module, from the lowest, and of their parameters."""
    own = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    top = top or prefix.endswith("backbone.")
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    if callable(getattr(module, "group_matcher", None)):
        yield from _timm_parts(module, prefix)
        return
    lists = any(isinstance(child, nn.ModuleList | nn.ModuleDict) for _, child in children)
    if children and (top or lists or isinstance(module, CONTAINERS)):
        wraps = top and len(children) == 1 and not own
        for name, child in children:
            for part, parameters in _parts(child, f"{prefix}{name}.", wraps):
                yield part, own + parameters
                own = []
    else:
        name = prefix.rstrip(".") or type(module).__name__
        yield name, [f"{prefix}{one}" for one, _ in module.named_parameters()]


def _timm_parts(network: Any, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Parts of a network of timm, by timm's own groups; a part has the name of what its parameters share."""
    from timm.models import group_parameters

    for _, names in sorted(group_parameters(network, network.group_matcher(coarse=False)).items()):
        modules = [str(name).split(".")[:-1] or [str(name)] for name in names]
        alike = [words for words in modules if words[0] == modules[0][0]]  # without a norm behind the last block
        name = ".".join(words[0] for words in zip(*alike, strict=False) if len({*words}) == 1)
        yield prefix + name, [f"{prefix}{one}" for one in names]


def frozen_names(layers: Sequence[EncoderLayer], frozen: int | Sequence[str | int]) -> tuple[str, ...]:
    """Names of the layers to freeze.

    Args:
        layers: of the network.
        frozen: how many, from the lowest, or their names.

    Raises:
        InputError: there are fewer layers, or none of such a name; it lists them.
    """
    names = [layer.name for layer in layers]
    if isinstance(frozen, bool) or not isinstance(frozen, int | Sequence) or isinstance(frozen, str):
        raise InputError(f"frozen_layers is a number of layers or a list of their names, got {frozen!r}.")
    if isinstance(frozen, int):
        if not 0 <= frozen <= len(names):
            raise InputError(f"frozen_layers is {frozen}, but the encoder has {len(names)} layers: {', '.join(names)}.")
        return tuple(names[:frozen])
    chosen = [str(one) for one in frozen]
    if unknown := [one for one in chosen if one not in names]:
        raise InputError(f"The encoder has no layer {unknown[0]!r} to freeze: its layers are {', '.join(names)}.")
    return tuple(name for name in names if name in chosen)
