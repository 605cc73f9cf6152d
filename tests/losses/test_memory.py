"""The ring of past embeddings, and an objective over it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses as peers
from pytorch_metric_learning import miners
from torch import Tensor, nn

from siamese_verify.errors import InputError
from siamese_verify.losses import (
    ArcFaceLoss,
    BatchLoss,
    ContrastiveLoss,
    CrossBatchMemory,
    EmbeddingQueue,
    InfoNCELoss,
    MagnetLoss,
    NTXentLoss,
    SupConLoss,
    TripletLoss,
)
from siamese_verify.losses.base import read_tuples
from siamese_verify.miners import AllPairs, AllTriplets, BatchHard, DistanceWeighted, HardPairs, SemiHard
from siamese_verify.structures import Pairs, Triplets

OBJECTIVES: dict[str, Callable[[], BatchLoss]] = {
    "contrastive": lambda: ContrastiveLoss(1.5),
    "triplet": lambda: TripletLoss(0.4),
    "nt_xent": lambda: NTXentLoss(0.3),
    "sup_con": lambda: SupConLoss(0.3),
}
EVERY = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in OBJECTIVES.items()])


def batches(sizes: tuple[int, ...] = (6, 5, 7, 4), identities: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(size, 4, dtype=torch.float64, generator=generator, requires_grad=True),
            torch.randint(identities, (size,), generator=generator),
        )
        for size in sizes
    ]


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_a_queue_keeps_no_row_of_an_overflow(wrong: float) -> None:
    queue, rows, labels = EmbeddingQueue(5), torch.ones(3, 2), torch.tensor([4, 5, 6])
    rows[1, 0] = wrong
    queue.enqueue(rows, labels)
    assert queue.embeddings.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert queue.labels.tolist() == [4, -1, 6]
    loss = NTXentLoss()(torch.eye(2), torch.tensor([4, 5]), None, queue.embeddings, queue.labels)
    assert loss.isfinite()


@pytest.mark.parametrize("size", [1, 5, 8, 100])
@pytest.mark.parametrize("sizes", [(1,), (3, 3), (6, 5, 7, 4), (8, 8), (20, 2), (0, 3)])
def test_a_queue_holds_the_newest_rows(size: int, sizes: tuple[int, ...]) -> None:
    queue, given = EmbeddingQueue(size), batches(sizes)
    for embeddings, labels in given:
        queue.enqueue(embeddings, labels.int())
    rows, labels = (torch.cat(part) for part in zip(*given, strict=True))
    kept = min(size, sum(sizes))
    assert len(queue) == len(queue.embeddings) == len(queue.labels) == kept
    found = sorted((*row, label) for row, label in zip(queue.embeddings.tolist(), queue.labels.tolist(), strict=True))
    newest = zip(rows[-kept:].tolist(), labels[-kept:].tolist(), strict=True)
    assert found == sorted((*row, label) for row, label in newest)
    assert not queue.embeddings.requires_grad


@pytest.mark.parametrize("stop", range(4))
def test_a_queue_goes_on_from_a_checkpoint(stop: int, tmp_path: Path) -> None:
    whole = EmbeddingQueue(8)
    for number, batch in enumerate(batches()):
        if number == stop:
            torch.save(whole.state_dict(), tmp_path / "state.pt")
        whole.enqueue(*batch)
    resumed = EmbeddingQueue(8)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for batch in batches()[stop:]:
        resumed.enqueue(*batch)
    assert torch.equal(resumed.embeddings, whole.embeddings)  # where each row lies, too
    assert torch.equal(resumed.labels, whole.labels)


def test_a_queue_of_another_size_does_not_go_on() -> None:
    with pytest.raises(InputError, match="memory has a size of 8, not 4"):
        EmbeddingQueue(4).load_state_dict(EmbeddingQueue(8).state_dict())


@pytest.mark.parametrize("size", [0, -3, 8.5, 10**12, True, "8"])
def test_a_queue_of_no_possible_size_is_refused(size: Any) -> None:
    with pytest.raises(InputError, match=f"size is {size!r}"):
        EmbeddingQueue(size)
    assert type(EmbeddingQueue(np.int64(8)).size) is int  # type: ignore[arg-type]


def test_a_queue_that_memory_has_no_room_for_is_refused() -> None:
    with pytest.raises(InputError, match="memory of 67,108,864 embeddings of 1073741824 numbers does not fit here"):
        EmbeddingQueue(2**26).enqueue(torch.empty(1, 1).expand(1, 2**30), torch.zeros(1).long())


def test_a_queue_refuses_another_encoders_rows() -> None:
    queue = EmbeddingQueue(8)
    queue.enqueue(torch.ones(2, 3), torch.zeros(2).long())
    with pytest.raises(InputError, match="holds embeddings of 3 dimensions, and was given some of 5"):
        queue.enqueue(torch.ones(2, 5), torch.zeros(2).long())


def test_a_queue_serves_momentum_contrast() -> None:
    queue, loss = EmbeddingQueue(8), InfoNCELoss(0.2)
    (query, labels), *past = batches((3, 6, 5))
    first = loss(query, query.detach(), queue.embeddings)  # an empty queue: nothing to choose
    assert first == 0
    assert not torch.autograd.grad(first, query)[0].any()
    for batch in past:
        queue.enqueue(*batch)
    key = query.detach() + 0.1
    value = loss(query, key, queue.embeddings)
    rows = torch.cat([rows for rows, _ in past]).detach()[-8:]
    unit = nn.functional.normalize
    logits = torch.cat([(unit(query) * unit(key)).sum(1, keepdim=True), unit(query) @ unit(rows).T], dim=1) / 0.2
    expected = nn.functional.cross_entropy(logits, torch.zeros(3).long())
    torch.testing.assert_close(value, expected)
    queue.enqueue(key, labels)
    ours, theirs = (torch.autograd.grad(loss, query)[0] for loss in (value, expected))  # after the ring has turned
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(queue.labels.sort().values, torch.cat([past[1][1], labels]).sort().values)


@EVERY
@pytest.mark.parametrize("warm_up", [0, 2])
def test_a_memory_is_the_objective_over_the_batch_and_past_ones(make: Callable[[], BatchLoss], warm_up: int) -> None:
    memory, objective = CrossBatchMemory(make(), 8, warm_up=warm_up), make()
    past = [rows.detach() for rows, _ in batches()], [labels for _, labels in batches()]
    for number, (embeddings, labels) in enumerate(batches()):
        references = [torch.cat([part[0][:0], *part[:number]])[-8:] for part in past]
        used = references if number and number >= warm_up else ()
        expected = objective(embeddings, labels, None, *used)
        value = memory(embeddings, labels)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
        ours, theirs = (torch.autograd.grad(loss, embeddings)[0] for loss in (value, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
        assert len(memory.queue) == min(8, sum(len(labels) for labels in past[1][: number + 1]))


def test_the_backward_pass_may_wait_for_later_batches() -> None:
    given = batches((6, 6, 6))
    at_once, later = (CrossBatchMemory(NTXentLoss(0.3), 8) for _ in range(2))
    expected = [torch.autograd.grad(at_once(*batch), batch[0])[0] for batch in given]
    values = [later(*batch) for batch in given]  # the ring has turned
    for value, (embeddings, _), gradient in zip(values, given, expected, strict=True):
        assert torch.equal(torch.autograd.grad(value, embeddings)[0], gradient)


@pytest.mark.parametrize(
    ("make", "miner"),
    [(OBJECTIVES["contrastive"], AllPairs()), (OBJECTIVES["triplet"], AllTriplets())],
    ids=["pairs", "triplets"],
)
def test_a_miner_of_everything_changes_nothing(make: Callable[[], BatchLoss], miner: AllPairs | AllTriplets) -> None:
    memory, plain = CrossBatchMemory(make(), 8, miner), CrossBatchMemory(make(), 8)
    for batch in batches():
        torch.testing.assert_close(memory(*batch), plain(*batch))


def chosen(memory: CrossBatchMemory, embeddings: Tensor, labels: Tensor) -> Pairs | Triplets:
    """Tuples that the memory's miner chooses for a batch, which then joins the memory."""
    seen: list[Pairs | Triplets] = []

    def look(*arguments: Any) -> Tensor:
        seen.append(arguments[2])
        return embeddings.sum()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory.objective, "forward", look)
        memory(embeddings, labels)
    read = read_tuples(seen[0])
    assert read is not None
    return read


def tuples(tuples: Pairs | Triplets) -> set[tuple[int, ...]]:
    fields = tuples[:2] if isinstance(tuples, Pairs) else tuples
    return set(zip(*(field.tolist() for field in fields), strict=True))


@pytest.mark.parametrize(
    ("ours", "theirs", "objective"),
    [
        (AllPairs(), None, ContrastiveLoss()),
        (BatchHard(), "BatchHardMiner", TripletLoss()),
        (AllTriplets(), "TripletMarginMiner", TripletLoss()),
        ("BatchHardMiner", "BatchHardMiner", TripletLoss()),
        ("TripletMarginMiner", "TripletMarginMiner", TripletLoss()),
        ("MultiSimilarityMiner", "MultiSimilarityMiner", ContrastiveLoss()),
        ("PairMarginMiner", "PairMarginMiner", ContrastiveLoss()),
    ],
)
def test_a_miner_chooses_what_it_chooses_in_the_memory_of_pytorch_metric_learning(
    ours: Any, theirs: str | None, objective: BatchLoss
) -> None:
    settings = {"TripletMarginMiner": {"margin": 3.0}}  # every triplet of unit vectors

    def named(name: str) -> Any:
        return getattr(miners, name)(**settings.get(name, {}))

    memory = CrossBatchMemory(objective, 12, named(ours) if isinstance(ours, str) else ours)
    peer = peers.CrossBatchMemory(peers.ContrastiveLoss(), 4, 18, named(theirs) if theirs else None)  # with the batch
    generator = torch.Generator().manual_seed(1)
    before = torch.empty(0, 4)
    for _ in range(6):
        embeddings = nn.functional.normalize(torch.randn(6, 4, generator=generator))  # theirs measures directions
        labels = torch.randint(4, (6,), generator=generator)
        found = chosen(memory, embeddings, labels)
        peer.add_to_memory(embeddings, labels, 6)
        filled = 18 if peer.has_been_filled else peer.queue_idx
        kept, names = peer.embedding_memory[:filled], peer.label_memory[:filled]
        vectors = peer.create_indices_tuple(embeddings, labels, kept, names, None, True)
        rows = torch.cat([embeddings, before])
        column = torch.cdist(kept, rows).argmin(dim=1)  # the same rows, wherever they lie
        lists = [vectors] if len(vectors) == 3 else [vectors[:2], vectors[2:]]
        expected = {
            (row[0], *(int(column[other]) for other in row[1:]))
            for rows in lists
            for row in torch.stack(rows, dim=1).tolist()
        }
        if len(vectors) == 4 and not isinstance(ours, str):  # ours name two rows of the batch in one order
            expected = {(anchor, other) for anchor, other in expected if anchor < other}
        assert tuples(found) == expected
        assert len(tuples(found)) == len(found[0])
        before = memory.queue.embeddings
    assert any(columns[-1] >= 6 for columns in tuples(found))


@pytest.mark.parametrize("miner", [BatchHard(), SemiHard(2.0), DistanceWeighted(), HardPairs(), AllTriplets()])
def test_a_batch_and_a_memory_that_without_a_common_identity_meet(miner: Any) -> None:
    objective = ContrastiveLoss() if isinstance(miner, HardPairs) else TripletLoss()
    memory = CrossBatchMemory(objective, 2048, miner)
    generator = torch.Generator().manual_seed(0)
    used = 0
    for _ in range(40):
        identities = torch.randperm(2000, generator=generator)[:32].repeat_interleave(4)
        embeddings = nn.functional.normalize(torch.randn(128, 16, generator=generator))
        found = chosen(memory, embeddings, identities)
        used += bool((found[1 if isinstance(found, Pairs) else 2] >= 128).any())
    assert used == 39  # every step but the first, when the memory is empty


@pytest.mark.parametrize("miner", [BatchHard(), SemiHard(0.7), HardPairs(0.5), HardPairs(2)])
def test_among_batch_and_memory_a_naive_loop_chooses_the_same(miner: BatchHard | SemiHard | HardPairs) -> None:
    (rows, labels), (references, others) = batches((9, 7))
    rows, references = (part.detach().mul(2).round() / 2 for part in (rows, references))  # with ties
    columns, identities = torch.cat([rows, references]).tolist(), [*labels.tolist(), *others.tolist()]
    distance = [[math.dist(row, column) for column in columns] for row in columns[:9]]
    genuine = [(a, p) for a in range(9) for p in range(16) if p != a and identities[p] == identities[a]]
    negatives = {a: [n for n in range(16) if identities[n] != identities[a]] for a in range(9)}
    expected: list[tuple[int, ...]] = []
    if isinstance(miner, HardPairs):
        once: list[tuple[int, ...]] = [(a, p) for a, p in genuine if a < p]
        impostors = sorted((distance[a][n], a, n) for a in range(9) for n in negatives[a] if a < n)
        expected = once + [(a, n) for _, a, n in impostors[: math.ceil(miner.ratio * len(once))]]
    elif isinstance(miner, BatchHard):
        for a in range(9):
            own = [p for b, p in genuine if b == a]
            if own and negatives[a]:
                positive = max(own, key=lambda p: distance[a][p])
                expected.append((a, positive, min(negatives[a], key=lambda n: distance[a][n])))
    else:
        for a, p in genuine:
            band = [n for n in negatives[a] if distance[a][p] < distance[a][n] < distance[a][p] + 0.7]
            if band:
                expected.append((a, p, min(band, key=lambda n: distance[a][n])))
    found = miner.together(rows, labels, references, others)
    fields = found[:2] if isinstance(found, Pairs) else found
    assert list(zip(*(field.tolist() for field in fields), strict=True)) == expected
    assert len(expected) > 3


def test_only_training_fills_the_memory() -> None:
    memory = CrossBatchMemory(NTXentLoss(), 8).eval()
    memory(*batches()[0])
    assert len(memory.queue) == 0


def test_a_memory_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole = CrossBatchMemory(NTXentLoss(0.3), 8, warm_up=1)
    first, second, third, fourth = batches()
    whole(*first), whole(*second)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    resumed = CrossBatchMemory(NTXentLoss(0.3), 8, warm_up=1)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [resumed(*third), resumed(*fourth)] == [whole(*third), whole(*fourth)]


def test_half_precision_is_remembered_as_it_came() -> None:
    memory = CrossBatchMemory(NTXentLoss(), 8)
    for (first, labels), (second, others) in pairwise(batches()):
        assert memory(first.bfloat16(), labels).dtype == memory(second.bfloat16(), others).dtype == torch.bfloat16
    assert memory.queue.embeddings.dtype == torch.bfloat16


def test_rows_that_somebody_else_chose_are_refused() -> None:
    embeddings, labels = batches()[0]
    row = torch.tensor([0])
    with pytest.raises(InputError, match=r"set miner=none, loss\.miner"):
        CrossBatchMemory(ContrastiveLoss(), 8)(embeddings, labels, Pairs(row, row, row.bool()))


def test_objectives_that_have_no_use_for_a_memory_are_refused() -> None:
    with pytest.raises(InputError, match="got MSELoss"):
        CrossBatchMemory(nn.MSELoss(), 8)  # type: ignore[arg-type]
    for objective in (ArcFaceLoss(3, embedding_size=4), MagnetLoss()):
        with pytest.raises(InputError, match=f"{type(objective).__name__} compares rows of the batch only"):
            CrossBatchMemory(objective, 8)
