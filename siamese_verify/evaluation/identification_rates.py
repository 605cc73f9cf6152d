"""One against many: who is it, and is it anybody known?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.operating_points import DECISIVE_IMPOSTORS
from siamese_verify.evaluation.scores import as_array, numbered, unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

BLOCK_ENTRIES = 2**22  # similarities held at once: some 50 MB with what is made of them, whatever N is


class OpenSetPoint(NamedTuple):
    """Detection and identification at one threshold."""

    target: float  # share of unknown people allowed to be taken for somebody, in [0, 1]
    far: float  # the share reached, <= target
    rate: float  # share of known people found first and above the threshold, in [0, 1]
    threshold: float  # a score that occurs, or +inf
    insufficient: bool  # target * unknown < 10: too few unknown people to say


class IdentificationReport(NamedTuple):
    """How well a person is found among many.

    Ranks count people, as in ISO/IEC 19795-1: a person's score is that of her most similar photo. Somebody else who
    scores as high as the right person stands before her, so that collapsed embeddings find nobody.
    """

    cmc: dict[int, float]  # by rank: share of known probes whose person is among so many first
    open_set: tuple[OpenSetPoint, ...]  # empty without unknown probes
    known: int  # probes whose person is in the gallery
    unknown: int  # probes whose person is not


class Found(NamedTuple):
    """What a search tells about each of some probes."""

    own: NDArray[np.floating]  # (N,) the best score of the person herself, -inf if she is not in the gallery
    other: NDArray[np.floating]  # (N,) the best score of anybody else, -inf if there is nobody
    rank: NDArray[np.int64]  # (N,) of the person herself, from 1


def identification_report(
    embeddings: ArrayLike,
    identities: ArrayLike,
    gallery: ArrayLike | None = None,
    gallery_identities: ArrayLike | None = None,
    ranks: Sequence[int] = (1, 5, 10, 20),
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
) -> IdentificationReport:
    """Look for the person of every probe among the people of a gallery.

    Args:
        embeddings: (N, D) of the probes, of any non-zero length.
        identities: (N,) one number or name per row.
        gallery: (M, D), or None to look for each photo among all others; people with one photo are then unknown.
        gallery_identities: (M,), with a gallery.
        ranks: to report the share of probes found up to, each >= 1.
        fars: shares of unknown probes that may be taken for somebody, in [0, 1].

    Raises:
        InputError: shapes that do not fit, rows without a direction, a gallery without identities or the reverse, no
            photos, no probe whose person is in the gallery, no rank, or a rank or a share that is none.

    Phillips, Grother & Micheals, "Evaluation Methods in Face Recognition", Handbook of Face Recognition, 2011.
    """
    if len(ranks) == 0:
        raise InputError("There are 0 ranks to report: give at least one.")
    if any(rank < 1 for rank in ranks):
        raise InputError(f"A rank of {min(ranks)} is none: give ranks from 1.")
    for far in fars:
        if not 0 <= far <= 1:
            raise InputError(f"The false accept rate asked for is {far}: give one between 0 and 1.")
    blocks = _search(embeddings, identities, gallery, gallery_identities)
    own, other, rank = (np.concatenate(part) for part in zip(*blocks, strict=True))
    known = np.isfinite(own)
    count = int(known.sum())
    if not count:
        raise InputError(f"None of {len(own)} probes shows a person of the gallery: give two photos of somebody.")
    cmc = {limit: int((rank[known] <= limit).sum()) / count for limit in ranks}
    first = np.sort(own[known & (rank == 1)])
    strangers = np.sort(other[~known & np.isfinite(other)])
    points = tuple(_open_set(first, strangers, count, far) for far in fars) if len(strangers) else ()
    return IdentificationReport(cmc, points, count, int((~known).sum()))


def _open_set(first: NDArray[np.floating], strangers: NDArray[np.floating], known: int, target: float) -> OpenSetPoint:
    """Read off the lowest threshold that lets few enough strangers in; both (K,) arrays ascend."""
    scores = np.append(np.unique(np.concatenate([first, strangers])), np.inf)
    accepted = len(strangers) - np.searchsorted(strangers, scores)
    place = int(np.argmax(accepted / len(strangers) <= target))
    return OpenSetPoint(
        target=float(target),
        far=int(accepted[place]) / len(strangers),
        rate=int(len(first) - np.searchsorted(first, scores[place])) / known,
        threshold=float(scores[place]),
        insufficient=target < DECISIVE_IMPOSTORS / len(strangers),
    )


def _search(
    embeddings: ArrayLike, identities: ArrayLike, gallery: ArrayLike | None, gallery_identities: ArrayLike | None
) -> Iterator[Found]:
    """Compare block by block."""
    if gallery is None and gallery_identities is not None:
        raise InputError("There are identities of a gallery but no gallery: give both, or neither.")
    probes, names = unit_rows(embeddings), as_array(identities)
    among = probes if gallery is None else unit_rows(gallery)
    their_names = names if gallery is None else as_array(() if gallery_identities is None else gallery_identities)
    if among.shape[1] != probes.shape[1]:
        raise InputError(
            f"The embeddings have {probes.shape[1]} dimensions and the gallery's {among.shape[1]}: embed both alike."
        )
    for found, rows in ((names, probes), (their_names, among)):
        numbered(found, len(rows))
    if not (len(probes) and len(among)):
        raise InputError(f"None of {len(probes)} probes shows a person of the gallery: give two photos of somebody.")
    people = numbered(np.concatenate([names, their_names]), len(probes) + len(among))
    probe_people, gallery_people = people[: len(probes)], people[len(probes) :]
    # One person's rows stand together, so that her best score is a maximum over neighbours.
    order = np.argsort(gallery_people, kind="stable")
    present, first = np.unique(gallery_people[order], return_index=True)
    columns = among[order]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    step = max(1, BLOCK_ENTRIES // len(columns))
    for start in range(0, len(probes), step):
        rows = np.arange(start, min(start + step, len(probes)))
        similarity = probes[rows] @ columns.T  # (B,M)
        if gallery is None:
            similarity[rows - start, place[rows]] = -np.inf  # the photo itself
        best = np.maximum.reduceat(similarity, first, axis=1)  # (B,P)
        who = np.minimum(np.searchsorted(present, probe_people[rows]), len(present) - 1)
        there = present[who] == probe_people[rows]
        own = np.where(there, best[rows - start, who], -np.inf)
        best[np.flatnonzero(there), who[there]] = -np.inf
        yield Found(own, best.max(axis=1), 1 + (best >= own[:, None]).sum(axis=1))
