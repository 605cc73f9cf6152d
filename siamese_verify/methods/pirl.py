"""PIRL: an image and its shuffled patches have the same representation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError
from siamese_verify.losses.info_nce import log_sum_exp
from siamese_verify.losses.softmax import check_temperature
from siamese_verify.methods.memory_bank import MemoryBank
from siamese_verify.methods.method import Learner, Method, gather_without_gradient, mean_over_ranks, products, unit_rows
from siamese_verify.pairwise.blocks import copied_ahead
from siamese_verify.pairwise.ranks import rank, sizes_of_ranks
from siamese_verify.samplers.epoch import check_whole
from siamese_verify.structures import FaceBatch

CUT = 64 / 75  # side of a patch over that of its cell, as in the paper


class PIRL(Method):
    """Pretext-invariant representations with the jigsaw: patches of the second view find the image in a memory bank.

    The first view is embedded as a whole, f(v_I); the second is cut into patches, each of which is embedded by itself;
    their projections, concatenated in random order, are projected once more, g(v_It). An encoder takes images of one
    size, so that patches are enlarged to it: a step embeds grid * grid + 1 images for each row. A step draws its
    negatives once, for all images of all ranks' batches.

    Args:
        encoder: whose embeddings are projected.
        images: of the training set.
        output_size: of the projections, and of the bank.
        negatives: vectors of the bank that are drawn in each step; 32,000 in the paper.
        temperature: divides the cosines.
        momentum: of the bank, see `MemoryBank`.
        weight: lambda, of the loss of the patches; 1 - lambda is that of the image.
        grid: patches in each direction.

    Raises:
        InputError: see `MemoryBank`; a temperature that is too small; negatives or a grid below 1; inputs that are no
            images.

    Misra & van der Maaten, "Self-Supervised Learning of Pretext-Invariant Representations", CVPR 2020, eq. 3 to 5.
    """

    def __init__(
        self,
        encoder: Encoder,
        images: int,
        output_size: int = 128,
        negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
        weight: float = 0.5,
        grid: int = 3,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        check_whole(negatives=(negatives, 1), grid=(grid, 1))
        if len(encoder.input_spec.shape) != 3 or min(encoder.input_spec.shape[1:]) < 2 * grid:
            raise InputError(
                f"PIRL cuts images into {grid} x {grid} patches, but the encoder takes {encoder.input_spec.shape}."
            )
        self.bank = MemoryBank(images, output_size, momentum)
        self.image_head = nn.Linear(encoder.embedding_size, output_size)
        self.patch_head = nn.Linear(encoder.embedding_size, output_size)
        self.jigsaw_head = nn.Linear(grid * grid * output_size, output_size)
        self.negatives, self.temperature, self.weight, self.grid = negatives, temperature, weight, grid

    def step(self, batch: FaceBatch, learner: Learner) -> Tensor:
        """See `Method.step`."""
        whole, shuffled = self.split(batch)
        rows, generator = batch.rows, learner.generator()
        assert rows is not None
        sizes = sizes_of_ranks(len(rows), rows.device)
        numbers = torch.split(torch.rand(sum(sizes), self.grid**2, 3, generator=generator), sizes)[rank()]
        patches = jigsaw(shuffled, self.grid, copied_ahead(numbers, rows.device))  # (N,9,3,S,S)
        parts = self.patch_head(learner.embed(patches.flatten(0, 1)))  # (N*9,D)
        pretext = unit_rows(self.jigsaw_head(parts.view(len(rows), -1)))  # (N,D), g(v_It)
        image = unit_rows(self.image_head(learner.embed(whole)))  # (N,D), f(v_I)

        drawn = torch.randint(len(self.bank), (self.negatives,), generator=generator)
        drawn = copied_ahead(drawn, rows.device)
        own, noise = self.bank[rows].to(image), self.bank[drawn]
        itself = rows[:, None] == drawn  # (N,K)
        losses = self.weight * self.nce(pretext, own, noise, itself)
        losses = losses + (1 - self.weight) * self.nce(image, own, noise, itself)
        self.bank.update(*gather_without_gradient(rows, image))
        return mean_over_ranks(losses)

    def nce(self, query: Tensor, own: Tensor, noise: Tensor, itself: Tensor) -> Tensor:
        """(N,) losses of (N,D) queries, their (N,D) vectors and (K,D) drawn ones, of which (N,K) are their own."""
        positive = torch.linalg.vecdot(query, own) / self.temperature
        negatives = (products(query, noise) / self.temperature).masked_fill(itself, -torch.inf)
        return pirl_nce_loss(positive, negatives)


def pirl_nce_loss(positive: Tensor, negatives: Tensor) -> Tensor:
    """Loss of each query: -log h(positive) - sum_k log(1 - h(negative k)), h(s) = e^s / (e^s + sum_j e^negative_j).

    Args:
        positive: (N,) finite logits.
        negatives: (N,K) logits; -inf is an absent negative.

    Returns:
        (N,) losses, >= 0.

    Misra & van der Maaten 2020, eq. 3 and 4, where both terms share the query's sum over the negatives.
    """
    log_sum = log_sum_exp(negatives)
    zero = positive.new_zeros(())
    second = torch.logaddexp(negatives - log_sum[:, None], zero).sum(dim=1)
    return torch.logaddexp(log_sum - positive, zero) + second


def jigsaw(images: Tensor, grid: int, numbers: Tensor) -> Tensor:
    """Random patches, one of each cell of a grid, in random order, enlarged to the size of the image.

    Args:
        images: (N,C,H,W).
        grid: cells in each direction.
        numbers: (N,grid*grid,3) uniform numbers in [0, 1) that decide order, top and left of the patches.

    Returns:
        (N,grid*grid,C,H,W) float.
    """
    count, channels, height, width = images.shape
    order = numbers[..., 0].argsort(dim=1)  # (N,9)

    def pixels(cells: Tensor, cell: int, number: Tensor) -> Tensor:
        """(N,9,h) of a patch within each of (N,9) cells."""
        side = max(1, round(CUT * cell))
        first = cells * cell + (number * (cell - side + 1)).long()
        return first[..., None] + torch.arange(side, device=images.device)

    y = pixels(order // grid, height // grid, numbers[..., 1])
    x = pixels(order % grid, width // grid, numbers[..., 2])  # (N,9,w)
    row = torch.arange(count, device=images.device)[:, None, None, None]
    patches = images.permute(0, 2, 3, 1)[row, y[..., :, None], x[..., None, :]]  # (N,9,h,w,C)
    flat = patches.flatten(0, 1).permute(0, 3, 1, 2).float()
    large = F.interpolate(flat, (height, width), mode="bilinear", align_corners=False)
    return large.view(count, grid * grid, channels, height, width)
