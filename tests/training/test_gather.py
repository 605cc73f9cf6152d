"""Many processes, one batch: ranks together have the losses and gradients of one process with all rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from siamese_verify.losses import (
    ArcFaceLoss,
    ContrastiveLoss,
    CosFaceLoss,
    CosinePairLoss,
    CrossBatchMemory,
    InBatchNegatives,
    InfoNCELoss,
    MagnetLoss,
    NCELoss,
    NTXentLoss,
    SupConLoss,
    TripletLoss,
)
from siamese_verify.miners import AllPairs, AllTriplets, BatchHard, DistanceWeighted, HardPairs, SemiHard
from siamese_verify.structures import FaceBatch
from siamese_verify.training import VerificationModule
from tests.training.rank_pool import RankPool, rank_pool

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 0, 1, 4, 2, 0])
EVEN = [(12,), (6, 6), (4, 4, 4), (3, 3, 3, 3)]  # rows of each rank
UNEVEN = [(9, 3), (0, 12), (1, 5, 6), (1, 0, 9, 2)]

LOSSES: dict[str, Callable[[Any], Any]] = {  # by their reduction
    "contrastive": lambda kind: ContrastiveLoss(1.2, reduction=kind),
    "contrastive, cosine": lambda kind: ContrastiveLoss(0.9, "cosine", reduction=kind),
    "cosine pair": lambda kind: CosinePairLoss(0.1, kind),
    "triplet": lambda kind: TripletLoss(0.4, reduction=kind),
    "triplet, squared": lambda kind: TripletLoss(0.4, squared=True, reduction=kind),
    "triplet, soft": lambda kind: TripletLoss(soft=True, reduction=kind),
    "nt_xent": lambda kind: NTXentLoss(0.3, kind),
    "sup_con": lambda kind: SupConLoss(0.3, kind),
    "info_nce": lambda kind: InBatchNegatives(InfoNCELoss(0.3, kind)),
    "nce": lambda kind: InBatchNegatives(NCELoss(0.3, kind)),
}
CLASSIFYING: dict[str, Callable[[Any], Any]] = {
    "magnet": lambda kind: MagnetLoss(2, reduction=kind),
    "arc_face": lambda kind: ArcFaceLoss(5, 8.0, embedding_size=4, reduction=kind),
    "cos_face": lambda kind: CosFaceLoss(5, 8.0, embedding_size=4, reduction=kind),
}
MINERS: dict[str, Callable[[], Any]] = {
    "all pairs": AllPairs,
    "hard pairs": lambda: HardPairs(0.7),
    "all triplets": AllTriplets,
    "batch hard": BatchHard,
    "semi-hard": lambda: SemiHard(0.5),
    "distance weighted": DistanceWeighted,
    "theirs, pairs": MultiSimilarityMiner,
    "theirs, triplets": lambda: TripletMarginMiner(0.5),
}
GIVE_PAIRS = ("all pairs", "hard pairs", "theirs, pairs")


class Case(NamedTuple):
    """One objective of a training."""

    loss: str
    miner: str = ""
    memory: bool = False
    reduction: str = "mean"

    def make(self) -> tuple[nn.Module, Any]:
        """Loss and miner."""
        miner = MINERS[self.miner]() if self.miner else None
        if self.loss == "theirs":
            return MultiSimilarityLoss(), miner
        loss = (LOSSES | CLASSIFYING)[self.loss](self.reduction)
        return (CrossBatchMemory(loss, 14, miner), None) if self.memory else (loss, miner)


def every_case() -> list[Case]:
    cases = [Case(loss, reduction=kind) for loss in LOSSES | CLASSIFYING for kind in ("mean", "mean_nonzero", "sum")]
    for loss in LOSSES:
        taken = [miner for miner in MINERS if "triplet" not in loss or miner not in GIVE_PAIRS]
        cases += [Case(loss, miner) for miner in taken] + [Case(loss, memory=True)]
    for miner in MINERS:  # references of a memory, with and without directions
        names = ("contrastive", "nt_xent") if miner in GIVE_PAIRS else ("triplet", "info_nce")
        cases += [Case(loss, miner, memory=True, reduction="mean_nonzero") for loss in names]
    return [*cases, Case("theirs"), Case("theirs", "semi-hard"), Case("theirs", "theirs, pairs")]


CASES = every_case()
SOME = [case for case in CASES if case.reduction == "mean" and not case.miner]  # rows are gathered the same for all


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4))

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.layers(images))


class Step(nn.Module):
    """What Lightning wraps: the training step as a forward pass."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        loss, miner = case.make()
        optimizer: Any = torch.optim.SGD
        self.module = VerificationModule(Encoder(), loss, miner, optimizer).double()

    def forward(self, batch: FaceBatch, index: int) -> Tensor:
        return self.module.training_step(batch, index)


class Found(NamedTuple):
    """Of some steps: their losses, and the sum of their gradients by every parameter."""

    losses: list[float]
    gradients: list[Tensor]


def images(index: int, count: int = len(LABELS)) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(index), dtype=torch.float64)


def train(case: Case, batches: Sequence[FaceBatch]) -> Found:
    step = Step(case)
    wrapped: Any = DistributedDataParallel(step) if dist.is_initialized() else step
    losses = []
    with warnings.catch_warnings(action="ignore"):  # there is no trainer to log to
        for index, batch in enumerate(batches):
            loss = wrapped(batch, index)
            loss.backward()
            losses.append(loss.item())
    gradients = [parameter.grad for parameter in step.parameters() if parameter.grad is not None]
    assert len(gradients) == len([*step.parameters()])
    return Found(losses, gradients)


def batches_of(case: Case, rows: slice = slice(None)) -> list[FaceBatch]:
    steps = 3 if case.memory else 1  # a memory of 14 rows is empty at first, then partly full, then full
    return [FaceBatch(images(index)[rows], LABELS[rows], None) for index in range(steps)]


def train_cases(rank: int, split: tuple[int, ...], cases: list[Case]) -> dict[Case, Found]:
    first = sum(split[:rank])
    return {case: train(case, batches_of(case, slice(first, first + split[rank]))) for case in cases}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    with rank_pool(tmp_path_factory.mktemp("meeting")) as processes:
        yield processes


@pytest.fixture(scope="module")
def expected() -> dict[Case, Found]:
    return {case: train(case, batches_of(case)) for case in CASES}


def differences(found: Found, expected: Found) -> float:
    """Largest difference of two trainings' losses and gradients."""
    losses = [abs(a - b) for a, b in zip(found.losses, expected.losses, strict=True)]
    gradients = [(a - b).abs().max().item() for a, b in zip(found.gradients, expected.gradients, strict=True)]
    return max(losses + gradients)


@pytest.mark.parametrize("split", EVEN + UNEVEN, ids=str)
def test_ranks_have_the_losses_and_gradients_of_one_process_with_all_rows(
    pool: RankPool, expected: dict[Case, Found], split: tuple[int, ...]
) -> None:
    assert all(gradient.abs().max() > 1e-3 for found in expected.values() for gradient in found.gradients)
    cases = CASES if split in UNEVEN else SOME
    for found in pool.run(len(split), train_cases, split, cases):
        wrong = {case: differences(found[case], expected[case]) for case in cases}
        assert not {case: difference for case, difference in wrong.items() if not difference < 1e-12}
