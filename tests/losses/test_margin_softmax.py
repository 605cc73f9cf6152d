"""ArcFaceLoss and CosFaceLoss against pytorch-metric-learning, naive loops and gradcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as theirs
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses.margin_softmax import (
    ArcFaceLoss,
    CosFaceLoss,
    MarginSoftmax,
    arc_face_cosine,
    cos_face_cosine,
)
from siamese_verify.structures import Pairs, Triplets
from tests.losses.conftest import batch as labeled_batch

KINDS = pytest.mark.parametrize("kind", [ArcFaceLoss, CosFaceLoss])


def batch(count: int = 9) -> tuple[Tensor, Tensor]:
    return labeled_batch(count, identities=4)


def seeded(kind: Any, **arguments: Any) -> MarginSoftmax:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        loss: MarginSoftmax = kind(4, embedding_size=5, **arguments)
        return loss.double()


@KINDS
@pytest.mark.parametrize("margin", [0.0, 0.4, 1.5])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_items_agree_with_a_naive_loop(kind: Any, margin: float, scale: float) -> None:
    embeddings, labels = batch()
    loss = seeded(kind, scale=scale, margin=margin)
    expected = []
    for row, label in zip(embeddings.tolist(), labels.tolist(), strict=True):
        cosines = [
            math.fsum(x * y for x, y in zip(row, weight, strict=True)) / (math.hypot(*row) * math.hypot(*weight))
            for weight in loss.weights.tolist()
        ]
        angle = math.acos(cosines[label])
        if kind is CosFaceLoss:
            cosines[label] -= margin
        elif angle + margin <= math.pi:
            cosines[label] = math.cos(angle + margin)
        else:
            cosines[label] -= margin * math.sin(margin)
        logits = [scale * cosine for cosine in cosines]
        top = max(logits)
        expected.append(top + math.log(math.fsum(math.exp(logit - top) for logit in logits)) - logits[label])
    items = loss.items(embeddings, labels)
    torch.testing.assert_close(items, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    for reduction in ("mean", "mean_nonzero", "sum", "none"):
        loss.reduction = reduction
        value = {"sum": items.sum(), "none": items}.get(reduction, items.mean())
        torch.testing.assert_close(loss(embeddings, labels), value)


@KINDS
@pytest.mark.parametrize("margin", [0.3, 2.5])
def test_values_and_gradients_are_those_of_pytorch_metric_learning(kind: Any, margin: float) -> None:
    embeddings, labels = batch()
    embeddings.requires_grad_()
    ours = seeded(kind, margin=margin, scale=20.0)
    if kind is ArcFaceLoss:
        peer: Any = theirs.ArcFaceLoss(4, 5, margin=math.degrees(margin), scale=20)
    else:
        peer = theirs.CosFaceLoss(4, 5, margin=margin, scale=20)
    peer.W.data = ours.weights.detach().T.clone()
    values = [loss(embeddings, labels) for loss in (ours, peer)]
    torch.testing.assert_close(*values, rtol=0, atol=1e-12)
    to_rows, to_weights = torch.autograd.grad(values[0], (embeddings, ours.weights))
    peer_to_rows, peer_to_weights = torch.autograd.grad(values[1], (embeddings, peer.W))
    torch.testing.assert_close(to_rows, peer_to_rows, rtol=0, atol=1e-12)
    torch.testing.assert_close(to_weights, peer_to_weights.T, rtol=0, atol=1e-12)


@KINDS
def test_gradient_is_right_with_identical_embeddings_too(kind: Any) -> None:
    embeddings, labels = batch()
    embeddings[1] = embeddings[0]  # of other identities
    embeddings[6] = embeddings[2]  # of one
    loss = seeded(kind, scale=4.0)

    def value(rows: Tensor, weights: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(loss, {"weights": weights}, (rows, labels))
        return result

    assert torch.autograd.gradcheck(value, (embeddings.requires_grad_(), loss.weights))


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0, 2.33])
def test_the_margin_widens_the_angle_and_the_cosine_falls_all_the_way(margin: float) -> None:
    angles = torch.linspace(0, math.pi, 1001, dtype=torch.float64)
    widened = arc_face_cosine(angles.cos(), margin)
    below = angles < math.pi - margin - 1e-6
    torch.testing.assert_close(widened[below], (angles[below] + margin).cos(), rtol=0, atol=1e-12)
    beyond = angles > math.pi - margin + 1e-6
    continued = angles[beyond].cos() - margin * math.sin(margin)
    torch.testing.assert_close(widened[beyond], continued, rtol=0, atol=1e-12)
    assert (widened.diff() < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
def test_the_margin_has_a_finite_gradient_at_both_ends_and_just_beyond(dtype: torch.dtype, margin: float) -> None:
    ends = [1.0, 1 - 1e-7, 1 + 1e-7, -1.0, -1 + 1e-7, -1 - 1e-7, 0.0]
    cosine = torch.tensor(ends, dtype=dtype, requires_grad=True)
    widened = arc_face_cosine(cosine, margin)
    (slope,) = torch.autograd.grad(widened.sum(), cosine)
    assert widened.isfinite().all()
    assert slope.isfinite().all()
    assert widened[0].item() == pytest.approx(math.cos(margin))
    assert slope[0].item() == pytest.approx(math.cos(margin))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_on_their_weights_or_opposite_have_a_bounded_gradient(sign: int, dtype: torch.dtype) -> None:
    loss = ArcFaceLoss(8, embedding_size=512).to(dtype)
    embeddings = (sign * loss.weights.detach() * 3).requires_grad_()
    value = loss(embeddings, torch.arange(8))
    value.backward()
    assert value.isfinite()
    for leaf in (embeddings, loss.weights):
        assert leaf.grad is not None
        assert leaf.grad.norm(dim=1).max() < 64


def test_cos_face_takes_the_margin_off() -> None:
    assert cos_face_cosine(torch.tensor([0.5, -1.0]), 0.25).tolist() == [0.25, -1.25]


@KINDS
def test_a_row_of_zeros_and_an_empty_batch_have_a_defined_value_and_gradient(kind: Any) -> None:
    loss = seeded(kind)
    for embeddings in (torch.zeros(2, 5, requires_grad=True), torch.ones(0, 5, requires_grad=True)):
        loss.zero_grad()
        value = loss(embeddings, torch.zeros(len(embeddings), dtype=torch.int64))
        value.backward()
        assert value.isfinite()
        for leaf in (embeddings, loss.weights):
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()
        assert len(embeddings) or value == 0


@KINDS
def test_a_single_identity_costs_nothing(kind: Any) -> None:
    value = kind(1, embedding_size=5)(batch()[0], torch.zeros(9, dtype=torch.int64))
    assert value == 0


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_will_do(kind: Any, dtype: torch.dtype) -> None:
    embeddings, labels = batch()
    assert seeded(kind).to(dtype)(embeddings.to(dtype), labels).dtype == dtype  # as mixed training may leave them


@KINDS
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_identities": 0}, "num_identities is 0"),
        ({"num_identities": 2.0}, r"num_identities is 2\.0"),
        ({"num_identities": "10"}, "num_identities is '10'"),
        ({"embedding_size": 0}, "embedding_size is 0"),
        ({"scale": 0}, "scale is 0"),
        ({"margin": -0.1}, r"margin is -0\.1"),
        ({"margin": math.nan}, "margin is nan"),
        ({"margin": math.inf}, "margin must be a finite number, got inf"),
        ({"scale": math.inf}, "scale must be a finite number, got inf"),
        ({"scale": "x"}, "scale must be a number, got 'x'"),
        ({"scale": torch.ones(2)}, r"scale must be a number, got tensor\("),
        ({"scale": 10**400}, r"scale must be a finite number, got 10{79}\."),
        ({"reduction": "median"}, "reduction is 'median'"),
    ],
)
def test_an_argument_out_of_range_is_named(kind: Any, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**{"num_identities": 3, **arguments})


def test_an_angle_of_pi_is_too_wide() -> None:
    with pytest.raises(InputError, match=r"margin is 3\.2.*radians"):
        ArcFaceLoss(3, margin=3.2)


ROWS = torch.tensor([0, 1])


@KINDS
@pytest.mark.parametrize(
    ("dimensions", "labels", "more", "message"),
    [
        (5, [0, 1, 7], (), "label 7 is none of the 4 identities, 0 to 3"),
        (5, [0, -1, 9], (), "label -1 is none of the 4 identities"),
        (6, [0, 1, 2], (), "weights of embedding_size 5.*embeddings of 6"),
        (5, [0, 1, 2], (Pairs(ROWS, ROWS, ROWS.bool()),), "takes no pairs, but was given 2: set miner=none"),
        (5, [0, 1, 2], (Triplets(ROWS, ROWS, ROWS),), "takes no triplets, but was given 2: set miner=none"),
        (5, [0, 1, 2], (None, torch.ones(2, 5), ROWS), "no use for a memory.*2 references"),
    ],
)
def test_what_it_cannot_use_is_refused(
    kind: Any, dimensions: int, labels: list[int], more: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        seeded(kind)(torch.ones(3, dimensions), torch.tensor(labels), *more)


@KINDS
def test_it_says_what_it_is(kind: Any) -> None:
    loss = kind(3, scale=30.0, margin=0.2, embedding_size=8)
    parameters = "num_identities=3, scale=30.0, margin=0.2, embedding_size=8, reduction='mean'"
    assert repr(loss) == f"{kind.__name__}({parameters})"
    assert loss.weights.shape == (3, 8)
