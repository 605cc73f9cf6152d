"""Search among the faces of an album: the nearest rows, exactly or by FAISS, and what their scores mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from siamese_verify.albums.album_folder import AlbumFolder, StoredRows, claimed
from siamese_verify.errors import InputError
from siamese_verify.gallery.identification import SearchThreshold, search_threshold
from siamese_verify.gallery.template_search import CANDIDATES, FLOAT32_ERROR, ApproximateIndex
from siamese_verify.models.metadata import ModelMetadata
from siamese_verify.verification.decision import check_prior, check_threshold, likelihood_ratio

BLOCK = 2**15  # rows compared at once
MOST = 10_000  # rows that a search gives


class NearestRows(NamedTuple):
    """Nearest rows of Q queries, the nearest first; equal scores in the order of the rows."""

    rows: NDArray[np.int64]  # (Q,K)
    scores: NDArray[np.float64]  # (Q,K) cosines


def nearest_rows(
    queries: NDArray[np.floating], rows: StoredRows, count: int, *, device: str = "cpu", block: int = BLOCK
) -> NearestRows:
    """The `count` rows with the largest cosine with each query, exactly: no row is left out.

    Rows are read and compared a block at a time, so that memory does not grow with their number. Candidates are chosen
    by float32 products, further than rounding reaches, and decided in float64.

    Args:
        queries: (Q,D) of unit length.
        rows: N, such as `AlbumFolder.rows` gives.
        count: rows for each query; fewer if there are fewer.
        device: `cpu`, or a GPU such as `cuda`, on which `pairwise.nearest_neighbors` searches the blocks; see
            `pairwise.pair_scores.torch_device`.
        block: rows compared at once.

    Raises:
        InputError: queries of another size, or with NaN; torch has no such device.
    """
    if queries.ndim != 2 or queries.shape[1] != rows.shape[1] or not np.isfinite(queries).all():
        raise InputError(f"Queries must be finite, of shape (Q, {rows.shape[1]}), got {queries.shape}.")
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    count = min(count, len(rows))
    best = [(np.empty(0, dtype=np.int64), np.empty(0)) for _ in queries]
    for start in tqdm(range(0, len(rows), block), "Searching", unit=" blocks", delay=2, leave=False, disable=None):
        part = slice(start, min(start + block, len(rows)))
        if device == "cpu":
            candidates = _candidates(rows.scores(part, queries), [kept for _, kept in best], count)
        else:
            candidates = _candidates_on_gpu(queries, rows[part], count, device)
        for number, near in enumerate(candidates):
            if len(near):
                best[number] = _merged(best[number], start + near, rows, queries[number], count)
    return NearestRows(np.stack([one for one, _ in best]), np.stack([score for _, score in best]))


def _candidates(scores: NDArray[np.float32], best: list[NDArray[np.float64]], count: int) -> list[NDArray[np.int64]]:
    """Rows of a block, for each query, that may be among its nearest."""
    found = []
    for column, kept in zip(np.ascontiguousarray(scores.T), best, strict=True):
        least = kept[-1] - FLOAT32_ERROR if len(kept) == count and count else -np.inf
        near = np.flatnonzero(column >= least)
        if len(near) > count:
            values = column[near]
            near = near[values >= np.partition(values, len(values) - count)[len(values) - count] - 2 * FLOAT32_ERROR]
        found.append(near)
    return found


def _candidates_on_gpu(
    queries: NDArray[np.float32], rows: NDArray[np.float32], count: int, device: str
) -> list[NDArray[np.int64]]:
    import torch

    from siamese_verify.pairwise.neighbors import nearest_neighbors
    from siamese_verify.pairwise.pair_scores import torch_device

    place = torch_device(device)
    left, right = (torch.from_numpy(np.ascontiguousarray(one)).to(place) for one in (queries, rows))
    return list(nearest_neighbors(left, right, count).cpu().numpy())


def _merged(
    best: tuple[NDArray[np.int64], NDArray[np.float64]],
    near: NDArray[np.int64],
    rows: StoredRows,
    query: NDArray[np.float32],
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest of those before and further candidates, decided in float64."""
    exact = (rows[near].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    numbers, scores = np.concatenate([best[0], near]), np.clip(np.concatenate([best[1], exact]), -1, 1)
    order = np.lexsort((numbers, -scores))[:count]
    return numbers[order], scores[order]


def proposed_rows(query: NDArray[np.floating], rows: StoredRows, count: int, index: ApproximateIndex) -> NearestRows:
    """The nearest of the rows that a FAISS index proposes, compared exactly; it may miss some.

    Args:
        query: (D,) of unit length.
        rows: that the index was built of.
        count: rows to give.
        index: see `open_index`.
    """
    proposed = np.sort(index.propose(query.astype(np.float32), max(CANDIDATES, 4 * count)))
    found = _merged((proposed[:0], np.empty(0)), proposed, rows, query.astype(np.float32), count)
    return NearestRows(found[0][None], found[1][None])


def open_index(album: AlbumFolder) -> ApproximateIndex:
    """FAISS index of an album's faces: made at the first call, then mapped from a file in its folder.

    Raises:
        InputError: FAISS is not installed, there is no face, or it is to be made while another process writes.
    """
    path = album.file_of_rows(".faiss")
    index = ApproximateIndex.load(path, None) if path.is_file() else None
    if index is None:
        rows: Any = album.rows(mapped=True)
        with claimed(album.path):
            for old in album.path.glob("rows-*.faiss*"):
                old.unlink()
            index = ApproximateIndex.build(rows, np.arange(len(rows), dtype=np.int64))
            index.save(path, None)
    return index


class AlbumHit(NamedTuple):
    """A face that is near.

    Attributes:
        row: of the `FaceTable`.
        photo: name.
        box: left, top, right and bottom in pixels of the upright photo.
        score: cosine, in [-1, 1].
        accepted: whether it reaches the threshold; None without one.
        one_in: at most one in so many searches for somebody who is not in the album shows a face with such a score
            (upper end of the 95 % interval over people); None where the data do not bound it.
        log_likelihood_ratio: of the pair by itself, see `Verification`; None if the model was not calibrated.
        probability: that it is one person, for the stated prior; None without one.
    """

    row: int
    photo: str
    box: tuple[float, float, float, float]
    score: float
    accepted: bool | None
    one_in: int | None
    log_likelihood_ratio: float | None
    probability: float | None


@dataclass(frozen=True)
class AlbumAnswer:
    """The nearest faces of an album.

    Attributes:
        hits: nearest first.
        searched: number of faces.
        threshold: a score that tells one person from others; None if the model was not calibrated and none was given.
        threshold_interval: its 95 % interval over people; None if not known.
        far: share of searches for somebody who is not in the album that show a face at the threshold or above; None for
            a threshold of your own.
        insufficient: the measured impostors do not show that rate for so many faces.
        reason: a sentence if so.
        model: name.
    """

    hits: tuple[AlbumHit, ...]
    searched: int
    threshold: float | None
    threshold_interval: tuple[float, float] | None
    far: float | None
    insufficient: bool
    reason: str
    model: str

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON types."""
        from siamese_verify.evaluation.base_report import to_json_types

        interval = self.threshold_interval
        return {
            **asdict(self),
            "hits": [hit._asdict() for hit in self.hits],
            "threshold": to_json_types(self.threshold),
            "threshold_interval": interval and to_json_types([*interval]),
        }


def search_album(
    album: AlbumFolder,
    metadata: ModelMetadata,
    embedding: NDArray[np.floating],
    *,
    top: int = 20,
    far: float | None = None,
    threshold: float | None = None,
    prior: float | None = None,
    approximate: bool = False,
    device: str = "cpu",
) -> AlbumAnswer:
    """Find the faces of an album that are nearest to one, and say what the scores mean.

    Args:
        album: to search in.
        metadata: of the model that gave the embedding.
        embedding: (D,) of unit length.
        top: faces to give, from 1 to `MOST`.
        far: share of searches for somebody who is not in the album that may show a face at the threshold or above; for
            the default see `search_threshold`. By the union bound, each comparison may then accept `far` over the
            number of faces.
        threshold: used instead, in [-1, 1].
        prior: share of genuine pairs among those compared, in (0, 1), for a probability.
        approximate: by FAISS, which may miss some.
        device: see `nearest_rows`.

    Raises:
        InputError: another model, an album without a face or not finished, a value out of range.
    """
    if metadata.fingerprint != album.metadata.fingerprint:
        raise InputError(
            f"{album.path} was embedded by {album.metadata.model} ({album.metadata.fingerprint[:8]}), not by "
            f"{metadata.name} ({metadata.fingerprint[:8]}): embeddings of two models cannot be compared."
        )
    if not 1 <= top <= MOST:
        raise InputError(f"A search gives from 1 to {MOST:,} faces, got {top}.")
    check_threshold(far, threshold)
    check_prior(metadata, prior)
    rows, calibration = album.rows(mapped=approximate), metadata.score_calibration
    if not len(rows):
        raise InputError(f"{album.path} has no face to search among: see {album.path / 'left_out.csv'}.")
    limit: SearchThreshold | None = None
    if threshold is not None:
        limit = SearchThreshold(threshold, None, None, 0, False, "")
    elif calibration:
        limit = search_threshold(calibration.impostor_tail, far, len(rows))
    elif far is not None:
        raise InputError(f"The model {metadata.name} was never calibrated, so no rate leads to a threshold: give one.")
    if approximate:
        found = proposed_rows(embedding, rows, top, open_index(album))
    else:
        found = nearest_rows(embedding[None], rows, top, device=device)
    places = _places(album, found.rows[0])
    hits = []
    for row, score in zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True):
        hits.append(
            AlbumHit(
                row,
                *places[row],
                score,
                score >= limit.threshold if limit else None,
                calibration.impostor_tail.one_in(score, len(rows)) if calibration else None,
                likelihood_ratio(calibration, score).log if calibration else None,
                float(calibration.calibration.probability(score, prior)) if calibration and prior is not None else None,
            )
        )
    known = limit or SearchThreshold(np.nan, None, None, 0, False, "")
    return AlbumAnswer(
        tuple(hits),
        len(rows),
        limit.threshold if limit else None,
        known.interval,
        known.far,
        known.insufficient,
        known.reason,
        album.metadata.model,
    )


def _places(album: AlbumFolder, rows: NDArray[np.int64]) -> dict[int, tuple[str, tuple[float, float, float, float]]]:
    """Photo and box of some faces; only their parts are read."""
    starts, found = np.cumsum([0, *album.sizes()]), {}
    parts, wanted = album.complete(), np.sort(rows)
    for part in np.unique(np.searchsorted(starts, wanted, side="right") - 1).tolist():
        table = album.table(parts[part], ["photo", "left", "top", "right", "bottom"])
        inside = wanted[(wanted >= starts[part]) & (wanted < starts[part + 1])]
        for row, line in zip(inside.tolist(), table.take(inside - starts[part]).to_pylist(), strict=True):
            photo, *box = line.values()
            found[row] = (str(photo), (box[0], box[1], box[2], box[3]))
    return found
