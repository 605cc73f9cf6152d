"""Gradient cache: large batches whose activations are held a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import get_device_states, set_device_states


def embed_in_chunks(encoder: nn.Module, images: Tensor, chunk: int) -> Tensor:
    """(N,D) embeddings of N images, whose backward pass holds the activations of one chunk at a time.

    All chunks but the last are embedded without a graph, and again in the backward pass, with the random numbers and
    the autocast of the first time. So the gradient is that of embedding the chunks one by one and keeping everything,
    whatever the loss compares across them: of the whole batch, if the encoder treats each image by itself. Batch norm
    takes its statistics from a chunk instead, and counts each once in its running statistics.

    Weights of the encoder get their gradients once, when all chunks are done: hooks of theirs, such as those of
    DistributedDataParallel, see the sum. There is no second derivative, nor one by the images.

    Args:
        encoder: images -> embeddings.
        images: (N, ...), cut into chunks of sizes that differ by 1 at most.
        chunk: at most so many images in a chunk.

    Gao, Zhang, Han & Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021, section
    3.2 (gradient cache).
    """
    chunks = images.tensor_split(max(1, -(-len(images) // chunk)))
    weights = {name: weight for name, weight in encoder.named_parameters() if weight.requires_grad}
    if len(chunks) == 1 or not weights or not torch.is_grad_enabled():
        return torch.cat([encoder(part) for part in chunks])
    embeddings: Tensor = _EmbedAgain.apply(encoder, chunks, tuple(weights), *weights.values())
    return embeddings


class _EmbedAgain(torch.autograd.Function):
    """Embeddings of chunks by the named weights of an encoder.

    It embeds with copies of the weights that share their memory: the weights' own hooks must run once, on the sum, and
    autocast must not remember a weight that it cast where there is no graph.
    """

    @staticmethod
    def forward(
        ctx: Any, encoder: nn.Module, chunks: Sequence[Tensor], names: Sequence[str], *weights: Tensor
    ) -> Tensor:
        device = chunks[0].device.type
        ctx.encoder, ctx.chunks, ctx.names = encoder, chunks, names
        ctx.autocast = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.drawn = []  # states of the random number generators before each chunk
        found = []
        constant = {name: weight.detach() for name, weight in zip(names, weights, strict=True)}
        for chunk in chunks[:-1]:
            ctx.drawn.append((torch.get_rng_state(), *get_device_states(chunk)))
            found.append(functional_call(encoder, constant, chunk))
        with torch.enable_grad():
            ctx.weights = [weight.detach().requires_grad_() for weight in weights]
            last = functional_call(encoder, dict(zip(names, ctx.weights, strict=True)), chunks[-1])
        ctx.last = last
        return torch.cat([*found, last.detach()])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        *earlier, last = torch.split(gradient, [len(chunk) for chunk in ctx.chunks])
        sums = list(torch.autograd.grad(ctx.last, ctx.weights, last, allow_unused=True))
        del ctx.last
        for chunk, slope, drawn in reversed(list(zip(ctx.chunks, earlier, ctx.drawn, strict=False))):
            with _as_before(ctx, chunk, drawn):
                embeddings = functional_call(ctx.encoder, dict(zip(ctx.names, ctx.weights, strict=True)), chunk)
            slopes = torch.autograd.grad(embeddings, ctx.weights, slope, allow_unused=True)
            for number, own in enumerate(slopes):
                if own is not None:
                    sums[number] = own if sums[number] is None else sums[number] + own
        return None, None, None, *sums


@contextmanager
def _as_before(ctx: Any, chunk: Tensor, drawn: tuple[Tensor, list[int], list[Tensor]]) -> Iterator[None]:
    """Embed a chunk once more: with a graph, and with autocast and random numbers of the first time."""
    on_cpu, devices, states = drawn
    kind, (dtype, enabled) = chunk.device.type, ctx.autocast
    with (
        torch.random.fork_rng(devices, device_type=kind),
        torch.autocast(kind, dtype, enabled),
        without_statistics(ctx.encoder),
        torch.enable_grad(),
    ):
        torch.set_rng_state(on_cpu)
        set_device_states(devices, states, device_type=kind)
        yield


@contextmanager
def without_statistics(encoder: nn.Module) -> Iterator[None]:
    """Batch norms in training mode normalize as always, but leave their running statistics as they are."""
    norms = [(norm, norm.momentum, norm.num_batches_tracked) for norm in batch_norms(encoder)]
    for norm, _, _ in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, counted in norms:
            norm.momentum, norm.num_batches_tracked = momentum, counted


def batch_norms(encoder: nn.Module) -> list[_BatchNorm]:
    """Batch norms of any dimension of an encoder, those across processes too."""
    return [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
