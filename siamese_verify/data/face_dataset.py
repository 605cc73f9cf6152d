"""A data set of faces that gives whole batches, from faces in memory or on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from siamese_verify.errors import InputError, printable
from siamese_verify.faces import crop_face
from siamese_verify.pairwise.blocks import copied_ahead
from siamese_verify.samplers import TupleBatch
from siamese_verify.structures import ARRAYS_FOR_PHOTOS, FaceBatch, InputSpec, Photos

log = logging.getLogger(__name__)

Rows = Sequence[int] | slice
MIN_SIDE = 64  # pixels of the picture of an array


class FaceDataset(Dataset[FaceBatch]):
    """Faces with labels; an item is a whole batch, as a batch sampler composes it.

    Args:
        faces: N faces, by rows.
        labels: (N,) integers.
        transform: random augmentation of (n,3,S,S) uint8 images.
        views: of each image in a batch, one block of the batch after the other.
        instances: label an image by its row, so that only its own views are positives.
        seed: of the augmentation, which depends on it and on the rows of the batch alone.
        local_views: further views of each image, the last blocks of the batch.
        local_transform: random augmentation of those, such as crops of a small part.
        labeled: (N,) bool, images whose labels may be learned from; None = all.

    Attributes:
        augments_later: leave the images of a batch as they are, for `augmented` to be called where they are trained on.
    """

    def __init__(
        self,
        faces: FacesInMemory | FacesOnDisk,
        labels: Tensor,
        transform: Callable[[Tensor], Tensor] | None = None,
        views: int = 1,
        instances: bool = False,
        seed: int = 0,
        local_views: int = 0,
        local_transform: Callable[[Tensor], Tensor] | None = None,
        labeled: Tensor | None = None,
    ) -> None:
        self.faces, self.labels, self.transform = faces, labels, transform
        self.views, self.instances, self.seed = views, instances, seed
        self.local_views, self.local_transform, self.labeled = local_views, local_transform, labeled
        self.augments_later = False

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, batch: Sequence[int] | TupleBatch) -> FaceBatch:
        rows, tuples = (batch.rows, batch.tuples) if isinstance(batch, TupleBatch) else (batch, None)
        views = self.views + self.local_views
        if tuples is not None and views > 1:
            raise InputError(f"{views} views go with batches of images: set sampler=identity or images.")
        images = self.faces[rows]
        labels = torch.as_tensor(rows) if self.instances else self.labels[rows].long()
        images = images if self.augments_later else self.augmented(images, rows)
        chosen = torch.as_tensor(rows)
        labeled = None if self.labeled is None else self.labeled[chosen]
        return FaceBatch(images, labels.repeat(views), tuples, chosen, labeled)

    def augmented(self, images: Tensor, rows: Iterable[int]) -> Tensor:
        """(views*N, ...) views of the N images of a batch, on their device, by seed and rows alone."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(hash((self.seed, *map(int, rows))) % 2**63)
            blocks = [augmented_views(images, self.views, self.transform)]
            if self.local_views:
                blocks.append(augmented_views(images, self.local_views, self.local_transform))
        return torch.cat(blocks) if self.local_views else blocks[0]


def augmented_views(images: Tensor, views: int, transform: Callable[[Tensor], Tensor] | None) -> Tensor:
    """(views*N, ...) blocks of N images, one after the other, each image augmented by itself."""
    blocks = torch.cat([images] * views) if views > 1 else images
    return blocks if transform is None else transform(blocks)


def as_array(item: Any, spec: InputSpec, face: Image.Image | None = None) -> np.ndarray:
    """What a data set gives for a row, as an array: (S,S,3) uint8 pixels of a photo's crop, or an array as it is.

    Args:
        item: a photo, or an array or tensor.
        spec: of the encoder.
        face: the crop of the photo if it is known; by default it is cut without a detector.

    Raises:
        InputError: an array of another shape, or one that is not finite or no uint8 where the encoder takes those; a
            photo for an encoder of arrays, or the reverse.
    """
    if spec.is_photo:
        refuse_arrays([] if face else [item])
        return np.asarray(crop_face(item, spec) if face is None else face)
    if isinstance(item, Image.Image):
        raise InputError(f"The encoder takes arrays of shape {spec.shape}, but the data set gives photos.")
    given = np.asarray(item)
    fits = (given >= 0) & (given <= 255) & (given == np.rint(given)) if given.dtype != spec.dtype == "uint8" else True
    if not np.all(fits):
        raise InputError(
            "The encoder takes whole numbers in 0 ... 255, but the data set gives others: set encoder.dtype=float32."
        )
    array = given.astype(spec.dtype, copy=False)
    if array.shape != spec.shape or not np.isfinite(array).all():
        problem = "numbers that are not finite" if array.shape == spec.shape else f"one of shape {array.shape}"
        raise InputError(f"The encoder takes arrays of shape {spec.shape}, but the data set gives {problem}.")
    return array


def picture_of(item: Any, spec: InputSpec) -> Image.Image:
    """The input of an encoder as an RGB image.

    Args:
        item: a photo, which is cropped without a detector; a crop, (3,S,S) uint8; or an array, whose first channel is
            drawn in its range.
        spec: of the encoder.
    """
    if isinstance(item, Image.Image):
        return crop_face(item, spec)
    if spec.is_photo:
        return Image.fromarray(np.ascontiguousarray(spec.channels_last(np.asarray(item)[None])[0]))
    array = np.atleast_2d(np.asarray(item, dtype=np.float64))
    plane = array[(0,) * (array.ndim - 2)]  # (H,W); a vector is one row
    low, high = plane.min(), plane.max()
    gray = ((plane - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
    enlarged = tuple(length * max(1, -(-MIN_SIDE // length)) for length in gray.shape[::-1])
    return Image.fromarray(gray).resize(enlarged, Image.Resampling.NEAREST).convert("RGB")


def refuse_arrays(items: Sequence[Any]) -> None:
    """Raise InputError if a data set gives arrays where an encoder takes photos."""
    if not all(isinstance(item, Image.Image) for item in items):
        raise InputError(ARRAYS_FOR_PHOTOS)


def stacked(items: Sequence[np.ndarray], spec: InputSpec) -> Tensor:
    """N results of `as_array` as a batch of an encoder: (N,3,S,S), channels last in memory, or (N,*shape)."""
    batch: Tensor = spec.channels_first(torch.from_numpy(np.stack(items)))
    return batch


class FacesInMemory:
    """Face crops in the memory of the computer or of a GPU.

    Args:
        images: (N,3,S,S) uint8, or (N,*shape) arrays.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    @property
    def on_gpu(self) -> bool:
        """Whether they are on a GPU, which other processes cannot read."""
        return self.images.device.type != "cpu"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Rows) -> Tensor:
        """(n,3,S,S) uint8, where the faces are."""
        chosen = rows if isinstance(rows, slice) else copied_ahead(torch.as_tensor(rows), self.images.device)
        return self.images[chosen]


class FacesOnDisk:
    """Faces that need no detector, decoded at each access.

    A damaged photo is replaced by the next one of the same identity, with one warning.

    Args:
        photos: where the faces come from.
        rows: (N,) rows of `photos`.
        spec: how they are cropped and scaled, without a detector.
        max_damaged: photos that each process may replace before it is an error.
    """

    on_gpu = False

    def __init__(self, photos: Photos, rows: np.ndarray, spec: InputSpec, max_damaged: int = 0) -> None:
        self.photos, self.rows, self.spec, self.max_damaged = photos, rows, spec, max_damaged
        self.damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Rows) -> Tensor:
        """(n,3,S,S) uint8.

        Raises:
            InputError: more than `max_damaged` photos are damaged, or all of an identity are.
        """
        chosen = range(len(self))[rows] if isinstance(rows, slice) else rows
        return stacked([self._read(row) for row in chosen], self.spec)

    def _read(self, row: int) -> np.ndarray:
        for candidate in self._candidates(row):
            try:
                return as_array(self.photos[int(self.rows[candidate])], self.spec)
            except InputError as error:
                self._count_damaged(candidate, str(error))
        raise InputError(f"No photo of {self.photos.names[int(self.rows[row])]}'s identity can be read.")

    def _candidates(self, row: int) -> Iterator[int]:
        yield row
        identities = self.photos.identities
        own = np.flatnonzero(identities[self.rows] == identities[self.rows[row]])
        yield from np.roll(own, -np.searchsorted(own, row))[1:].tolist()  # from the next one on

    def _count_damaged(self, row: int, reason: str) -> None:
        if row in self.damaged:
            return
        self.damaged.add(row)
        if len(self.damaged) > self.max_damaged:
            raise InputError(f"More than {self.max_damaged} photos cannot be read (max_damaged), the last: {reason}")
        log.warning("%s Another photo of the same identity takes its place.", printable(reason))
