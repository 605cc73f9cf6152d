"""A training step waits for no GPU: what would is found on a CPU, by where each tensor comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from siamese_verify.data import FaceAugmentation, FaceDataModule
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import SmallResNet
from siamese_verify.samplers import IdentityBatchSampler
from siamese_verify.structures import Crop
from siamese_verify.training import (
    CollapseMonitor,
    EpochBar,
    MovingWeightAveraging,
    ReseedEachBatch,
    StepMetrics,
    VerificationModule,
)

DECIDES = {"_local_scalar_dense", "nonzero", "unique_dim", "_unique2", "unique_consecutive", "masked_select", "equal"}
READS = {Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__}
CROP = Crop("whole")
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
        self.marked.mark([numbers, *batch, *([*part.parameters(), *part.buffers()] for part in parts)])
        for mode in (self.marked, Reading(self.marked)):
            self.modes.enter_context(mode)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.modes.close()

    def leave(self, *_: Any) -> None:
        self.modes.close()
        self.steps += 1


def data() -> FaceDataModule:
    photos = SyntheticFaces(identities=8, images=4, size=16)
    module = FaceDataModule(
        photos, SmallResNet(16, 4, crop=CROP).input_spec, IDENTITY, FaceAugmentation(blur=0.5, jpeg=0.5), device="cpu"
    )
    module.setup()
    return module


def fit(loss: nn.Module, folder: Path, fused: bool = False) -> Watched:
    module = VerificationModule(
        SmallResNet(16, 4, embedding_size=8, crop=CROP), loss, None, partial(torch.optim.AdamW, lr=1e-3, fused=fused)
    )
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
        trainer.fit(module, datamodule=data())
    return watched


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_waits_for_nothing(fused: bool, tmp_path: Path) -> None:
    watched = fit(Softmax(), tmp_path, fused)
    assert watched.steps == 12, "the figures of every tenth step too"
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
