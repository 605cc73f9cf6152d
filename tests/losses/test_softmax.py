"""NT-Xent and SupCon against reference values, naive loops, torch and pytorch-metric-learning."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as peers
from torch import Tensor
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.losses import NTXentLoss, SupConLoss
from siamese_verify.losses.softmax import SoftmaxObjective
from siamese_verify.miners import AllPairs
from siamese_verify.structures import Pairs, Triplets

BOTH = pytest.mark.parametrize("kind", [NTXentLoss, SupConLoss])


def batch(count: int = 9, identities: int = 3, seed: int = 0, size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, size, dtype=torch.float64, generator=generator)
    return embeddings, torch.randint(identities, (count,), generator=generator)


def naive_terms(
    embeddings: Tensor, labels: list[int], references: Tensor, reference_labels: list[int], temperature: float
) -> dict[int, list[float]]:
    """-log softmax at each positive, by anchor."""
    rows = [[x / math.hypot(*row) for x in row] for row in torch.cat([embeddings, references]).tolist()]
    everyone = labels + reference_labels
    terms: dict[int, list[float]] = {}
    for i in range(len(labels)):
        logit = {
            k: math.fsum(x * y for x, y in zip(rows[i], rows[k], strict=True)) / temperature
            for k in range(len(rows))
            if k != i
        }
        log_sum = math.log(math.fsum(math.exp(value) for value in logit.values())) if logit else 0.0
        positives = [log_sum - value for k, value in logit.items() if everyone[k] == everyone[i]]
        if positives:
            terms[i] = positives
    return terms


def naive_items(kind: type[SoftmaxObjective], terms: dict[int, list[float]]) -> Tensor:
    if kind is NTXentLoss:
        return torch.tensor([value for anchor in terms.values() for value in anchor], dtype=torch.float64)
    return torch.tensor([math.fsum(anchor) / len(anchor) for anchor in terms.values()], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "labels", "loss"),
    [
        ("nt_xent temperature=0.5 labels_two_views", "labels_two_views", NTXentLoss(0.5)),
        ("nt_xent temperature=0.07 labels_two_views", "labels_two_views", NTXentLoss(0.07)),
        ("sup_con temperature=0.1 labels_many", "labels_many", SupConLoss(0.1)),
    ],
)
def test_reference_values_are_met(reference: Any, name: str, labels: str, loss: SoftmaxObjective) -> None:
    embeddings = torch.tensor(reference["embeddings"], dtype=torch.float64)
    identities = torch.tensor(reference[labels])
    expected = pytest.approx(reference["values"][name], abs=1e-12)
    assert loss(embeddings, identities).item() == expected
    assert loss.items(embeddings, identities).mean().item() == expected
    assert loss(embeddings, identities, AllPairs()(embeddings, identities)).item() == expected


@BOTH
@pytest.mark.parametrize("references", [0, 5])
@pytest.mark.parametrize("seed", range(2))
def test_everything_agrees_with_a_naive_loop(kind: type[SoftmaxObjective], references: int, seed: int) -> None:
    embeddings, labels = batch(seed=seed)
    others, other_labels = batch(references, identities=4, seed=seed + 10)
    expected = naive_items(kind, naive_terms(embeddings, labels.tolist(), others, other_labels.tolist(), 0.2))
    loss = kind(0.2)
    torch.testing.assert_close(loss.items(embeddings, labels, None, others, other_labels), expected)
    torch.testing.assert_close(
        loss(embeddings, labels, None, others, other_labels), expected.mean(), rtol=1e-13, atol=0
    )
    total = kind(0.2, reduction="sum")(embeddings, labels, None, others, other_labels)
    torch.testing.assert_close(total, expected.sum(), rtol=1e-13, atol=0)


@BOTH
@pytest.mark.parametrize("references", [0, 5])
def test_gradients_are_right_with_identical_and_opposite_embeddings(
    kind: type[SoftmaxObjective], references: int
) -> None:
    embeddings, labels = batch()
    embeddings[1], embeddings[2], embeddings[4] = embeddings[0], -embeddings[0], embeddings[3]
    others, other_labels = batch(references, identities=4, seed=10)
    others = others.requires_grad_(references > 0)
    for loss in (kind(0.3), kind(0.3, reduction="none")):
        assert torch.autograd.gradcheck(
            lambda z, r, loss=loss: loss(z, labels, None, r, other_labels), (embeddings.requires_grad_(), others)
        )


@pytest.mark.parametrize("count", [2, 6, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_views_are_torchs_cross_entropy(count: int, dtype: torch.dtype) -> None:
    embeddings = torch.randn(count, 16, dtype=dtype, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = F.normalize(embeddings) @ F.normalize(embeddings).T / 0.3
    expected = F.cross_entropy(logits.fill_diagonal_(-torch.inf), torch.arange(count) ^ 1)
    value = NTXentLoss(0.3)(embeddings, torch.arange(count) // 2)
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(*(torch.autograd.grad(loss, embeddings) for loss in (value, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "people"), [(6, 2), (40, 7), (40, 39)])
def test_sup_con_is_that_of_pytorch_metric_learning(count: int, people: int, seed: int) -> None:
    embeddings, labels = batch(count, people, seed)
    embeddings.requires_grad_()
    expected = peers.SupConLoss(temperature=0.1)(embeddings, labels)
    has_positive = (labels[:, None] == labels).sum(1) > 1
    # Theirs divides by all anchors that have a positive, too.
    value = SupConLoss(0.1)(embeddings, labels)
    torch.testing.assert_close(value, expected)
    assert has_positive.any()
    for ours, theirs in zip(*(torch.autograd.grad(loss, embeddings) for loss in (value, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@BOTH
@pytest.mark.parametrize("temperature", [0.003, 0.01, 0.024, 0.025, 0.1, 1.0])  # float64 helps up to 0.024
def test_single_precision_is_exact_at_any_temperature(kind: type[SoftmaxObjective], temperature: float) -> None:
    embeddings, labels = batch(64, 20, size=512)
    embeddings[10] = -embeddings[0]  # exp(-2 / t) is out of float32's range below 0.023
    single, double = embeddings.float().requires_grad_(), embeddings.float().double().requires_grad_()
    loss = kind(temperature)
    value, exact = loss(single, labels), loss(double, labels)
    value.backward(), exact.backward()
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    assert single.grad is not None
    assert double.grad is not None
    assert (single.grad - double.grad).norm() < 1e-5 * double.grad.norm()


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_rows_that_oppose_all_others_do_not_underflow(temperature: float) -> None:
    embeddings = torch.eye(2)[[0, 0, 0, 0, 0, 0]] + 1e-3 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    embeddings[5] *= -1  # its largest logit is -1 / t
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    single, exact = (NTXentLoss(temperature).items(z, labels) for z in (embeddings, embeddings.double()))
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)


@BOTH
@pytest.mark.parametrize("references", [0, 5])
def test_given_pairs_are_all_that_an_anchor_is_compared_with(kind: type[SoftmaxObjective], references: int) -> None:
    embeddings, labels = batch()
    others, other_labels = batch(references, identities=3, seed=10)
    rows = torch.cat([embeddings, others])
    everyone = torch.cat([labels, other_labels])
    anchor = torch.tensor([0, 0, 3, 7, 1])
    other = torch.tensor([2, 5, 8, 6, 8 + references])
    tuples = Pairs(anchor, other, everyone[anchor] == everyone[other])
    u = F.normalize(rows)
    terms: dict[int, list[float]] = {}
    edges = list(zip(anchor.tolist(), other.tolist(), strict=True))
    edges += [(b, a) for a, b in edges if b < 9]
    for a, b in edges:
        if everyone[a] == everyone[b]:
            others_of_a = torch.tensor([j for i, j in edges if i == a])
            log_sum = (u[a] @ u[others_of_a].T / 0.2).logsumexp(0)
            terms.setdefault(a, []).append(float(log_sum - u[a] @ u[b] / 0.2))
    assert terms
    items = kind(0.2).items(embeddings, labels, tuples, others, other_labels)
    torch.testing.assert_close(items.sort().values, naive_items(kind, terms).sort().values)


@BOTH
def test_a_given_triplet_is_a_choice_between_two(kind: type[SoftmaxObjective]) -> None:
    embeddings, labels = batch()
    u = F.normalize(embeddings)
    triplets = Triplets(torch.tensor([4, 1]), torch.tensor([2, 3]), torch.tensor([0, 8]))
    logits = torch.stack([(u[triplets.anchor] * u[other]).sum(1) / 0.2 for other in triplets[1:]], dim=1)
    expected = F.cross_entropy(logits, torch.zeros(2, dtype=torch.int64), reduction="none")
    items = kind(0.2).items(embeddings, labels, triplets)
    torch.testing.assert_close(items.sort().values, expected.sort().values)
    torch.testing.assert_close(kind(0.2)(embeddings, labels, tuple(triplets)), expected.mean())


@BOTH
@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero", "sum"])
@pytest.mark.parametrize(
    "labels", [[], [3], [1, 2, 3], [3, 3], [3, 3, 3]], ids=["none", "one", "no genuine", "two", "same"]
)
@pytest.mark.parametrize("identical", [False, True])
def test_a_degenerate_batch_has_a_defined_value_and_gradient(
    kind: type[SoftmaxObjective], reduction: Any, labels: list[int], identical: bool
) -> None:
    embeddings = (torch.ones(len(labels), 3) if identical else torch.eye(3)[: len(labels)]).requires_grad_()
    value = kind(0.1, reduction=reduction)(embeddings, torch.tensor(labels, dtype=torch.int64))
    value.backward()
    expected = 0.0
    if labels == [3, 3, 3]:  # two others that are equal
        expected = math.log(2) * ({NTXentLoss: 6, SupConLoss: 3}[kind] if reduction == "sum" else 1)
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert embeddings.grad is not None
    assert not embeddings.grad.numel() or embeddings.grad.abs().max() < 1e-5


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_the_backward_pass_may_run_twice(temperature: float) -> None:
    embeddings, labels = batch()
    value = NTXentLoss(temperature)(embeddings.requires_grad_(), labels)
    once, again = (torch.autograd.grad(value, embeddings, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, again)


@BOTH
@pytest.mark.parametrize("temperature", [0.0, 0.002, -1.0, math.nan])
def test_a_temperature_that_is_too_small_is_refused(kind: type[SoftmaxObjective], temperature: float) -> None:
    with pytest.raises(InputError, match=f"temperature is {temperature}"):
        kind(temperature)


def test_items_of_many_rows_have_their_type_at_low_temperatures() -> None:
    embeddings = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    assert NTXentLoss(0.01).items(embeddings, torch.arange(400) // 2).dtype == torch.float32


def test_a_batch_of_65536_has_the_loss_of_the_closed_form() -> None:
    centers = F.normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    row = torch.arange(2**16)  # 1,024 rows along each direction; four of a person, in a row, along four directions
    found = SupConLoss()(centers[row % 64].float(), row // 4)
    cosine = centers @ centers.T / SupConLoss().temperature
    others = torch.log(
        1024 * cosine.exp().sum(dim=1) - cosine.diagonal().exp()
    )  # of all 2^32 pairs but those with itself
    own = torch.stack([cosine[row % 64, (row ^ step) % 64] for step in (1, 2, 3)]).mean(dim=0)
    assert float(found) == pytest.approx(float((others[row % 64] - own).mean()), rel=1e-6)
