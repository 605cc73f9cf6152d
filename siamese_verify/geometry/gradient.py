"""A gradient without a gradient of its own, which says so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from siamese_verify.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def first_order(backward: Callable[P, R]) -> Callable[P, R]:
    """Refuse to be differentiated again; torch's `once_differentiable` would let constants through in silence.

    Raises:
        InputError: when called to create a graph.
    """

    @functools.wraps(backward)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.is_grad_enabled():
            raise InputError(
                "A gradient of a gradient was asked for, but objectives have first derivatives only: leave out "
                "create_graph=True."
            )
        return backward(*args, **kwargs)

    return once
