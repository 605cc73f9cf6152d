"""Options of the margin softmax losses: subcenters, label smoothing, sampled identities, and margins by quality."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as theirs
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses import (
    AdaFaceLoss,
    ArcFaceLoss,
    CosFaceLoss,
    MagFaceLoss,
    ada_face_cosine,
    mag_face_margin,
    mag_face_penalty,
    margin_softmax,
)
from siamese_verify.losses.margin_softmax import MarginSoftmax
from tests.losses.conftest import batch as labeled_batch

IDENTITIES, SIZE = 7, 5
KINDS = pytest.mark.parametrize("kind", [ArcFaceLoss, CosFaceLoss, AdaFaceLoss, MagFaceLoss])


def batch(count: int = 9, identities: int = 4) -> tuple[Tensor, Tensor]:
    embeddings, labels = labeled_batch(count, identities=identities)
    return embeddings, labels


def seeded(kind: Any, **arguments: Any) -> MarginSoftmax:
    if kind is MagFaceLoss:
        arguments = {"norm_range": (1.2, 3.0), "margins": (0.2, 0.9), "penalty_weight": 2.0, **arguments}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        loss: MarginSoftmax = kind(IDENTITIES, embedding_size=SIZE, scale=6.0, **arguments)
        return loss.double()


def quality(norms: list[float]) -> list[float]:
    mean = math.fsum(norms) / len(norms)
    deviation = math.sqrt(math.fsum((norm - mean) ** 2 for norm in norms) / len(norms))
    return [min(1.0, max(-1.0, 0.333 * (norm - mean) / deviation)) for norm in norms]


def naive(loss: MarginSoftmax, embeddings: Tensor, labels: Tensor, compared: list[int]) -> list[float]:
    """Losses of rows compared with some identities, one number at a time."""
    centers = loss.weights.detach().view(loss.num_identities, loss.subcenters, SIZE).tolist()
    rows = embeddings.tolist()
    norms = [math.hypot(*row) for row in rows]
    found = []
    for row, norm, label, sharp in zip(rows, norms, labels.tolist(), quality(norms), strict=True):
        logits: list[float] = []
        own = 0
        for identity in compared:
            cosine = max(
                math.fsum(x * y for x, y in zip(row, center, strict=True)) / (norm * math.hypot(*center))
                for center in centers[identity]
            )
            if identity == label:
                own, angle = len(logits), math.acos(cosine)
                if isinstance(loss, CosFaceLoss):
                    cosine -= loss.margin
                elif isinstance(loss, AdaFaceLoss):
                    angle = min(math.pi, max(0.0, angle - loss.margin * sharp))
                    cosine = math.cos(angle) - loss.margin * (sharp + 1)
                else:
                    margin = loss.margin
                    if isinstance(loss, MagFaceLoss):
                        margin = 0.2 + 0.7 * (min(3.0, max(1.2, norm)) - 1.2) / 1.8
                    wide = angle + margin
                    cosine = math.cos(wide) if wide <= math.pi else cosine - margin * math.sin(margin)
            logits.append(loss.scale * cosine)
        log_sum = math.log(math.fsum(map(math.exp, logits)))
        target = [loss.label_smoothing / len(logits)] * len(logits)
        target[own] += 1 - loss.label_smoothing
        value = math.fsum(share * (log_sum - logit) for share, logit in zip(target, logits, strict=True))
        if isinstance(loss, MagFaceLoss):
            length = min(3.0, max(1.2, norm))
            value += 2.0 * (length / 9 + 1 / length)
        found.append(value)
    return found


@KINDS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subcenters": 3},
        {"label_smoothing": 0.2},
        {"subcenters": 2, "label_smoothing": 0.1, "reduction": "sum"},
    ],
)
def test_items_agree_with_a_naive_loop(kind: Any, options: dict[str, Any]) -> None:
    embeddings, labels = batch()
    loss = seeded(kind, **options)
    expected = torch.tensor(naive(loss, embeddings, labels, list(range(IDENTITIES))), dtype=torch.float64)
    torch.testing.assert_close(loss.eval().items(embeddings, labels), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss.train().items(embeddings, labels), expected, rtol=0, atol=1e-12)
    reduced = expected.sum() if loss.reduction == "sum" else expected.mean()
    torch.testing.assert_close(loss(embeddings, labels), reduced, rtol=0, atol=1e-11)


@KINDS
@pytest.mark.parametrize("options", [{}, {"subcenters": 2}, {"label_smoothing": 0.3}])
def test_gradients_are_right(kind: Any, options: dict[str, Any]) -> None:
    embeddings, labels = batch()
    loss = seeded(kind, **options).eval()
    if isinstance(loss, AdaFaceLoss):
        loss.concentration = 1e-12  # finite differences would see the quality change, which counts as constant

    def value(rows: Tensor, weights: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(loss, {"weights": weights}, (rows, labels))
        return result

    assert torch.autograd.gradcheck(value, (embeddings.requires_grad_(), loss.weights))


def test_the_quality_of_ada_face_has_no_gradient() -> None:
    embeddings, labels = batch()
    loss = seeded(AdaFaceLoss)
    (gradient,) = torch.autograd.grad(loss(embeddings.requires_grad_(), labels), embeddings)
    along = torch.linalg.vecdot(gradient, embeddings)  # the loss does not change with the length of a row
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_subcenters_are_those_of_pytorch_metric_learning_and_smoothing_is_torchs(smoothing: float) -> None:
    embeddings, labels = batch()
    ours = seeded(ArcFaceLoss, subcenters=3, margin=0.4, label_smoothing=smoothing)
    peer: Any = theirs.SubCenterArcFaceLoss(
        num_classes=IDENTITIES, embedding_size=SIZE, margin=math.degrees(0.4), scale=6, sub_centers=3
    )
    peer.W.data = ours.weights.detach().view(-1, SIZE).T.clone()
    peer.cross_entropy = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(ours(embeddings, labels), peer(embeddings, labels), rtol=0, atol=1e-12)


@KINDS
@pytest.mark.parametrize("subcenters", [1, 2])
def test_blocks_of_identities_change_nothing(kind: Any, subcenters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels = batch()
    leaf = embeddings.requires_grad_()
    found = []
    for logits in (1 << 26, 40, 1):
        monkeypatch.setattr(margin_softmax, "LOGITS", logits)
        loss = seeded(kind, subcenters=subcenters, label_smoothing=0.1)
        value = loss(embeddings, labels)
        found.append([value, *torch.autograd.grad(value, (leaf, loss.weights))])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=1e-13)


@KINDS
@pytest.mark.parametrize("options", [{}, {"subcenters": 2, "label_smoothing": 0.1}])
def test_a_sample_of_identities_holds_the_batchs_own_and_gives_the_loss_over_just_these(
    kind: Any, options: dict[str, Any]
) -> None:
    embeddings, labels = batch(4, identities=3)
    loss = seeded(kind, sample_rate=0.7, **options)
    chosen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        value = loss(embeddings.requires_grad_(), labels)
        rows, weights = torch.autograd.grad(value, (embeddings, loss.weights))
        assert weights.is_sparse
        compared = weights.coalesce().indices()[0].tolist()
        assert len(compared) == 5 and {0, 1, 2} <= set(compared)
        chosen.update(compared)
        if isinstance(loss, AdaFaceLoss):
            continue  # its quality follows all batches
        expected = naive(loss, embeddings, labels, compared)
        assert value.item() == pytest.approx(math.fsum(expected) / 4, rel=0, abs=1e-12)
        torch.manual_seed(seed)
        again = torch.autograd.grad(loss(embeddings, labels), (embeddings, loss.weights))
        assert torch.equal(again[0], rows) and torch.equal(again[1].to_dense(), weights.to_dense())
    assert chosen == set(range(IDENTITIES))
    loss.eval()
    everything = copy.deepcopy(loss)
    everything.sample_rate = 1.0
    assert torch.equal(loss(embeddings, labels), everything(embeddings, labels))


@pytest.mark.parametrize(("rate", "rows", "compared"), [(0.3, 1, 2), (0.01, 1, 1), (0.01, 4, 4), (1.0, 1, 7)])
def test_a_sample_has_the_share_that_is_asked_or_room_for_the_batch(rate: float, rows: int, compared: int) -> None:
    loss = seeded(ArcFaceLoss, sample_rate=rate)
    (weights,) = torch.autograd.grad(loss(*batch(rows)), loss.weights)
    assert (len(weights.coalesce().indices()[0]) if weights.is_sparse else len(weights)) == compared


def test_ada_face_follows_the_lengths_of_batches() -> None:
    loss = seeded(AdaFaceLoss, momentum=0.25)
    assert isinstance(loss, AdaFaceLoss)
    first, labels = batch()
    loss(first, labels)
    lengths = first.norm(dim=1)
    assert float(loss.mean) == pytest.approx(float(lengths.mean()))
    assert float(loss.deviation) == pytest.approx(float(lengths.std(correction=0)))
    loss(3 * first, labels)
    assert float(loss.mean) == pytest.approx(1.5 * float(lengths.mean()))
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval()(9 * first, labels)
    loss.train()(first[:0], labels[:0])  # an empty batch has no length
    torch.testing.assert_close(dict(loss.state_dict()), state, rtol=0, atol=0)


def test_an_overflow_leaves_the_lengths_of_ada_face_as_they_are() -> None:
    loss = seeded(AdaFaceLoss)
    assert isinstance(loss, AdaFaceLoss)
    first, labels = batch()
    for start in (math.nan, float(first.norm(dim=1).mean())):  # before any batch, and after one
        for length in (math.inf, math.nan):
            loss.with_margin(torch.zeros(2), torch.tensor([length, 1.0]))  # such a batch is refused on a CPU only
            assert float(loss.mean) == pytest.approx(start, nan_ok=True)
            assert math.isnan(loss.deviation) == math.isnan(start)
        loss(first, labels)


def test_ada_face_knows_the_deviation_of_long_embeddings() -> None:
    loss = seeded(AdaFaceLoss)
    assert isinstance(loss, AdaFaceLoss)
    embeddings, labels = batch()
    spread = 0.05 * torch.randn(len(embeddings), 1, generator=torch.Generator().manual_seed(0))
    embeddings = torch.nn.functional.normalize(embeddings) * (1000 + spread)
    loss(embeddings, labels)
    assert float(loss.deviation) == pytest.approx(float(embeddings.norm(dim=1).double().std(correction=0)), rel=0.01)


def test_the_margin_of_ada_face_is_arc_faces_for_the_worst_photos_and_cos_faces_for_average_ones() -> None:
    cosine = torch.linspace(-1, 1, 101, dtype=torch.float64, requires_grad=True)
    for sharp, expected in (
        (0.0, cosine - 0.4),
        (-1.0, (cosine.acos() + 0.4).clamp(max=math.pi).cos()),
        (1.0, (cosine.acos() - 0.4).clamp(min=0).cos() - 0.8),
    ):
        moved = ada_face_cosine(cosine, torch.full_like(cosine, sharp), 0.4)
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
        (slope,) = torch.autograd.grad(moved.sum(), cosine)
        assert slope.isfinite().all()


def test_mag_faces_margin_and_penalty_end_with_the_range_of_lengths() -> None:
    norms = torch.tensor([1.0, 10.0, 60.0, 110.0, 500.0])
    torch.testing.assert_close(mag_face_margin(norms), torch.tensor([0.45, 0.45, 0.625, 0.8, 0.8]))
    expected = [10 / 110**2 + 1 / 10, 10 / 110**2 + 1 / 10, 60 / 110**2 + 1 / 60, 2 / 110, 2 / 110]
    torch.testing.assert_close(mag_face_penalty(norms), torch.tensor(expected))


@pytest.mark.parametrize("kind", [AdaFaceLoss, MagFaceLoss])
def test_embeddings_of_unit_length_are_refused_where_the_length_counts(kind: Any) -> None:
    embeddings, labels = batch()
    with pytest.raises(InputError, match=f"{kind.__name__} reads the length of embeddings, but all have length 1"):
        seeded(kind)(torch.nn.functional.normalize(embeddings), labels)


@KINDS
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subcenters": 0}, "subcenters is 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0"),
        ({"label_smoothing": -0.1}, r"label_smoothing is -0\.1"),
        ({"sample_rate": 0.0}, r"sample_rate is 0\.0"),
        ({"sample_rate": 1.1}, r"sample_rate is 1\.1"),
    ],
)
def test_an_option_out_of_range_is_named(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        seeded(kind, **arguments)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (AdaFaceLoss, {"margin": 1.6}, r"margin is 1\.6"),
        (AdaFaceLoss, {"concentration": 0}, "concentration is 0"),
        (AdaFaceLoss, {"momentum": 0}, "momentum is 0"),
        (MagFaceLoss, {"norm_range": (5, 5)}, r"norm_range is \[5, 5\]"),
        (MagFaceLoss, {"norm_range": [5]}, r"norm_range is \[5\], but must be two numbers"),
        (MagFaceLoss, {"norm_range": 5}, r"norm_range is 5, but must be two numbers"),
        (MagFaceLoss, {"margins": (0.5, 0.4)}, r"margins are \[0\.5, 0\.4\]"),
        (MagFaceLoss, {"penalty_weight": -1}, "penalty_weight is -1"),
    ],
)
def test_a_parameter_of_quality_out_of_range_is_named(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        seeded(kind, **arguments)


@KINDS
def test_it_says_which_options_are_set(kind: Any) -> None:
    assert "subcenters=3, sample_rate=0.5" in repr(seeded(kind, subcenters=3, sample_rate=0.5))
    assert "subcenters" not in repr(seeded(kind))
