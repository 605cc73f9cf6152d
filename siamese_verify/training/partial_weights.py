"""Weights of millions of identities in training: steps of sampled rows, and shards in clipping and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from siamese_verify.errors import InputError
from siamese_verify.pairwise.ranks import add_ranks_, rank, sizes_of_ranks


class Narrowed(NamedTuple):
    """A parameter of which an optimizer sees some rows only."""

    optimizer: Optimizer
    parameter: nn.Parameter
    whole: Tensor  # (C, D) all its rows
    rows: Tensor  # (S,) those that the optimizer sees
    states: dict[str, Tensor]  # (C, D) the optimizer's, by name


class RowSteps:
    """Steps of any optimizer with a state per weight in which rows without a gradient stay as they are.

    Of a parameter with a sparse gradient the optimizer sees only the rows that have one, and their states: the others
    keep weights and momentum bit for bit, and do not decay. Rows share the count of all steps, as in torch's
    `SparseAdam`: where AdamW corrects for its start, a row that comes late counts as one that was there.

    Call `narrow` after the backward pass and before gradients are clipped, `widen` after the step.
    """

    def __init__(self) -> None:
        self._narrowed: list[Narrowed] = []

    def narrow(self, optimizer: Optimizer) -> None:
        """Show the optimizer the rows that have a gradient."""
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter.grad is None or not parameter.grad.is_sparse:
                continue
            gradient = parameter.grad.coalesce()
            rows, whole, state = gradient.indices()[0], parameter.data, optimizer.state[parameter]
            states = {name: value for name, value in state.items() if _has_numbers(value)}
            parameter.grad = None
            parameter.data = whole[rows]
            parameter.grad = gradient.values()
            state.update({name: value[rows] for name, value in states.items()})
            self._narrowed.append(Narrowed(optimizer, parameter, whole, rows, states))

    def widen(self) -> None:
        """Put the rows back among the others.

        Raises:
            InputError: an optimizer whose state is not one number for each weight.
        """
        while self._narrowed:
            optimizer, parameter, whole, rows, states = self._narrowed.pop()
            found, state = parameter.data, optimizer.state[parameter]
            parameter.grad = None
            parameter.data = whole
            whole[rows] = found
            for name, value in state.items():
                if not _has_numbers(value):
                    continue
                if value.shape != found.shape:
                    raise InputError(
                        f"{type(optimizer).__name__} keeps no number for each weight, which a sample_rate below 1 "
                        "needs: set optimizer=adamw or optimizer=sgd."
                    )
                state[name] = states[name] if name in states else torch.zeros_like(whole, dtype=value.dtype)
                state[name][rows] = value


def _has_numbers(value: Any) -> bool:
    """Whether a state of an optimizer is more than a count of steps."""
    return isinstance(value, Tensor) and value.ndim > 0


def gradient_norm(parameters: Iterable[nn.Parameter], shard: nn.Parameter | None = None) -> Tensor:
    """Norm of the gradients of parameters, sparse ones too, and of all processes' shards of one; all must call this."""
    squares = torch.zeros(2, device=None if shard is None else shard.device)  # of what all have, of the shard
    for parameter in parameters:
        if (gradient := parameter.grad) is not None:
            values = gradient.coalesce().values() if gradient.is_sparse else gradient
            squares = squares.to(values.device, torch.promote_types(squares.dtype, values.dtype))
            squares[int(parameter is shard)] += values.square().sum()
    if shard is not None:
        add_ranks_(squares[1:])
    return squares.sum().sqrt()


def clip_shards(parameters: Sequence[nn.Parameter], shard: nn.Parameter, limit: float) -> None:
    """Scale gradients so that their norm, over all processes' shards of one parameter, is at most `limit`.

    Each process by itself would scale the parameters that all share by another factor.
    """
    factor = (limit / (gradient_norm(parameters, shard) + 1e-6)).clamp(max=1)  # as `torch.nn.utils.clip_grad_norm_`
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def gather_shards(checkpoint: dict[str, Any], name: str, position: int) -> None:
    """Put all processes' rows of a sharded parameter into the first process's checkpoint; all must call this.

    Args:
        checkpoint: of Lightning, with `state_dict` and perhaps `optimizer_states`.
        name: of the parameter.
        position: of the parameter in the optimizer's state.
    """
    for states, key in _places(checkpoint, name, position):
        shard, start = states[key], 0
        sizes = sizes_of_ranks(len(shard), shard.device)
        whole = shard.new_empty(sum(sizes), *shard.shape[1:], device="cpu") if rank() == 0 else None
        for owner, size in enumerate(sizes):
            rows = shard.contiguous() if owner == rank() else shard.new_empty(size, *shard.shape[1:])
            dist.broadcast(rows, owner)
            if whole is not None:
                whole[start : start + size] = rows
            start += size
        if whole is not None:
            states[key] = whole


def take_shard(checkpoint: dict[str, Any], name: str, position: int, own: slice) -> None:
    """Cut this process's rows of a sharded parameter from a checkpoint; see `gather_shards`."""
    for states, key in _places(checkpoint, name, position):
        states[key] = states[key][own].clone()


def _places(checkpoint: dict[str, Any], name: str, position: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Where a checkpoint holds a parameter, and numbers for each of its weights."""
    yield checkpoint["state_dict"], name
    for optimizer in checkpoint.get("optimizer_states", []):
        # A copy: the optimizer's state dict holds its own.
        state = optimizer["state"][position] = dict(optimizer["state"].get(position, {}))
        for key in [key for key, value in state.items() if _has_numbers(value)]:
            yield state, key
