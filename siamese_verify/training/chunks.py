"""Embeddings of large batches, whose backward pass holds the activations of one chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def embed_in_chunks(encoder: nn.Module, images: Tensor, chunk: int) -> Tensor:
    """(N,D) embeddings of N images, whose backward pass holds the activations of one chunk at a time.

    All chunks but the last are embedded again in the backward pass, with the random numbers of the first time. So the
    gradient is that of embedding the chunks one by one and keeping everything, whatever the loss compares across them:
    of the whole batch, if the encoder treats each image by itself. Batch norm takes its statistics from a chunk
    instead, and counts each once in its running statistics.

    Args:
        encoder: images -> embeddings.
        images: (N, ...), cut into chunks of sizes that differ by 1 at most.
        chunk: at most so many images in a chunk.

    Gao, Zhang, Han & Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021, section
    3.2 (gradient cache): here the gradients at the embeddings pass through autograd's own graph.
    """
    *chunks, last = images.tensor_split(max(1, -(-len(images) // chunk)))
    embed = partial(
        checkpoint, encoder, use_reentrant=False, context_fn=lambda: (nullcontext(), without_statistics(encoder))
    )
    embeddings: Tensor = torch.cat([*map(embed, chunks), encoder(last)]) if chunks else encoder(last)
    return embeddings


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
