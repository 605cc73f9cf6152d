"""Kernels against naive loops in float64: on a GPU, or in Triton's interpreter, see `test_sums.py`.

Run on a GPU: `python -m pytest tests/pairwise/kernel_cases.py`. Tolerances are bounds: what rounding the factors of a
product to a precision can lose at most, and float32 besides.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from siamese_verify.losses import NTXentLoss, SupConLoss
from siamese_verify.pairwise import tiles
from siamese_verify.pairwise.log_softmax import log_sum_exp_of_others

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOST = {"float32": 0.0, "tf32": 2.0**-11, "bfloat16": 2.0**-8}  # of a factor, relative to it
FACTORS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
SHAPES = [(1, 0), (1, 3), (2, 0), (9, 6), (140, 0), (70, 150)]  # a block has 64 rows and 128 columns


@pytest.fixture(autouse=True)
def kernels_forced() -> Iterator[None]:
    tiles.forced = True
    yield
    tiles.forced = None
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(params=list(LOST))
def precision(request: pytest.FixtureRequest) -> str:
    torch.set_float32_matmul_precision("high" if request.param == "tf32" else "highest")
    return str(request.param)


def directions(count: int, seed: int, size: int = 24) -> Tensor:
    """Random unit rows, some identical and one of zeros."""
    rows = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    rows = torch.nn.functional.normalize(rows, dim=1)
    if count > 5:
        rows[1], rows[2], rows[3] = rows[0], -rows[0], 0
    return rows.to(DEVICE).requires_grad_()


def naive_log_sum_exp(rows: Tensor, references: Tensor, temperature: float) -> Tensor:
    """Of each row with all others, one row at a time."""
    everything = torch.cat([rows, references])
    found = []
    for number, row in enumerate(rows):
        others = torch.cat([everything[:number], everything[number + 1 :]])
        found.append((others @ row / temperature).logsumexp(0) if len(others) else 0 * row.sum())
    return torch.stack(found)


@pytest.mark.parametrize(("count", "references"), SHAPES)
@pytest.mark.parametrize(("temperature", "size"), [(0.1, None), (0.5, 33), (0.02, 64), (0.003, None)])
def test_log_sum_exp_is_that_of_the_naive_loop(
    count: int, references: int, temperature: float, size: int | None, precision: str
) -> None:
    rows, others = directions(count, 0), directions(references, 1)
    weight = torch.linspace(0.5, 2, count, device=DEVICE)
    found = log_sum_exp_of_others(rows, others, temperature, size, factors=FACTORS[precision])
    gradients = torch.autograd.grad((found * weight).sum(), (rows, others), allow_unused=True, materialize_grads=True)

    leaves = [leaf.detach().double().requires_grad_() for leaf in (rows, others)]
    expected = naive_log_sum_exp(leaves[0], leaves[1], temperature)
    total = (expected * weight).sum()
    wanted = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    lost = LOST[precision]
    logit = (2.1 * lost + 4e-7) / temperature  # how far a logit may be off
    assert (found - expected).abs().max() <= logit + 1e-6 * expected.abs().max()
    # A pair of logit s pulls by p = exp(s - log-sum-exp), off by a factor of exp(2 logit), times a rounded column.
    everything = torch.cat(leaves).detach()
    share = (everything[:count] @ everything.T / temperature - expected[:, None].detach()).exp()
    share.fill_diagonal_(0).mul_(weight[:, None] / temperature)
    pull = share.sum(1).clone()
    pull += share[:, :count].sum(0)
    for gradient, exact, pulls in zip(gradients, wanted, (pull, share[:, count:].sum(0)), strict=True):
        bound = (torch.tensor(2 * logit).expm1() + 2.1 * lost + 1e-5) * pulls
        assert ((gradient - exact).norm(dim=1) <= bound + 1e-6).all()


def test_log_sum_exp_of_a_rank_is_that_of_pytorch() -> None:
    rows, others = directions(45, 0), directions(20, 1)
    for own in (slice(0, 15), slice(15, 31), slice(44, 45)):
        found = log_sum_exp_of_others(rows, others, 0.2, 16, own=own)
        exact = log_sum_exp_of_others(rows.double(), others.double(), 0.2, 7, own=own)
        torch.testing.assert_close(found, exact.float(), rtol=1e-6, atol=2e-6)
        gradients = [torch.autograd.grad(value.sum(), (rows, others)) for value in (found, exact)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_one_row_of_nan_is_not_hidden() -> None:
    rows = directions(70, 0).detach()
    rows[5] = torch.nan
    assert log_sum_exp_of_others(rows, rows[:0], 0.1).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [NTXentLoss(0.1), SupConLoss(0.1)])
@pytest.mark.parametrize("kind", ["random", "identical", "no positives", "memory"])
def test_softmax_losses_are_those_of_pytorch_in_float64(loss: NTXentLoss, kind: str, dtype: torch.dtype) -> None:
    embeddings = 3 * directions(50, 0).detach()
    if kind == "identical":
        embeddings[:] = embeddings[0].clone()
    embeddings = embeddings.to(dtype).requires_grad_()
    labels = torch.arange(50, device=DEVICE) // (1 if kind == "no positives" else 3)
    memory = (directions(30, 3).detach(), torch.arange(30, device=DEVICE) % 10) if kind == "memory" else ()
    found = loss(embeddings, labels, None, *memory)
    exact = loss(embeddings.double(), labels, None, *memory)
    gradient, wanted = (torch.autograd.grad(value, embeddings)[0].double() for value in (found, exact))
    lost = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11 if dtype == torch.float16 else 1e-6
    torch.testing.assert_close(found.double(), exact, rtol=2 * lost, atol=2 * lost)
    assert (gradient - wanted).norm() <= 4 * lost * wanted.norm() + lost


def test_autocast_to_bfloat16_multiplies_in_bfloat16() -> None:
    embeddings, labels = directions(64, 0), torch.arange(64, device=DEVICE) // 2
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        found = NTXentLoss(0.05)(embeddings, labels)
    rounding = NTXentLoss(0.05)(embeddings, labels) - found
    assert 1e-7 < rounding.abs() < 2.1 * 2.0**-8 / 0.05
