"""Model of people and photos: log-likelihood ratios of groups of faces, from those of single faces."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.scores import as_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.calibration import Calibration

    Floats = NDArray[np.float64]

CORRELATION = 0.2  # of the photos of one person where it was not estimated: about that of sface, see docs/grouping.md
LEAST_PEOPLE, MOST_PEOPLE = 100, 1500  # with three photos or more, to estimate it; with two or more, compared at most


@dataclass(frozen=True)
class PersonModel:
    """Log-likelihood ratio of two groups of faces: one person or two.

    The embedding of a face is the person's vector plus that of the photo, both normal with the same variance in each of
    `dimensions` dimensions, which add up to the unit length of an embedding. For two single faces the ratio is then a
    straight line of their score, and the line of the calibration determines both parameters. For groups it follows
    exactly from the sums of their embeddings. n photos of one person count as n / (1 + (n - 1) correlation) independent
    ones, the design effect, since photos of one day or decade have more in common than the person: `fit_correlation`
    estimates it.

    Attributes:
        ratio: variance between people by variance between photos of one, > 0.
        dimensions: effective number of dimensions, > 0.
        slope: of the ratio of two single faces, in nats for a change of the score by 1.
        neutral: score of two single faces where the ratio is 0.
        correlation: of the photos of one person beyond the model, in [0, 1].

    Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006; Kish, "Survey Sampling", 1965 (design effect).
    """

    ratio: float
    dimensions: float
    slope: float
    neutral: float
    correlation: float = CORRELATION

    @classmethod
    def from_calibration(cls, calibration: Calibration, correlation: float | None = None) -> PersonModel:
        """Return the model whose single faces have the ratios of a calibration.

        Args:
            calibration: of the scores of single faces.
            correlation: of photos; None, where it was not estimated, is 0.2.

        Raises:
            InputError: scores that say nothing about who it is, or a correlation outside of [0, 1].
        """
        from scipy.optimize import brentq

        correlation = CORRELATION if correlation is None else correlation
        if not 0 <= correlation <= 1:
            raise InputError(f"The correlation of photos is in [0, 1], got {correlation}.")
        grid = np.linspace(calibration.scores[0], calibration.scores[-1], 1001)
        ratios = calibration.log_likelihood_ratio(grid)
        inner = ~calibration.bounded(grid)
        if inner.sum() > 1:
            grid, ratios = grid[inner], ratios[inner]
        slope, start = (float(one) for one in np.polyfit(grid, ratios, 1)) if np.ptp(grid) > 0 else (0.0, 0.0)
        if not slope > 0:
            raise InputError("The scores of this model do not tell people apart: calibrate it on more people.")
        neutral = min(max(-start / slope, 0.01), 0.99)
        ratio = float(brentq(lambda one: _neutral(one) - neutral, 1e-9, 1e9, xtol=1e-12))
        return cls(ratio, slope * (1 + 2 * ratio) / (ratio * (1 + ratio)), slope, neutral, correlation)

    def effective(self, size: ArrayLike) -> Floats:
        """Return how many independent photos `size` photos of one person count as."""
        count = np.asarray(size, dtype=np.float64)
        return np.asarray(count / (1 + (count - 1) * self.correlation))

    def log_likelihood(self, size: ArrayLike, square: ArrayLike) -> Floats:
        """Return the log-likelihood of effective photos being of one person, less that of each being of its own.

        Args:
            size: effective number of photos.
            square: squared length of the sum of their embeddings.
        """
        count, photo = np.asarray(size), 1 / (self.dimensions * (1 + self.ratio))  # variance of a photo, per dimension
        spread = 1 + count * self.ratio
        return 0.5 * self.ratio / photo * np.asarray(square) / spread - 0.5 * self.dimensions * np.log(spread)

    def log_likelihood_ratio(
        self, score: ArrayLike, first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike]
    ) -> Floats:
        """Return the log-likelihood ratio of two groups of faces in nats: above 0 for one person, below 0 for two.

        Args:
            score: mean of the scores of all pairs of a face of each.
            first: number of faces of the first group, and squared length of the mean of its embeddings.
            second: of the second group.
        """
        a, b = self.effective(first[0]), self.effective(second[0])
        squares = a**2 * np.asarray(first[1]), b**2 * np.asarray(second[1])
        joined = squares[0] + squares[1] + 2 * a * b * np.asarray(score)
        apart = self.log_likelihood(a, squares[0]) + self.log_likelihood(b, squares[1])
        return np.asarray(self.log_likelihood(a + b, joined) - apart)


def _neutral(ratio: float) -> float:
    """Score at which two single faces of the model are as likely one person as two."""
    return ratio / (1 + ratio) - 0.5 * (1 + 2 * ratio) / (ratio * (1 + ratio)) * math.log1p(ratio**2 / (1 + 2 * ratio))


def fit_correlation(embeddings: ArrayLike, identities: ArrayLike, model: PersonModel, seed: int = 0) -> float | None:
    """Estimate the correlation of the photos of one person, to 0.02.

    The first half of each person's photos, as they are listed, is compared with the second of everybody. The estimate
    makes the log-likelihood ratios of these pairs of groups the best calibrated: it has the least logarithmic loss at
    the share of the pairs that are of one person. Where photos are listed by date, it has what those of one time share.
    Ratios count up to one pair against half a pair of the other kind, as in `fit_logistic`, so that a wrong label costs
    no more than the number of pairs can show.

    Args:
        embeddings: (N,D) of any nonzero length.
        identities: (N,) one number or name per row.
        model: of single faces; its own correlation is not used.
        seed: of the draw of 1,500 people where more have two photos.

    By simulation of the model (400 people with 2 to 8 photos in two sessions) it is right within 0.03 in 300 dimensions
    and 0.05 too high in 45, where the unit length of embeddings matters more. It is not that of photos in mixed order.

    Returns:
        In [0, 1]; None where fewer than 100 people have three photos or more: two single faces say nothing about it.
    """
    rows, people = as_array(embeddings).astype(np.float64), np.unique(as_array(identities), return_inverse=True)[1]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    sizes, order = np.bincount(people), np.argsort(people, kind="stable")
    if (sizes > 2).sum() < LEAST_PEOPLE:
        return None
    several = np.random.default_rng(seed).permutation(np.flatnonzero(sizes > 1))[:MOST_PEOPLE]
    members = np.split(order, np.cumsum(sizes)[:-1])
    halves = [(members[one][: len(members[one]) // 2], members[one][len(members[one]) // 2 :]) for one in several]
    means = [np.stack([rows[pair[side]].mean(axis=0) for pair in halves]) for side in (0, 1)]
    counts = [np.array([len(pair[side]) for pair in halves]) for side in (0, 1)]
    squares = [np.einsum("nd,nd->n", one, one) for one in means]
    scores, count, same = means[0] @ means[1].T, len(several), np.eye(len(several), dtype=bool)

    def loss(correlation: float) -> float:
        ratios = replace(model, correlation=correlation).log_likelihood_ratio(
            scores, (counts[0][:, None], squares[0][:, None]), (counts[1], squares[1])
        )
        odds = np.clip(ratios, -math.log(2 * count), math.log(2 * count * (count - 1))) - math.log(count - 1)
        return float(np.logaddexp(0, np.where(same, -odds, odds)).sum())

    return float(min(np.linspace(0, 1, 51).round(2).tolist(), key=loss))
