"""Linear probe and nearest neighbors on frozen embeddings: how well a person's photos are told from those of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.rate_intervals import mean_interval
from siamese_verify.evaluation.representation import NEIGHBORS, weighted_votes
from siamese_verify.evaluation.scores import numbered, unit_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

STRENGTHS = tuple(10.0**power for power in range(-1, 5))  # of the fit to the data, as C of scikit-learn
UNCHOSEN = 1.0  # where one photo of each person leaves none to choose by
FOLDS = 5
STEPS = 1000  # of the optimizer, at most
TOLERANCE = 1e-7  # of the gradient, relative to the data's share of it


class PhotoSplit(NamedTuple):
    """Rows of photos to train and to test on; each person is in both."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


class ProbeResult(NamedTuple):
    """Accuracy of classifiers that were trained on a number of photos of each person.

    Attributes:
        shots: photos of each person to train on, at most; None for all.
        photos: trained on.
        linear: share of test photos whose person the linear probe names, in [0, 1].
        linear_interval: 95 % confidence interval over the people, for this choice of training photos.
        strength: `C` of the linear probe.
        knn: likewise of the nearest neighbors.
        knn_interval: likewise.
        majority: share of the person with the most training photos.
    """

    shots: int | None
    photos: int
    linear: float
    linear_interval: Interval
    strength: float
    knn: float
    knn_interval: Interval
    majority: float


def split_photos(identities: ArrayLike, test_share: float = 0.5, seed: int = 0) -> PhotoSplit:
    """Split the photos of each person with two or more of them at random.

    Args:
        identities: (N,) integers or names.
        test_share: of the photos of each person, in (0, 1); one at least, and one at least is left for training.
        seed: of the choice.

    Returns:
        Rows, ascending; photos of people with a single one are in neither part.

    Raises:
        InputError: a share out of range, or fewer than two people with two photos.
    """
    if not 0 < test_share < 1:
        raise InputError(f"test_share must be between 0 and 1, got {test_share}.")
    people = np.unique(np.asarray(identities), return_inverse=True)[1]
    rng, order = np.random.default_rng(seed), np.argsort(people, kind="stable")
    groups = [rng.permutation(group) for group in np.split(order, np.cumsum(np.bincount(people))[:-1])]
    groups = [group for group in groups if len(group) > 1]
    if len(groups) < 2:
        raise InputError(f"A probe needs two people with two photos or more, got {len(groups)}.")
    tested = [min(max(1, round(test_share * len(group))), len(group) - 1) for group in groups]
    test = np.concatenate([group[:count] for group, count in zip(groups, tested, strict=True)])
    train = np.concatenate([group[count:] for group, count in zip(groups, tested, strict=True)])
    return PhotoSplit(np.sort(train), np.sort(test))


def probe_embeddings(
    embeddings: ArrayLike,
    identities: ArrayLike,
    split: PhotoSplit,
    shots: Sequence[int | None] = (1, 5, None),
    neighbors: int = NEIGHBORS,
    seed: int = 0,
    progress: bool = False,
) -> list[ProbeResult]:
    """Train a linear probe and nearest neighbors on some photos of each person, and test them on others.

    Args:
        embeddings: (N,D) of any non-zero length; only their directions count.
        identities: (N,) one number or name for each.
        split: see `split_photos`.
        shots: photos of each person to train on, at most; None for all. More shots contain the fewer.
        neighbors: how many vote, at most.
        seed: of the choice of shots and of the folds.
        progress: show a bar where it takes long.

    Raises:
        InputError: a number of shots or neighbors below 1; see `unit_rows`.
    """
    if any(count is not None and count < 1 for count in shots):
        raise InputError(f"shots must list numbers of 1 or more, or null for all, got {list(shots)}.")
    if neighbors < 1:
        raise InputError(f"neighbors must be 1 or more, got {neighbors}.")
    rows, everyone = unit_rows(embeddings), np.asarray(identities)
    people = numbered(everyone, len(rows))
    order = np.random.default_rng(seed).permutation(split.train)
    place = np.zeros(len(rows), dtype=np.int64)  # of a training photo among those of its person
    for person in np.unique(people[order]):
        mine = order[people[order] == person]
        place[mine] = np.arange(len(mine))
    tested, found = people[split.test], []
    for count in tqdm(shots, "Probing", delay=2, leave=False, disable=None if progress else True):
        train = split.train if count is None else split.train[place[split.train] < count]
        strength = choose_strength(rows[train], people[train], seed)
        decided = [
            predict_linear(rows[train], people[train], rows[split.test], strength),
            predict_knn(rows[train], people[train], rows[split.test], neighbors),
        ]
        right = [(one == tested).astype(np.float64) for one in decided]
        linear, knn = ((float(one.mean()), mean_interval(tested, one)) for one in right)
        majority = float((tested == np.bincount(people[train]).argmax()).mean())
        found.append(ProbeResult(count, len(train), *linear, strength, *knn, majority))
    return found


def fit_linear(rows: ArrayLike, labels: ArrayLike, strength: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Multinomial logistic regression: minimizes strength * (sum of cross-entropies) + |W|^2 / 2, biases aside.

    Args:
        rows: (N,D).
        labels: (N,) integers from 0 on, of which each up to the largest, C - 1, may occur.
        strength: > 0, `C` of scikit-learn's LogisticRegression.

    Returns:
        (C,D) weights W and (C,) biases, float64. The optimum is in the span of the rows, so it is looked for in that
        space, exactly; by L-BFGS until the gradient is zero to about seven digits.

    Raises:
        InputError: strength is not above 0.
    """
    import torch
    from torch.nn import functional as F

    if not strength > 0:
        raise InputError(f"The strength of a linear probe must be above 0, got {strength}.")
    given = torch.from_numpy(np.asarray(rows, dtype=np.float64))
    target = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    count, size = int(target.max()) + 1, len(given)
    basis = torch.from_numpy(span(given.numpy()))  # (D,R)
    inputs = given @ basis  # (N,R)
    weights = torch.zeros(count, basis.shape[1], dtype=torch.float64, requires_grad=True)
    biases = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, biases],
        max_iter=STEPS,
        max_eval=2 * STEPS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        entropy = F.cross_entropy(F.linear(inputs, weights, biases), target, reduction="sum")
        value = (strength * entropy + weights.square().sum() / 2) / (strength * size)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return (weights.detach() @ basis.T).numpy(), biases.detach().numpy()


def span(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D,R) orthonormal basis of a space that holds the (N,D) rows, R = min(N, D)."""
    size, dimensions = rows.shape
    return np.linalg.qr(rows.T)[0] if size < dimensions else np.eye(dimensions)


def predict_linear(train: ArrayLike, labels: ArrayLike, test: ArrayLike, strength: float) -> NDArray[Any]:
    """(M,) labels that the linear probe of (N,D) training rows gives (M,D) rows."""
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    weights, biases = fit_linear(train, numbers, strength)
    found: NDArray[Any] = names[(np.asarray(test) @ weights.T + biases).argmax(axis=1)]
    return found


def choose_strength(rows: NDArray[Any], labels: NDArray[Any], seed: int = 0) -> float:
    """The strength of `STRENGTHS` with the best accuracy in a cross-validation over training rows alone.

    The photos of each person are spread over `FOLDS` folds, or as many as the person with the most photos has; of
    equally good strengths the smallest is taken. Without a second photo of any person it is `UNCHOSEN`.
    """
    counts = np.bincount(np.unique(labels, return_inverse=True)[1])
    folds = min(FOLDS, int(counts.max()))
    if folds < 2 or len(counts) < 2:
        return UNCHOSEN
    rng, fold = np.random.default_rng(seed), np.empty(len(labels), dtype=np.int64)
    for person in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == person))
        fold[mine] = (np.arange(len(mine)) + rng.integers(folds)) % folds
    right = np.zeros(len(STRENGTHS))
    for held_out in range(folds):
        test = fold == held_out
        if not test.any() or len(np.unique(labels[~test])) < 2:
            continue
        basis = span(np.asarray(rows[~test], dtype=np.float64))  # once, for all strengths
        train, tried = rows[~test] @ basis, rows[test] @ basis
        for number, strength in enumerate(STRENGTHS):
            right[number] += (predict_linear(train, labels[~test], tried, strength) == labels[test]).sum()
    return STRENGTHS[int(right.argmax())]


def predict_knn(train: ArrayLike, labels: ArrayLike, test: ArrayLike, neighbors: int = NEIGHBORS) -> NDArray[Any]:
    """Labels by the nearest training rows, which vote with the weight exp(cosine / temperature).

    Args:
        train: (N,D) unit rows.
        labels: (N,) of them.
        test: (M,D) unit rows.
        neighbors: how many vote, >= 1; all where there are fewer.

    Returns:
        (M,) labels; of equal votes the smallest label.

    Wu, Xiong, Yu & Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section
    3.4.
    """
    import torch

    from siamese_verify.pairwise import bands

    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    keys, queries = (torch.from_numpy(np.asarray(one, dtype=np.float64)) for one in (train, test))
    found = torch.empty(len(queries), dtype=torch.int64)
    count = min(neighbors, len(keys))
    for part in bands(len(queries), len(keys) + count**2, 2**24):
        cosine, nearest = (queries[part] @ keys.T).topk(count)  # (m,k)
        near = torch.from_numpy(numbers)[nearest]
        votes = weighted_votes(cosine, near)
        found[part] = near.masked_fill(votes < votes.amax(dim=1, keepdim=True), len(names)).amin(dim=1)
    chosen: NDArray[Any] = names[found.numpy()]
    return chosen
