"""Protocols: what an evaluation measures on which photos; those that score pairs of photos."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from siamese_verify.datasets.folder import FolderPhotos
from siamese_verify.datasets.listing import identity_name
from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    ALL_PAIRS_TARGETS,
    TARGETS,
    Calibration,
    GroupDifferentials,
    VerificationReport,
    add_failures,
    all_pairs_differentials,
    all_pairs_report,
    check_calibration,
    failure_interval,
    group_differentials,
    group_reports,
    identification_report,
    labels_of,
    mean_of_groups,
    measure_representation,
    score_pairs,
    verification_report,
)
from siamese_verify.evaluation.acquisition import group_failures, with_failures
from siamese_verify.evaluation.all_pairs_rows import clustered_rows
from siamese_verify.evaluation.base_report import Failures, Report
from siamese_verify.evaluation.clustered_pairs import ClusteredPairs, cluster_pairs
from siamese_verify.evaluation.discard import discard_curves, genuine_pairs
from siamese_verify.evaluation.rate_intervals import clustered_intervals
from siamese_verify.evaluation.report import LabelDoubt
from siamese_verify.evaluation.tail_extrapolation import extrapolate
from siamese_verify.structures import Photos
from siamese_verify.tables import read_table


class PhotoSubset:
    """Some photos of a data set.

    Args:
        photos: the data set.
        rows: (N,) of the photos.
    """

    def __init__(self, photos: Photos, rows: np.ndarray) -> None:
        self.source, self.rows = photos, rows
        self.identities: np.ndarray = np.asarray(photos.identities)[rows]
        names = photos.names  # once: a data set may list them anew each time
        self.names: Sequence[str] = [names[int(row)] for row in rows]
        for name in ("people", "aligned"):  # data sets without them lack the attribute
            if hasattr(photos, name):
                setattr(self, name, getattr(photos, name))
        for name in ("splits", "cameras"):  # one for each photo
            values = getattr(photos, name, None)
            if values is not None:
                setattr(self, name, [values[int(row)] for row in rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Any:
        return self.source[int(self.rows[row])]


@dataclass(frozen=True)
class PairList:
    """M pairs of photos.

    Attributes:
        left: (M,) int64 rows of the photos.
        right: (M,) int64, likewise.
        same: (M,) bool, True for a genuine pair.
        folds: (M,) int64 fold of each pair, or None without folds.
        groups: (M,) label of each pair, "" for none, or None without groups.
    """

    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None = None
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation is told besides the embeddings; a protocol uses what concerns it.

    Attributes:
        resamples: of the people, for intervals of differences between groups; 0 for no confidence intervals at all.
        targets: false accept rates besides `ALL_PAIRS_TARGETS` for all pairs or `TARGETS` for listed pairs.
        threshold: chosen on other data, for protocols without folds.
        calibration: of the scores, learned on other data.
        device: where embeddings are compared: `cpu`, `cuda`, or `auto` for a GPU if there is one.
        qualities: (N,) of the photos' faces by name, higher is better, NaN where unknown.
    """

    resamples: int = 1000
    targets: Sequence[float] = ()
    threshold: float | None = None
    calibration: Calibration | None = None
    device: str = "cpu"
    qualities: Mapping[str, ArrayLike] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol(ABC):
    """What is measured on some photos; each photo is embedded once.

    Attributes:
        name: for people, such as "LFW View 2".
        photos: N photos.
        photos_name: of the photos, for another protocol on the same; empty where it is `name`.
    """

    name: str
    photos: Photos
    photos_name: str = field(default="", kw_only=True)

    @property
    def identities_known(self) -> bool:
        """Whether the photos' identities are those of people."""
        return True

    def keep(self, rows: np.ndarray) -> Self:
        """This protocol restricted to some photos, such as those in which a face was found; (K,) ascending rows."""
        return self if len(rows) == len(self.photos) else replace(self, photos=PhotoSubset(self.photos, rows))

    @abstractmethod
    def evaluate(self, embeddings: np.ndarray, settings: EvaluationSettings) -> Report:
        """Return all metrics of (N,D) unit embeddings of the photos."""

    def count_failures(self, report: Report, rows: np.ndarray, embeddings: np.ndarray | None = None) -> Any:
        """Failures to acquire, for the report of a protocol restricted to (K,) rows, of their (K,D) embeddings."""
        failed = self._failed(rows)
        interval = failure_interval(self.photos.identities, failed)
        return Failures(len(failed), int(failed.sum()), float(failed.mean()), interval)

    def _failed(self, rows: np.ndarray) -> np.ndarray:
        """(N,) bool, True for the photos that are not among (K,) rows."""
        failed = np.ones(len(self.photos), dtype=np.bool_)
        failed[rows] = False
        return failed

    def digest(self) -> str:
        """SHA-256 of the names of the photos and their identities; not of pixels."""
        return str(self._digest().hexdigest())

    def _digest(self, *settings: Any) -> Any:
        digest = hashlib.sha256("".join(f"{one}\0" for one in settings).encode(errors="surrogateescape"))
        _, identities = np.unique(self.photos.identities, return_inverse=True)
        for name, identity in zip(self.photos.names, identities.tolist(), strict=True):
            digest.update(f"{name}\0{identity}\0".encode(errors="surrogateescape"))
        return digest


@dataclass(frozen=True)
class PairProtocol(Protocol):
    """Pairs of photos to score.

    Attributes:
        name: for people, such as "LFW View 2".
        photos: N photos.
        pairs: which of their pairs; None for all pairs i < j.
        identities_known: whether the photos' identities are those of people. Otherwise only pairs are known, and two
            photos with different identities may show one person.
        photo_groups: (N,) group of each photo, "" for none, for rates within and across groups; None without groups.
        group_column: what these groups are of.
        doubtful: (N,) bool, photos whose label is doubtful; they count, and the report says what it would be without.
        doubted_by: the source of that.
    """

    pairs: PairList | None = None
    identities_known: bool = True
    photo_groups: np.ndarray | None = None
    group_column: str = "group"
    doubtful: np.ndarray | None = None
    doubted_by: str = ""

    def rows(self, pair: int) -> tuple[int, int]:
        """Rows of a pair's photos; if all pairs are scored, i < j is the pair i * N + j."""
        if self.pairs is None:
            return divmod(pair, len(self.photos))
        return int(self.pairs.left[pair]), int(self.pairs.right[pair])

    def count_pairs(self) -> tuple[int, int]:
        """Number of genuine and of impostor pairs."""
        if self.pairs is not None:
            genuine = int(np.sum(self.pairs.same))
            return genuine, len(self.pairs.same) - genuine
        photos, sizes = len(self.photos), np.unique(self.photos.identities, return_counts=True)[1].tolist()
        genuine = sum(size * (size - 1) // 2 for size in sizes)
        return genuine, photos * (photos - 1) // 2 - genuine

    def describe(self, pair: int) -> str:
        """Names of a pair's photos."""
        left, right = self.rows(pair)
        return f"{self.photos.names[left]} and {self.photos.names[right]}"

    def keep(self, rows: np.ndarray) -> PairProtocol:
        """See `keep_photos`."""
        return keep_photos(self, rows)

    def evaluate(self, embeddings: np.ndarray, settings: EvaluationSettings) -> VerificationReport:
        """Score the pairs and return all metrics."""
        people, pairs, resamples = np.asarray(self.photos.identities), self.pairs, settings.resamples
        targets = sorted({*settings.targets, *(ALL_PAIRS_TARGETS if pairs is None else TARGETS)}, reverse=True)
        threshold = settings.threshold if pairs is None or pairs.folds is None else None
        if pairs is None:
            report = all_pairs_report(
                embeddings, people, targets=targets, threshold=threshold, progress=True, device=settings.device
            )
            found = measure_representation(embeddings, people, device=settings.device)
            report = replace(report, representation=found if resamples else found._replace(knn_interval=None))
            if resamples:
                clustered = clustered_rows(embeddings, people, device=settings.device)
                report = replace(
                    report,
                    intervals=clustered_intervals(clustered, targets, threshold),
                    extrapolated=extrapolate(clustered, report.curve, targets),
                )
        else:
            scores = score_pairs(embeddings, pairs.left, pairs.right)
            wanted = resamples > 0 and self.identities_known
            known = np.stack([people[pairs.left], people[pairs.right]], axis=1) if wanted else None
            report = verification_report(scores, pairs.same, pairs.folds, known, threshold, targets)
            if pairs.groups is not None:
                groups = group_reports(
                    *(scores, pairs.same, pairs.groups, report.threshold, known),
                    resamples=max(resamples, 1),
                    device=settings.device,
                )
                report = replace(report, groups=tuple(groups), mean_of_groups=mean_of_groups(groups))
        if self.identities_known and np.unique(people, return_counts=True)[1].max() > 1:
            searches = identification_report(embeddings, people, device=settings.device)
            report = replace(report, identification=searches)
        if self.doubtful is not None and self.doubtful.any():
            report = replace(report, without_doubtful=self._without_doubtful(embeddings, report, settings.device))
        if self.photo_groups is not None:
            report = replace(report, differentials=self._differentials(embeddings, report.threshold, resamples))
        if settings.qualities:
            if pairs is None:
                scored, rows = genuine_pairs(embeddings, people)
            else:
                rows = np.stack([pairs.left, pairs.right], axis=1)[pairs.same]
                scored = score_pairs(embeddings, *rows.T).astype(np.float64)
            report = replace(report, discard=discard_curves(scored, rows, settings.qualities, report.threshold))
        if settings.calibration:
            report = replace(report, calibration=check_calibration(settings.calibration, report.curve))
        return report

    def _without_doubtful(self, embeddings: np.ndarray, report: VerificationReport, device: str) -> LabelDoubt | None:
        """Metrics without the doubtful photos; None where nothing can be measured without them."""
        assert self.doubtful is not None
        rows = np.flatnonzero(~self.doubtful)
        others = replace(self, photo_groups=None, doubtful=None).keep(rows)
        people, pairs = np.asarray(others.photos.identities), others.pairs
        try:
            if pairs is None:
                found = all_pairs_report(embeddings[rows], people, targets=(), device=device)
            else:
                scores = score_pairs(embeddings[rows], pairs.left, pairs.right)
                found = verification_report(scores, pairs.same, pairs.folds, targets=())
        except InputError:
            return None
        accuracy = found.kfold.mean if found.kfold else None
        return LabelDoubt(int(self.doubtful.sum()), report.pairs - found.pairs, found.eer, accuracy, self.doubted_by)

    def compared_groups(self) -> int:
        """Number of groups of photos whose pairs are compared."""
        assert self.photo_groups is not None
        groups = self.photo_groups
        if self.pairs is not None:
            sides = groups[np.stack([self.pairs.left, self.pairs.right], axis=1)]
            groups = sides[(sides != "").all(axis=1)]
        return len(np.unique(groups[groups != ""]))

    def _differentials(self, embeddings: np.ndarray, threshold: float, resamples: int) -> GroupDifferentials | None:
        """None where failures to acquire have left fewer than two groups."""
        assert self.photo_groups is not None
        if self.compared_groups() < 2:
            return None
        people, pairs, column = np.asarray(self.photos.identities), self.pairs, self.group_column
        if pairs is None:
            return all_pairs_differentials(
                embeddings, people, self.photo_groups, threshold, column=column, intervals=resamples > 0
            )
        sides = np.stack([pairs.left, pairs.right], axis=1)
        return group_differentials(
            score_pairs(embeddings, pairs.left, pairs.right),
            pairs.same,
            self.photo_groups[sides],
            threshold,
            people[sides] if resamples and self.identities_known else None,
            column=column,
        )

    def count_failures(self, report: Report, rows: np.ndarray, embeddings: np.ndarray | None = None) -> Any:
        """Failures to acquire, and the rates that include them, with intervals where embeddings are given."""
        assert isinstance(report, VerificationReport)
        failed, people, pairs = self._failed(rows), np.asarray(self.photos.identities), None
        if embeddings is not None and self.identities_known:
            pairs = self._pairs_with_failures(embeddings, rows, failed, people)
        found = add_failures(report, people, failed, *self.count_pairs(), pairs)
        if self.photo_groups is None:
            return found
        return found._replace(groups=group_failures(people, failed, self.photo_groups))

    def _pairs_with_failures(
        self, embeddings: np.ndarray, rows: np.ndarray, failed: np.ndarray, people: np.ndarray
    ) -> ClusteredPairs:
        if self.pairs is None:
            return with_failures(clustered_rows(embeddings, people[rows]), people, failed)
        left, right = self.pairs.left, self.pairs.right
        compared = ~(failed[left] | failed[right])
        place, scores = np.cumsum(~failed) - 1, np.full(len(left), -np.inf)
        scores[compared] = score_pairs(embeddings, place[left[compared]], place[right[compared]])
        _, numbers = np.unique(np.stack([people[left], people[right]], axis=1), return_inverse=True)
        return cluster_pairs(scores, self.pairs.same, numbers.reshape(-1, 2))

    def digest(self) -> str:
        """SHA-256 of the names of the photos, their identities and the pairs; not of pixels."""
        digest = self._digest()
        if self.pairs is not None:
            for column in (self.pairs.left, self.pairs.right, self.pairs.same):
                digest.update(column.astype(np.int64).tobytes())
        return str(digest.hexdigest())


def keep_photos(protocol: PairProtocol, rows: np.ndarray) -> PairProtocol:
    """A protocol restricted to some photos and the pairs of them, such as those in which a face was found.

    Args:
        protocol: with listed or all pairs.
        rows: (K,) of the photos to keep, ascending.
    """
    if len(rows) == len(protocol.photos):
        return protocol
    pairs = protocol.pairs
    if pairs is not None:
        place = np.full(len(protocol.photos), -1)
        place[rows] = np.arange(len(rows))
        kept = (place[pairs.left] >= 0) & (place[pairs.right] >= 0)
        folds, groups = (None if column is None else column[kept] for column in (pairs.folds, pairs.groups))
        pairs = PairList(place[pairs.left[kept]], place[pairs.right[kept]], pairs.same[kept], folds, groups)
    by_photo = (protocol.photo_groups, protocol.doubtful)
    groups, doubtful = (None if column is None else column[rows] for column in by_photo)
    return replace(
        protocol, photos=PhotoSubset(protocol.photos, rows), pairs=pairs, photo_groups=groups, doubtful=doubtful
    )


def with_doubtful(protocol: PairProtocol, path: str | Path) -> PairProtocol:
    """A protocol whose report has a footnote: the metrics without photos whose label is doubtful.

    Args:
        protocol: of pairs.
        path: of a CSV with the column `path`, the names of these photos.

    Raises:
        InputError: see `read_table`; none of the photos is in the protocol.
    """
    listed = set(read_table(path, ("path",))["path"])
    doubtful = np.array([name in listed for name in protocol.photos.names])
    if not doubtful.any():
        raise InputError(
            f"{path} lists none of the {len(doubtful):,} photos of {protocol.name}, such as "
            f"{protocol.photos.names[0]!r}."
        )
    return replace(protocol, doubtful=doubtful, doubted_by=Path(path).name)


def with_groups(protocol: PairProtocol, path: str | Path, column: str) -> PairProtocol:
    """A protocol whose report has the rates within and across groups of photos.

    Args:
        protocol: of pairs.
        path: of a CSV with the column `path` (names of photos) or `identity` (names of people), and others.
        column: the one whose values are the groups, see `labels_of`; a photo that is not listed has none.

    Raises:
        InputError: see `read_table`; neither of the columns, one photo or person with two values, none of the photos
            is listed, or all that are listed are of one group.
    """
    table = read_table(path, (column,), ("path", "identity"))
    key = "path" if "path" in table else "identity"
    if key not in table:
        raise InputError(f"{path} has neither a column path nor identity: say whose {column} each line gives.")
    known: dict[str, str] = {}
    for name, label, line in zip(table[key], map(str.strip, table[column]), table.lines, strict=True):
        if known.setdefault(name, label) != label:
            raise InputError(f"Line {line} of {path} gives {name} another {column} than an earlier line: correct one.")
    photos = protocol.photos
    names = photos.names if key == "path" else [identity_name(photos, one) for one in photos.identities.tolist()]
    groups = labels_of(np.array([known.get(name, "") for name in names]))  # parts of these photos, not of all lines
    if not (groups != "").any():
        raise InputError(f"{path} lists none of the {len(names):,} photos of {protocol.name}, such as {names[0]!r}.")
    grouped = replace(protocol, photo_groups=groups, group_column=column)
    if grouped.compared_groups() < 2:
        raise InputError(
            f"All {int((groups != '').sum()):,} photos of {protocol.name} that {path} lists, or all of their pairs, "
            f"have one {column}: a comparison of groups needs two."
        )
    return grouped


def all_pairs(photos: Photos, name: str) -> PairProtocol:
    """Protocol of all pairs i < j.

    Raises:
        InputError: no one has two photos, or all photos are of one person.
    """
    identities = np.asarray(photos.identities)
    people = len(np.unique(identities))
    if people < 2 or people == len(identities):
        raise InputError(
            f"All pairs of {len(identities)} photos of {people} people hold "
            f"{'no impostors' if people < 2 else 'no genuine pairs'}: add people with two photos or more."
        )
    return PairProtocol(name, photos)


def folder_pairs(root: str | Path, name: str | None = None, pairs: int | None = None, seed: int = 0) -> PairProtocol:
    """Protocol of pairs of the photos in a folder for each identity.

    Args:
        root: see `FolderPhotos`.
        name: of the protocol; by default the folder's.
        pairs: how many to draw, half of them genuine; None for all.
        seed: of the draw.

    Raises:
        InputError: see `FolderPhotos` and `all_pairs`; fewer than two pairs, an odd number, or more than there are.
    """
    name = name or f"{Path(root).resolve().name}, {'all' if pairs is None else pairs} pairs"
    protocol = all_pairs(FolderPhotos(root), name)
    if pairs is None:
        return protocol
    if pairs < 2:
        raise InputError(f"{pairs} pairs hold no genuine and no impostor pair: draw two or more.")
    drawn = sampled_pairs(protocol, pairs, seed)
    if len(drawn.same) != pairs:
        genuine, impostors = int(drawn.same.sum()), int((~drawn.same).sum())
        raise InputError(
            f"{root} has {genuine:,} genuine and {impostors:,} impostor pairs, but {pairs:,} pairs need half of each: "
            f"set pairs to {2 * min(genuine, impostors)} at most, and even."
        )
    return PairProtocol(name, protocol.photos, drawn)


def sampled_pairs(protocol: PairProtocol, pairs: int, seed: int = 0) -> PairList:
    """Random pairs of a protocol in random order, half of them genuine, without repetition.

    Args:
        protocol: to draw from.
        pairs: how many; all pairs of a kind that has fewer than half of them.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    if protocol.pairs is not None:
        rows = [np.flatnonzero(protocol.pairs.same == same) for same in (True, False)]
        chosen = rng.permutation(np.concatenate([rng.permutation(kind)[: pairs // 2] for kind in rows]))
        return PairList(protocol.pairs.left[chosen], protocol.pairs.right[chosen], protocol.pairs.same[chosen])
    identities = np.asarray(protocol.photos.identities)
    drawn = np.concatenate(draw_pairs(identities, pairs // 2, rng))
    left, right = drawn[rng.permutation(len(drawn))].T
    return PairList(left, right, identities[left] == identities[right])


def draw_pairs(identities: np.ndarray, each: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Genuine and impostor pairs, drawn uniformly without repetition.

    Args:
        identities: (N,) of the photos.
        each: how many of each kind; all of a kind that has fewer.
        rng: of the draw.

    Returns:
        (G,2) genuine and (M,2) impostor rows i < j.
    """
    order = np.argsort(identities, kind="stable")
    _, photos = np.unique(identities, return_counts=True)
    first = np.cumsum(photos) - photos
    ends = np.cumsum(photos * (photos - 1) // 2)  # genuine pairs are numbered person by person
    numbers = rng.choice(int(ends[-1]), min(each, int(ends[-1])), replace=False)
    person = np.searchsorted(ends, numbers, side="right")
    within = numbers - np.where(person > 0, ends[person - 1], 0)  # j (j - 1) / 2 + i with i < j
    second = ((1 + np.sqrt(1 + 8 * within)) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > within  # the root may round up
    genuine = order[np.stack([first[person] + within - second * (second - 1) // 2, first[person] + second], axis=1)]
    count = len(identities)
    wanted = min(each, count * (count - 1) // 2 - int(ends[-1]))
    found = np.empty(0, dtype=np.int64)
    while len(found) < wanted:
        left, right = np.sort(rng.integers(0, count, (2, 2 * wanted + 10)), axis=0)
        drawn = (left * count + right)[identities[left] != identities[right]]
        _, fresh = np.unique(np.concatenate([found, drawn]), return_index=True)
        found = np.concatenate([found, drawn])[np.sort(fresh)]
    impostors = np.stack(np.divmod(found[:wanted], count), axis=1)
    return np.sort(genuine, axis=1), impostors


def claimed_pairs(
    photos: Photos, impostors: str = "random", group: bool = True, name: str | None = None, seed: int = 0
) -> PairProtocol:
    """Protocol of claims: each pair is a reference of the identity that is claimed, and a sample that claims it.

    Args:
        photos: with `claimed` (N,) identities and `kinds` (N,) of an impostor's attempt, "" of what is genuine, such as
            `siamese_verify.datasets.Signatures`.
        impostors: `random` for genuine samples of others (zero effort), as many for a reference as it has genuine
            pairs; else a kind: all samples of it that claim the reference's identity; `all` for all of these, which are
            then the groups, for the error rates of each kind at one threshold.
        group: whether the pairs of a claimed identity are a group, for rates of each and their mean.
        name: of the protocol; by default of the kind.
        seed: of the random impostors.

    Raises:
        InputError: photos without claims, or another kind; see also `all_pairs`.
    """
    claimed, kinds = getattr(photos, "claimed", None), getattr(photos, "kinds", None)
    if claimed is None or kinds is None:
        raise InputError(f"{type(photos).__name__} does not say which identity each sample claims.")
    genuine = np.flatnonzero(kinds == "")
    known = [kind for kind in np.unique(kinds).tolist() if kind]
    if impostors not in ("random", *known, "all"):
        raise InputError(f"impostors must be one of {', '.join(['random', *known, 'all'])}, got {impostors!r}.")
    asked = ["random", *known] if impostors == "all" else [impostors]
    all_pairs(PhotoSubset(photos, genuine), "")
    rng = np.random.default_rng(seed)
    pairs: list[tuple[int, int, str]] = []
    for identity in np.unique(claimed[genuine]):
        own = genuine[claimed[genuine] == identity].tolist()
        pairs += [(left, right, "genuine") for place, left in enumerate(own) for right in own[place + 1 :]]
        others = genuine[claimed[genuine] != identity]
        for kind in asked:
            attempts = np.flatnonzero((kinds == kind) & (claimed == identity))
            for left in own:
                chosen = rng.choice(others, min(len(own), len(others)), False) if kind == "random" else attempts
                pairs += [(left, right, kind) for right in chosen.tolist()]
    left, right = np.array([pair[:2] for pair in pairs], dtype=np.int64).T
    identities = np.asarray(photos.identities)
    groups = np.array([f"{identity:04}" for identity in claimed[left]]) if group else None
    if impostors == "all":
        groups = np.array([kind for _, _, kind in pairs])
    listed = PairList(left, right, identities[left] == identities[right], None, groups)
    return PairProtocol(name or f"claims, {impostors} impostors", photos, listed)
