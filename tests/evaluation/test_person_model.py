"""The model of people and photos, and the correlation of the photos of one person."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from siamese_verify.errors import InputError
from siamese_verify.evaluation import Calibration, PersonModel, ScoreCalibration, calibrate, fit_correlation

SIZE, RATIO = 300, 0.3


def line(slope: float, neutral: float) -> Calibration:
    return Calibration("logistic", (neutral - 1, neutral + 1), (-slope, slope), 1000, 1000)


@pytest.mark.parametrize(("slope", "neutral"), [(24.0, 0.39), (8.0, 0.6), (60.0, 0.1)])
def test_single_faces_have_the_ratio_of_the_calibration(slope: float, neutral: float) -> None:
    scores = np.linspace(-0.5, 0.99, 9)
    found = PersonModel.from_calibration(line(slope, neutral)).log_likelihood_ratio(scores, (1, 1.0), (1, 1.0))
    np.testing.assert_allclose(found, slope * (scores - neutral), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 1), (3, 4)])
def test_the_ratio_of_groups_is_that_of_normal_densities(first: int, second: int) -> None:
    """Naive oracle: the joint density of all coordinates, given one person or two."""
    model = PersonModel(ratio=1.7, dimensions=SIZE, slope=1.0, neutral=0.5, correlation=0.0)
    photo = 1 / (SIZE * (1 + model.ratio))
    rows = np.random.default_rng(0).normal(size=(first + second, SIZE)) / math.sqrt(SIZE)

    def density(some: np.ndarray) -> float:
        covariance = photo * (np.eye(len(some)) + model.ratio)
        return float(sum(multivariate_normal(cov=covariance).logpdf(one) for one in some.T))

    expected = density(rows) - density(rows[:first]) - density(rows[first:])
    means = rows[:first].mean(axis=0), rows[first:].mean(axis=0)
    found = model.log_likelihood_ratio(means[0] @ means[1], (first, means[0] @ means[0]), (second, means[1] @ means[1]))
    assert found == pytest.approx(expected, rel=1e-9)


def test_completely_correlated_photos_count_as_one() -> None:
    model = PersonModel(ratio=1.7, dimensions=SIZE, slope=1.0, neutral=0.5, correlation=1.0)
    assert model.effective([1, 2, 50]).tolist() == [1, 1, 1]
    assert PersonModel(1.7, SIZE, 1.0, 0.5, 0.0).effective(50) == 50


def test_a_model_whose_scores_say_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="tell people apart"):
        PersonModel.from_calibration(Calibration("logistic", (0.0, 1.0), (0.0, 0.0), 10, 10))


def draw_sessions(people: int, correlation: float, seed: int, photos: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows of people with two sessions each; the photos of one have some of their variance in common."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, photos + 1, people)
    identities = np.repeat(np.arange(people), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    session = 2 * identities + (place >= sizes[identities] // 2)
    rows = math.sqrt(RATIO) * rng.normal(size=(people, SIZE))[identities]
    rows += math.sqrt(correlation) * rng.normal(size=(2 * people, SIZE))[session]
    rows += math.sqrt(1 - correlation) * rng.normal(size=(len(identities), SIZE))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), identities


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.2, 0.4, 0.7])
def test_the_correlation_of_sessions_is_estimated(correlation: float) -> None:
    """400 people of two to eight photos, by the model that they were drawn from; the mean of three draws."""
    model = PersonModel(RATIO, SIZE, slope=1.0, neutral=0.5)
    found = [fit_correlation(*draw_sessions(400, correlation, seed), model) for seed in range(3)]
    assert np.mean([one for one in found if one is not None]) == pytest.approx(correlation, abs=0.05)


def test_people_with_two_photos_do_not_count_and_lengths_and_names_do_not_matter() -> None:
    model = PersonModel(RATIO, SIZE, slope=1.0, neutral=0.5)
    rows, identities = draw_sessions(150, 0.4, seed=5)
    names = np.array([f"person {one}" for one in identities])
    expected = fit_correlation(rows, identities, model)
    assert expected is not None
    lengths = np.random.default_rng(0).uniform(0.5, 2, (len(rows), 1))
    assert fit_correlation(lengths * rows, names, model) == expected
    kept = np.flatnonzero(np.bincount(identities)[identities] > 2)
    few = np.isin(identities, np.unique(identities[kept])[:99])
    assert fit_correlation(rows[few], identities[few], model) is None
    assert fit_correlation(*draw_sessions(400, 0.4, seed=5, photos=2), model) is None


def test_a_calibration_stores_the_correlation() -> None:
    found = calibrate(*draw_sessions(200, 0.5, seed=1), intervals=False)
    assert found.correlation == pytest.approx(0.5, abs=0.15)  # as the line is that of all pairs
    stored = json.loads(json.dumps(found.to_dict()))
    assert ScoreCalibration.from_dict(stored) == found
    del stored["correlation"]
    earlier = ScoreCalibration.from_dict(stored)
    assert earlier.correlation is None
    assert PersonModel.from_calibration(earlier.calibration, earlier.correlation).correlation == 0.2
    for damaged in (1.5, float("nan"), "0.2"):
        with pytest.raises(InputError, match="damaged"):
            ScoreCalibration.from_dict({**stored, "correlation": damaged})
