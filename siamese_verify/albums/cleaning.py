"""Cleaning: photos of a labelled set whose label is probably wrong, and identities that are two or one."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from siamese_verify.albums.grouping import (
    NEIGHBORS,
    QUEUED,
    FalseMerges,
    PersonModel,
    Rows,
    _Agglomeration,
    _Stop,
    check_embeddings,
)
from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreCalibration
from siamese_verify.tables import csv_cell

RATE = 0.05  # of the findings that may be wrong, by the model
DUPLICATE = 0.999  # score of two copies of one photo, also after it was compressed anew
WHOLE = 64  # photos of an identity of which all pairs are compared; of more, the nearest
COLUMNS = ("kind", "photo", "identity", "other", "log_likelihood_ratio", "drop")
Kind = Literal["mislabelled", "two people", "one person", "duplicate"]


class Finding(NamedTuple):
    """Something to review.

    Attributes:
        kind: `mislabelled`: these photos of an identity show another one. `two people`: these photos of an identity
            show somebody else than the others do. `one person`: two identities look like one. `duplicate`: two photos
            are one.
        rows: of the photos; of `one person` all of the first identity, of `duplicate` all copies but the first.
        identity: of the photos.
        other: the identity that they look like; of `two people` their own; of `duplicate` that of the first copy.
        ratio: log-likelihood ratio in nats: of being `other`, or for `two people` of not being one person with the rest
            of their identity; of `duplicate` infinite.
        shown: a row of the other photos to compare with.
    """

    kind: Kind
    rows: tuple[int, ...]
    identity: int
    other: int
    ratio: float
    shown: int


def find_label_errors(
    embeddings: ArrayLike,
    identities: ArrayLike,
    calibration: ScoreCalibration,
    *,
    rate: float = RATE,
    neighbors: int = NEIGHBORS,
) -> list[Finding]:
    """Find probable errors among the labels of faces, the surest of each kind first.

    The photos of each identity are merged (`PersonModel`) while a likelihood ratio speaks for one person. What then
    is apart from the largest part of its identity is compared with all parts of other identities: those that reach a
    ratio that so many pairs are expected to reach by chance that they would be at most `rate` of the findings are
    mislabelled, or, if both are the largest parts, two identities that look like one. Parts without such a counterpart
    whose ratio speaks against their own identity by a factor of 1 / `rate` are two people under one name.

    Args:
        embeddings: (N,D) of unit length.
        identities: (N,) integers.
        calibration: of the model's scores.
        rate: share of the findings that may be wrong by the model, in (0, 1); more are where it errs, see
            docs/grouping.md.
        neighbors: candidates of each part.

    Raises:
        InputError: see `group_faces`.
    """
    rows, labels = check_embeddings(embeddings, rate), np.asarray(identities)
    if labels.shape != (len(rows),):
        raise InputError(f"Each face has one identity, got {labels.shape} for {len(rows):,} faces.")
    if not len(rows):
        return []
    model = PersonModel.from_calibration(calibration.calibration)
    false = FalseMerges(calibration.impostor_tail, model)
    members = _rows_by_identity(labels)
    state = _Agglomeration(model, rows, {})
    stop = _Stop(false, rate, len(rows), cut=0.0)
    state.greedy(_within(rows, members, model, neighbors), 0.0, stop, QUEUED * neighbors)
    part = state.find(np.arange(len(rows)))
    roots = state.roots()
    alike = _alike(state, labels, false, rate, neighbors)
    matched: dict[int, tuple[float, int]] = {}  # by part, its best counterpart
    for ratio, a, b in alike:
        for one, other in ((a, b), (b, a)):
            if ratio > matched.get(one, (-np.inf, 0))[0]:
                matched[one] = (ratio, other)
    main: dict[int, int] = {}  # the largest part of each identity; of equal ones that which looks less like another
    for root in sorted(roots.tolist(), key=lambda root: (-state.size[root], matched.get(root, (-np.inf, 0))[0])):
        main.setdefault(int(labels[root]), root)
    findings = _duplicates(rows, labels, part, neighbors, model)
    for ratio, a, b in alike:
        if main[int(labels[a])] == a and main[int(labels[b])] == b:
            found = tuple(np.flatnonzero(part == a).tolist())
            findings.append(Finding("one person", found, int(labels[a]), int(labels[b]), ratio, b))
    for root in roots.tolist():
        own, identity = main[int(labels[root])], int(labels[root])
        if root == own:
            continue
        inside = tuple(np.flatnonzero(part == root).tolist())
        against = -float(state.ratios(own, np.array([root]), state.sums[[root]] @ state.sums[own])[0])
        if root in matched and labels[matched[root][1]] != identity:
            ratio, other = matched[root]
            findings.append(Finding("mislabelled", inside, identity, int(labels[other]), ratio, other))
        elif against >= -np.log(rate):
            findings.append(Finding("two people", inside, identity, identity, against, own))
    order = {"mislabelled": 0, "two people": 1, "one person": 2, "duplicate": 3}
    return sorted(findings, key=lambda one: (order[one.kind], -one.ratio, one.rows))


def _rows_by_identity(labels: NDArray[np.integer]) -> list[Rows]:
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _within(
    rows: NDArray[np.float32], members: Sequence[Rows], model: PersonModel, neighbors: int
) -> sparse.csr_matrix:
    """(N,N) symmetric scores of pairs of photos of one identity that speak for one person."""
    import torch

    from siamese_verify.pairwise.neighbors import nearest_neighbors

    left, right, scores = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for own in members:
        if len(own) < 2:
            continue
        if len(own) <= WHOLE:
            a, b = np.triu_indices(len(own), 1)
        else:
            near = nearest_neighbors(torch.from_numpy(rows[own]), None, neighbors).numpy()
            a, b = np.repeat(np.arange(len(own)), near.shape[1]), near.ravel()
            a, b = np.unique(np.sort(np.stack([a, b]), axis=0), axis=1)
        score = (rows[own] @ rows[own].T)[a, b] if len(own) <= WHOLE else _scores(rows, own[a], own[b])
        close = score >= model.neutral
        left.append(own[a[close]])
        right.append(own[b[close]])
        scores.append(score[close].astype(np.float64))
    pairs = np.concatenate(left), np.concatenate(right)
    graph = sparse.csr_matrix((np.concatenate(scores), pairs), shape=(len(rows), len(rows)))
    graph = (graph + graph.T).tocsr()
    graph.sort_indices()
    return graph


def _scores(rows: NDArray[np.float32], a: Rows, b: Rows) -> NDArray[np.float64]:
    parts = [slice(start, start + 4096) for start in range(0, len(a), 4096)]
    return np.concatenate([np.einsum("nd,nd->n", rows[a[one]], rows[b[one]], dtype=np.float64) for one in parts])


def _alike(
    state: _Agglomeration, labels: NDArray[np.integer], false: FalseMerges, rate: float, neighbors: int
) -> list[tuple[float, int, int]]:
    """Pairs of parts of two identities that look like one, the surest first."""
    graph = sparse.triu(state.search(neighbors), 1).tocoo()
    other = labels[graph.row] != labels[graph.col]
    a, b = graph.row[other].astype(np.int64), graph.col[other].astype(np.int64)
    ratio = state.ratios(a, b, graph.data[other])
    order = np.argsort(-ratio, kind="stable")
    parts = len(state.roots())
    expected = np.array([false.expected(float(one), parts) for one in ratio[order]])
    holds = np.flatnonzero(expected <= rate * np.arange(1, len(order) + 1))
    kept = order[: holds[-1] + 1] if len(holds) else order[:0]
    return [(float(ratio[one]), int(a[one]), int(b[one])) for one in kept]


def _duplicates(
    rows: NDArray[np.float32], labels: NDArray[np.integer], part: Rows, neighbors: int, model: PersonModel
) -> list[Finding]:
    """Photos that are there more than once."""
    state = _Agglomeration(model, rows, {})
    graph = state.search(neighbors)
    graph.data[graph.data < DUPLICATE] = 0
    graph.eliminate_zeros()
    _, copy = connected_components(graph, directed=False)
    order = np.argsort(copy, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(copy[order])) + 1)
    return [
        Finding("duplicate", (int(row),), int(labels[row]), int(labels[same[0]]), np.inf, int(same[0]))
        for same in groups
        if len(same) > 1
        for row in same[1:].tolist()
    ]


def write_findings(path: Path, findings: Sequence[Finding], photos: Sequence[str], people: Sequence[str]) -> None:
    """Write a list to review as CSV, readable for its owner only: a line for each photo, `drop` to be set to yes.

    Args:
        path: of the list.
        findings: see `find_label_errors`.
        photos: names of the photos.
        people: names of the identities, by number.
    """
    sink = io.StringIO()
    writer = csv.writer(sink)  # ends lines by \r\n, since only then "\r" in a name is quoted
    writer.writerow(COLUMNS)
    for one in findings:
        ratio = "" if np.isinf(one.ratio) else f"{one.ratio:.2f}"
        other = photos[one.shown] if one.kind == "duplicate" else people[one.other]
        for row in one.rows:
            cells = [one.kind, csv_cell(photos[row]), csv_cell(people[one.identity]), csv_cell(other), ratio, "no"]
            writer.writerow(cells)
    atomic_write(path, sink.getvalue().encode(), private=True)
