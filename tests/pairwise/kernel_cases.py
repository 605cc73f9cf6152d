"""Kernels against naive loops in float64: on a GPU, or in Triton's interpreter, see `test_sums.py`.

Run on a GPU: `python -m pytest tests/pairwise/kernel_cases.py`. Tolerances are bounds: what rounding the factors of a
product to a precision can lose at most, and float32 besides.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from siamese_verify.losses import ContrastiveLoss, InBatchNegatives, InfoNCELoss, NTXentLoss, SupConLoss
from siamese_verify.miners import BatchHard, SemiHard
from siamese_verify.pairwise import Batch, blocks, kernels, log_softmax, tiles
from siamese_verify.pairwise.log_softmax import log_sum_exp_of_others, softmax_over_others
from siamese_verify.pairwise.nearest import SORTED, ComparedRows, farthest_positives, nearest_by_kernel
from siamese_verify.pairwise.pair_sum import Hinge, pair_sum

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOST = {"float32": 0.0, "tf32": 2.0**-11, "bfloat16": 2.0**-8}  # of a factor, relative to it
PRECISIONS = [name for name in LOST if name != "tf32" or DEVICE == "cuda"]  # the interpreter rounds nothing to TF32
FACTORS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
SHAPES = [  # rows, references, temperature, rows of a tile; a block has 64 rows and 128 columns
    (1, 0, 0.1, None),
    (1, 3, 0.1, None),
    (2, 0, 0.003, None),
    (9, 6, 0.02, 4),
    (140, 0, 0.1, None),
    (140, 0, 0.003, 64),
    (70, 150, 0.5, 33),
]


@pytest.fixture(autouse=True)
def kernels_enabled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(blocks, "SMALL", 0)
    monkeypatch.setattr(blocks, "SMALL_ON_GPU", 0)
    monkeypatch.setattr(tiles, "interpreted", DEVICE == "cpu")
    monkeypatch.setattr(tiles, "enabled", True)
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(params=PRECISIONS)
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


@pytest.mark.parametrize(("count", "references", "temperature", "size"), SHAPES)
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


@pytest.mark.parametrize("precision", PRECISIONS, indirect=True)
def test_a_softmax_that_has_nearly_converged_keeps_its_gradient(precision: str) -> None:
    centers = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(0))).Q[:40]
    rows = centers.repeat_interleave(2, 0) + 0.05 * torch.randn(80, 48, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(80, device=DEVICE) // 2
    for loss in (NTXentLoss(0.1), SupConLoss(0.1), InBatchNegatives(InfoNCELoss(0.1))):
        single, double = rows.to(DEVICE).requires_grad_(), rows.double().to(DEVICE).requires_grad_()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            found = loss(single, labels)
        exact = loss(double, labels)
        assert 0.01 < exact < 0.03
        assert (found - exact).abs() <= (2 * LOST[precision] + 1e-5) * exact / 0.1
        gradient, wanted = torch.autograd.grad(found, single)[0], torch.autograd.grad(exact, double)[0]
        # A weight may be off by what its logits are, 2 lost / t of it, were all roundings of one sign.
        assert (gradient - wanted).norm() <= (LOST[precision] / 0.1 + 1e-4) * wanted.norm()


@pytest.mark.parametrize("own", [None, slice(7, 23)])
def test_log_sum_exp_of_impostors_is_that_of_pytorch(own: slice | None) -> None:
    rows, others = directions(45, 0), directions(70, 1)
    labels = torch.arange(45, device=DEVICE) // 4, torch.arange(70, device=DEVICE) % 13
    found = log_sum_exp_of_others(rows, others, 0.2, 16, own=own, labels=labels)
    cosines = rows.double() @ torch.cat([rows, others]).double().T
    same = labels[0][:, None] == torch.cat(labels)
    exact = cosines.div(0.2).masked_fill(same, -torch.inf).logsumexp(1)
    if own is not None:  # PyTorch's form has the same share, and the test of ranks of `tests/losses` compares all
        exact = log_sum_exp_of_others(rows.double(), others.double(), 0.2, 7, own=own, labels=labels)
    torch.testing.assert_close(found, exact.float(), rtol=1e-6, atol=2e-6)
    gradients = [torch.autograd.grad(value.sum(), (rows, others)) for value in (found, exact)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_shares_of_a_softmax_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, others = directions(45, 0), directions(20, 1)
    labels = torch.arange(45, device=DEVICE) // 4, torch.arange(20, device=DEVICE) % 13

    def gradients(own: slice | None) -> list[Tensor]:
        found = softmax_over_others(rows, others, labels, 0.2, own, size=16)
        return list(torch.autograd.grad((found.log_sum - found.positive).sum(), (rows, others)))

    sums = (softmax_over_others(rows, others, labels, 0.2).log_sum.detach() - 1 / 0.2).exp()
    of_all = {1: sums, 2: torch.tensor([[1.0], [-1.0]], device=DEVICE)}  # what other ranks would add
    monkeypatch.setattr(log_softmax, "add_ranks_", lambda part: part.copy_(of_all[part.ndim]))
    parts = [gradients(own) for own in (slice(0, 14), slice(14, 31), slice(31, 45))]
    torch.testing.assert_close([sum(part) for part in zip(*parts, strict=True)], gradients(None), rtol=1e-4, atol=1e-4)


def test_tiles_are_freed_between_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = []

    class Watched(tiles.Tiles):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            alive.append(weakref.ref(self.memory))

    monkeypatch.setattr(log_softmax, "Tiles", Watched)
    loss = NTXentLoss(0.1)(directions(40, 0), torch.arange(40, device=DEVICE) // 2)
    assert [found() for found in alive] == [None]
    loss.backward()
    assert [found() for found in alive] == [None, None]


def test_a_kernel_is_launched_on_the_gpu_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[Tensor] = []
    launched: list[object] = []
    kind = type(kernels._hinge_losses)
    device_of, launch = torch.cuda.device_of, kind.__getitem__

    def enter(tensor: Tensor) -> Any:
        entered.append(tensor)
        return device_of(tensor)  # type: ignore[no-untyped-call]

    def watch(kernel: Any, grid: Any) -> Any:
        launched.append(kernel)
        return launch(kernel, grid)

    monkeypatch.setattr(torch.cuda, "device_of", enter)
    monkeypatch.setattr(kind, "__getitem__", watch)
    rows, labels = directions(20, 0), torch.arange(20, device=DEVICE) // 2
    for loss in (NTXentLoss(0.1), ContrastiveLoss()):
        loss(rows, labels).backward()
    BatchHard()(rows, labels)
    assert len(launched) == len(entered) > 5


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


HINGES = [(Hinge(1.2, 0.5, 2), False), (Hinge(0.7, 1.5, 2), True), (Hinge(0.9, 1.0, 1), True)]


def pair_batch(count: int, references: int, factors: torch.dtype = torch.float32) -> Batch:
    """Rows of which some are identical and of two identities; rows and references have gradients."""
    rows, others = directions(count, 0), directions(references, 1)
    labels, other_labels = torch.arange(count, device=DEVICE) // 2, torch.arange(references, device=DEVICE) // 2 + 1
    return Batch(rows, labels, others, other_labels, factors=factors)


def naive_pair_sum(
    batch: Batch, hinge: Hinge, cosine: bool, lost: float
) -> tuple[Tensor, tuple[Tensor, ...], Tensor, Tensor]:
    """Sum of the losses and its gradients in float64, one row at a time.

    Also (B,) losses of a row that are above zero, and (B + R,) how far the gradient of a row may be off if distances
    are off by `lost`: where a loss is a straight line, also by the whole pull of a pair at its end.
    """
    rows, references = (leaf.detach().double().requires_grad_() for leaf in (batch.embeddings, batch.references))
    candidates, labels = torch.cat([rows, references]), batch.candidate_labels
    total, nonzero = rows.sum() * 0, torch.zeros(len(rows), dtype=torch.int64, device=DEVICE)
    off = torch.zeros(len(labels), dtype=torch.float64, device=DEVICE)
    for i in range(len(rows)):
        row, others = candidates[i], candidates[i + 1 :]
        squared = (others - row).square().sum(dim=1)
        distance = 1 - others @ row if cosine else torch.where(squared > 0, squared, 1).sqrt() * (squared > 0)
        same = labels[i + 1 :] == labels[i]
        loss = hinge.scale * torch.where(same, distance, (hinge.margin - distance).clamp(min=0)) ** hinge.power
        if not cosine:
            loss = torch.where(same, hinge.scale * squared, loss)
        total = total + loss.sum()
        nonzero[i] = (loss > 0).sum()
        pull = 2 * lost * hinge.scale * hinge.power * ((loss > 0) | same) * max(1.0, hinge.margin)
        if hinge.power == 1:
            pull += hinge.scale * (~same & ((distance - hinge.margin).abs() <= lost))
        off[i] += pull.sum()
        off[i + 1 :] += pull
    gradients = torch.autograd.grad(total, (rows, references), allow_unused=True, materialize_grads=True)
    return total.detach(), gradients, nonzero, off


@pytest.mark.parametrize(("hinge", "cosine"), HINGES)
@pytest.mark.parametrize(("count", "references", "size"), [(1, 0, None), (9, 6, 4), (70, 0, None), (23, 66, 15)])
def test_a_sum_over_pairs_is_that_of_the_naive_loop(
    count: int, references: int, size: int | None, hinge: Hinge, cosine: bool, precision: str
) -> None:
    batch = pair_batch(count, references, FACTORS[precision])
    normed = batch._replace(embeddings=batch.embeddings.detach().requires_grad_())
    found = pair_sum(normed, lambda *_: pytest.fail("not the kernel"), cosine, size, hinge)
    leaves = normed.embeddings, normed.references
    gradients = torch.autograd.grad(found.total, leaves, allow_unused=True, materialize_grads=True)
    lost = LOST[precision] * 2.2 + (3e-7 if cosine else 2e-3)
    total, wanted, nonzero, off = naive_pair_sum(batch, hinge, cosine, lost)
    pairs = count * (count - 1) // 2 + count * references
    assert (found.total - total).abs() <= off.sum() / 2 + 1e-6 * total + 1e-6
    assert int(found.items) == pairs
    assert abs(int(found.nonzero) - int(nonzero.sum())) <= 0.03 * pairs
    if cosine:
        wanted = tuple(_along_the_sphere(leaf, gradient) for leaf, gradient in zip(leaves, wanted, strict=True))
    for gradient, exact, most in zip(gradients, wanted, off.tensor_split([count]), strict=True):
        assert ((gradient - exact).norm(dim=1) <= most + 3e-6).all()


def _along_the_sphere(rows: Tensor, gradient: Tensor) -> Tensor:
    """Without what would change the length of unit rows."""
    rows = rows.detach().double()
    return gradient - rows * (rows * gradient).sum(dim=1, keepdim=True)


@pytest.mark.parametrize(("hinge", "cosine"), HINGES)
def test_identities_of_many_rows_are_not_walked(hinge: Hinge, cosine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = []
    genuine_losses = kernels.genuine_losses

    def watch(candidates: Tensor, order: Tensor, first: Tensor, last: Tensor, *others: Any) -> Any:
        walked.append(int((last - first).max()))
        return genuine_losses(candidates, order, first, last, *others)

    monkeypatch.setattr(kernels, "genuine_losses", watch)
    monkeypatch.setattr("siamese_verify.pairwise.pair_sum.WALKED", 5)
    batch = pair_batch(23, 20)
    labels = torch.arange(23, device=DEVICE).clamp(max=9) // 3  # identities of 3, and one of 14
    batch = batch._replace(labels=labels, reference_labels=torch.arange(20, device=DEVICE) // 2)
    found = pair_sum(batch, lambda *_: pytest.fail("not the kernel"), cosine, 8, hinge)
    assert walked == [5]
    leaves = batch.embeddings, batch.references
    total, wanted, nonzero, off = naive_pair_sum(batch, hinge, cosine, 2e-3)
    assert (found.total - total).abs() <= off.sum() / 2
    if cosine:
        wanted = tuple(_along_the_sphere(leaf, gradient) for leaf, gradient in zip(leaves, wanted, strict=True))
    for gradient, exact, most in zip(
        torch.autograd.grad(found.total, leaves), wanted, off.tensor_split([23]), strict=True
    ):
        assert ((gradient - exact).norm(dim=1) <= most + 3e-6).all()
    assert abs(int(found.nonzero) - int(nonzero.sum())) <= 5


@pytest.mark.parametrize("walked", [512, 1])
@pytest.mark.parametrize(("hinge", "cosine"), HINGES[:2])
def test_shares_of_ranks_add_up(hinge: Hinge, cosine: bool, walked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_verify.pairwise.pair_sum.WALKED", walked)
    batch = pair_batch(41, 10)
    leaves = batch.embeddings, batch.references

    def result(own: slice | None) -> tuple[Tensor, ...]:
        found = pair_sum(batch._replace(own=own), lambda *_: pytest.fail("not the kernel"), cosine, 14, hinge)
        return found.total, torch.as_tensor(found.nonzero), *torch.autograd.grad(found.total, leaves)

    parts = [result(own) for own in (slice(0, 14), slice(14, 27), slice(27, 41))]
    torch.testing.assert_close(
        [sum(part) for part in zip(*parts, strict=True)], list(result(None)), rtol=1e-4, atol=1e-4
    )


def compared_rows(count: int, references: int, kind: str, factors: torch.dtype = torch.float32) -> ComparedRows:
    """Rows, and columns that are the rows (`itself`), rows and references (`together`), or references (`others`)."""
    rows, others = directions(count, 0).detach(), directions(references, 1).detach()
    labels, other_labels = torch.arange(count, device=DEVICE) // 3, torch.arange(references, device=DEVICE) // 4
    if kind == "itself":
        return ComparedRows(rows, labels, rows, labels, True, factors=factors)
    if kind == "together":
        columns, column_labels = torch.cat([rows, others]), torch.cat([labels, other_labels])
        return ComparedRows(rows, labels, columns, column_labels, True, factors=factors)
    return ComparedRows(rows, labels, others, other_labels, False, factors=factors)


def distances(compared: ComparedRows) -> tuple[Tensor, Tensor]:
    """(N, C) distances in float64 from differences, and which pairs are genuine."""
    rows, columns = compared.rows.double(), compared.columns.double()
    same = compared.labels[:, None] == compared.column_labels
    if compared.itself:
        same = same & ~torch.eye(*same.shape, dtype=torch.bool, device=DEVICE)
    return (rows[:, None] - columns).norm(dim=2), same


@pytest.mark.parametrize("kind", ["itself", "together", "others"])
@pytest.mark.parametrize(("count", "references", "size"), [(1, 2, 8192), (22, 9, 8), (75, 140, 8192)])
@pytest.mark.parametrize("bounded", [False, True])
def test_the_nearest_negative_is_that_of_the_naive_loop(
    count: int, references: int, size: int, kind: str, bounded: bool, precision: str
) -> None:
    compared = compared_rows(count, references, kind, FACTORS[precision])
    distance, _ = distances(compared)
    negative = compared.labels[:, None] != compared.column_labels
    inner = torch.tensor([[0.0, 1.1]], device=DEVICE).repeat(count, 1)
    bounds = (inner**2, (inner + 0.3) ** 2) if bounded else None
    slack = LOST[precision] * 2.2 * 1.3 + 2e-3
    for own in (None, slice(count // 3, count)):
        found = nearest_by_kernel(compared._replace(own=own), bounds, size)
        for row in range(count)[own or slice(None)]:
            for query, column in enumerate(found[row].tolist()):
                low, high = (float(inner[row, query]), float(inner[row, query]) + 0.3) if bounded else (-1.0, 9.0)
                sure = negative[row] & (distance[row] > low + slack) & (distance[row] < high - slack)
                if column < 0:
                    assert not sure.any()
                    continue
                assert negative[row, column]
                assert low - slack < distance[row, column] < high + slack
                assert distance[row, column] <= distance[row][sure].min() + 2 * slack if sure.any() else True


@pytest.mark.parametrize("kind", ["itself", "together", "others"])
def test_the_farthest_positive_is_that_of_the_naive_loop(kind: str) -> None:
    compared = compared_rows(31, 20, kind)
    distance, same = distances(compared)
    farthest = distance.masked_fill(~same, -1)
    found = farthest_positives(compared)
    assert found is not None
    has_positive = same.any(dim=1)
    assert torch.equal(found >= 0, has_positive)
    value = farthest.gather(1, found.clamp(min=0)[:, None])[:, 0]
    assert (farthest.amax(dim=1) - value)[has_positive].max() < 1e-6


@pytest.mark.parametrize("miner", [BatchHard(), SemiHard(0.3), SemiHard(0.3, squared=True)])
@pytest.mark.parametrize("memory", [False, True])
def test_miners_choose_what_pytorch_chooses(
    miner: BatchHard | SemiHard, memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, labels = directions(48, 5).detach()[4:], torch.arange(44, device=DEVICE) // 4  # without identical rows
    references = (directions(30, 6).detach()[4:], torch.arange(26, device=DEVICE) // 3) if memory else (None, None)
    found = miner.together(rows, labels, *references)
    monkeypatch.setattr(tiles, "enabled", False)
    expected = miner.together(rows, labels, *references)
    assert [field.tolist() for field in found] == [field.tolist() for field in expected]
    assert len(found.anchor)


@pytest.mark.parametrize("large", [7, 14, 30])  # rows of one identity: searches at once, in parts, and too many
def test_one_large_identity_takes_no_more_memory(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_verify.pairwise.nearest.QUERIES", 20)
    monkeypatch.setattr("siamese_verify.pairwise.nearest.WALKED", 20)
    searches = []
    search = kernels.nearest_impostors

    def watch(*arguments: Any) -> Any:
        searches.append(1 if arguments[4] is None else arguments[4][0].shape[1])
        return search(*arguments)

    monkeypatch.setattr(kernels, "nearest_impostors", watch)
    rows = directions(44, 5).detach()[4:]
    labels = torch.arange(40, device=DEVICE).sub(large).clamp(min=0)
    found = [miner(rows, labels) for miner in (SemiHard(0.3), BatchHard())]
    assert max(searches, default=0) <= SORTED
    assert (max(searches) > 1) == (large < 20)
    monkeypatch.setattr(tiles, "enabled", False)
    expected = [miner(rows, labels) for miner in (SemiHard(0.3), BatchHard())]
    assert [[field.tolist() for field in each] for each in found] == [
        [field.tolist() for field in each] for each in expected
    ]
    assert len(found[0].anchor) > large


def test_rows_of_nan_are_nobodys_nearest() -> None:
    compared = compared_rows(40, 0, "itself")
    compared.rows[7], compared.rows[9] = torch.nan, -torch.nan
    found = nearest_by_kernel(compared._replace(columns=torch.zeros_like(compared.rows) + compared.rows))[:, 0]
    assert (found == -1).all()  # the center of all rows is NaN


def test_equal_impostors_take_the_lowest() -> None:
    rows = torch.zeros(140, 4, device=DEVICE)
    rows[0] = 1
    compared = ComparedRows(
        rows, torch.arange(140, device=DEVICE) // 2, rows, torch.arange(140, device=DEVICE) // 2, True
    )
    assert nearest_by_kernel(compared, size=50)[:, 0].tolist() == [2, 2, 1, 1] + [1] * 136
