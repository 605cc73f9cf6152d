"""Sums over all pairs, triplets and other rows, block by block, against the plain formula over a whole matrix."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from siamese_verify.losses import contrastive_loss, cosine_pair_loss, soft_triplet_loss, triplet_loss
from siamese_verify.pairwise import Totals, check_batch, unit
from siamese_verify.pairwise.blocks import in_bands
from siamese_verify.pairwise.log_softmax import log_sum_exp_of_others
from siamese_verify.pairwise.pair_sum import pair_sum
from siamese_verify.pairwise.triplet_sum import triplet_sum


def data(count: int, references: int, seed: int = 0, size: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings, labels, references and their labels, with identical and opposite rows."""
    generator = torch.Generator().manual_seed(seed)
    embeddings, others = (
        torch.randn(number, size, dtype=torch.float64, generator=generator) for number in (count, references)
    )
    labels, other_labels = (torch.randint(3, (number,), generator=generator) for number in (count, references))
    if count > 5:
        embeddings[1], embeddings[2], embeddings[5] = embeddings[0], -embeddings[0], embeddings[4]
    if references > 2 and count:
        others[1] = embeddings[0]
    return embeddings.requires_grad_(), labels, others.requires_grad_(), other_labels


def assert_same(found: Totals, losses: Tensor, leaves: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(found.total, losses.sum(), rtol=1e-11, atol=1e-11)
    assert int(found.items) == len(losses)
    assert int(found.nonzero) == int(torch.count_nonzero(losses > 0))
    gradients = [
        torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        for value in (found.total, losses.sum())
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-7, atol=1e-9)


def measures(embeddings: Tensor, references: Tensor, cosine: bool) -> Tensor:
    """(B, B + R) cosines or distances by plain torch."""
    candidates = torch.cat([embeddings, references])
    if cosine:
        return torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(candidates).T
    return torch.cdist(embeddings, candidates, compute_mode="donot_use_mm_for_euclid_dist")


SHAPES = pytest.mark.parametrize(
    ("count", "references"), [(0, 0), (1, 0), (1, 3), (9, 0), (9, 6), (30, 13)], ids=lambda number: str(number)
)


@SHAPES
@pytest.mark.parametrize("size", [1, 4, 512])
@pytest.mark.parametrize("cosine", [False, True])
def test_a_sum_over_pairs_is_that_of_the_plain_formula(count: int, references: int, size: int, cosine: bool) -> None:
    embeddings, labels, others, other_labels = data(count, references)

    def loss(measure: Tensor, same: Tensor) -> Tensor:
        return cosine_pair_loss(measure, same, 0.2) if cosine else contrastive_loss(measure, same, 2.0)

    found = pair_sum(check_batch(embeddings, labels, others, other_labels), loss, cosine, size)
    i, j = torch.triu_indices(count, count + references, 1)
    same = labels[i] == torch.cat([labels, other_labels])[j]
    assert_same(found, loss(measures(embeddings, others, cosine)[i, j], same), (embeddings, others))


@SHAPES
@pytest.mark.parametrize("numbers", [1, 60, 1 << 20])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("loss", [triplet_loss, soft_triplet_loss])
def test_a_sum_over_triplets_is_that_of_the_plain_formula(
    count: int, references: int, numbers: int, squared: bool, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    embeddings, labels, others, other_labels = data(count, references)
    batch = check_batch(embeddings, labels, others, other_labels)
    found = triplet_sum(batch, loss, squared, numbers)
    distance = measures(embeddings, others, cosine=False)
    distance = distance.square() if squared else distance
    same = labels[:, None] == torch.cat([labels, other_labels])
    positive = same & ~torch.eye(count, count + references, dtype=torch.bool)
    a, p, n = (positive[:, :, None] & ~same[:, None]).nonzero(as_tuple=True)
    assert_same(found, loss(distance[a, p], distance[a, n]), (embeddings, others))


@SHAPES
@pytest.mark.parametrize("size", [1, 4, 512])
@pytest.mark.parametrize("kept", [0, 40, 1 << 20])  # blocks that wait for the backward pass: none, some, all
@pytest.mark.parametrize("temperature", [0.003, 0.1, 1.0])
def test_log_sum_exp_of_others_is_that_of_the_plain_formula(
    count: int, references: int, size: int, kept: int, temperature: float
) -> None:
    embeddings, _, others, _ = data(count, references)
    found = log_sum_exp_of_others(unit(embeddings), unit(others), temperature, size, kept)
    logits = measures(embeddings, others, cosine=True) / temperature
    logits = logits.masked_fill(torch.eye(count, count + references, dtype=torch.bool), -torch.inf)
    expected = logits.logsumexp(dim=1) if count + references > 1 else 0 * embeddings.sum(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)
    weight = torch.linspace(-1, 2, count, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(value @ weight, (embeddings, others), allow_unused=True, materialize_grads=True)
        for value in (found, expected)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("references", [False, True])
def test_gradients_are_right_by_finite_differences(references: bool) -> None:
    embeddings, labels, others, other_labels = data(7, 3)
    others = others if references else others.detach()

    def pairs(z: Tensor, r: Tensor) -> Tensor:
        return pair_sum(check_batch(z, labels, r, other_labels), contrastive_loss, size=3).total

    def triplets(z: Tensor, r: Tensor) -> Tensor:
        return triplet_sum(check_batch(z, labels, r, other_labels), soft_triplet_loss, numbers=30).total

    def softmax(z: Tensor, r: Tensor) -> Tensor:
        return log_sum_exp_of_others(unit(z), unit(r), 0.3, size=3, kept=10)

    for function in (pairs, triplets, softmax):
        assert torch.autograd.gradcheck(function, (embeddings, others))


def test_near_identical_rows_keep_five_digits_in_single_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = unit(torch.randn(80, 512, generator=generator))
    rows[1::2] = rows[::2] + 1e-6 * unit(torch.randn(40, 512, generator=generator))
    labels = torch.arange(80) // 2

    def genuine(distance: Tensor, same: Tensor) -> Tensor:
        return torch.where(same, distance, 0)

    single, double = rows.requires_grad_(), rows.detach().double().requires_grad_()
    values = [pair_sum(check_batch(z, labels), genuine, size=32).total for z in (single, double)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)
    slopes = [torch.autograd.grad(value, z)[0].double() for value, z in zip(values, (single, double), strict=True)]
    assert (slopes[0] - slopes[1]).norm() < 1e-4 * slopes[1].norm()


@pytest.mark.parametrize("summed", ["pairs", "softmax"])
def test_no_matrix_of_all_pairs_is_kept(summed: str) -> None:
    embeddings, labels, *_ = data(400, 0)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if summed == "pairs":
            pair_sum(check_batch(embeddings, labels), contrastive_loss, size=50)
        else:
            log_sum_exp_of_others(unit(embeddings), embeddings[:0], 0.1, size=50, kept=0)
    assert max(kept, default=0) <= 50 * 50


def test_without_gradients_none_is_computed() -> None:
    embeddings, labels, *_ = data(9, 0)
    with torch.no_grad():
        assert not pair_sum(check_batch(embeddings, labels), contrastive_loss).total.requires_grad
    assert not pair_sum(check_batch(embeddings.detach(), labels), contrastive_loss).total.requires_grad


@pytest.mark.parametrize("numbers", [1, 12, 1 << 20])
def test_bands_give_the_losses_and_gradients_of_the_whole(numbers: int) -> None:
    rows, shared = data(9, 6)[::2]

    def losses(part: Tensor, columns: Tensor) -> Tensor:
        return (part @ columns.T).logsumexp(dim=1)

    found, expected = in_bands(losses, 6, (rows,), (shared,), numbers), losses(rows, shared)
    torch.testing.assert_close(found, expected)
    weight = torch.arange(9.0, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad(value @ weight, (rows, shared)) for value in (found, expected)))


@pytest.mark.slow
def test_kernels_of_a_gpu_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    cases = Path(__file__).with_name("kernel_cases.py")  # Triton reads the variable when it is imported
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)],
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
