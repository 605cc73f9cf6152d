"""Promises of all losses over labeled batches, and reduction of their items."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from typing import Any, cast

import pytest
import torch
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from siamese_verify.errors import InputError
from siamese_verify.losses import (
    AdaFaceLoss,
    ArcFaceLoss,
    BatchLoss,
    ContrastiveLoss,
    CosFaceLoss,
    CosinePairLoss,
    InBatchNegatives,
    InfoNCELoss,
    LinearSoftmaxLoss,
    MagFaceLoss,
    MagnetLoss,
    NCELoss,
    NTXentLoss,
    SupConLoss,
    TripletLoss,
    reduce_items,
)
from siamese_verify.losses.base import Items, Reduction, fraction_nonzero, sum_items
from siamese_verify.miners import AllPairs, AllTriplets, HardPairs
from siamese_verify.pairwise import blocks, tiles
from siamese_verify.structures import Pairs, Triplets

COMPARING = {
    "contrastive": ContrastiveLoss(1.5),
    "contrastive, cosine": ContrastiveLoss(0.9, "cosine"),
    "cosine pair": CosinePairLoss(0.1),
    "triplet": TripletLoss(0.4),
    "triplet, squared": TripletLoss(0.4, squared=True),
    "triplet, soft": TripletLoss(soft=True),
    "nt_xent": NTXentLoss(0.3),
    "sup_con": SupConLoss(0.3),
    "info_nce": InBatchNegatives(InfoNCELoss(0.3)),
    "nce": InBatchNegatives(NCELoss(0.3)),
}
CLASSIFYING = {
    "magnet": MagnetLoss(2),
    "arc_face": ArcFaceLoss(16, scale=8, embedding_size=5),
    "cos_face": CosFaceLoss(16, scale=8, embedding_size=5),
    "subcenters, smoothed": ArcFaceLoss(16, scale=8, embedding_size=5, subcenters=3, label_smoothing=0.1),
    "ada_face": AdaFaceLoss(16, scale=8, embedding_size=5).eval(),  # in training it remembers lengths
    "mag_face": MagFaceLoss(16, scale=8, embedding_size=5, norm_range=(1.0, 9.0)),
    "linear softmax": LinearSoftmaxLoss(16, embedding_size=5, label_smoothing=0.1),
}
ALL = COMPARING | CLASSIFYING
WAITING = ("triplet", "triplet, squared", "triplet, soft", "info_nce", "nce")  # wait for the number of genuine pairs
EVERY = pytest.mark.parametrize("loss", [pytest.param(loss, id=name) for name, loss in ALL.items()])
EVERY_COMPARING = pytest.mark.parametrize("loss", [pytest.param(loss, id=name) for name, loss in COMPARING.items()])


def batch(count: int = 10, identities: int = 4, seed: int = 0, dimensions: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, dimensions, dtype=torch.float64, generator=generator)
    return embeddings, torch.randint(identities, (count,), generator=generator)


def gradients(loss: nn.Module, value: Tensor, embeddings: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(value, [embeddings, *loss.parameters()])
    return [gradient.double() for gradient in found]


@EVERY_COMPARING
@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero", "sum"])
@pytest.mark.parametrize(
    ("count", "identities", "references"), [(10, 4, 0), (10, 4, 6), (7, 1, 0), (7, 90, 5), (1, 1, 4), (530, 200, 20)]
)
def test_everything_is_the_sum_over_the_list_of_everything(
    loss: BatchLoss,
    reduction: Reduction,
    count: int,
    identities: int,
    references: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loss, "reduction", reduction)
    embeddings, labels = batch(count, identities)
    others, other_labels = batch(references, identities, seed=1)
    leaves = [embeddings.requires_grad_(), others.requires_grad_()]
    value = loss(embeddings, labels, None, others, other_labels)
    listed = reduce_items(loss.items(embeddings, labels, None, others, other_labels), reduction)
    torch.testing.assert_close(value, listed, rtol=1e-12, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad(result, leaves, allow_unused=True, materialize_grads=True) for result in (value, listed)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@EVERY_COMPARING
def test_everything_is_what_a_miner_of_everything_lists(loss: BatchLoss) -> None:
    embeddings, labels = batch()
    tuples: Pairs | Triplets = AllPairs()(embeddings, labels)
    if isinstance(loss, TripletLoss):
        tuples = AllTriplets()(embeddings, labels)
    torch.testing.assert_close(loss(embeddings, labels, tuples), loss(embeddings, labels), rtol=1e-12, atol=1e-14)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_and_returned_in_its_own(loss: BatchLoss, dtype: torch.dtype) -> None:
    embeddings, labels = batch()
    half = embeddings.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, labels)
    value.backward()
    assert value.dtype == dtype
    assert half.grad is not None
    assert half.grad.dtype == dtype
    assert loss.items(half, labels).dtype == torch.float32
    assert value == loss(half.detach().float(), labels).to(dtype)


@EVERY
def test_memory_layout_and_the_type_of_labels_change_nothing(loss: BatchLoss) -> None:
    embeddings, labels = batch()
    expected = loss(embeddings, labels)
    torch.testing.assert_close(loss(embeddings.T.contiguous().T, labels), expected)
    spaced = torch.stack([embeddings, embeddings + 1], dim=1)[:, 0]
    torch.testing.assert_close(loss(spaced, labels), expected)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16):
        assert loss(embeddings, labels.to(dtype)) == expected


@EVERY
def test_compiling_changes_nothing(loss: BatchLoss) -> None:
    embeddings, labels = batch()
    embeddings.requires_grad_()
    compiled: Any = torch.compile(loss, backend="aot_eager")
    expected, value = loss(embeddings, labels), compiled(embeddings, labels)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients(loss, value, embeddings), gradients(loss, expected, embeddings))


@EVERY
def test_a_single_precision_batch_of_512_dimensions_is_right_to_five_digits(loss: BatchLoss) -> None:
    if loss in CLASSIFYING.values() and not isinstance(loss, MagnetLoss):
        pytest.skip("its weights have other dimensions")
    embeddings, labels = batch(48, 16, dimensions=512)
    embeddings = torch.nn.functional.normalize(embeddings)
    embeddings[1::2] = embeddings[::2] + 1e-4 * embeddings[1::2]  # near pairs, where distances cancel
    single, double = embeddings.float().requires_grad_(), embeddings.float().double().requires_grad_()
    value, exact = loss(single, labels), loss(double, labels)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    for found, expected in zip(gradients(loss, value, single), gradients(loss, exact, double), strict=True):
        assert (found - expected).norm() <= 1e-4 * expected.norm()


@EVERY
@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero", "sum", "none"])
@pytest.mark.parametrize("labels", [[], [4], [4, 4, 4], [1, 2, 3]], ids=["none", "one", "same", "different"])
@pytest.mark.parametrize("identical", [False, True])
def test_a_degenerate_batch_has_a_defined_value_and_gradient(
    loss: BatchLoss, reduction: Reduction, labels: list[int], identical: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "reduction", reduction)
    embeddings = (torch.ones(len(labels), 5) if identical else 9 * torch.eye(5)[: len(labels)]).requires_grad_()
    identities = torch.tensor(labels, dtype=torch.int64)
    items = loss.items(embeddings, identities)
    value = loss(embeddings, identities)
    torch.testing.assert_close(value, reduce_items(items, reduction), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(value.sum(), embeddings)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    if not len(items):
        assert not value.any()
        assert not gradient.any()


@EVERY_COMPARING
def test_no_tuples_give_zero_connected_to_the_embeddings(loss: BatchLoss) -> None:
    embeddings, labels = batch()
    nothing = torch.empty(0, dtype=torch.int64)
    for tuples in (Pairs(nothing, nothing, nothing.bool()), Triplets(nothing, nothing, nothing)):
        if isinstance(tuples, loss.takes):
            value = loss(embeddings.requires_grad_(), labels, tuples)
            assert value.item() == 0
            assert not torch.autograd.grad(value, embeddings)[0].any()


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("form", ["plain", "blocks", "kernels"])
@pytest.mark.parametrize("name", [name for name in ALL if name not in WAITING])
def test_nothing_waits_for_a_gpu(name: str, form: str, memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, fused = ALL[name], form == "kernels"
    references = memory and getattr(loss, "takes_references", False)
    monkeypatch.setattr(blocks, "SMALL_ON_GPU", 1024 if form == "plain" else 0)
    monkeypatch.setattr(blocks, "SMALL", blocks.SMALL_ON_GPU)
    monkeypatch.setattr(tiles, "interpreted", fused)
    monkeypatch.setattr(tiles, "has_kernels", lambda _: fused)
    monkeypatch.setattr(torch.cuda, "device_of", nullcontext)
    if fused:
        triton = pytest.importorskip("triton")
        monkeypatch.setattr(triton.JITFunction, "run", lambda *_, **__: None)  # all but the kernels themselves
    on_meta = copy.deepcopy(loss).to("meta")
    labels = torch.arange(9) // 2
    with FakeTensorMode(allow_non_fake_inputs=True):  # raises where a value is asked for
        if not list(loss.parameters()):
            loss.measure(torch.empty(9, 5, device="cuda", dtype=torch.bfloat16), labels.cuda())
        embeddings = torch.empty(9, 5, device="meta", requires_grad=True)
        further = (torch.empty(7, 5, device="meta"), labels[:7].to("meta")) if references else (None, None)
        value, _ = on_meta.measure(embeddings, labels.to("meta"), None, *further)
        value.backward()  # type: ignore[no-untyped-call]  # on `meta`: a build without CUDA has no backward pass for it


@pytest.mark.parametrize("own", [slice(0, 64), slice(64, 128), slice(192, 256)], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_a_rank_of_four_takes_a_quarter_of_the_matrix_products(name: str, own: slice) -> None:
    loss, (embeddings, labels) = ALL[name], batch(256, 16)
    products = []
    in_place = {torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * math.prod(left) * right[1]}
    for rows in (own, None):
        with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            loss(embeddings.requires_grad_(), labels, own=rows).backward()
        products.append(counter.get_total_flops())
    assert products[1] > 256 * 16
    assert products[0] <= 1.02 * products[1] / 4


ROW = torch.tensor([0])


@EVERY
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(4), torch.ones(4).long()), r"embeddings must be .* shape \(4,\)"),
        ((torch.ones(4, 5).long(), torch.ones(4).long()), r"type torch\.int64"),
        ((torch.ones(4, 5), [0, 0, 1, 1]), r"labels must be a tensor, but are a list: give torch\.tensor"),
        ((torch.ones(4, 5), torch.ones(4, 1).long()), r"labels must be .* shape \(4, 1\)"),
        ((torch.ones(4, 5), torch.ones(4)), r"type torch\.float32"),
        ((torch.ones(4, 5), torch.ones(3).long()), "4 embeddings came with 3 labels"),
        ((torch.full((4, 5), torch.nan), torch.ones(4).long()), "4 of 4 embeddings hold NaN or infinity.*row 0"),
        ((torch.ones(4, 5), torch.ones(4).long(), [0, 1]), "of type list"),
        ((torch.ones(4, 5), torch.ones(4).long(), (ROW, ROW)), "of type tuple"),
        ((torch.ones(4, 5), torch.ones(4).long(), Pairs(ROW, torch.tensor([1, 2]), ROW)), r"\(1,\), \(2,\)"),
        ((torch.ones(4, 5), torch.ones(4).long(), (ROW, ROW, ROW, torch.tensor([1, 2]))), r"\(1,\), \(2,\)"),
        ((torch.ones(4, 5), torch.ones(4).long(), None, torch.ones(2, 5)), "2 references came without"),
        ((torch.ones(4, 5), torch.ones(4).long(), None, torch.ones(2, 5), ROW), "2 references came with 1 labels"),
        ((torch.ones(4, 5), torch.ones(4).long(), None, torch.ones(1, 6), ROW), "5 dimensions .* references of 6"),
    ],
)
def test_what_is_no_batch_is_refused_in_one_sentence(loss: BatchLoss, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        loss(*arguments)
    assert "\n" not in str(refusal.value)


@EVERY_COMPARING
def test_a_gradient_of_a_gradient_is_refused(loss: BatchLoss) -> None:
    embeddings, labels = batch()
    with pytest.raises(InputError, match="leave out create_graph=True"):
        torch.autograd.grad(loss(embeddings.requires_grad_(), labels), embeddings, create_graph=True)


def test_a_sum_that_overflows_is_no_reason_to_refuse() -> None:
    embeddings = torch.full((4, 2), 3e38)
    assert CosinePairLoss()(embeddings[:, :1] / 3e38, torch.arange(4)) == 1
    ContrastiveLoss(distance="cosine").items(embeddings, torch.arange(4))


def test_the_four_vectors_of_another_library_are_genuine_and_impostor_pairs() -> None:
    embeddings, labels = batch()
    theirs = (torch.tensor([0, 3]), torch.tensor([1, 4]), torch.tensor([5]), torch.tensor([2]))
    ours = Pairs(torch.tensor([0, 3, 5]), torch.tensor([1, 4, 2]), torch.tensor([True, True, False]))
    assert ContrastiveLoss()(embeddings, labels, theirs) == ContrastiveLoss()(embeddings, labels, ours)


# Reduction

ITEMS = torch.tensor([0.0, 3.0, 0.0, 1.0])


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 1.0), ("mean_nonzero", 2.0), ("sum", 4.0)])
def test_items_are_reduced_as_named(reduction: Any, expected: float) -> None:
    assert reduce_items(ITEMS, reduction).item() == expected
    source = torch.zeros(3, requires_grad=True)
    value = reduce_items(source.clamp(min=0) * 0, reduction)
    assert value.item() == 0
    assert not torch.autograd.grad(value, source)[0].any()


def test_none_returns_the_items_and_an_unknown_reduction_is_named() -> None:
    assert reduce_items(ITEMS, "none") is ITEMS
    unknown: Any = "average"
    with pytest.raises(InputError, match="'average'"):
        reduce_items(ITEMS, unknown)


def test_the_fraction_of_nonzero_items() -> None:
    assert fraction_nonzero(sum_items(Items.from_losses(ITEMS))).item() == 0.5
    assert fraction_nonzero(sum_items(Items.from_losses(ITEMS[:0]))).item() == 0
    assert not fraction_nonzero(sum_items(Items.from_losses(ITEMS.clone().requires_grad_()))).requires_grad
    rounded = torch.tensor([True, True, False, True])  # one of them is above zero, and rounds to it
    assert fraction_nonzero(sum_items(Items(ITEMS, rounded))).item() == 0.75
    assert reduce_items(ITEMS, "mean_nonzero", rounded).item() == pytest.approx(4 / 3)


@pytest.mark.parametrize("loss", [ContrastiveLoss(2.0), TripletLoss(0.5, reduction="mean_nonzero")])
def test_a_measurement_is_the_loss_and_the_fraction_of_nonzero_items(loss: BatchLoss) -> None:
    embeddings, labels = batch()
    items = loss.items(embeddings, labels)
    value, fraction = loss.measure(embeddings, labels)
    assert value == loss(embeddings, labels)
    torch.testing.assert_close(value, reduce_items(items, loss.reduction))
    torch.testing.assert_close(fraction, (items > 0).float().mean())


def test_reduction_none_returns_the_items_in_the_type_of_the_embeddings() -> None:
    items = ContrastiveLoss(reduction="none")(torch.ones(4, 3).bfloat16(), torch.arange(4) // 2)
    assert items.shape == (6,)
    assert items.dtype == torch.bfloat16


# Items above zero, where most of them round to it


def exact_mean_nonzero(
    loss: BatchLoss,
    embeddings: Tensor,
    labels: Tensor,
    pairs: Pairs | None = None,
    triplets: Triplets | None = None,
) -> float:
    """The mean over the items above zero by naive loops in float64, in which none of these underflows."""
    rows = torch.nn.functional.normalize(embeddings.double()).tolist()
    objective = loss.objective if isinstance(loss, InBatchNegatives) else loss
    temperature = cast(float, objective.temperature)
    rows_of_batch, identities = range(len(rows)), labels.tolist()

    def logit(i: int, k: int) -> float:
        return math.fsum(a * b for a, b in zip(rows[i], rows[k], strict=True)) / temperature

    others_of: dict[int, set[int]] = {i: {k for k in rows_of_batch if k != i} for i in rows_of_batch}
    if pairs is not None:
        others_of = {i: set() for i in rows_of_batch}
        for i, k in zip(pairs.anchor.tolist(), pairs.other.tolist(), strict=True):
            others_of[i].add(k)
            others_of[k].add(i)
    items: list[tuple[int, float]] = []
    for i, others in others_of.items():
        for p in sorted(others):
            if identities[p] != identities[i]:
                continue
            others_of_p = [
                k
                for k in others
                if k != p and (not isinstance(loss, InBatchNegatives) or identities[k] != identities[i])
            ]
            items.append((i, math.log1p(math.fsum(math.exp(logit(i, k) - logit(i, p)) for k in others_of_p))))
    if triplets is not None:
        items = [
            (a, math.log1p(math.exp(logit(a, n) - logit(a, p))))
            for a, p, n in zip(*(field.tolist() for field in triplets), strict=True)
        ]
    if isinstance(loss, SupConLoss):
        values = [[value for anchor, value in items if anchor == i] for i in rows_of_batch]
        items = [(i, math.fsum(of) / len(of)) for i, of in enumerate(values) if of]
    active = [value for _, value in items if value > 0]
    return math.fsum(active) / max(len(active), 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("make", [NTXentLoss, SupConLoss, lambda *a: InBatchNegatives(InfoNCELoss(*a))])
def test_the_mean_of_active_items_is_the_same_on_every_path(make: Any, temperature: float, dtype: torch.dtype) -> None:
    """Most pairs are solved, so that their losses are far below what float32 tells from zero."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) // 3
    embeddings = torch.randn(8, 32, generator=generator)[labels] + 0.2 * torch.randn(24, 32, generator=generator)
    embeddings[1] = embeddings[5]  # some are not
    embeddings = torch.nn.functional.normalize(embeddings).to(dtype)
    loss = make(temperature, "mean_nonzero")
    pairs, some = AllPairs()(embeddings, labels), HardPairs(2)(embeddings, labels)
    triplets = AllTriplets()(embeddings, labels)
    both_ways = (*get_all_pairs_indices(labels),)
    expected = exact_mean_nonzero(loss, embeddings, labels)
    found = [(loss(embeddings, labels, tuples), expected) for tuples in (None, pairs, both_ways)]
    found.append((loss(embeddings, labels, some), exact_mean_nonzero(loss, embeddings, labels, some)))
    found.append((loss(embeddings, labels, triplets), exact_mean_nonzero(loss, embeddings, labels, triplets=triplets)))
    accuracy = {torch.float16: 2e-3, torch.float32: 2e-4, torch.float64: 1e-9}[dtype]
    for value, exact in found:
        assert value.item() == pytest.approx(exact, rel=accuracy)
    for tuples in (None, pairs, both_ways, triplets):
        assert loss.measure(embeddings, labels, tuples).fraction_nonzero == 1  # a softmax never ends


@pytest.mark.parametrize(
    "loss",
    [TripletLoss(soft=True, reduction="mean_nonzero"), ArcFaceLoss(4, 1000.0, 0.0, 4, "mean_nonzero")],
    ids=["triplet, soft", "arc_face"],
)
def test_items_that_round_to_zero_are_counted(loss: BatchLoss) -> None:
    labels = torch.arange(8) // 2
    embeddings = 1000 * torch.eye(4)[labels]
    for parameter in loss.parameters():
        parameter.data = torch.eye(4)
    for tuples in (None, AllTriplets()(embeddings, labels)) if isinstance(loss, TripletLoss) else (None,):
        assert loss.measure(embeddings, labels, tuples).fraction_nonzero == 1
