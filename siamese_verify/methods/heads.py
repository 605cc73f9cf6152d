"""Small networks on top of an embedding: projection and prediction heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from siamese_verify.errors import InputError

LastNorm = Literal["none", "fixed", "trained"]


def mlp(sizes: Sequence[int], norm: bool = True, last_norm: LastNorm = "none") -> nn.Sequential:
    """A multilayer perceptron with ReLU between its linear layers: (N, sizes[0]) -> (N, sizes[-1]).

    Args:
        sizes: of the input, the hidden layers and the output.
        norm: batch norm before each ReLU. A linear layer before a batch norm has no bias, which that would subtract.
        last_norm: batch norm of the output: `none`, `trained` scale and shift, or `fixed` to mean 0 and variance 1.

    Raises:
        InputError: a size below 1.
    """
    if min(sizes) < 1:
        wrong = ", ".join(map(str, sizes[1:]))
        raise InputError(
            f"The layers of a head have 1 or more outputs, got {wrong}: set the sizes of the method higher."
        )
    layers: list[nn.Module] = []
    *hidden, last = pairwise(sizes)
    for inputs, outputs in hidden:
        layers += [nn.Linear(inputs, outputs, bias=not norm), *[nn.BatchNorm1d(outputs)] * norm, nn.ReLU()]
    layers.append(nn.Linear(*last, bias=last_norm == "none"))
    if last_norm != "none":
        layers.append(nn.BatchNorm1d(last[1], affine=last_norm == "trained"))
    return nn.Sequential(*layers)
