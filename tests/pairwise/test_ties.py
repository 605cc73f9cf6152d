"""Rows that lie on one another cost about what others do, and large identities no more memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from siamese_verify.errors import InputError
from siamese_verify.losses import (
    BatchLoss,
    ContrastiveLoss,
    CosinePairLoss,
    InBatchNegatives,
    InfoNCELoss,
    MagnetLoss,
    NTXentLoss,
    SupConLoss,
    TripletLoss,
)
from siamese_verify.miners import AllPairs, AllTriplets, BatchHard, DistanceWeighted, HardPairs, SemiHard
from siamese_verify.pairwise.neighbors import nearest_neighbors

COUNT, DIMENSIONS = 1200, 32


class Work(TorchDispatchMode):
    """Counts the numbers that torch's operations write, and the most that one of them does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                differences = args[0].shape[-1] if "cdist" in str(func) else 1  # it takes D steps for each number
                self.total += tensor.numel() * differences
                self.most = max(self.most, tensor.numel())
        return result


def rows(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    apart = torch.nn.functional.normalize(torch.randn(COUNT, DIMENSIONS, generator=generator))
    return {
        "apart": apart,
        "identical": apart[:1].repeat(COUNT, 1),
        "few values": apart[torch.randint(5, (COUNT,), generator=generator)],
        "close": apart[:1] + 3e-3 * apart,
    }[kind]


def descend(loss: BatchLoss) -> Callable[[Tensor, Tensor], None]:
    def step(embeddings: Tensor, labels: Tensor) -> None:
        torch.autograd.backward(loss(embeddings.requires_grad_(), labels))

    return step


def work(job: Callable[[Tensor, Tensor], Any], embeddings: Tensor, labels: Tensor) -> Work:
    counted = Work()
    with counted:
        job(embeddings, labels)
    return counted


@pytest.mark.parametrize("kind", ["identical", "few values", "close"])
@pytest.mark.parametrize(
    "job",
    [
        HardPairs(),
        BatchHard(),
        SemiHard(),
        DistanceWeighted(),
        lambda embeddings, _: nearest_neighbors(embeddings, embeddings.clone(), 8),
        *map(
            descend,
            [
                ContrastiveLoss(),
                CosinePairLoss(),
                TripletLoss(),
                NTXentLoss(),
                SupConLoss(0.01),
                InBatchNegatives(InfoNCELoss()),
                MagnetLoss(2),
            ],
        ),
    ],
    ids=[
        *("HardPairs", "BatchHard", "SemiHard", "DistanceWeighted", "neighbors"),
        *("contrastive", "cosine", "triplet", "nt_xent", "sup_con", "info_nce", "magnet"),
    ],
)
def test_rows_that_lie_on_one_another_cost_about_what_others_do(
    job: Callable[[Tensor, Tensor], Any], kind: str
) -> None:
    labels = torch.arange(COUNT) // 4
    ordinary, crowded = work(job, rows("apart"), labels), work(job, rows(kind), labels)
    assert crowded.total < 6 * ordinary.total
    assert crowded.most < 3 * ordinary.most


@pytest.mark.parametrize("miner", [SemiHard(), DistanceWeighted(), HardPairs(), BatchHard()])
def test_large_identities_need_lists_of_pairs_but_nothing_larger(
    miner: SemiHard | DistanceWeighted | HardPairs | BatchHard,
) -> None:
    labels = torch.arange(COUNT) % 2
    pairs = COUNT * COUNT // 2
    assert work(miner, rows("apart"), labels).most <= 5 * pairs


def test_magnet_loss_of_raw_pixels_holds_no_matrix_of_dimensions() -> None:
    embeddings = torch.rand(8, 37_632, generator=torch.Generator().manual_seed(0))
    assert work(descend(MagnetLoss(2)), embeddings, torch.arange(8) // 4).most <= 2 * embeddings.numel()


def test_a_list_that_would_fill_the_memory_is_refused_before_it_is_made() -> None:
    labels = torch.arange(4000) % 2
    embeddings = torch.zeros(4000, 1)
    with pytest.raises(InputError, match="all 15992000000 triplets would take many gigabytes: leave out the miner"):
        AllTriplets()(embeddings, labels)
    with pytest.raises(InputError, match="all 800000000 pairs"):
        AllPairs()(
            torch.zeros(20_000, 1), torch.zeros(20_000).long(), torch.zeros(40_000, 1), torch.zeros(40_000).long()
        )
