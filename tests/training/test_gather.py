"""Many processes, one batch: ranks together have the losses and gradients of one process with all rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pytorch_metric_learning.losses import ContrastiveLoss as PairLossOfTheirs
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from siamese_verify.losses import (
    AdaFaceLoss,
    ArcFaceLoss,
    ContrastiveLoss,
    CosFaceLoss,
    CosinePairLoss,
    CrossBatchMemory,
    InBatchNegatives,
    InfoNCELoss,
    LinearSoftmaxLoss,
    MagFaceLoss,
    MagnetLoss,
    NCELoss,
    NTXentLoss,
    SupConLoss,
    TripletLoss,
)
from siamese_verify.miners import AllPairs, AllTriplets, BatchHard, DistanceWeighted, HardPairs, SemiHard
from siamese_verify.pairwise import Totals, ranks
from siamese_verify.samplers import (
    HardMiningSampler,
    IdentityBatchSampler,
    ImageSampler,
    PairSampler,
    TripletSampler,
    TupleBatch,
)
from siamese_verify.structures import FaceBatch, Pairs, Triplets
from siamese_verify.training import VerificationModule, gather_batch
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
    "ada_face": lambda kind: AdaFaceLoss(5, 8.0, embedding_size=4, reduction=kind),
    "mag_face": lambda kind: MagFaceLoss(5, 8.0, embedding_size=4, reduction=kind),
    "linear softmax": lambda kind: LinearSoftmaxLoss(5, embedding_size=4, reduction=kind),
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
OURS = {name: make for name, make in MINERS.items() if not name.startswith("theirs")}
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
        if self.loss.startswith("theirs"):
            return MultiSimilarityLoss() if self.loss == "theirs" else PairLossOfTheirs(0, 1.2), miner
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
    def __init__(self, unit: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4))
        self.unit = unit

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.layers(images)
        return F.normalize(embeddings) if self.unit else embeddings


class Step(nn.Module):
    """What Lightning wraps: the training step as a forward pass."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        loss, miner = case.make()
        optimizer: Any = torch.optim.SGD
        self.module = VerificationModule(
            Encoder(not getattr(loss, "needs_norms", False)), loss, miner, optimizer
        ).double()

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


def choose(rank: int, split: tuple[int, ...]) -> dict[str, tuple[Any, ...]]:
    first = sum(split[:rank])
    return {name: chosen(make(), slice(first, first + split[rank])) for name, make in OURS.items()}


def chosen(miner: Any, own: slice | None = None) -> tuple[Any, ...]:
    """Tuples of a batch with many ties, and of a batch together with a memory; then a random number."""
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(0)
    rows, references = (torch.randint(4, (count, 3), generator=generator).double() for count in (30, 17))
    labels, others = (torch.randint(6, (count,), generator=generator) for count in (30, 17))
    return miner(rows, labels, own=own), miner.together(rows, labels, references, others, own), torch.rand(1)


def part(tuples: Pairs | Triplets, own: range) -> list[tuple[int, ...]]:
    """Triplets with an anchor of some rows, or pairs that these are part of."""
    single = [*zip(*(field.tolist() for field in tuples), strict=True)]
    return [one for one in single if one[0] in own or (isinstance(tuples, Pairs) and one[1] in own)]


@pytest.mark.parametrize("split", [(18, 12), (1, 0, 20, 9)], ids=str)
def test_a_miner_chooses_what_it_would_in_one_process(pool: RankPool, split: tuple[int, ...]) -> None:
    found, starts = pool.run(len(split), choose, split), accumulate(split, initial=0)
    for of_rank, first, count in zip(found, starts, split, strict=False):
        for name, make in OURS.items():
            *tuples, drawn = chosen(make())
            *mine, number = of_rank[name]
            assert all(part(all_of_it, range(30)) for all_of_it in tuples)
            for choice, all_of_it in zip(mine, tuples, strict=True):
                assert part(choice, range(30)) == part(all_of_it, range(first, first + count)), name
            assert number == drawn


# What people get wrong


def forget_other_ranks(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """The gathering without a gradient: other ranks' losses say nothing about this rank's rows."""
    gathered, start, rank = ranks.gather_rows(rows.detach(), sizes), sum(sizes[: dist.get_rank()]), dist.get_rank()
    return torch.cat([gathered[:start], rows, gathered[start + sizes[rank] :]])


MISTAKES: dict[str, Callable[[], Any]] = {
    "gradients dropped": lambda: patch("siamese_verify.training.distributed.gather_rows", forget_other_ranks),
    "off by the world size": lambda: patch.object(
        ranks._SharedTotals, "backward", staticmethod(lambda ctx, slope, counts: (slope, None))
    ),
    "a mean of the ranks' means": lambda: patch.object(Totals, "over_ranks", lambda totals: totals),
}


def train_mistaken(rank: int, split: tuple[int, ...], cases: list[Case], mistake: str) -> dict[Case, Found]:
    with MISTAKES[mistake]():
        return train_cases(rank, split, cases)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_sees_each_mistake_in_every_loss_over_all_rows(
    pool: RankPool, expected: dict[Case, Found], mistake: str
) -> None:
    split, cases = (1, 5, 6), [case for case in SOME if case.loss in [*LOSSES, "magnet"]]
    for found in pool.run(len(split), train_mistaken, split, cases, mistake):
        assert min(differences(found[case], expected[case]) for case in cases) > 1e-4


# Samplers

IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(10), [3, 2, 5, 6, 2, 4, 2, 7, 3, 4]))
SAMPLERS: dict[str, tuple[Callable[..., Any], Case]] = {
    "identity": (lambda **of: IdentityBatchSampler(IDENTITIES, 4, 2, **of), Case("nt_xent")),
    "hard": (lambda **of: HardMiningSampler(IDENTITIES, 4, 2, **of), Case("triplet", "batch hard")),
    "images": (lambda **of: ImageSampler(IDENTITIES, 5, **of), Case("sup_con", memory=True)),
    "pairs": (lambda **of: PairSampler(IDENTITIES, 6, **of), Case("contrastive", reduction="mean_nonzero")),
    "triplets": (lambda **of: TripletSampler(IDENTITIES, 6, **of), Case("triplet", reduction="mean_nonzero")),
    "pairs, their loss": (lambda **of: PairSampler(IDENTITIES, 6, **of), Case("theirs, for pairs")),
}


def sampled(name: str, rank: int, world_size: int) -> list[FaceBatch]:
    """The first batches of a rank; it drops one tuple for each rank before it."""
    sampler = SAMPLERS[name][0](batches=2 * world_size, rank=rank, world_size=world_size)
    photos = images(0, len(IDENTITIES))
    batches = []
    for batch in sampler:
        rows, tuples = (batch.rows, batch.tuples) if isinstance(batch, TupleBatch) else (batch, None)
        tuples = tuples and type(tuples)(*(field[: len(field) - rank] for field in tuples))
        batches.append(FaceBatch(photos[rows], torch.from_numpy(IDENTITIES[rows]), tuples))
    return batches


def joined(batches: Sequence[FaceBatch]) -> FaceBatch:
    """One batch of the rows of several."""
    starts = accumulate((len(batch.labels) for batch in batches), initial=0)
    moved = [
        tuples._replace(anchor=tuples.anchor + start).with_offset(start)
        for batch, start in zip(batches, starts, strict=False)
        if (tuples := batch.tuples) is not None
    ]
    tuples = type(moved[0])(*map(torch.cat, zip(*moved, strict=True))) if moved else None
    pictures, labels = zip(*((batch.images, batch.labels) for batch in batches), strict=True)
    return FaceBatch(torch.cat(pictures), torch.cat(labels), tuples)


def train_sampled(rank: int, world_size: int) -> dict[str, Found]:
    return {name: train(case, sampled(name, rank, world_size)) for name, (_, case) in SAMPLERS.items()}


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_a_sampler_gives_ranks_together_the_batches_of_one_process(pool: RankPool, world_size: int) -> None:
    found = pool.run(world_size, train_sampled, world_size)
    for name, (_, case) in SAMPLERS.items():
        steps = zip(*(sampled(name, rank, world_size) for rank in range(world_size)), strict=True)
        expected = train(case, [joined(batches) for batches in steps])
        assert len(expected.losses) == 2
        for of_rank in found:
            assert differences(of_rank[name], expected) < 1e-12, name


# What is sent

OTHERS = (
    "all_gather_into_tensor",
    "all_gather_object",
    "broadcast",
    "reduce",
    "reduce_scatter_tensor",
    "all_to_all",
    "send",
)


class Wire:
    """Counts the bytes that this rank receives from others and sends to them by collectives of torch.distributed."""

    def __init__(self) -> None:
        self.received = self.sent = self.added = 0  # added: of all-reduces
        self.calls = dist.all_gather, dist.all_to_all_single, dist.all_reduce

    def all_gather(self, outputs: list[Tensor], mine: Tensor) -> None:
        self.received += sum(output.nbytes for output in outputs) - mine.nbytes
        self.sent += (len(outputs) - 1) * mine.nbytes
        self.calls[0](outputs, mine)

    def all_to_all_single(self, output: Tensor, given: Tensor, arriving: list[int], leaving: list[int]) -> None:
        row, own = given.element_size() * math.prod(given.shape[1:]), dist.get_rank()
        self.received += (sum(arriving) - arriving[own]) * row
        self.sent += (sum(leaving) - leaving[own]) * row
        self.calls[1](output, given, arriving, leaving)

    def all_reduce(self, tensor: Tensor) -> None:
        self.added += tensor.nbytes
        self.calls[2](tensor)


def refuse(*_: Any) -> None:
    raise AssertionError("a collective that is not counted")


def gather_counted(rank: int, split: tuple[int, ...], dtype: torch.dtype, loss: str) -> dict[str, Any]:
    wire, rows, count = Wire(), images(0, 16)[:, :5].to(dtype), split[rank]
    rows = rows[sum(split[:rank]) :][:count].clone().requires_grad_()
    labels = torch.arange(16)[sum(split[:rank]) :][:count] % 4
    counted: Any = {call.__name__: getattr(wire, call.__name__) for call in wire.calls} | dict.fromkeys(OTHERS, refuse)
    with patch.multiple(dist, **counted):
        batch = gather_batch(rows, labels)
        value = LOSSES[loss]("mean")(batch.embeddings, batch.labels, own=batch.own)
        forward = wire.received, wire.added
        sent = wire.sent
        value.backward()
    backward = wire.sent - sent, wire.added - forward[1]
    rows_of_all, *rest = batch
    return {
        "forward": forward,
        "backward": backward,
        "batch": (rows_of_all.detach(), *rest),
        "loss": value.item(),
        "gradient": rows.grad,
    }


@pytest.mark.parametrize("split", [(4, 4, 4, 4), (1, 8, 0, 7)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", ["triplet", "nt_xent"])
def test_rows_are_sent_once_in_their_own_type(
    pool: RankPool, split: tuple[int, ...], dtype: torch.dtype, loss: str
) -> None:
    """A rank must receive 16 - n rows and labels, and the numbers of rows; and send a gradient for each row."""
    found = pool.run(4, gather_counted, split, dtype, loss)
    labels = torch.arange(16) % 4
    everything = images(0, 16)[:, :5].to(dtype).requires_grad_()
    value = LOSSES[loss]("mean")(everything, labels)
    value.backward()
    assert everything.grad is not None
    row, number = 5 * everything.element_size(), 8 if dtype == torch.float64 else 4
    sums = 16 * number if loss == "nt_xent" else 0  # one for each row
    accuracy = 1e-12 if dtype == torch.float64 else 0.02
    for rank, (count, answer) in enumerate(zip(split, found, strict=True)):
        own = slice(sum(split[:rank]), sum(split[: rank + 1]))
        assert answer["forward"] == ((16 - count) * (row + 8) + 3 * 8, 3 * 8 + sums)
        assert answer["backward"] == ((16 - count) * row, sums)
        for gathered, expected in zip(answer["batch"], (everything.detach(), labels, own), strict=True):
            assert torch.equal(gathered, expected) if isinstance(expected, Tensor) else gathered == expected
        torch.testing.assert_close(answer["gradient"], 4 * everything.grad[own], rtol=accuracy, atol=accuracy / 20)
        assert answer["loss"] == pytest.approx(value.item(), rel=accuracy)


def test_a_single_process_gets_its_own_tensors_back() -> None:
    embeddings, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    gathered = gather_batch(embeddings, labels)
    assert gathered.embeddings is embeddings
    assert gathered.labels is labels
    assert gathered.own == slice(0, 2)
