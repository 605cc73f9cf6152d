"""Which two people of an album may be one: what to ask its user first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from siamese_verify.albums.grouping import PersonModel
from siamese_verify.pairwise.neighbors import nearest_neighbors

NEIGHBORS = 16  # people that each is compared with
QUESTIONS = 200
LEAST = -math.log(10)  # ratio of what is asked: scores that are up to ten times as frequent for two people as for one


class Question(NamedTuple):
    """Whether two people are one."""

    first: int  # row of a face of one of them
    second: int
    ratio: float  # log-likelihood ratio, in nats


def ask(
    embeddings: NDArray[np.float32],
    persons: NDArray[np.int64],
    model: PersonModel,
    photos: NDArray[np.int64],
    exclusive: Sequence[Sequence[int]],
    most: int = QUESTIONS,
) -> list[Question]:
    """Return the pairs of people that are most probably one, the largest log-likelihood ratio first.

    Merging has left no pair above its cut that may be merged, so that these are the pairs nearest to it. Those whose
    scores are more than ten times as frequent for two people are left out. Each person is compared with the 16 whose
    means are nearest.

    Args:
        embeddings: (N,D) of unit length.
        persons: (N,) number of each face's person.
        model: of the ratios.
        photos: (N,) number of each face's photo: two people on one photo are two.
        exclusive: sets of rows of which no two are one person.
        most: number of pairs.
    """
    numbers, firsts, place = np.unique(persons, return_index=True, return_inverse=True)
    if len(numbers) < 2:
        return []
    sizes = np.bincount(place)
    member = sparse.csr_matrix((np.ones(len(place), np.float32), (place, np.arange(len(place)))))
    means = np.asarray(member @ embeddings, dtype=np.float32) / sizes[:, None].astype(np.float32)
    squares = np.einsum("nd,nd->n", means, means, dtype=np.float64)
    units = means / np.sqrt(np.maximum(squares, 1e-24))[:, None].astype(np.float32)
    found = nearest_neighbors(torch.from_numpy(units), None, NEIGHBORS).numpy()
    left, right = np.repeat(np.arange(len(numbers)), found.shape[1]), found.ravel()
    left, right = np.unique(np.sort(np.stack([left, right]), axis=0), axis=1)
    scores = np.concatenate(
        [
            np.einsum("nd,nd->n", means[left[start : start + 4096]], means[right[start : start + 4096]])
            for start in range(0, len(left), 4096)
        ]
    )
    ratios = model.log_likelihood_ratio(scores, (sizes[left], squares[left]), (sizes[right], squares[right]))
    sets: dict[int, set[int]] = {}  # by person
    crowded = np.flatnonzero(np.bincount(photos)[photos] > 1)
    for person, photo in zip(place[crowded].tolist(), photos[crowded].tolist(), strict=True):
        sets.setdefault(person, set()).add(photo)
    for number, rows in enumerate(exclusive, start=len(photos)):
        for row in rows:
            sets.setdefault(int(place[row]), set()).add(number)
    questions: list[Question] = []
    for pair in np.argsort(-ratios, kind="stable").tolist():
        a, b = int(left[pair]), int(right[pair])
        if ratios[pair] < LEAST or len(questions) == most:
            break
        if sets.get(a, set()).isdisjoint(sets.get(b, ())):
            questions.append(Question(int(firsts[a]), int(firsts[b]), float(ratios[pair])))
    return questions
