"""Methods against lightly: the same weights and views give the same loss and gradients; momentum and queue by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.loss import NTXentLoss as TheirNTXent
from lightly.models.modules import (
    MoCoProjectionHead,
    SimCLRProjectionHead,
    SimSiamPredictionHead,
    SimSiamProjectionHead,
)
from lightly.models.utils import update_momentum
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from siamese_verify.encoders import wrap_module
from siamese_verify.errors import InputError
from siamese_verify.losses import ArcFaceLoss, InBatchNegatives, InfoNCELoss, NTXentLoss, TripletLoss
from siamese_verify.methods import (
    PIRL,
    InstanceDiscrimination,
    Method,
    MoCo,
    MoCoV3,
    MomentumEncoder,
    SemiSupervised,
    SimCLR,
    SimSiam,
    output_spread,
)
from siamese_verify.miners import BatchHard
from siamese_verify.structures import FaceBatch
from siamese_verify.training import CollapseMonitor, VerificationModule
from tests.methods.small_methods import SGD, gradients, small_encoder, take_steps, trained_by, views_of

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")
ROWS = (3, 17, 8, 0, 21, 30)


def theirs(head: Any, mine: nn.Module) -> Any:
    """A head of theirs with the weights of one of ours."""
    head.layers.load_state_dict(mine.state_dict())
    return head.double().train()


def compare(module: VerificationModule, batch: FaceBatch, expected: Tensor, pairs: list[tuple[Any, Any]]) -> None:
    """Check loss and gradients: `expected` is their loss, `pairs` are modules of ours and theirs."""
    loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected.item(), rel=0, abs=1e-10)
    trained = 0
    for ours, other in pairs:
        for mine, their in zip(gradients(ours).values(), gradients(other).values(), strict=True):
            torch.testing.assert_close(mine, their, rtol=0, atol=1e-10)
            trained += 1
    assert trained == len(gradients(module))
    assert max(float(one.abs().max()) for one in gradients(module).values()) > 1e-3


def raw(encoder: Any) -> Any:
    """A copy of an encoder that does not normalize."""
    encoder = copy.deepcopy(encoder)
    encoder.normalize = False
    return encoder


def test_simclr_has_their_loss_and_gradients() -> None:
    encoder = small_encoder(norm=True)
    method = SimCLR(encoder, hidden_size=9, output_size=5)
    other, batch = raw(encoder), views_of(ROWS)
    head = theirs(SimCLRProjectionHead(7, 9, 5), method.head)
    module = trained_by(method, encoder, NTXentLoss(0.5))
    expected = TheirNTXent(0.5, memory_bank_size=0)(*head(other(batch.images)).chunk(2))
    compare(module, batch, expected, [(encoder, other), (method.head, head)])


def test_simclr_with_more_views_has_every_ordered_pair_of_views_as_positives() -> None:
    encoder = small_encoder()
    method = SimCLR(encoder, 9, 5)
    module, batch = trained_by(method, encoder, NTXentLoss(0.5)), views_of(ROWS, views=3)
    with torch.no_grad():
        outputs = F.normalize(method.head(raw(encoder)(batch.images)))
    cosines, count = (outputs @ outputs.T / 0.5).tolist(), len(ROWS)
    losses = []
    for i in range(3 * count):
        others = sum(math.exp(cosines[i][k]) for k in range(3 * count) if k != i)
        losses += [-math.log(math.exp(cosines[i][j]) / others) for j in range(i % count, 3 * count, count) if j != i]
    assert module.training_step(batch, 0).item() == pytest.approx(sum(losses) / len(losses), abs=1e-12)


def test_labels_of_a_batch_play_no_part() -> None:
    for method_type, loss in ((SimCLR, NTXentLoss(0.5)), (MoCo, InfoNCELoss(0.2)), (SimSiam, None)):
        values = []
        for labels in (torch.zeros(12, dtype=torch.int64), torch.arange(12)):
            encoder = small_encoder()
            values.append(
                take_steps(trained_by(method_type(encoder), encoder, loss), [views_of(ROWS, labels=labels)] * 2)
            )
        assert values[0][0] == values[1][0]


def test_moco_has_their_loss_gradients_queue_and_momentum_encoder() -> None:
    encoder = small_encoder()
    method = MoCo(encoder, 9, 5, queue_size=16, momentum=0.9)
    module = trained_by(method, encoder, InBatchNegatives(InfoNCELoss(0.2)))
    other = raw(encoder)
    head = theirs(MoCoProjectionHead(7, 9, 5, batch_norm=False), method.head)
    other_keys, head_keys = copy.deepcopy(other), copy.deepcopy(head)
    criterion = TheirNTXent(0.2, memory_bank_size=(16, 5)).double()
    criterion.memory_bank.bank = F.normalize(criterion.memory_bank.bank)  # to the last digit
    method.queue.enqueue(criterion.memory_bank.bank.clone(), torch.full((16,), -1))  # theirs starts with random rows
    optimizers = [
        torch.optim.SGD(params, lr=0.5) for params in (module.parameters(), [*other.parameters(), *head.parameters()])
    ]
    for number in range(5):  # of 4 images: the queue is filled once and goes round
        batch = views_of(range(4 * number, 4 * number + 4))
        first, second = batch.images.chunk(2)
        with torch.no_grad():
            key = head_keys(other_keys(second))
        expected = criterion(head(other(first)), key)
        for optimizer in optimizers:
            optimizer.zero_grad()
        compare(module, batch, expected, [(encoder, other), (method.head, head)])
        for optimizer in optimizers:
            optimizer.step()
        method.after_step(encoder, 0.0)
        update_momentum(other, other_keys, 0.9)
        update_momentum(head, head_keys, 0.9)
        their_keys = [*other_keys.parameters(), *head_keys.parameters()]
        for mine, their in zip(method.momentum_encoder.parameters(), their_keys, strict=True):
            torch.testing.assert_close(mine.data, their.data, rtol=0, atol=1e-14)
        # Theirs wraps to the start when it is exactly full, as a ring does.
        torch.testing.assert_close(method.queue.embeddings, criterion.memory_bank.bank, rtol=0, atol=1e-12)


def test_no_key_of_an_image_of_the_batch_is_a_negative_and_an_empty_queue_teaches_nothing() -> None:
    encoder = small_encoder()
    method = MoCo(encoder, 9, 5, queue_size=100)
    module = trained_by(method, encoder, InfoNCELoss(0.2))
    assert module.training_step(views_of((1, 2, 3)), 0).item() == 0
    assert module.training_step(views_of((3, 1, 2), seed=1), 1).item() == 0, "these images alone are in the queue"
    batch = views_of((5, 2), seed=2)
    first, second = batch.images.chunk(2)
    with torch.no_grad():
        query, key = (F.normalize(method.head(raw(encoder)(view))) for view in (first, second))
    kept = method.queue.embeddings[[0, 2, 3, 4]]  # rows 1, 3, 3 and 1 of 1 2 3 3 1 2
    assert method.queue.labels.tolist() == [1, 2, 3, 3, 1, 2]
    losses = []
    for q, k in zip(query, key, strict=True):
        positive = math.exp(float(q @ k) / 0.2)
        losses.append(-math.log(positive / (positive + sum(math.exp(float(q @ n) / 0.2) for n in kept))))
    assert module.training_step(batch, 2).item() == pytest.approx(sum(losses) / 2, abs=1e-10)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_moco_v3_is_symmetric_and_its_momentum_rises_by_a_cosine(progress: float) -> None:
    encoder = small_encoder()
    method = MoCoV3(encoder, 9, 5, temperature=0.3, momentum=0.9)
    rows = (*ROWS, ROWS[1])  # one image twice, whose other key is no negative
    module, batch, count = trained_by(method, encoder), views_of(rows), len(rows)
    other, projector, predictor = raw(encoder), copy.deepcopy(method.projector), copy.deepcopy(method.predictor)
    keys = [F.normalize(method.momentum_encoder(view)) for view in batch.images.chunk(2)]
    queries = [F.normalize(predictor(projector(other(view)))) for view in batch.images.chunk(2)]
    expected = torch.zeros((), dtype=torch.float64)
    for query, key in ((queries[0], keys[1]), (queries[1], keys[0])):
        for i in range(count):
            own, others = query[i] @ key[i] / 0.3, [j for j in range(count) if rows[j] != rows[i]]
            logits = torch.stack([own, *(query[i] @ key[j] / 0.3 for j in others)])
            expected = expected - 2 * 0.3 * logits.log_softmax(0)[0] / count
    compare(module, batch, expected, [(encoder, other), (method.projector, projector), (method.predictor, predictor)])
    before = [one.clone() for one in method.momentum_encoder.parameters()]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)  # also to the momentum encoder's
    method.after_step(encoder, progress)
    momentum = 1 - 0.1 * (math.cos(math.pi * progress) + 1) / 2
    followed = [*encoder.parameters(), *method.projector.parameters()]
    for own, old, theirs_now in zip(method.momentum_encoder.parameters(), before, followed, strict=True):
        torch.testing.assert_close(
            own.data, momentum * (old + 1) + (1 - momentum) * theirs_now.data, rtol=0, atol=1e-12
        )


def test_a_momentum_encoder_follows_running_statistics_and_embeds_each_image_by_itself() -> None:
    encoder = small_encoder(norm=True)
    momentum_encoder = MomentumEncoder(encoder)
    mean = torch.zeros(4, dtype=torch.float64)
    followed: Any = encoder.backbone
    statistics: Any = momentum_encoder.parts[0].backbone
    for number in range(30):
        encoder.train()(views_of(ROWS, seed=number).images)
        momentum_encoder.update([encoder], 0.9)
        m = min(0.9, (1 + number) / (10 + number))
        mean = m * mean + (1 - m) * followed[1].running_mean
    images = views_of(ROWS).images
    torch.testing.assert_close(statistics[1].running_mean, mean, rtol=0, atol=1e-12)
    alone = torch.cat([momentum_encoder.train()(image[None]) for image in images])
    torch.testing.assert_close(momentum_encoder(images), alone, rtol=0, atol=1e-12)
    assert not momentum_encoder(images).requires_grad


def test_simsiam_has_their_loss_and_gradients() -> None:
    encoder = small_encoder(norm=True)
    method = SimSiam(encoder, 9, 8, 3)
    other, batch = raw(encoder), views_of(ROWS)
    projector = theirs(SimSiamProjectionHead(7, 9, 8), method.projector)
    predictor = theirs(SimSiamPredictionHead(8, 3, 8), method.predictor)
    criterion = NegativeCosineSimilarity()
    projected = [projector(other(view)) for view in batch.images.chunk(2)]
    predicted = [predictor(view) for view in projected]
    expected = (criterion(predicted[0], projected[1].detach()) + criterion(predicted[1], projected[0].detach())) / 2
    module = trained_by(method, encoder)
    compare(module, batch, expected, [(encoder, other), (method.projector, projector), (method.predictor, predictor)])


def test_the_spread_of_outputs_is_1_in_all_directions_and_0_in_one() -> None:
    everywhere = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    assert float(output_spread(everywhere)) == pytest.approx(1, abs=0.02)
    assert float(output_spread(everywhere[:1].expand(50, 64))) == pytest.approx(0, abs=1e-6)


def test_cached_chunks_change_nothing() -> None:
    found = []
    for chunk in (None, 4):
        encoder = small_encoder()
        module = trained_by(SimCLR(encoder, 9, 5), encoder, NTXentLoss(0.5), cached_chunk=chunk)
        found.append(take_steps(module, [views_of(ROWS), views_of(ROWS, seed=1)]))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("method_type", "loss", "miner", "told"),
    [
        (SimCLR, None, None, "SimCLR cannot use no loss: set loss=nt_xent"),
        (SimCLR, InfoNCELoss(), None, "SimCLR cannot use InfoNCELoss: set loss=nt_xent"),
        (SimCLR, ArcFaceLoss(4, embedding_size=7), None, "SimCLR cannot use ArcFaceLoss"),
        (MoCo, NTXentLoss(0.1), None, "MoCo cannot use NTXentLoss: set loss=info_nce or nce"),
        (MoCo, InfoNCELoss(), BatchHard(), "MoCo compares everything, but BatchHard chooses: set miner=none"),
        (MoCoV3, NTXentLoss(0.1), None, "MoCoV3 cannot use NTXentLoss: leave loss out"),
        (
            SimSiam,
            TripletLoss(),
            None,
            "SimSiam cannot use TripletLoss: leave loss out",
        ),
    ],
)
def test_losses_and_miners_without_use_are_refused(
    method_type: Any, loss: nn.Module | None, miner: Any, told: str
) -> None:
    encoder = small_encoder()
    with pytest.raises(InputError, match=told):
        VerificationModule(encoder, loss, miner, SGD, method=method_type(encoder))


def test_other_numbers_of_views_and_batches_without_rows_are_refused() -> None:
    encoder = small_encoder()
    moco: Method = MoCo(encoder)
    for views in (1, 3):
        with pytest.raises(InputError, match=f"MoCo takes 2 views of an image, got {views}: set datamodule.multi_view"):
            moco.split(views_of(ROWS, views))
    with pytest.raises(InputError, match="SimCLR takes 2 or more views of an image, got 1"):
        SimCLR(encoder).split(views_of(ROWS, 1))
    with pytest.raises(InputError, match="MoCo needs the rows of a batch"):
        moco.split(views_of(ROWS)._replace(rows=None))


@pytest.mark.parametrize(
    ("method_type", "settings", "told"),
    [
        (MoCo, {"momentum": 1.1}, r"momentum is 1\.1, but is a share"),
        (MoCo, {"hidden_size": -3}, "The layers of a head have 1 or more outputs, got -3, 128"),
        (MoCoV3, {"momentum": math.nan}, "momentum is nan, but is a share"),
        (MoCoV3, {"temperature": 0.0}, r"temperature is 0\.0, but must be"),
        (SimCLR, {"output_size": 0}, "The layers of a head have 1 or more outputs, got 512, 0"),
        (SimCLR, {"layers": 0}, "layers must be a whole number of 1 or more, got 0"),
        (SimSiam, {"bottleneck": 0}, "The layers of a head have 1 or more outputs, got 0, 512"),
        (InstanceDiscrimination, {"images": 9, "negatives": 0}, "negatives must be a whole number of 1 or more, got 0"),
        (InstanceDiscrimination, {"images": 9, "momentum": 2}, "momentum is 2, but is a share"),
        (InstanceDiscrimination, {"images": 9, "output_size": -1}, "A memory bank has 1 or more images and dimensions"),
        (PIRL, {"images": 9, "negatives": -1}, "negatives must be a whole number of 1 or more, got -1"),
        (PIRL, {"images": 9, "grid": 0}, "grid must be a whole number of 1 or more, got 0"),
        (SemiSupervised, {"identities": 3, "temperature": -1.0}, r"temperature is -1\.0, but must be"),
        (SemiSupervised, {"identities": 3, "momentum": -0.1}, r"momentum is -0\.1, but is a share"),
    ],
)
def test_values_out_of_range_are_refused(method_type: Any, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        method_type(small_encoder(), **settings)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize(("method", "refused"), [(MoCoV3, True), (MoCo, False)])
def test_a_momentum_that_rises_to_the_end_is_not_stretched(method: type[Method], refused: bool, tmp_path: Path) -> None:
    batches: Any = [views_of(range(6), seed=number) for number in range(3)]

    def train(epochs: int, checkpoint: Path | None = None) -> pl.Trainer:
        encoder = small_encoder()
        module = trained_by(method(encoder, hidden_size=9, output_size=5), encoder, None if refused else InfoNCELoss())
        settings: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(accelerator="cpu", max_epochs=epochs, enable_model_summary=False, **settings)
        trainer.fit(module, DataLoader(batches, batch_size=None), ckpt_path=checkpoint, weights_only=True)
        return trainer

    train(1).save_checkpoint(tmp_path / "last.ckpt")
    assert train(1, tmp_path / "last.ckpt").global_step == 3
    if refused:
        with pytest.raises(InputError, match=r"planned for 3 steps .* 6: the momentum schedule of MoCoV3 cannot be"):
            train(2, tmp_path / "last.ckpt")
    else:
        assert train(2, tmp_path / "last.ckpt").global_step == 6


class Constant(nn.Module):
    """The same output for all images, but for the last digits."""

    def __init__(self, direction: bool) -> None:
        super().__init__()
        self.point, self.direction = nn.Parameter(torch.ones(7)), direction

    def forward(self, images: Tensor) -> Tensor:
        moved = images.flatten(1).mean(dim=1, keepdim=True) if self.direction else 0 * images.flatten(1)[:, :1]
        return self.point * (1 + moved)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize(("kind", "alarms"), [("point", 1), ("line", 1), ("healthy", 0)])
def test_the_alarm_of_collapse_fires_on_one_point_and_on_one_line_only(
    kind: str, alarms: int, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    encoder = small_encoder(norm=True)
    if kind != "healthy":
        encoder = wrap_module(Constant(kind == "line"), encoder.input_spec).double()
    method = SimSiam(encoder, 16, 16, 8)
    if kind == "line":  # keeps the one direction that the encoder has
        method.projector = nn.Sequential(nn.Linear(7, 16, bias=False))
    module = trained_by(method, encoder)
    batches: Any = [views_of(range(16), seed=number) for number in range(10)]
    settings: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, callbacks=[CollapseMonitor()], enable_model_summary=False, **settings
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    messages = [record.getMessage() for record in caplog.records if "collapsing" in record.getMessage()]
    assert len(messages) == alarms
    assert all("a method with negatives" in message for message in messages)
    healthy = float(trainer.callback_metrics["train/output_spread"]) > 0.5
    assert healthy == (kind == "healthy")
    assert (float(trainer.callback_metrics["train/output_rank"]) > 4) == healthy
