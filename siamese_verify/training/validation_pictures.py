"""Pictures of the validation photos for the loggers, while a network learns."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from torch.nn import functional as F

from siamese_verify.data.datamodule import share_of
from siamese_verify.data.face_dataset import picture_of
from siamese_verify.datasets import identity_name
from siamese_verify.errors import InputError
from siamese_verify.evaluation.embedding_map import choose_rows, neighbor_strips, pca_map
from siamese_verify.structures import FaceBatch
from siamese_verify.training.distributed import gather_objects
from siamese_verify.training.log_figures import show, takes_pictures


class ValidationPictures(pl.Callback):
    """Log a map of the validation photos, and the photos with the worst neighbors, every few epochs.

    The map is by principal components. The pictures of neighbors show photos: of people, they are personal data, and
    go wherever the logger keeps what it gets.

    Args:
        every_n_epochs: epochs between pictures.
        photos: on the map, at most; drawn at random, the same in each epoch.
        strips: photos whose neighbors are shown.
        neighbors: of each.
        seed: of the draw.

    Raises:
        InputError: a number is too small.
    """

    def __init__(
        self, every_n_epochs: int = 5, photos: int = 500, strips: int = 16, neighbors: int = 8, seed: int = 0
    ) -> None:
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 1),
            ("photos", photos, 2),
            ("strips", strips, 1),
            ("neighbors", neighbors, 1),
        ):
            if value < least:
                raise InputError(f"{name} of the validation pictures must be {least} or more, got {value}.")
        self.every_n_epochs, self.photos, self.seed = every_n_epochs, photos, seed
        self.strips, self.neighbors = strips, neighbors
        self._due = False
        self._next = 0  # photo of this validation
        self._rows: list[tuple[np.ndarray, int, Image.Image]] = []  # embedding, identity and picture
        self._chosen: set[int] = set()

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the photos."""
        self._due, self._rows, self._chosen = False, [], set()
        data: Any = getattr(trainer, "datamodule", None)
        if data is None or trainer.sanity_checking or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        self._due = gather_objects(trainer.is_global_zero and any(map(takes_pictures, trainer.loggers)))[0]
        if self._due:
            labels = data.validation_set.labels.numpy()
            self._chosen = set(choose_rows(labels, self.photos, self.seed).tolist())
            self._next = share_of(len(labels), trainer.global_rank, trainer.world_size).start

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: FaceBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the chosen photos and their embeddings, which the module's step returns."""
        own = [place for place in range(len(batch.labels)) if self._next + place in self._chosen]
        self._next += len(batch.labels)
        if own:
            from siamese_verify.evaluation.pages.embedding_page import tile_of

            spec = trainer.datamodule.spec  # type: ignore[attr-defined]
            rows = F.normalize(outputs[own].float()).cpu().numpy()
            tiles = [tile_of(picture_of(image, spec)) for image in batch.images[own].cpu()]
            self._rows += zip(rows, batch.labels[own].tolist(), tiles, strict=True)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the pictures and give them to the loggers."""
        if not self._due:
            return
        self._rows = [row for rows in gather_objects(self._rows) for row in rows]  # in the order of the ranks
        if len(self._rows) < 2 or not trainer.is_global_zero:
            return
        from siamese_verify.evaluation.pages.embedding_page import map_figure, neighbor_picture

        embeddings, labels, tiles = (list(part) for part in zip(*self._rows, strict=True))
        self._rows = []
        if not np.isfinite(embeddings).all():
            return  # the training reports that
        source = trainer.datamodule.validation_source  # type: ignore[attr-defined]
        names = [identity_name(source, label) for label in labels]
        strips = neighbor_strips(np.stack(embeddings), labels, self.neighbors)[: self.strips]
        sheet = io.BytesIO()
        neighbor_picture(strips, tiles).save(sheet, "PNG")
        drawn = {"val/map": map_figure(pca_map(embeddings), names).png, "val/neighbors": sheet.getvalue()}
        for logger in filter(takes_pictures, trainer.loggers):
            for name, content in drawn.items():
                show(logger, name, io.BytesIO(content), trainer.global_step)
