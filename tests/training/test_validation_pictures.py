"""Pictures of the validation photos: several processes show what one would."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from siamese_verify.data import FaceDataModule
from siamese_verify.data.datamodule import in_order
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.samplers import IdentityBatchSampler
from siamese_verify.structures import Crop, InputSpec
from siamese_verify.training import ValidationPictures
from tests.training.rank_pool import rank_pool


class Logger:
    """Keeps the pixels of what it is given."""

    experiment = None

    def __init__(self) -> None:
        self.shown: dict[str, bytes] = {}

    def log_image(self, key: str, images: list[Image.Image]) -> None:
        self.shown[key] = images[0].convert("RGB").tobytes()


def pictures(rank: int, world_size: int) -> dict[str, bytes]:
    """What a rank logs of a validation whose embeddings are the pixels."""
    photos = SyntheticFaces(identities=9, images=5, size=16, first=100)
    sampler = partial(IdentityBatchSampler, identities_per_batch=2, samples_per_identity=2)
    data = FaceDataModule(photos, InputSpec(16, crop=Crop("whole")), sampler, validation_share=0.5)
    data.setup()
    logger, callback = Logger(), ValidationPictures(1, photos=9, strips=4, neighbors=3)
    trainer: Any = SimpleNamespace(
        datamodule=data,
        loggers=[logger],
        sanity_checking=False,
        current_epoch=0,
        global_step=3,
        global_rank=rank,
        world_size=world_size,
        is_global_zero=rank == 0,
    )
    module: Any = None
    callback.on_validation_epoch_start(trainer, module)
    assert data.validation_set is not None
    for number, batch in enumerate(in_order(data.validation_set, rank, world_size)):
        callback.on_validation_batch_end(trainer, module, batch.images.flatten(1).to(torch.float32), batch, number)
    callback.on_validation_epoch_end(trainer, module)
    return logger.shown


def test_several_processes_show_what_one_would(tmp_path: Path) -> None:
    expected = pictures(0, 1)
    assert expected.keys() == {"val/map", "val/neighbors"}
    with rank_pool(tmp_path) as pool:
        first, second = pool.run(2, pictures, 2)
    assert first == expected
    assert second == {}
