"""A training step waits for no GPU: what would is found on a CPU, by where each tensor comes from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from siamese_verify.data import FaceAugmentation, FaceDataModule
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import Encoder, SmallResNet
from siamese_verify.losses import (
    AdaFaceLoss,
    ArcFaceLoss,
    ContrastiveLoss,
    CrossBatchMemory,
    InfoNCELoss,
    LinearSoftmaxLoss,
    NCELoss,
    NTXentLoss,
)
from siamese_verify.methods import (
    PIRL,
    InstanceDiscrimination,
    Method,
    MoCo,
    MoCoV3,
    SemiSupervised,
    SimCLR,
    SimSiam,
)
from siamese_verify.samplers import IdentityBatchSampler, ImageSampler, SemiSupervisedSampler
from siamese_verify.structures import Crop, FaceBatch
from siamese_verify.training import (
    CollapseMonitor,
    EpochBar,
    MovingWeightAveraging,
    ReseedEachBatch,
    StepMetrics,
    VerificationModule,
)

DECIDES = {"_local_scalar_dense", "nonzero", "unique_dim", "_unique2", "unique_consecutive", "masked_select", "equal"}
# The last ones have results of a known size, and yet wait for a GPU: for a sorted list without duplicates, the largest.
DECIDES |= {"repeat_interleave", "isin", "bincount", "histc", "_linalg_eigh", "_linalg_svd"}
READS = {Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__}
CROP = Crop("whole")
ENCODER = partial(SmallResNet, 16, 4, embedding_size=8, crop=CROP)
IDENTITY = partial(IdentityBatchSampler, identities_per_batch=4, samples_per_identity=2, batches=12)


class Waits(AssertionError):
    """The CPU would wait for a GPU."""


class OnDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes some tensors, and all that is computed from them, for a GPU's, and raises where the CPU would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places: set[int] = set()
        self.kept: list[Any] = []  # so that no other tensor takes the place of one that is freed
        self.operations = 0

    def mark(self, values: Any) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self.places.add(tensor.untyped_storage()._cdata)
                self.kept.append(tensor.untyped_storage())

    def has(self, values: Any) -> bool:
        tensors = (one for one in tree_leaves(values) if isinstance(one, Tensor))
        return any(tensor.untyped_storage()._cdata in self.places for tensor in tensors)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        ours = self.has((args, kwargs))
        name = func.overloadpacket.__name__
        if ours and (name in DECIDES or (name in ("index", "index_put_") and self.has_mask(args[1]))):
            raise Waits(name)
        result = func(*args, **(kwargs or {}))
        if ours:
            self.operations += 1
            self.mark(result)
        return result

    def has_mask(self, indices: Iterable[Tensor | None]) -> bool:
        return any(one is not None and one.dtype == torch.bool and self.has(one) for one in indices)


class Reading(TorchFunctionMode):
    """Raises where Python reads a tensor that `OnDevice` takes for a GPU's."""

    def __init__(self, marked: OnDevice) -> None:
        super().__init__()
        self.marked = marked

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = (*args[1:], *(kwargs or {}).values())
        to_cpu = func is Tensor.to and any(isinstance(one, str) and one == "cpu" for one in given)
        if (func in READS or to_cpu) and self.marked.has(args[:1]):
            raise Waits(func.__name__)
        return func(*args, **(kwargs or {}))


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where the CPU would wait for a GPU, whose tensors have no values: to read, decide, or copy.

    A copy from the CPU waits, too, unless its memory is pinned; so does an index or a constant that is on the CPU.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        kinds = {one.device.type for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        there = kinds - {"cpu"}
        ahead = kwargs.get("non_blocking") and kinds == {"cpu"}
        place = kwargs["device"].type if name == "_to_copy" and kwargs.get("device") else None
        moved = place is not None and place not in kinds and not ahead
        mixed = name in ("copy_", "index", "index_put_") and len(kinds) > 1
        if moved or (there and (mixed or name in DECIDES)):
            raise Waits(name)
        return func(*args, **kwargs)


class Softmax(nn.Linear):
    """A softmax over identities, with a figure to log; on a CPU our own losses check what they are given."""

    def __init__(self, read: Callable[[Tensor], Any] = lambda _: None) -> None:
        super().__init__(8, 8)
        self.read = read

    def measure(self, embeddings: Tensor, labels: Tensor, tuples: None, own: slice) -> tuple[Tensor, Tensor]:
        losses = nn.functional.cross_entropy(self(embeddings), labels, reduction="none")
        self.read(losses.detach())
        return losses.mean(), (losses > 0).float().mean()


class Watched(pl.Callback):
    """The first callback: each step from its start on, until the last callback has seen its end."""

    def __init__(self) -> None:
        self.marked = OnDevice()
        self.steps = 0
        self.modes = ExitStack()
        self.end = pl.callbacks.LambdaCallback(on_train_batch_end=self.leave)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        states = [state for one in trainer.optimizers for state in one.state.values()]
        numbers = [value for state in states for value in state.values() if value.ndim]  # torch counts steps on the CPU
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        averages = [one._average_model for one in callbacks if isinstance(one, MovingWeightAveraging)]
        parts = [pl_module, *(one for one in averages if one is not None)]
        moved = batch._replace(labeled=None)  # which stays on the CPU
        self.marked.mark([numbers, *moved, *([*part.parameters(), *part.buffers()] for part in parts)])
        for mode in (self.marked, Reading(self.marked)):
            self.modes.enter_context(mode)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.modes.close()

    def leave(self, *_: Any) -> None:
        self.modes.close()
        self.steps += 1


def data(sampler: Any = IDENTITY, **settings: Any) -> FaceDataModule:
    photos, augmentation = SyntheticFaces(identities=8, images=4, size=16), FaceAugmentation(blur=0.5, jpeg=0.5)
    module = FaceDataModule(photos, ENCODER().input_spec, sampler, augmentation, device="cpu", **settings)
    module.setup()
    return module


def fit(
    loss: nn.Module | None,
    folder: Path,
    fused: bool = False,
    make: Callable[[Encoder], Method] | None = None,
    batches: FaceDataModule | None = None,
) -> Watched:
    encoder, optimizer = ENCODER(), partial(torch.optim.AdamW, lr=1e-3, fused=fused)
    module = VerificationModule(encoder, loss, None, optimizer, method=make(encoder) if make else None)
    watched = Watched()
    others = [ReseedEachBatch(0), StepMetrics(), EpochBar(), CollapseMonitor(), MovingWeightAveraging(0.5)]
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=pl.loggers.CSVLogger(folder),
        callbacks=[watched, *others, watched.end],
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=50,
    )
    with watched.modes:
        trainer.fit(module, datamodule=batches or data())
    return watched


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_waits_for_nothing(fused: bool, tmp_path: Path) -> None:
    watched = fit(Softmax(), tmp_path, fused)
    assert watched.steps == 12, "the figures of every tenth step too"
    assert watched.marked.operations > 1000


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (SimCLR, NTXentLoss(0.5)),
        (partial(MoCo, queue_size=16), InfoNCELoss(0.2)),
        (MoCoV3, None),
        (partial(InstanceDiscrimination, images=28), None),
        (partial(PIRL, images=28, grid=2), None),
        (partial(SemiSupervised, identities=3), NTXentLoss(0.1)),
    ],
)
def test_a_step_without_labels_waits_for_nothing(
    make: Any, loss: nn.Module | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_verify.pairwise.batch.check_matrix", lambda *_: None)  # what a CPU looks for
    monkeypatch.setattr("siamese_verify.losses.info_nce.check_matrix", lambda *_: None)
    settings: dict[str, Any] = {"multi_view": 1 if getattr(make, "func", make) is InstanceDiscrimination else 2}
    sampler: Any = partial(ImageSampler, images=8, batches=12)
    if getattr(make, "func", make) is SemiSupervised:
        sampler = partial(SemiSupervisedSampler, identities_per_batch=2, samples_per_identity=2, images=4, batches=12)
        settings |= {"labeled_identities": 3, "unlabeled": True}
    watched = fit(loss, tmp_path, make=make, batches=data(sampler, **settings))
    assert watched.steps == 12
    assert watched.marked.operations > 1000


@pytest.mark.parametrize(
    "read",
    [
        lambda value: value.mean().item(),
        lambda value: bool(value.mean() > 0),
        lambda value: value.nonzero(),
        lambda value: value.cpu(),
        lambda value: value.to("cpu"),
        lambda value: value.tolist(),
        lambda value: value[value > 0],
    ],
)
def test_a_step_that_waits_is_found(read: Callable[[Tensor], Any], tmp_path: Path) -> None:
    with pytest.raises(Waits):
        fit(Softmax(read), tmp_path)


COPIES: list[Callable[[Tensor], Any]] = [
    lambda there: torch.ones(3).to(there.device),
    lambda there: there.cpu(),
    lambda there: there[torch.tensor([1])],
    lambda there: there.copy_(torch.ones(3)),
    lambda there: torch.isin(there, there),
]
CONSTANTS: list[Callable[[Tensor], Any]] = [  # which on `meta` are copied from nowhere
    lambda there: torch.tensor(5, device=there.device),
    lambda there: there[[0, 1]],
]


@pytest.mark.parametrize(
    ("device", "copy_there"), [*product(["cuda:0", "meta"], COPIES), *product(["cuda:0"], CONSTANTS)]
)
def test_a_copy_that_is_waited_for_is_found(device: str, copy_there: Callable[[Tensor], Any]) -> None:
    with FakeTensorMode():
        there = torch.empty(3, device=device)
        with Copies():  # type: ignore[no-untyped-call]
            torch.ones(3).to(there.device, non_blocking=True)
            there.mul_(torch.tensor(2.0)).add_(1)
            with pytest.raises(Waits):
                copy_there(there)


def test_a_batch_of_faces_on_a_device_is_made_without_waiting() -> None:
    module = data()
    loader = module.train_dataloader()
    faces, augment = module.train_set, module.transform
    assert faces is not None and isinstance(augment, FaceAugmentation)
    marked = OnDevice()
    marked.mark(faces.faces.images)  # type: ignore[union-attr]
    rows = next(iter(loader.sampler))
    augment.apply_batched(faces.faces[rows], augment.draw(len(rows), 16))  # constants go to a device once
    modes: tuple[AbstractContextManager[Any], ...] = (marked, Reading(marked))
    with modes[0], modes[1]:
        images = faces.faces[rows]
        assert marked.has(images)
        changed = augment.apply_batched(images, augment.draw(len(images), 16))
        assert marked.has(changed)


def resumed(encoder: Encoder) -> MoCo:
    """MoCo with the queue of a checkpoint, which is loaded to the CPU."""
    method = MoCo(encoder)
    method.queue.set_extra_state({"rows": torch.ones(5, 128), "labels": torch.arange(5), "size": 4096, "next": 5})
    return method


SGD = partial(torch.optim.SGD, lr=0.1)
STEPS: dict[str, tuple[Callable[[Encoder], Method] | None, nn.Module | None]] = {
    "NT-Xent": (None, NTXentLoss(0.1)),
    "contrastive": (None, ContrastiveLoss()),
    "cross-batch memory": (None, CrossBatchMemory(NTXentLoss(0.1), size=32)),
    "ArcFace": (None, ArcFaceLoss(8, embedding_size=8)),
    "AdaFace": (None, AdaFaceLoss(8, embedding_size=8)),
    "linear softmax": (None, LinearSoftmaxLoss(8, embedding_size=8)),
    "SimCLR": (SimCLR, NTXentLoss(0.5)),
    "MoCo": (MoCo, InfoNCELoss(0.2)),
    "MoCo, NCE": (MoCo, NCELoss()),
    "MoCo, resumed": (resumed, InfoNCELoss(0.2)),
    "MoCo v3": (MoCoV3, None),
    "SimSiam": (SimSiam, None),  # without the rank of its outputs, of each tenth step
    "instances": (partial(InstanceDiscrimination, images=40), None),
    "instances, softmax": (partial(InstanceDiscrimination, images=40, negatives=None), None),
    "PIRL": (partial(PIRL, images=40, grid=2), None),
}


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("device", ["cuda:0", "meta"])
@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_copies_nothing_that_is_waited_for(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors without values: a build without CUDA has no backward pass for `cuda`, and no autocast for `meta`."""
    on_gpu = device != "meta"
    if on_gpu and name in ("contrastive", "cross-batch memory"):
        pytest.skip("its gradient is computed in the forward pass")
    if not on_gpu:
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    make, loss = STEPS[name]
    encoder, rows = ENCODER(), 12
    method = make(encoder) if make else None
    module = VerificationModule(encoder, copy.deepcopy(loss), None, SGD, method=method)
    images = rows * (1 if method is None or method.views == (1, 1) else 2)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to(device)
        batch = FaceBatch(
            torch.empty(images, 3, 16, 16, dtype=torch.uint8, device=device),
            torch.empty(images, dtype=torch.int64, device=device),
            None,
            torch.empty(rows, dtype=torch.int64, device=device),
        )
        for _ in range(2):  # of which the first may find an empty memory
            with Copies():  # type: ignore[no-untyped-call]
                value = module.training_step(batch, 0)
                if not on_gpu:
                    value.backward()  # type: ignore[no-untyped-call]
                if method is not None:
                    method.after_step(module.encoder, 0.5)
