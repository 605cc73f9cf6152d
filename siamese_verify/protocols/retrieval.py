"""Protocols of retrieval: each photo among all others, or queries among a gallery, the same camera left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamese_verify.datasets.listing import ListedPhotos
from siamese_verify.errors import InputError
from siamese_verify.evaluation.retrieval_rates import RANKS, RetrievalReport, retrieval_report
from siamese_verify.protocols.held_out import HeldOutShare, made_of
from siamese_verify.protocols.protocol import EvaluationSettings, PhotoSubset, Protocol
from siamese_verify.structures import Photos


@dataclass(frozen=True)
class RetrievalProtocol(Protocol):
    """Rankings of photos by similarity; see `retrieval_report`.

    Attributes:
        name: for people.
        photos: N photos.
        ranks: k of recall@k.
        query: value of the photos' split that are searched for; None = each photo, among all others.
        gallery: value of the photos' split that are ranked; None likewise.
        same_camera: rank photos of the query's person by the query's camera too, where cameras are known.
    """

    ranks: Sequence[int] = RANKS
    query: str | None = None
    gallery: str | None = None
    same_camera: bool = False

    def digest(self) -> str:
        """SHA-256 of the names of the photos, their identities, and what is searched for in what; not of pixels."""
        known = {name: getattr(self.photos, name, None) for name in ("splits", "cameras")}
        columns = [None if values is None else [*map(str, values)] for values in known.values()]
        return str(self._digest(self.query, self.gallery, self.same_camera, *columns).hexdigest())

    def evaluate(self, embeddings: np.ndarray, settings: EvaluationSettings) -> RetrievalReport:
        """Rank the photos and return all metrics."""
        people = np.asarray(self.photos.identities)
        known = getattr(self.photos, "cameras", None)
        cameras = None if known is None or self.same_camera else np.array(list(known))
        intervals = settings.resamples > 0
        if self.query is None:
            return retrieval_report(
                embeddings, people, cameras=cameras, ranks=self.ranks, intervals=intervals, progress=True
            )
        splits = np.array(list(self.photos.splits))  # type: ignore[attr-defined]
        queries, gallery = splits == self.query, splits == self.gallery
        return retrieval_report(
            embeddings[queries],
            people[queries],
            embeddings[gallery],
            people[gallery],
            None if cameras is None else cameras[queries],
            None if cameras is None else cameras[gallery],
            ranks=self.ranks,
            intervals=intervals,
            progress=True,
        )


def retrieval(
    photos: Photos | None = None,
    people: Protocol | HeldOutShare | None = None,
    ranks: Sequence[int] = RANKS,
    query: str | None = None,
    gallery: str | None = None,
    same_camera: bool = False,
) -> Protocol | HeldOutShare:
    """Protocol of retrieval: each photo is searched for among all others, or queries among a gallery.

    Args:
        photos: of people; None takes those of `people`.
        people: another protocol, whose photos are taken, or people to hold out from training.
        ranks: k of recall@k, each >= 1.
        query: value of the photos' split that are searched for, with `gallery`; None = each photo, among all others.
        gallery: value of the photos' split that are ranked.
        same_camera: rank photos of the query's person by the query's camera too, where cameras are known.

    Raises:
        InputError: a query set without a gallery set or the reverse, photos without such splits, no one with a photo to
            be found, an invalid rank; of the other protocol only pairs are known.
    """
    chosen = [int(rank) for rank in ranks]
    if not chosen or min(chosen) < 1:
        raise InputError(f"protocol.ranks must list whole numbers from 1 on, such as [1,5,10], got {chosen}.")
    if (query is None) != (gallery is None):
        raise InputError("protocol.query and protocol.gallery name two sets of photos: give both, or neither.")

    def make(source: Photos, name: str) -> RetrievalProtocol:
        used = source
        if query is not None:
            splits = getattr(source, "splits", None)
            found = np.array(list(splits)) if splits is not None else np.empty(0, dtype=str)
            missing = [one for one in (query, gallery) if not (found == one).any()]
            if missing:
                raise InputError(
                    f"{name} has no photos in the split {missing[0]!r}: it needs a column split with {query!r} and "
                    f"{gallery!r}."
                )
            used = PhotoSubset(source, np.flatnonzero((found == query) | (found == gallery)))
        refuse_nothing_to_find(used, name, query, gallery, same_camera)
        title = f"{name}: retrieval" + (f" of {query} from {gallery}" if query else "")
        return RetrievalProtocol(title, used, tuple(chosen), query, gallery, same_camera, photos_name=name)

    return made_of(photos, people, make)


def refuse_nothing_to_find(
    photos: Photos, name: str, query: str | None, gallery: str | None, same_camera: bool
) -> None:
    """Check that a query has a photo to be found; for the arguments see `retrieval`.

    Raises:
        InputError: no one has a second photo, or one by another camera than the query's; an unknown camera is another.
    """
    rows = np.arange(len(photos))
    if query is not None:
        splits = np.array(list(photos.splits))  # type: ignore[attr-defined]
        people = np.asarray(photos.identities)
        searched = np.intersect1d(people[splits == query], people[splits == gallery])
        sets = (np.flatnonzero((splits == split) & np.isin(people, searched)) for split in (query, gallery))
        rows = np.concatenate(list(sets))
    people = np.asarray(photos.identities)[rows]
    known = None if same_camera else getattr(photos, "cameras", None)
    cameras = np.arange(len(rows))  # each photo by another
    if known is not None:
        names = np.char.strip(np.array([str(known[row]) for row in rows], dtype=str))
        cameras = np.where(names == "", cameras + len(rows), np.unique(names, return_inverse=True)[1])
    persons = np.unique(people, return_inverse=True)[1]
    of_person = np.unique(np.stack([persons, cameras], axis=1), axis=0)[:, 0]  # once for each camera
    if not len(rows) or np.bincount(of_person).max() < 2:
        if known is not None and len(rows) > len(np.unique(people)):
            raise InputError(
                f"No photo of {name} has another of its person by another camera to be found: add one, or set "
                "protocol.same_camera=true."
            )
        raise InputError(f"No photo of {name} has another of its person to be found: add a second photo of someone.")


def retrieval_list(
    path: str | Path,
    root: str | Path | None = None,
    ranks: Sequence[int] = RANKS,
    query: str = "query",
    gallery: str = "gallery",
    same_camera: bool = False,
) -> Protocol | HeldOutShare:
    """Protocol of queries and a gallery in a list with the columns `path,identity,split[,camera]`.

    Args:
        path: of the list, see `ListedPhotos`; photos of other splits are left out.
        root: folder that the paths start from; by default the list's.
        ranks: see `retrieval`, as the others.
        query: value of the column `split`.
        gallery: likewise.
        same_camera: see `retrieval`.

    Raises:
        InputError: see `ListedPhotos` and `retrieval`.
    """
    return retrieval(ListedPhotos(path, root), None, ranks, query, gallery, same_camera)
