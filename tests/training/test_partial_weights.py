"""Weights of sampled and sharded identities: steps of rows, and ranks that together are one process."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adafactor, Adagrad, AdamW, Optimizer
from torch.utils.data import DataLoader

from siamese_verify.errors import InputError
from siamese_verify.losses import AdaFaceLoss, ArcFaceLoss, MagFaceLoss
from siamese_verify.losses.margin_softmax import MarginSoftmax
from siamese_verify.pairwise.ranks import world_size
from siamese_verify.structures import FaceBatch
from siamese_verify.training import VerificationModule
from siamese_verify.training.partial_weights import RowSteps, gather_shards, take_shard
from tests.training.rank_pool import RankPool, rank_pool

IDENTITIES, SIZE, ROWS, STEPS, LIMIT = 31, 4, 10, 3, 0.05
LABELS = torch.tensor([0, 30, 3, 3, 17, 1, 0, 30, 25, 6])
ADAMW = partial(AdamW, lr=0.01, weight_decay=0.1)
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": ADAMW,
    "sgd": partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adagrad": partial(Adagrad, lr=0.1, initial_accumulator_value=0.2),
}
SOFTMAX: dict[str, Callable[..., MarginSoftmax]] = {
    "arc_face": partial(ArcFaceLoss, IDENTITIES, 8.0, 0.3, SIZE),
    "ada_face": partial(AdaFaceLoss, IDENTITIES, 8.0, 0.3, SIZE, momentum=0.3),
    "mag_face": partial(MagFaceLoss, IDENTITIES, 8.0, (0.5, 3.0), (0.2, 0.6), 3.0, SIZE),
}
SETTINGS: list[dict[str, Any]] = [{}, {"subcenters": 2, "label_smoothing": 0.1}]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    with rank_pool(tmp_path_factory.mktemp("ranks")) as started:
        yield started


# Steps of rows


def rows_only(gradient: Tensor, rows: Sequence[int], count: int) -> Tensor:
    """A sparse gradient of some rows of several."""
    shape = (count, gradient.shape[1])
    return torch.sparse_coo_tensor(torch.tensor([list(rows)]), gradient, shape, check_invariants=True)


@pytest.mark.parametrize("overflow", [None, 0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_that_are_always_sampled_take_the_optimizers_own_steps(name: str, overflow: int | None) -> None:
    """Also under a GradScaler, which skips the step of an overflow."""
    dense, sparse = (nn.Parameter(torch.arange(15, dtype=torch.float32).view(5, 3) / 7) for _ in range(2))
    optimizers, steps = [OPTIMIZERS[name]([weights]) for weights in (dense, sparse)], RowSteps()
    scalers = [torch.amp.GradScaler("cpu", 1024.0, enabled=overflow is not None) for _ in optimizers]
    for step in range(4):
        gradient = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        gradient[1] = 0
        gradient *= float(scalers[0].scale(torch.ones(())))
        if step == overflow:
            gradient[3, 1] = torch.inf
        dense.grad, sparse.grad = gradient.clone(), rows_only(gradient, range(5), 5)
        before = dense.detach().clone()
        for scaler, optimizer in zip(scalers, optimizers, strict=True):
            scaler.scale(torch.ones(()))
            scaler.unscale_(optimizer)
            steps.narrow(optimizer)
            scaler.step(optimizer)
            scaler.update()
            steps.widen()
        torch.testing.assert_close(sparse.data, dense.data, rtol=0, atol=0)
        assert torch.equal(before, dense.data) == (step == overflow)
    torch.testing.assert_close(
        *(dict(one.state[one.param_groups[0]["params"][0]]) for one in optimizers), rtol=0, atol=0
    )
    assert scalers[0].state_dict() == scalers[1].state_dict()


def test_rows_that_are_not_sampled_keep_weights_and_states_and_do_not_decay() -> None:
    """Each row takes AdamW's steps of its own, with the count of all steps."""
    weights = nn.Parameter(torch.ones(6, 2, dtype=torch.float64))
    optimizer, steps = ADAMW([weights]), RowSteps()
    expected, first, second = (torch.full((6, 2), start, dtype=torch.float64) for start in (1.0, 0.0, 0.0))
    for step, sampled in enumerate(([0, 2], [2, 5], [0], [5, 2]), start=1):
        gradient = torch.tensor([[step, -0.5]] * len(sampled), dtype=torch.float64)
        weights.grad = rows_only(gradient, sampled, 6)
        before = copy.deepcopy((weights.data, optimizer.state_dict()["state"]))
        steps.narrow(optimizer)
        assert weights.shape == (len(sampled), 2)
        optimizer.step()
        steps.widen()
        for row, slope in zip(sorted(sampled), gradient[torch.tensor(sampled).argsort()], strict=True):
            first[row] = 0.9 * first[row] + 0.1 * slope
            second[row] = 0.999 * second[row] + 0.001 * slope**2
            moved = (first[row] / (1 - 0.9**step)) / ((second[row] / (1 - 0.999**step)).sqrt() + 1e-8)
            expected[row] = expected[row] * (1 - 0.01 * 0.1) - 0.01 * moved
        torch.testing.assert_close(weights.data, expected, rtol=0, atol=1e-14)
        others = [row for row in range(6) if row not in sampled]
        assert torch.equal(weights.data[others], before[0][others])
        if step > 1:
            for name in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(optimizer.state[weights][name][others], before[1][0][name][others])


def test_gradients_of_several_batches_add_up_and_dense_ones_stay() -> None:
    weights, other = nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.zeros(3))
    optimizer, steps = SGD([weights, other], lr=1.0), RowSteps()
    for rows in ([0, 3], [3]):
        torch.autograd.backward(F.embedding(torch.tensor(rows), weights, sparse=True).sum() + other.sum())
    steps.narrow(optimizer)
    torch.nn.utils.clip_grad_norm_([weights, other], 100.0)
    optimizer.step()
    steps.widen()
    assert weights.tolist() == [[-1, -1], [0, 0], [0, 0], [-2, -2]]
    assert other.tolist() == [-2, -2, -2]


def test_an_optimizer_without_a_state_per_weight_is_refused() -> None:
    weights = nn.Parameter(torch.ones(4, 2))
    optimizer, steps = Adafactor([weights]), RowSteps()
    torch.autograd.backward(F.embedding(torch.tensor([1]), weights, sparse=True).sum())
    steps.narrow(optimizer)
    optimizer.step()  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match=r"Adafactor keeps no number for each weight.*set optimizer=adamw"):
        steps.widen()
    assert weights.shape == (4, 2)


# Ranks


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, SIZE))

    def forward(self, images: Tensor) -> Tensor:
        return 3 * torch.as_tensor(self.layers(images))


class Step(nn.Module):
    """What Lightning wraps: the training step as a forward pass."""

    def __init__(self, loss: MarginSoftmax, chunk: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module = VerificationModule(Encoder(), loss, None, ADAMW, cached_chunk=chunk).double()
        self.module.setup("fit")
        if loss.sharded:
            self._ddp_params_and_buffers_to_ignore = ["module.loss.weights"]

    def forward(self, batch: FaceBatch, index: int) -> Tensor:
        return self.module.training_step(batch, index)


def seeded(name: str, **settings: Any) -> MarginSoftmax:
    torch.manual_seed(1)
    return SOFTMAX[name](**settings)


def batch(index: int, rows: slice = slice(None)) -> FaceBatch:
    images = torch.randn(ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(index))
    return FaceBatch(images[rows], LABELS[rows], None)


def own_rows(rank: int, uneven: bool) -> slice:
    shares = [rank / world_size(), (rank + 1) / world_size()]
    return slice(*(int(ROWS * (share**2 if uneven else share)) for share in shares))


def gradients_on_rank(
    rank: int, name: str, uneven: bool, chunk: int | None, settings: dict[str, Any]
) -> tuple[float, list[Tensor], Tensor, int]:
    """Loss, gradients of the encoder and of this rank's rows of the weights, and the first of these."""
    step = Step(seeded(name, **settings), chunk)
    wrapped = DistributedDataParallel(step)  # which averages for as long as it is there
    with warnings.catch_warnings(action="ignore"):  # there is no trainer to log to
        value = wrapped(batch(0, own_rows(rank, uneven)), 0)
        value.backward()
    loss: Any = step.module.loss
    shard = loss.weights.grad
    assert all(parameter.grad is not None for parameter in step.parameters())
    return (
        value.item(),
        [one.grad for one in step.module.encoder.parameters() if one.grad is not None],
        shard,
        loss.first,
    )


class Overflowing(VerificationModule):
    """A module whose second step gives gradients that are not finite."""

    def training_step(self, batch: FaceBatch, index: int) -> Tensor:
        return super().training_step(batch, index) * (torch.inf if index == 1 else 1)


@pytest.mark.filterwarnings("ignore")  # there are few batches and nothing to validate
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_sample_trains_in_16_bits_like_the_loss_of_these_identities_alone(precision: Any) -> None:
    """The sample is the batch's own identities; a step that the GradScaler skips changes nothing."""
    labels, runs = torch.tensor([17, 30, 3, 6]), {}
    rows, initial = labels.sort().values, seeded("arc_face").weights.data
    for name, identities, of_these in (("sampled", IDENTITIES, labels), ("alone", 4, torch.tensor([2, 3, 0, 1]))):
        loss = ArcFaceLoss(identities, 8.0, 0.3, SIZE, sample_rate=0.1)
        loss.weights.data = initial.clone() if name == "sampled" else initial[rows]
        torch.manual_seed(0)
        kind = Overflowing if precision == "16-mixed" else VerificationModule
        module = kind(Encoder(), loss, None, ADAMW)
        scaler = torch.amp.GradScaler("cpu", 256.0) if precision == "16-mixed" else None
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            plugins=[MixedPrecision(precision, "cpu", scaler)],
            gradient_clip_val=LIMIT,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        batches = [FaceBatch(batch(index).images[:4].float(), of_these, None) for index in range(3)]
        trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        state = trainer.optimizers[0].state[loss.weights]
        assert state["step"] == (2 if scaler else 3)
        assert scaler is None or scaler.get_scale() == 128
        runs[name] = module.encoder.state_dict(), loss.weights.data, state["exp_avg"], state["exp_avg_sq"]
    encoder, *of_all = runs["sampled"]
    torch.testing.assert_close(encoder, runs["alone"][0], rtol=0, atol=1e-6)
    others = torch.ones(IDENTITIES, dtype=torch.bool).index_fill(0, rows, False)
    for found, expected, unsampled in zip(of_all, runs["alone"][1:], (initial, 0 * initial, 0 * initial), strict=True):
        torch.testing.assert_close(found[rows], expected, rtol=1e-3, atol=1e-9)
        assert bool((found[rows] != unsampled[rows]).any(dim=1).all())
        assert torch.equal(found[others], unsampled[others])


def gradients_of_one(loss: MarginSoftmax, labels: Tensor) -> tuple[float, list[Tensor], Tensor]:
    encoder = Step(copy.deepcopy(loss)).module.encoder
    value = loss.double()(encoder(batch(0).images), labels)
    value.backward()
    assert loss.weights.grad is not None
    return value.item(), [one.grad for one in encoder.parameters() if one.grad is not None], loss.weights.grad


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", SOFTMAX)
def test_ranks_with_shards_have_the_loss_and_gradients_of_one_process(
    name: str, settings: dict[str, Any], pool: RankPool
) -> None:
    value, encoder, weights = gradients_of_one(seeded(name, **settings), LABELS)
    for count, uneven, chunk, sharded in (
        (1, False, None, True),
        (2, False, None, True),
        (2, True, 2, True),
        (3, True, None, True),
        (3, True, 2, False),  # each rank has all weights, and its own rows
    ):
        found = pool.run(count, gradients_on_rank, name, uneven, chunk, {**settings, "sharded": sharded})
        for own_value, gradients, _, _ in found:
            assert own_value == pytest.approx(value, rel=0, abs=1e-12)
            torch.testing.assert_close(gradients, encoder, rtol=0, atol=1e-12)
        if sharded:
            torch.testing.assert_close(torch.cat([shard for _, _, shard, _ in found]), weights, rtol=0, atol=1e-12)
        else:
            for _, _, all_weights, _ in found:
                torch.testing.assert_close(all_weights, weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", SOFTMAX)
def test_a_sample_on_ranks_is_the_loss_of_one_process_that_knows_these_identities_only(
    name: str, settings: dict[str, Any], pool: RankPool
) -> None:
    found = pool.run(2, gradients_on_rank, name, True, None, {**settings, "sharded": True, "sample_rate": 0.8})
    shards = [(shard.coalesce(), first) for _, _, shard, first in found]
    compared = torch.cat([shard.indices()[0] + first for shard, first in shards])
    assert len(compared) < IDENTITIES
    whole = seeded(name, **settings).double()
    of_these = copy.deepcopy(whole)
    of_these.num_identities = len(compared)
    of_these.weights.data = whole.weights.data[compared]
    value, encoder, weights = gradients_of_one(of_these, torch.searchsorted(compared, LABELS))
    for own_value, gradients, _, _ in found:
        assert own_value == pytest.approx(value, rel=0, abs=1e-12)
        torch.testing.assert_close(gradients, encoder, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat([shard.values() for shard, _ in shards]), weights, rtol=0, atol=1e-12)


def train(step: Step, call: nn.Module, rows: slice = slice(None)) -> dict[str, Any]:
    """Steps with clipped gradients; returns a checkpoint like Lightning's, on the first rank of all shards."""
    module, steps = step.module, RowSteps()
    optimizer = ADAMW([parameter for parameter in module.parameters() if parameter.ndim > 1])
    for index in range(STEPS):
        optimizer.zero_grad()
        with warnings.catch_warnings(action="ignore"):
            call(batch(index, rows), index).backward()
        steps.narrow(optimizer)
        if module.shard is None:
            torch.nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], LIMIT)
        else:
            module.configure_gradient_clipping(optimizer, LIMIT, "norm")
        optimizer.step()
        steps.widen()
    checkpoint = {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    before = copy.deepcopy(optimizer.state_dict())
    if module.shard is not None:
        gather_shards(checkpoint, "loss.weights", module._position(module.shard))
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)  # its own state is left alone
    return checkpoint


def train_on_rank(rank: int, settings: dict[str, Any]) -> dict[str, Any]:
    step = Step(seeded("arc_face", **settings))
    return train(step, DistributedDataParallel(step), own_rows(rank, uneven=True))


@pytest.mark.parametrize("count", [2, 3])
def test_clipped_steps_and_checkpoints_of_shards_are_those_of_one_process(count: int, pool: RankPool) -> None:
    alone = Step(seeded("arc_face"))
    expected = train(alone, alone)
    checkpoint, *others = pool.run(count, train_on_rank, {"sharded": True})
    torch.testing.assert_close(checkpoint, expected, rtol=0, atol=1e-12)
    for other in others:  # every rank has the same encoder
        for name, value in other["state_dict"].items():
            assert name == "loss.weights" or torch.equal(value, checkpoint["state_dict"][name])
    assert alone.module.loss is not None
    position = alone.module._position(alone.module.loss.weights)  # type: ignore[arg-type]
    whole = checkpoint["state_dict"]["loss.weights"]
    take_shard(checkpoint, "loss.weights", position, slice(3, 7))
    state = checkpoint["optimizer_states"][0]["state"][position]
    assert torch.equal(checkpoint["state_dict"]["loss.weights"], whole[3:7])
    assert {name: value.shape for name, value in state.items()} == {
        "step": (),
        "exp_avg": (4, SIZE),
        "exp_avg_sq": (4, SIZE),
    }


def shard_on_rank(rank: int, settings: dict[str, Any], identities: int) -> str:
    loss = ArcFaceLoss(identities, embedding_size=SIZE, **settings)
    dist.barrier()  # else one rank may be gone before the other has come
    try:
        loss.shard()
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("settings", "identities", "message"),
    [
        ({"sample_rate": 0.5}, 9, "sample_rate is 0.5 in 2 processes: set sharded to true."),
        ({"sharded": True}, 1, "1 identities cannot be shared by 2 processes: set sharded to false."),
        ({"sharded": True, "sample_rate": 0.5}, 2, ""),
    ],
)
def test_what_ranks_cannot_share_is_refused(
    settings: dict[str, Any], identities: int, message: str, pool: RankPool
) -> None:
    assert pool.run(2, shard_on_rank, settings, identities) == [message, message]
