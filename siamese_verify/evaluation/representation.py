"""Measures of embeddings without pairs or thresholds: nearest neighbors, alignment, uniformity, effective rank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.rate_intervals import mean_interval
from siamese_verify.evaluation.scores import numbered, unit_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

MOST_PHOTOS = 16_384  # of more, some of each person drawn at random
NEIGHBORS = 20
TEMPERATURE = 0.07  # Wu et al. 2018
RANK_ROWS = 2048  # rows or dimensions, whichever are fewer, up to which the effective rank is that of all rows
GATHERED = 2**21  # numbers of gathered rows held at once


class Representation(NamedTuple):
    """What embeddings of labeled photos are like.

    Attributes:
        photos: that were measured.
        people: on them.
        alone: of these, photos of people who have no other: among the neighbors, but not searched for.
        knn_accuracy: share of photos whose person the nearest other photos vote for, in [0, 1]; NaN without a person
            of two photos. The more people, the lower.
        knn_interval: 95 % confidence interval over the people searched for; None without any.
        alignment: mean squared distance of two photos of one person, in [0, 4]; lower is better; NaN likewise.
        uniformity: log of the mean of exp(-2 |u - v|^2) over all pairs, in [-8, 0]; lower is better; NaN of one photo.
        effective_rank: number of dimensions that the embeddings fill, in [1, min(N, D)].
        rank_rows: photos that the effective rank is of.
    """

    photos: int
    people: int
    alone: int
    knn_accuracy: float
    knn_interval: Interval | None
    alignment: float
    uniformity: float
    effective_rank: float
    rank_rows: int


def measure_representation(
    embeddings: ArrayLike, identities: ArrayLike, most: int = MOST_PHOTOS, seed: int = 0, device: str = "cpu"
) -> Representation:
    """Return all measures of embeddings.

    Args:
        embeddings: (N, D) of any non-zero length, N >= 1; only their directions count.
        identities: (N,) one number or name per row.
        most: photos to measure; of more, at most max(2, most // people) of each person drawn at random, and where two
            of each are too many, those of people drawn at random, two people at least.
        seed: of the draws.
        device: where nearest neighbors are searched for: `cpu`, `cuda`, or `auto` for a GPU if there is one.

    Raises:
        InputError: shapes that do not fit, rows without a direction (NaN, infinite or zero), no rows.
    """
    rows = unit_rows(embeddings)
    people = numbered(identities, len(rows))
    if not len(rows):
        raise InputError("There are 0 embeddings: give at least one.")
    if len(rows) > most:
        rng = np.random.default_rng(seed)
        person = rng.permutation(int(people.max()) + 1)[people]
        order = np.lexsort((rng.permutation(len(person)), person))
        sizes = np.bincount(person)
        place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # among the photos of the person
        each = max(2, most // len(sizes))
        few = max(2, int(np.searchsorted(np.cumsum(np.minimum(sizes, each)), most, side="right")))
        drawn = np.sort(order[(place < each) & (person[order] < few)])
        rows, people = rows[drawn], people[drawn]
    searched, right = knn_decisions(rows, people, device=device)
    rank, rank_rows = effective_rank(rows, seed=seed)
    return Representation(
        photos=len(rows),
        people=len(np.unique(people)),
        alone=len(rows) - len(searched),
        knn_accuracy=float(right.mean()) if len(right) else math.nan,
        knn_interval=mean_interval(people[searched], right.astype(np.float64)) if len(right) else None,
        alignment=alignment(rows, people),
        uniformity=uniformity(rows),
        effective_rank=rank,
        rank_rows=rank_rows,
    )


def knn_decisions(
    embeddings: ArrayLike,
    identities: ArrayLike,
    neighbors: int = NEIGHBORS,
    temperature: float | None = TEMPERATURE,
    device: str = "cpu",
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Leave-one-out classification by weighted nearest neighbors: which photos are searched for, and which rightly.

    Each of the nearest photos, by cosine, votes for its person with the weight exp(cosine / temperature). A photo is
    decided right if its own person has more votes than any other; equal votes are wrong. Of equally near photos the
    first ones vote, so that embeddings that are all equal do as well as always naming one person.

    Args:
        embeddings: (N, D) of any non-zero length.
        identities: (N,) one number or name per row.
        neighbors: how many vote, >= 1; all others where there are fewer.
        temperature: > 0; None gives each neighbor one vote.
        device: where the neighbors are searched for.

    Returns:
        (Q,) rows of photos whose person has another photo, ascending, and (Q,) whether each is decided right. Photos
        of people with a single photo are neighbors only.

    Raises:
        InputError: see `unit_rows` and `numbered`; no neighbor, or a temperature that is not above 0.

    Wu, Xiong, Yu & Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section
    3.4, with 200 neighbors there: here people have few photos.
    """
    import torch

    from siamese_verify.pairwise import bands
    from siamese_verify.pairwise.neighbors import nearest_neighbors
    from siamese_verify.pairwise.pair_scores import torch_device

    if neighbors < 1:
        raise InputError(f"neighbors must be 1 or more, got {neighbors}.")
    if temperature is not None and not temperature > 0:
        raise InputError(f"temperature must be above 0, or None for equal votes, got {temperature}.")
    rows = torch.from_numpy(np.ascontiguousarray(unit_rows(embeddings)))
    people = torch.from_numpy(numbered(identities, len(rows)))
    nearest = nearest_neighbors(rows.to(torch_device(device)), None, neighbors).cpu()  # (N,k)
    count = nearest.shape[1]
    right = torch.zeros(len(rows), dtype=torch.bool)
    for part in bands(len(rows), count * (rows.shape[1] + count), GATHERED) if count else ():
        near = people[nearest[part]]  # (n,k)
        cosine = (rows[nearest[part]].double() @ rows[part].double()[..., None])[..., 0]  # (n,k)
        votes = weighted_votes(cosine, near, temperature)
        own = near == people[part, None]
        right[part] = votes.masked_fill(~own, 0).amax(dim=1) > votes.masked_fill(own, 0).amax(dim=1)
    searched = torch.bincount(people)[people] > 1
    return searched.nonzero().flatten().numpy(), right[searched].numpy()


def weighted_votes(cosine: Tensor, labels: Tensor, temperature: float | None = TEMPERATURE) -> Tensor:
    """(N,K) votes for the label of each neighbor: the sum of exp(cosine / temperature) over those with this label.

    Args:
        cosine: (N,K) of K neighbors of N rows.
        labels: (N,K) of the neighbors.
        temperature: > 0; None gives each neighbor one vote.

    Returns:
        Votes up to a factor for each row, so that nothing overflows: the nearest neighbor's own vote is 1.

    Wu et al. 2018, section 3.4.
    """
    if temperature is None:
        weight = cosine.new_ones(cosine.shape)
    else:
        weight = ((cosine - cosine.amax(dim=1, keepdim=True)) / temperature).exp()
    return (weight[:, None] * (labels[:, None] == labels[..., None])).sum(dim=2)


def alignment(embeddings: ArrayLike, identities: ArrayLike) -> float:
    """Alignment: mean squared distance of two photos of one person, over all genuine pairs; NaN without any.

    Args:
        embeddings: (N, D) of any non-zero length, compared as unit vectors.
        identities: (N,) one number or name per row.

    Raises:
        InputError: see `unit_rows` and `numbered`.

    Wang & Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020, eq. 1 with alpha = 2. A person of n photos has n times the sum of squared distances from
    their mean, so that no pair is formed.
    """
    rows = unit_rows(embeddings)
    people = numbered(identities, len(rows))
    order = np.argsort(people, kind="stable")
    sizes = np.bincount(people)
    pairs = int((sizes * (sizes - 1)).sum()) // 2
    total = 0.0
    for own in np.split(order, np.cumsum(sizes)[:-1]) if pairs else ():
        photos = rows[own].astype(np.float64)
        total += len(own) * float(((photos - photos.mean(axis=0)) ** 2).sum())
    return total / pairs if pairs else math.nan


def uniformity(embeddings: ArrayLike) -> float:
    """Uniformity: log of the mean of exp(-2 |u - v|^2) over all pairs; 0 if all are equal, NaN for one photo.

    Args:
        embeddings: (N, D) of any non-zero length, compared as unit vectors.

    Raises:
        InputError: see `unit_rows`.

    Wang & Isola 2020, eq. 2 with t = 2. All pairs i < j, block by block.
    """
    import torch

    from siamese_verify.pairwise.blocks import blocks
    from siamese_verify.pairwise.pair_scores import SIZE, parallel

    rows = torch.from_numpy(np.ascontiguousarray(unit_rows(embeddings)))
    if len(rows) < 2:
        return math.nan

    def add_up(block: tuple[slice, slice]) -> float:
        top, left = block
        product = (rows[top] @ rows[left].T).mul_(4).sub_(4).exp_()  # |u - v|^2 = 2 - 2 <u, v>
        if top == left:
            product.triu_(1)
        return float(product.sum(dtype=torch.float64))

    pairs = len(rows) * (len(rows) - 1) // 2
    return math.log(sum(parallel(add_up, list(blocks(len(rows), size=SIZE)))) / pairs)


def effective_rank(embeddings: ArrayLike, most: int = RANK_ROWS, seed: int = 0) -> tuple[float, int]:
    """Effective rank: exp of the entropy of the singular values divided by their sum, and the rows that it is of.

    It comes from the eigenvalues of the smaller Gram matrix, in float64. Eigenvalues below rounding count as zero. If
    rows and dimensions are both more than `most`, it is that of `most` rows drawn at random, which is lower than that
    of all.

    Args:
        embeddings: (N, D) of any non-zero length, as unit vectors; N >= 1.
        most: rows or columns of the Gram matrix, >= 1.
        seed: of the draw.

    Returns:
        The rank, in [1, min(N, D)], and the number of rows that it is of.

    Raises:
        InputError: see `unit_rows`; no rows.

    Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007; Garrido et al.,
    "RankMe", ICML 2023, eq. 1, where 1e-7 is added to each share.
    """
    rows = unit_rows(embeddings)
    if not len(rows) or most < 1:
        raise InputError(f"The effective rank of {len(rows)} embeddings, {most} at most, is undefined: give one.")
    if min(rows.shape) > most:
        rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))]
    tall = len(rows) > rows.shape[1]
    length = max(rows.shape)
    gram: NDArray[Any] = np.zeros((min(rows.shape),) * 2)
    for start in range(0, length, most):
        part = (rows[start : start + most].T if tall else rows[:, start : start + most]).astype(np.float64)
        gram += part @ part.T
    values = np.linalg.eigvalsh(gram)
    values = values[values > length * np.finfo(np.float64).eps * values[-1]]
    shares = np.sqrt(values) / np.sqrt(values).sum()
    return math.exp(-float(shares @ np.log(shares))), len(rows)
