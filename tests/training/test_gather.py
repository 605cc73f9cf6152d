from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from siamese_verify.losses import ContrastiveLoss, CrossBatchMemory, NTXentLoss, TripletLoss
from siamese_verify.miners import AllPairs, BatchHard
from siamese_verify.training import gather_batch

ROWS = ((0, 5), (5, 8))  # of each rank: batches of unequal size
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 0])


class Direction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4))

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.layers(images))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Direction().double()


def images() -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def losses(embeddings: Tensor, labels: Tensor) -> list[Tensor]:
    triplets = BatchHard()(embeddings.detach(), labels)
    return [
        TripletLoss()(embeddings, labels, triplets),
        ContrastiveLoss()(embeddings, labels, AllPairs()(embeddings, labels)),
    ]


def remember(memory: CrossBatchMemory, gathered: Callable[[int], tuple[Tensor, Tensor]]) -> list[float]:
    return [float(memory(*gathered(turn))) for turn in range(1, 4)]


def train_on_one_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = DistributedDataParallel(network())
    first, last = ROWS[rank]
    embeddings, labels = gather_batch(model(images()[first:last]), LABELS[first:last])
    found = losses(embeddings, labels)
    torch.autograd.backward(found)
    gradients = [parameter.grad for parameter in model.parameters()]
    memory = CrossBatchMemory(NTXentLoss(), size=12)
    later = remember(memory, lambda turn: gather_batch(model(turn * images()[first:last]), LABELS[first:last]))
    found_here = {"labels": labels, "losses": [loss.item() for loss in found], "gradients": gradients}
    torch.save({**found_here, "later": later, "queue": memory.queue.get_extra_state()}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_losses_and_gradients_of_one_process_with_all_rows(tmp_path: Path) -> None:
    ranks = [get_context("spawn").Process(target=train_on_one_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]
    model = network()
    expected = losses(model(images()), LABELS)
    torch.autograd.backward(expected)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["labels"].tolist() == LABELS.tolist()
        assert found["losses"] == pytest.approx([loss.item() for loss in expected], abs=1e-12)
        for gradient, parameter in zip(found["gradients"], model.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-12)
            assert gradient.abs().max() > 0
        memory = CrossBatchMemory(NTXentLoss(), size=12)
        later = remember(memory, lambda turn: (model(turn * images()), LABELS))
        assert found["later"] == pytest.approx(later, abs=1e-12)
        torch.testing.assert_close(found["queue"], memory.queue.get_extra_state(), rtol=0, atol=1e-12)


def test_a_single_process_gets_its_own_tensors_back() -> None:
    embeddings, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    gathered = gather_batch(embeddings, labels)
    assert gathered[0] is embeddings
    assert gathered[1] is labels
