"""Data loaders: whose rows are whose, which signals their processes ignore, and faces that live on a GPU."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from siamese_verify.data.face_dataset import FaceDataset, FacesInMemory
from siamese_verify.datasets.generated import GeneratedSet
from siamese_verify.errors import InputError
from siamese_verify.structures import FaceBatch, Photos
from siamese_verify.worker_pool import usable_cores

DRAWN_TOGETHER = 512  # samples from which processes that draw them pay
IN_ORDER = 256  # photos of a batch where nothing is learned
SIGNALS = tuple(  # that stop a run; Windows lacks some
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


def in_order(faces: FaceDataset, rank: int = 0, world_size: int = 1, workers: int = 0) -> DataLoader[FaceBatch]:
    """Load each photo once, on one of the ranks, in batches too small to fill a memory."""
    share = share_of(len(faces), rank, world_size)
    batches = [share[first : first + IN_ORDER] for first in range(0, len(share), IN_ORDER)]
    return DataLoader(faces, batch_size=None, sampler=batches, num_workers=workers, worker_init_fn=ignore_signals)


class _Drawn(Dataset[list[Any]]):
    def __init__(self, photos: Photos, parts: Sequence[Sequence[int]]) -> None:
        self.photos, self.parts = photos, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> list[Any]:
        return [self.photos[row] for row in self.parts[number]]


def drawn_ahead(photos: Photos, parts: Sequence[Sequence[int]]) -> Iterator[list[Any]] | None:
    """Samples of each part in order, drawn by as many processes as torch has threads.

    None where one process is as good: for few samples, and for sets that read files, which threads do.
    """
    if multiprocessing.current_process().daemon:  # it may have no processes of its own
        return None
    workers = min(torch.get_num_threads(), usable_cores(), len(parts))
    if workers < 2 or not isinstance(photos, GeneratedSet) or sum(map(len, parts)) < DRAWN_TOGETHER:
        return None
    return iter(
        DataLoader(
            _Drawn(photos, parts),
            batch_size=None,
            collate_fn=list,  # as they are
            num_workers=workers,
            worker_init_fn=ignore_signals,
            generator=torch.Generator(),  # torch's own goes on as if nothing was drawn
        )
    )


def training_gpu(trainer: Any) -> torch.device | None:
    """The GPU that this process trains on, if it does."""
    device = getattr(getattr(trainer, "strategy", None), "root_device", None)
    return device if device is not None and device.type == "cuda" else None


def room_on(device: torch.device) -> int:
    """Bytes of faces that a device may hold: a quarter of the free memory of a GPU, without a limit on a CPU."""
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else sys.maxsize


def held_on(faces: FaceDataset, device: torch.device, workers: int) -> FacesInMemory:
    """All faces of a data set as one tensor on a device, read or decoded once, under a delayed progress bar.

    Args:
        faces: N of them.
        device: that has room for them.
        workers: processes that decode.
    """
    held: torch.Tensor | None = None
    batches = in_order(FaceDataset(faces.faces, faces.labels), workers=workers)
    for first, batch in enumerate(tqdm(batches, f"Faces to {device}", delay=2, leave=False, disable=None)):
        if held is None:
            shape = (len(faces), *batch.images.shape[1:])
            order = torch.channels_last if len(shape) == 4 else torch.contiguous_format
            held = torch.empty(shape, dtype=batch.images.dtype, device=device, memory_format=order)
        held[first * IN_ORDER : first * IN_ORDER + len(batch.images)] = batch.images
    assert held is not None
    return FacesInMemory(held)


def share_of(rows: int, rank: int, world_size: int) -> range:
    """The rows of a rank, where each row is on one rank and the ranks have equally many, but for one."""
    start, end = np.linspace(0, rows, world_size + 1).astype(int)[rank : rank + 2].tolist()
    return range(start, end)


def ignore_signals(_: int = 0) -> None:
    """Leave the signals that stop a run to the process that trains: it needs its workers to finish the step."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def refuse_replacement(trainer: Any) -> None:
    """Check that Lightning does not replace the samplers: it would share a rank's part among the ranks once more.

    Raises:
        InputError: a trainer of several processes that would replace them, as Lightning's do by default.
    """
    connector = getattr(trainer, "_accelerator_connector", None)
    if connector is not None and connector.use_distributed_sampler and trainer.world_size > 1:
        raise InputError(
            "Lightning would put its own sampler in place of one that knows its rank, and each process would train on "
            "a part of its part: set trainer.use_distributed_sampler=false."
        )
