"""Pictures of what a network learned: maps of embeddings in two dimensions, and the nearest neighbors of each row."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LEAST_SAMPLES = 8  # of an identity, where it has them, before all identities are shown
UMAP_NEIGHBORS = 15  # umap-learn's default


class EmbeddingMap(NamedTuple):
    """Rows in two dimensions.

    Attributes:
        name: `pca` or `umap`.
        points: (N,2) coordinates.
        shares: of the variance along either axis, in [0, 1]; None where axes have no meaning.
    """

    name: str
    points: NDArray[np.float64]
    shares: tuple[float, float] | None


class NeighborStrip(NamedTuple):
    """A row and the rows most similar to it.

    Attributes:
        row: which one.
        neighbors: K rows, the most similar first.
        scores: K cosine similarities.
        wrong: K flags, True where the neighbor has another identity.
    """

    row: int
    neighbors: tuple[int, ...]
    scores: tuple[float, ...]
    wrong: tuple[bool, ...]


def choose_rows(identities: ArrayLike, most: int, seed: int = 0) -> NDArray[np.int64]:
    """Return at most `most` rows to show, ascending: few samples of many identities, or many of few.

    Identities are drawn at random, and of each at random `most` divided by their number or 8 samples, whichever is
    more, so that rows keep others of their own identity.

    Args:
        identities: (N,) numbers or names.
        most: rows, >= 1.
        seed: of the draw.
    """
    _, numbers, counts = np.unique(np.asarray(identities), return_inverse=True, return_counts=True)
    if len(numbers) <= most:
        return np.arange(len(numbers))
    rng = np.random.default_rng(seed)
    each = max(LEAST_SAMPLES, most // len(counts))
    # Identities in random order, and the samples of each in random order.
    order = np.lexsort((rng.permutation(len(numbers)), rng.permutation(len(counts))[numbers]))
    first = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    return np.sort(order[place < each][:most])


def pca_map(embeddings: ArrayLike) -> EmbeddingMap:
    """Return the first two principal components of (N,D) rows: the plane that shows most of their variance.

    The sign of an axis is such that its largest coordinate is positive. Time is that of the smaller of N x N and D x D
    inner products.

    Pearson, "On lines and planes of closest fit to systems of points in space", 1901.
    """
    from scipy.linalg import eigh

    rows = np.asarray(embeddings, dtype=np.float64)
    rows = rows - rows.mean(axis=0)
    wide = rows.shape[1] > rows.shape[0]
    products = rows @ rows.T if wide else rows.T @ rows
    count = min(2, len(products))
    values, vectors = eigh(products, subset_by_index=[len(products) - count, len(products) - 1])
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]  # the largest first
    points = np.zeros((len(rows), 2))
    points[:, :count] = vectors * np.sqrt(values) if wide else rows @ vectors
    extreme = points[np.abs(points).argmax(axis=0), [0, 1]]
    points *= np.where(extreme < 0, -1, 1)
    total = float(np.trace(products))
    first, second = np.pad(values, (0, 2 - count)) / total if total > 0 else (0.0, 0.0)
    return EmbeddingMap("pca", points, (float(first), float(second)))


def umap_map(embeddings: ArrayLike, seed: int = 0) -> EmbeddingMap:
    """Return (N,D) rows where UMAP puts them: neighbors stay neighbors, while distances further off mean little.

    The first call of a process compiles for ten seconds and more.

    Args:
        embeddings: N >= 4 rows, compared by cosine.
        seed: of its random start; the same rows and seed give the same map on one machine.

    Raises:
        InputError: umap-learn is not installed, or there are fewer than 4 rows.

    McInnes, Healy & Melville, "UMAP: Uniform Manifold Approximation and Projection", 2018.
    """
    rows = np.asarray(embeddings, dtype=np.float32)
    if len(rows) < 4:
        raise InputError(f"UMAP needs 4 photos or more, got {len(rows)}: use the map by principal components.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fixed seed means one thread, and it says so
        try:
            from umap import UMAP
        except ImportError:
            raise InputError(
                "A map by UMAP needs umap-learn, which is not installed: pip install 'siamese-verify[visualize]'."
            ) from None
        start = "spectral" if len(rows) > 20 else "random"  # of few rows there are too few eigenvectors
        neighbors = min(UMAP_NEIGHBORS, len(rows) - 1)
        found = UMAP(n_neighbors=neighbors, metric="cosine", init=start, random_state=seed, n_jobs=1)
        points = found.fit_transform(rows)
    return EmbeddingMap("umap", np.asarray(points, dtype=np.float64), None)


def neighbor_strips(embeddings: ArrayLike, identities: ArrayLike, count: int = 8) -> list[NeighborStrip]:
    """Return each row with its nearest neighbors, the worst first.

    Worst is the largest share of wrong ones among as many neighbors as could be right, then the largest lead of the
    best wrong neighbor over the best right one. Rows that have no other of their identity come last.

    Args:
        embeddings: (N,D) finite unit rows.
        identities: (N,) numbers or names.
        count: neighbors of each row; fewer if there are fewer.
    """
    import torch

    from siamese_verify.pairwise.neighbors import nearest_neighbors

    rows = np.asarray(embeddings, dtype=np.float64)
    _, numbers, counts = np.unique(np.asarray(identities), return_inverse=True, return_counts=True)
    neighbors = nearest_neighbors(torch.from_numpy(rows), None, count).numpy()  # (N,K)
    scores = np.einsum("nd,nkd->nk", rows, rows[neighbors]) if neighbors.size else np.zeros(neighbors.shape)
    wrong = numbers[neighbors] != numbers[:, None]
    possible = np.minimum(counts[numbers] - 1, neighbors.shape[1])  # neighbors that could be right
    share = (wrong & (np.arange(neighbors.shape[1]) < possible[:, None])).sum(axis=1) / np.maximum(possible, 1)
    none = np.full(len(rows), -1.0)
    best_wrong = np.max(scores, axis=1, where=wrong, initial=-1.0) if neighbors.size else none
    best_right = np.max(scores, axis=1, where=~wrong, initial=-1.0) if neighbors.size else none
    order = np.lexsort((best_right - best_wrong, -share, possible == 0))
    return [
        NeighborStrip(row, tuple(neighbors[row].tolist()), tuple(scores[row].tolist()), tuple(wrong[row].tolist()))
        for row in order.tolist()
    ]
