"""Aligned faces that `siamese-verify prepare` wrote: a folder of JPEGs, their index, and how they were cut."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_verify.datasets.folder import IndexedPhotos
from siamese_verify.datasets.index import FaceIndex
from siamese_verify.datasets.listing import ListedPhotos
from siamese_verify.errors import InputError
from siamese_verify.faces import alignment_name
from siamese_verify.structures import InputSpec

INDEX, RECORD = "index.parquet", "prepared.json"


@dataclass(frozen=True)
class Preparation:
    """Content of `prepared.json`.

    Attributes:
        source: name of the data set.
        aligned: size and crop of the faces.
        alignment: its name and version.
        digest: SHA-256 of the index, which holds that of every face.
        outcomes: number of photos by outcome.
        dropped: identities left out by a drop list, each with `identity`, `photos` and `reason`.
        drop_list: name of that list, None without one.
        versions: of the software.
    """

    source: str
    aligned: InputSpec
    alignment: str
    digest: str
    outcomes: dict[str, int]
    dropped: list[dict[str, Any]]
    drop_list: str | None
    versions: dict[str, str]

    @property
    def filtered(self) -> str:
        """Whether a drop list left out identities, in words."""
        if self.drop_list is None:
            return "no"
        photos = sum(one["photos"] for one in self.dropped)
        return f"yes: {len(self.dropped):,} identities with {photos:,} photos left out by {self.drop_list}"


def read_preparation(root: str | Path) -> Preparation:
    """Read how faces were prepared.

    Raises:
        InputError: `root` holds no prepared faces, they were aligned by another version, or `prepared.json` is damaged.
    """
    record = Path(root) / RECORD
    if not record.is_file():
        raise InputError(f"{root} holds no prepared faces: make them with `siamese-verify prepare output={root}`.")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        found = Preparation(**{**content, "aligned": InputSpec.from_dict(content["aligned"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{record} is damaged ({error}): prepare the faces again.") from None
    current = alignment_name(found.aligned.crop)
    if found.alignment != current:
        raise InputError(
            f"The faces in {root} were aligned as {found.alignment}, this version aligns as {current}: prepare them "
            "again."
        )
    return found


class PreparedFaces(ListedPhotos):
    """Aligned faces, read on access.

    Args:
        root: folder that `siamese-verify prepare` wrote.
        split: value of the index's column, such as `train`; None takes all.
        cache: see `ListedPhotos`.

    Raises:
        InputError: see `read_preparation` and `ListedPhotos`.

    Attributes:
        aligned: how the faces were cut.
        filtered: whether a drop list left out identities, in words.
    """

    def __init__(self, root: str | Path, split: str | None = None, cache: str | Path | None = None) -> None:
        self.preparation = read_preparation(root)
        super().__init__(Path(root) / INDEX, root, split, cache)
        self.aligned = self.preparation.aligned
        self.filtered = self.preparation.filtered

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _unpickle, (self.root, self.index, self.aligned)

    @property
    def digest(self) -> str:
        """SHA-256 of the index, which holds that of every face."""
        return self.preparation.digest


def _unpickle(root: str | Path, index: FaceIndex, aligned: InputSpec) -> IndexedPhotos:
    photos: Any = IndexedPhotos(root, index)
    photos.aligned = aligned
    faces: IndexedPhotos = photos
    return faces
