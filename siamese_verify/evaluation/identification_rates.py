"""Identification among many: rank rates (CMC) and open-set rates at false accept rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.all_pairs import checked_gallery
from siamese_verify.evaluation.operating_points import DECISIVE_IMPOSTORS, check_far
from siamese_verify.evaluation.scores import numbered, unit_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import ArrayLike, NDArray

BAND = 2**22  # similarities held at once: some 50 MB with what is made of them
GPU_BAND = 2**27  # on a GPU: some 2 GB


class OpenSetPoint(NamedTuple):
    """Detection and identification at one threshold."""

    target: float  # share of unknown people that may be taken for a person of the gallery, in [0, 1]
    far: float  # the share reached, <= target
    rate: float  # share of known people found first and above the threshold, in [0, 1]
    threshold: float  # a score that occurs, or +inf
    insufficient: bool  # target * unknown < 10: too few unknown people to say


class IdentificationReport(NamedTuple):
    """Rates of searches among many people.

    Ranks count people, as in ISO/IEC 19795-1: the score of a person is that of their most similar photo. Other people
    with the same score rank before the right person, so that collapsed embeddings identify no one.
    """

    cmc: dict[int, float]  # by rank: share of known probes whose person is among so many first
    open_set: tuple[OpenSetPoint, ...]  # empty without unknown probes
    known: int  # probes whose person is in the gallery
    unknown: int  # probes whose person is not


class Searches(NamedTuple):
    """Results of searching for the person of each probe."""

    own: NDArray[np.floating]  # (N,) best score of the person, -inf if not in the gallery
    other: NDArray[np.floating]  # (N,) best score of any other person, -inf if there is none
    rank: NDArray[np.int64]  # (N,) of the person, from 1


def identification_report(
    embeddings: ArrayLike,
    identities: ArrayLike,
    gallery: ArrayLike | None = None,
    gallery_identities: ArrayLike | None = None,
    ranks: Sequence[int] = (1, 5, 10, 20),
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
    *,
    band: int | None = None,
    device: str = "cpu",
) -> IdentificationReport:
    """Search for the person of every probe among the people of a gallery.

    Args:
        embeddings: (N, D) of the probes, of any non-zero length.
        identities: (N,) one number or name per row.
        gallery: (M, D), or None to search for each photo among all others; people with one photo are then unknown.
        gallery_identities: (M,), with a gallery.
        ranks: to report the share of probes found up to, each >= 1.
        fars: shares of unknown probes that may be taken for a person of the gallery, in [0, 1].
        band: similarities held at once; None for what suits the device.
        device: where similarities are computed, in full precision: `cpu`, `cuda`, or `auto` for a GPU if there is one.

    Raises:
        InputError: shapes that do not fit, rows without a direction, a gallery without identities or the reverse, no
            photos, no probe whose person is in the gallery, no rank, or an invalid rank or share.

    Phillips, Grother & Micheals, "Evaluation Methods in Face Recognition", Handbook of Face Recognition, 2011.
    """
    if len(ranks) == 0:
        raise InputError("ranks is empty: give at least one.")
    if any(rank < 1 for rank in ranks):
        raise InputError(f"ranks must be 1 or more, got {min(ranks)}.")
    for far in fars:
        check_far(far)
    if gallery is None and gallery_identities is not None:
        raise InputError("gallery_identities were given without a gallery: give both, or neither.")
    if gallery is None:
        rows = unit_rows(embeddings)
        probes = columns = rows, numbered(identities, len(rows))
    else:
        probes, columns = checked_gallery(embeddings, identities, gallery, gallery_identities)
    own, other, rank = _search(*probes, *columns, itself=gallery is None, band=band, device=device)
    known = np.isfinite(own)
    count = int(known.sum())
    if not count:
        raise InputError(f"None of {len(own)} probes shows a person of the gallery: give two photos of one person.")
    cmc = {limit: int((rank[known] <= limit).sum()) / count for limit in ranks}
    first = np.sort(own[known & (rank == 1)])
    unknown = np.sort(other[~known & np.isfinite(other)])
    points = tuple(_open_set(first, unknown, count, far) for far in fars) if len(unknown) else ()
    return IdentificationReport(cmc, points, count, int((~known).sum()))


def _open_set(first: NDArray[np.floating], unknown: NDArray[np.floating], known: int, target: float) -> OpenSetPoint:
    """Find the lowest threshold that accepts few enough unknown people; both (K,) arrays ascend."""
    scores = np.append(np.unique(np.concatenate([first, unknown])), np.inf)
    accepted = len(unknown) - np.searchsorted(unknown, scores)
    place = int(np.argmax(accepted / len(unknown) <= target))
    return OpenSetPoint(
        target=float(target),
        far=int(accepted[place]) / len(unknown),
        rate=int(len(first) - np.searchsorted(first, scores[place])) / known,
        threshold=float(scores[place]),
        insufficient=target < DECISIVE_IMPOSTORS / len(unknown),
    )


def _search(
    probes: NDArray[np.floating],
    probe_people: NDArray[np.int64],
    gallery: NDArray[np.floating],
    gallery_people: NDArray[np.int64],
    itself: bool,
    band: int | None = None,
    device: str = "cpu",
) -> Searches:
    """Search for the person of each probe in bands; `itself`: among all photos but the probe."""
    from siamese_verify.pairwise import bands
    from siamese_verify.pairwise.pair_scores import full_precision, torch_device

    none = np.full(len(probes), -np.inf, dtype=probes.dtype)
    found = Searches(none, none.copy(), np.zeros(len(probes), dtype=np.int64))
    if not (len(probes) and len(gallery)):
        return found
    # The rows of a person stand together, so that their best score is a maximum over neighbors.
    order = np.argsort(gallery_people, kind="stable")
    people, first = np.unique(gallery_people[order], return_index=True)
    columns, place = gallery[order], np.argsort(order)
    there = torch_device(device)
    if there.type != "cpu":
        with full_precision():
            own_place = place if itself else None
            return _search_there(probes, probe_people, columns, gallery_people[order], own_place, band, there)
    for part in bands(len(probes), len(columns), band or BAND):
        similarity = probes[part] @ columns.T  # (B,M)
        rows = np.arange(len(similarity))
        if itself:
            similarity[rows, place[part]] = -np.inf
        best = np.maximum.reduceat(similarity, first, axis=1)  # (B,P)
        who = np.minimum(np.searchsorted(people, probe_people[part]), len(people) - 1)
        there = people[who] == probe_people[part]
        own = np.where(there, best[rows, who], -np.inf)
        best[rows[there], who[there]] = -np.inf
        found.own[part], found.other[part] = own, best.max(axis=1)
        found.rank[part] = 1 + (best >= own[:, None]).sum(axis=1)
    return found


def _search_there(
    probes: NDArray[np.floating],
    probe_people: NDArray[np.int64],
    columns: NDArray[np.floating],
    column_people: NDArray[np.int64],
    place: NDArray[np.int64] | None,
    band: int | None,
    device: torch.device,
) -> Searches:
    """`_search` on a GPU, which is waited for once, at the end.

    Args:
        probes: (N,D) of unit length.
        probe_people: (N,).
        columns: (M,D) of the gallery, by ascending person.
        column_people: (M,).
        place: (N,) column of each probe itself; None where the gallery is another set.
        band: see `identification_report`.
        device: of the products.
    """
    import torch

    from siamese_verify.pairwise import bands

    people, number = np.unique(column_people, return_inverse=True)
    nearest = np.minimum(np.searchsorted(people, probe_people), len(people) - 1)
    rows, others, of, who, there = (
        torch.from_numpy(np.ascontiguousarray(one)).to(device)
        for one in (probes, columns, number, nearest, people[nearest] == probe_people)
    )
    itself = None if place is None else torch.from_numpy(place).to(device)
    found = []
    for part in bands(len(rows), len(others), band or GPU_BAND):
        similarity = rows[part] @ others.T  # (B,M)
        if itself is not None:
            similarity.scatter_(1, itself[part, None], -torch.inf)
        best = similarity.new_full((len(similarity), len(people)), -torch.inf)
        best.scatter_reduce_(1, of.expand_as(similarity), similarity, "amax")
        own = best.gather(1, who[part, None]).masked_fill_(~there[part, None], -torch.inf)
        rest = best.gather(1, who[part, None]).masked_fill_(there[part, None], -torch.inf)
        best.scatter_(1, who[part, None], rest)
        found.append((own[:, 0], best.amax(dim=1), 1 + (best >= own).sum(dim=1)))
    return Searches(*(torch.cat(one).cpu().numpy() for one in zip(*found, strict=True)))
