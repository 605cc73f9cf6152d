"""Retrieval: whether the photos of a person come first in a ranking of all photos by similarity to one of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.all_pairs import checked_gallery
from siamese_verify.evaluation.base_report import Failures, RateTable, Report, Tile
from siamese_verify.evaluation.cases import Cases
from siamese_verify.evaluation.rate_intervals import mean_interval
from siamese_verify.evaluation.scores import numbered, unit_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.bootstrap import Interval
    from siamese_verify.evaluation.pages.rendering import ReportFigure

    Floats = NDArray[np.float64]

RANKS = (1, 5, 10, 20)
CURVE = 50  # ranks of the CMC curve


@dataclass(frozen=True)
class RetrievalReport(Report):
    """Rankings of gallery photos by similarity to each query; metrics are means over queries, in [0, 1].

    Attributes:
        queries: Q, those with a photo to be found.
        without_positives: queries whose person has no photo in the gallery, left out.
        gallery: photos that are ranked.
        people: who are searched for.
        mean_average_precision: mAP.
        recall: by k: share of queries with a photo of their person among the first k. For k = 1 that is precision@1;
            over k it is the cumulative match characteristic (CMC) of person re-identification.
        r_precision: share of their person's photos among the first R, where R is the number of them.
        map_at_r: MAP@R, see `retrieval_report`.
        cmc: (K,) recall at k = 1 ... K; like `curve` of verification not in JSON and comparison.
        intervals: 95 % confidence intervals over the people searched for, by name of the metric.
        acquisition: see `Failures`.
        cases: average precision of each query.
    """

    metric: ClassVar[str] = "mean_average_precision"

    queries: int
    without_positives: int
    gallery: int
    people: int
    mean_average_precision: float
    recall: dict[int, float]
    r_precision: float
    map_at_r: float
    cmc: Floats = field(repr=False, compare=False)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    acquisition: Failures | None = None
    cases: Cases | None = field(default=None, repr=False, compare=False)

    @property
    def hint(self) -> str | None:
        """A sentence if queries were left out."""
        if not self.without_positives:
            return None
        return f"{self.without_positives:,} queries have no photo to be found in the gallery and are left out."

    def named(self) -> dict[str, float]:
        """Return the metrics by the names of their intervals."""
        return {
            "mean_average_precision": self.mean_average_precision,
            **{f"recall_at_{rank}": value for rank, value in self.recall.items()},
            "r_precision": self.r_precision,
            "map_at_r": self.map_at_r,
        }

    def row(self) -> dict[str, Any]:
        """Return metrics for a table."""

        def rate(name: str) -> dict[str, float]:
            known = self.intervals.get(name)
            return {"rate": self.named()[name], **(known._asdict() if known else {})}

        first = min(self.recall)
        row: dict[str, Any] = {"mAP": rate("mean_average_precision"), f"recall@{first}": rate(f"recall_at_{first}")}
        row |= {f"recall@{rank}": {"rate": value} for rank, value in self.recall.items() if rank != first}
        return row | ({"FTA": {"rate": self.acquisition.failure_rate}} if self.acquisition else {})

    def logged(self) -> dict[str, float]:
        """Return metrics for loggers, by name."""
        return self.named()

    def record(self) -> dict[str, Any]:
        """Return the mAP with its interval and the recalls, for the record of a run."""
        return super().record() | {f"recall_at_{rank}": value for rank, value in self.recall.items()}

    def figures(self) -> list[ReportFigure]:
        """Draw the CMC curve."""
        from siamese_verify.evaluation.pages.figures import cmc_figure

        return [cmc_figure(self.cmc)]

    def content(self) -> tuple[str, list[Tile], list[RateTable]]:
        """Return what the page shows."""
        lead = (
            f"Each of {self.queries:,} photos of {self.people:,} people was compared with {self.gallery:,} photos, the "
            "most similar ones first."
        )
        if self.without_positives:
            lead += f" {self.hint}"
        shown = self.intervals.get
        first = min(self.recall)
        tiles = [
            Tile(
                "Mean average precision",
                self.mean_average_precision,
                shown("mean_average_precision"),
                "is the mean share of right photos down to each right photo, over the queries.",
            ),
            Tile(
                f"Recall@{first}" + (" (precision@1)" if first == 1 else ""),
                self.recall[first],
                shown(f"recall_at_{first}"),
                "of the queries have a photo of their person "
                + ("first." if first == 1 else f"among the first {first}."),
            ),
        ]
        names = {
            **{
                f"recall_at_{rank}": "A photo of the person "
                + ("is among the first " + str(rank) if rank > 1 else "comes first")
                for rank in self.recall
            },
            "r_precision": "Share of the person among as many first photos as the gallery has of them (R-precision)",
            "map_at_r": "MAP@R",
            "mean_average_precision": "Mean average precision",
        }
        rows = [(text, self.named()[name], shown(name)) for name, text in names.items()]
        about = "Photos of other people come first among equally similar ones. Intervals are over people."
        return lead, tiles, [RateTable("Retrieval", about, ("metric", "value", "95 % interval"), rows)]


def retrieval_report(
    embeddings: ArrayLike,
    identities: ArrayLike,
    gallery: ArrayLike | None = None,
    gallery_identities: ArrayLike | None = None,
    cameras: ArrayLike | None = None,
    gallery_cameras: ArrayLike | None = None,
    *,
    ranks: Sequence[int] = RANKS,
    intervals: bool = True,
    progress: bool = False,
) -> RetrievalReport:
    """Rank the photos of a gallery by cosine similarity to each query and return how high those of its person come.

    With cameras, photos of the query's person by the query's camera are left out of its ranking, those of other people
    are not. Average precision is the mean, over the photos of the person, of the share of the person's photos down to
    there; MAP@R has only the first R ranks, R being the number of the person's photos, and divides by R. Of equally
    similar photos those of other people come first: ties are counted as errors, and collapsed embeddings find nobody.
    Similarities are compared as exact distances of the unit embeddings, so that nothing depends on blocks or threads.

    Args:
        embeddings: (Q,D) of the queries, of any non-zero length.
        identities: (Q,) one number or name per row.
        gallery: (M,D), or None to search for each photo among all others.
        gallery_identities: (M,), with a gallery.
        cameras: (Q,) number or name of the camera of each query; None leaves nothing out. An empty name is that of an
            unknown camera, which is equal to no other.
        gallery_cameras: (M,), with cameras and a gallery.
        ranks: k of recall@k, each >= 1.
        intervals: whether to compute them.
        progress: draw a bar.

    Raises:
        InputError: shapes that do not fit, rows without a direction, a gallery or its identities or cameras without the
            other, no query with a photo to be found, no rank or one below 1.

    Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015, section 4 (same camera, CMC, mAP); Song,
    Xiang, Jegelka & Savarese, "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016 (recall@k
    without a gallery set); Musgrave, Belongie & Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2 (MAP@R).
    """
    if not len(ranks) or min(ranks) < 1:
        raise InputError(f"ranks are one or more whole numbers from 1 on, got {list(ranks)}.")
    itself = gallery is None
    if itself != (gallery_identities is None) or (not itself and (cameras is None) != (gallery_cameras is None)):
        raise InputError(
            "A gallery needs its identities, and cameras where the queries have them: give both, or neither."
        )
    if gallery is None:
        units = unit_rows(embeddings)
        columns = queries = units, numbered(identities, len(units))
    else:
        queries, columns = checked_gallery(embeddings, identities, gallery, gallery_identities)
    seen_by = None
    if cameras is not None:
        both = np.concatenate([np.asarray(cameras), np.asarray(cameras if itself else gallery_cameras)])
        seen_by = _numbered_cameras(both, len(queries[0]), len(columns[0]))
    row, first, precision, r_precision, at_r = _query_metrics(queries, None if itself else columns, seen_by, progress)
    searched = row.astype(np.int64)
    if not len(searched):
        raise InputError(
            f"None of the {len(queries[0]):,} queries has a photo to be found: give two photos of one person."
        )
    each = {
        "mean_average_precision": precision,
        **{f"recall_at_{limit}": (first <= limit).astype(np.float64) for limit in ranks},
        "r_precision": r_precision,
        "map_at_r": at_r,
    }
    who = queries[1][searched]
    people_searched = np.unique(who, return_inverse=True)
    return RetrievalReport(
        queries=len(searched),
        without_positives=len(queries[0]) - len(searched),
        gallery=len(columns[0]) - itself,
        people=len(people_searched[0]),
        mean_average_precision=float(each["mean_average_precision"].mean()),
        recall={int(limit): float(each[f"recall_at_{limit}"].mean()) for limit in ranks},
        r_precision=float(each["r_precision"].mean()),
        map_at_r=float(each["map_at_r"].mean()),
        cmc=np.array([np.mean(first <= limit) for limit in range(1, min(CURVE, len(columns[0]) - itself) + 1)]),
        intervals={name: mean_interval(who, values) for name, values in each.items()} if intervals else {},
        cases=Cases(precision, people_searched[1][:, None], len(people_searched[0])),
    )


def _numbered_cameras(names: NDArray[Any], queries: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(Q,) and (M,) numbers of cameras; each empty name is another camera."""
    numbers = numbered(names, queries + columns)
    if names.dtype.kind == "U":
        unknown = np.char.strip(names) == ""
        numbers[unknown] = len(numbers) + np.arange(unknown.sum())
    return numbers[:queries], numbers[queries:]


def _query_metrics(
    queries: tuple[NDArray[Any], NDArray[np.int64]],
    gallery: tuple[NDArray[Any], NDArray[np.int64]] | None,
    cameras: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    progress: bool,
) -> Floats:
    """(5,q) numbers of the queries that have a photo to be found, see `_band_metrics`.

    Args:
        queries: (Q,D) unit rows and (Q,) people.
        gallery: likewise; None to search among the other queries.
        cameras: of the queries, and of what is searched.
        progress: draw a bar.
    """
    import torch
    from tqdm import tqdm

    from siamese_verify.pairwise.nearest import check_compared
    from siamese_verify.pairwise.nearest_ranks import genuine_ranks

    rows, people = (torch.from_numpy(np.ascontiguousarray(part)) for part in queries)
    others = (torch.from_numpy(np.ascontiguousarray(part)) for part in gallery) if gallery else (None, None)
    compared = check_compared(rows, people, *others)
    seen_by = map(torch.from_numpy, cameras) if cameras else (None, None)
    found: list[Floats] = []
    with tqdm(total=len(queries[0]), desc="Ranking", delay=2, leave=False, disable=None if progress else True) as bar:
        for part in genuine_ranks(compared, *seen_by):
            found.append(_band_metrics(*(one.numpy() for one in part[:3])))
            bar.update(part.rows.stop - part.rows.start)
    return np.concatenate(found, axis=1)


def _band_metrics(row: NDArray[np.int64], rank: NDArray[np.int64], order: NDArray[np.int64]) -> Floats:
    """(5,q) row, first rank, average precision, R-precision and MAP@R of each query, from all its genuine ranks."""
    rows, query, positives = np.unique(row, return_inverse=True, return_counts=True)
    within = rank <= positives[query]
    precision = order / rank
    shares = (
        np.bincount(query, one, len(rows)) / positives for one in (precision, within, np.where(within, precision, 0))
    )
    return np.stack([rows, rank[order == 1], *shares]).astype(np.float64)
