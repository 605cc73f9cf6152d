"""Processes end with the losses, weights, queues and banks of one process that has all of their images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from siamese_verify.losses import InfoNCELoss, NTXentLoss, TripletLoss
from siamese_verify.methods import PIRL, InstanceDiscrimination, MoCo, MoCoV3, SemiSupervised, SimCLR, SimSiam
from siamese_verify.structures import FaceBatch
from siamese_verify.training import VerificationModule
from tests.methods.small_methods import IMAGES, small_encoder, take_steps, trained_by, views_of, without_batch_norm
from tests.training.rank_pool import RankPool, rank_pool

METHODS: dict[str, tuple[Callable[[Any], Any], nn.Module | None]] = {
    "simclr": (lambda encoder: SimCLR(encoder, 9, 5), NTXentLoss(0.5)),
    "moco": (lambda encoder: MoCo(encoder, 9, 5, queue_size=14, momentum=0.8), InfoNCELoss(0.2)),
    "moco_v3": (lambda encoder: MoCoV3(encoder, 9, 5, momentum=0.8), None),
    "simsiam": (lambda encoder: SimSiam(encoder, 9, 8, 3), None),
    "memory_bank": (lambda encoder: InstanceDiscrimination(encoder, IMAGES, 6, 9, proximal=0.1), None),
    "full_softmax": (lambda encoder: InstanceDiscrimination(encoder, IMAGES, 6, None), None),
    "pirl": (lambda encoder: PIRL(encoder, IMAGES, 6, 9, grid=2), None),
    "semi": (lambda encoder: SemiSupervised(encoder, 5, threshold=0.3, hidden_size=9, output_size=5), TripletLoss(0.5)),
}
STEPS, BATCH = 3, 8


class Step(nn.Module):
    """What Lightning wraps: the training step as a forward pass."""

    def __init__(self, module: VerificationModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: FaceBatch, index: int) -> Tensor:
        return self.module.training_step(batch, index)


def train(name: str, own: slice = slice(None)) -> tuple[list[float], dict[str, Tensor]]:
    """Losses, and the state at the end with what is in queues and banks."""
    make, loss = METHODS[name]
    encoder = small_encoder()
    torch.manual_seed(0)
    method: Any = without_batch_norm(make(encoder))
    module = trained_by(method, encoder, loss)
    rows = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))[: STEPS * BATCH].tolist()
    rows[5::BATCH] = rows[::BATCH]  # an image is in each batch twice
    step: Any = DistributedDataParallel(Step(module)) if dist.is_initialized() else None
    parts = [rows[first : first + BATCH][own] for first in range(0, len(rows), BATCH)]
    batches = []
    for number, part in enumerate(parts):
        batch, chosen = views_of(part, int(method.views[0]), seed=number), torch.tensor(part)
        if name == "semi":  # images of even rows have a label, one of five
            batch = batch._replace(labels=chosen.repeat(2) % 5, labeled=chosen % 2 == 0)
        batches.append(batch)
    losses, state = take_steps(module, batches, step)
    for path, inner in module.named_modules():
        for kept in ("embeddings", "labels", "vectors"):
            if hasattr(inner, kept):
                state[f"{path}.{kept}"] = getattr(inner, kept)
    return losses, state


def train_all(rank: int, split: tuple[int, ...]) -> dict[str, Any]:
    first = [*accumulate(split, initial=0)][rank]
    return {name: train(name, slice(first, first + split[rank])) for name in METHODS}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    with rank_pool(tmp_path_factory.mktemp("meeting")) as processes:
        yield processes


@pytest.mark.parametrize("split", [(4, 4), (5, 1, 2)], ids=str)
def test_ranks_learn_what_one_process_would(pool: RankPool, split: tuple[int, ...]) -> None:
    found = pool.run(len(split), train_all, split)
    for name in METHODS:
        losses, state = train(name)
        assert abs(losses[1]) > 0.1
        for of_rank in found:
            their_losses, their_state = of_rank[name]
            assert their_losses == pytest.approx(losses, rel=0, abs=1e-10), name
            torch.testing.assert_close(their_state, state, rtol=0, atol=1e-10, msg=name)
