"""LinearSoftmaxLoss against torch's cross-entropy over a linear layer, a naive loop and gradcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from siamese_verify.errors import InputError
from siamese_verify.losses import LinearSoftmaxLoss
from siamese_verify.structures import Pairs
from tests.losses.conftest import batch as labeled_batch


def seeded(**arguments: Any) -> LinearSoftmaxLoss:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return LinearSoftmaxLoss(**{"num_identities": 4, "embedding_size": 5, **arguments}).double()


def batch() -> tuple[Tensor, Tensor]:
    return labeled_batch(9, identities=4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_values_and_gradients_are_those_of_a_linear_layer_and_cross_entropy(smoothing: float) -> None:
    embeddings, labels = batch()
    embeddings.requires_grad_()
    ours, layer = seeded(label_smoothing=smoothing), nn.Linear(5, 4).double()
    layer.load_state_dict(ours.linear.state_dict())
    values = ours(embeddings, labels), functional.cross_entropy(layer(embeddings), labels, label_smoothing=smoothing)
    gradients = (
        torch.autograd.grad(value, [embeddings, *part.parameters()])
        for value, part in zip(values, (ours, layer), strict=True)
    )
    torch.testing.assert_close(*values, rtol=0, atol=1e-14)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-14)


def test_items_agree_with_a_naive_loop() -> None:
    embeddings, labels = batch()
    loss = seeded()
    expected = []
    for row, label in zip(embeddings.tolist(), labels.tolist(), strict=True):
        layer = zip(loss.linear.weight.tolist(), loss.linear.bias.tolist(), strict=True)
        logits = [math.fsum(x * y for x, y in zip(row, weight, strict=True)) + bias for weight, bias in layer]
        expected.append(math.log(math.fsum(map(math.exp, logits))) - logits[label])
    found = loss.items(embeddings, labels)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_length_of_an_embedding_counts_and_its_gradient_is_right() -> None:
    embeddings, labels = batch()
    loss = seeded()

    def value(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"linear.weight": weight, "linear.bias": bias}
        result: Tensor = torch.func.functional_call(loss, parameters, (rows, labels))
        return result

    assert torch.autograd.gradcheck(value, (embeddings.requires_grad_(), loss.linear.weight, loss.linear.bias))
    assert (loss.items(embeddings, labels) - loss.items(2 * embeddings, labels)).abs().min() > 1e-3


def test_an_empty_batch_and_a_single_identity_cost_nothing_and_have_a_gradient() -> None:
    for rows, count in ((0, 4), (3, 1)):
        embeddings, loss = torch.ones(rows, 5, requires_grad=True), seeded(num_identities=count).float()
        measured = loss.measure(embeddings, torch.zeros(rows, dtype=torch.int64))
        measured.loss.backward()  # type: ignore[no-untyped-call]
        assert measured.loss == 0
        assert measured.fraction_nonzero == 0
        for leaf in (embeddings, *loss.parameters()):
            assert leaf.grad is not None
            assert leaf.grad.count_nonzero() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_identities": 0}, "num_identities is 0"),
        ({"embedding_size": 2.0}, r"embedding_size is 2\.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0"),
        ({"reduction": "median"}, "reduction is 'median'"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        seeded(**arguments)


ROW = torch.tensor([0])


@pytest.mark.parametrize(
    ("embeddings", "labels", "more", "message"),
    [
        (torch.ones(2, 5), [0, 7], (), "label 7 is none of the 4 identities, 0 to 3"),
        (torch.ones(2, 6), [0, 1], (), "weights of embedding_size 5.*embeddings of 6"),
        (torch.eye(5), [0, 1, 2, 3, 0], (), "LinearSoftmaxLoss reads the length of embeddings, but all have length 1"),
        (torch.ones(2, 5), [0, 1], (Pairs(ROW, ROW, ROW.bool()),), "takes no pairs, but was given 1: set miner=none"),
        (torch.ones(2, 5), [0, 1], (None, torch.ones(1, 5), ROW), "no use for a memory.*1 references"),
    ],
)
def test_what_it_cannot_use_is_refused(
    embeddings: Tensor, labels: list[int], more: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        seeded()(embeddings.double(), torch.tensor(labels), *more)
