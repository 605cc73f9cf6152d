"""Faces that `prepare` has aligned: a folder of small JPEGs, their index, and how they were cut."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_verify.datasets.folder import IndexedPhotos
from siamese_verify.datasets.listing import ListedPhotos
from siamese_verify.errors import InputError
from siamese_verify.faces import alignment_name
from siamese_verify.structures import InputSpec

INDEX, RECORD = "index.parquet", "prepared.json"


@dataclass(frozen=True)
class Preparation:
    """What `prepared.json` records.

    Attributes:
        source: name of the data set.
        aligned: size and crop of the faces.
        alignment: its name and version.
        digest: SHA-256 of the index, which holds that of every face.
        outcomes: photos by what became of them.
        dropped: identities that were left out on purpose, each with `identity`, `photos` and `reason`.
        drop_list: name of the list that said so, None without one.
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


def read_preparation(root: str | Path) -> Preparation:
    """Read how faces were prepared.

    Raises:
        InputError: there are none in `root`, the record is damaged, or this version aligns in another way.
    """
    record = Path(root) / RECORD
    if not record.is_file():
        raise InputError(f"{root} holds no prepared faces: make them with `siamese-verify prepare output={root}`.")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        found = Preparation(**{**content, "aligned": InputSpec.from_dict(content["aligned"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{record} is damaged ({error}): prepare the faces anew.") from None
    now = alignment_name(found.aligned.crop)
    if found.alignment != now:
        raise InputError(
            f"The faces in {root} were aligned as {found.alignment}, this version aligns as {now}: prepare them anew."
        )
    return found


class PreparedFaces(ListedPhotos):
    """Aligned faces, read when asked for.

    Args:
        root: folder that `siamese-verify prepare` wrote.
        split: as in the index, such as `train`; None takes all.
        cache: folder to keep an index in that can be mapped.

    Raises:
        InputError: see `read_preparation` and `ListedPhotos`.

    Attributes:
        aligned: how the faces were cut.
        filtered: what was left out of the data set, in words.
    """

    def __init__(self, root: str | Path, split: str | None = None, cache: str | Path | None = None) -> None:
        preparation = read_preparation(root)
        super().__init__(Path(root) / INDEX, root, split, cache)
        self.aligned = preparation.aligned
        self.preparation = preparation
        self.filtered = filtered(preparation)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _reopened, (self.root, self.index, self.aligned)

    @property
    def digest(self) -> str:
        """SHA-256 of the index, which holds that of every face."""
        return self.preparation.digest


def _reopened(root: str | Path, index: Any, aligned: InputSpec) -> Any:
    photos: Any = IndexedPhotos(root, index)
    photos.aligned = aligned
    return photos


def filtered(preparation: Preparation) -> str:
    """Whether identities were left out of a training set on purpose, in words."""
    if preparation.drop_list is None:
        return "no"
    photos = sum(one["photos"] for one in preparation.dropped)
    people = len(preparation.dropped)
    return f"yes: {people:,} identities with {photos:,} photos left out by {preparation.drop_list}"
