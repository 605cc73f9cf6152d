from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from siamese_verify.albums.grouping import FalseMerges, Grouping, PersonModel, group_faces
from siamese_verify.errors import InputError
from siamese_verify.evaluation import Calibration, ScoreCalibration, calibrate, grouping_rates

SIZE = 24


def draw(people: int, photos: int, seed: int = 0, noise: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows of people, each a normal vector and that of the photo; as many photos each."""
    generator = np.random.default_rng(seed)
    identities = np.repeat(np.arange(people), photos)
    rows = generator.normal(size=(people, SIZE))[identities] + noise * generator.normal(size=(len(identities), SIZE))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), identities


@pytest.fixture(scope="module")
def calibration() -> ScoreCalibration:
    rows, identities = draw(60, 5, seed=99)
    return calibrate(rows, identities, intervals=False)


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
    rows, _ = draw(1, first + second)

    def density(some: np.ndarray) -> float:
        covariance = photo * (np.eye(len(some)) + model.ratio)
        return float(sum(multivariate_normal(cov=covariance).logpdf(one) for one in some.T.astype(np.float64)))

    expected = density(rows) - density(rows[:first]) - density(rows[first:])
    means = rows[:first].mean(axis=0), rows[first:].mean(axis=0)
    found = model.log_likelihood_ratio(means[0] @ means[1], (first, means[0] @ means[0]), (second, means[1] @ means[1]))
    assert found == pytest.approx(expected, rel=1e-5)


def test_completely_correlated_photos_count_as_one() -> None:
    model = PersonModel(ratio=1.7, dimensions=SIZE, slope=1.0, neutral=0.5, correlation=1.0)
    assert model.effective([1, 2, 50]).tolist() == [1, 1, 1]
    assert PersonModel(1.7, SIZE, 1.0, 0.5, 0.0).effective(50) == 50


def test_expected_false_merges_follow_the_impostor_tail_and_beyond_it_the_ratio(calibration: ScoreCalibration) -> None:
    model = PersonModel.from_calibration(calibration.calibration)
    false, tail = FalseMerges(calibration.impostor_tail, model), calibration.impostor_tail
    for place in (3, 40):
        ratio = model.slope * (tail.scores[place] - model.neutral)
        assert false.expected(ratio, 100) == pytest.approx(4950 * tail.accepted[place] / tail.impostors)
    high = model.slope * (1 - model.neutral)
    assert false.share(high + 1) == pytest.approx(false.share(high) / math.e)
    assert false.share(-100) == 1


def naive(
    rows: np.ndarray, calibration: ScoreCalibration, rate: float, photos: np.ndarray, exclusive: list[list[int]]
) -> list[set[int]]:
    """Greedy agglomeration in float64 from all scores: every pair of groups is compared anew before every merge."""
    model = PersonModel.from_calibration(calibration.calibration)
    false = FalseMerges(calibration.impostor_tail, model)
    scores = rows.astype(np.float64) @ rows.T.astype(np.float64)
    sets = [set(members) for members in exclusive] + [set(np.flatnonzero(photos == one)) for one in set(photos)]

    def joinable(a: set[int], b: set[int]) -> bool:
        return not any(a & members and b & members for members in sets)

    def ratio(a: set[int], b: set[int]) -> float:
        one, other = sorted(a), sorted(b)
        squares = [scores[np.ix_(some, some)].mean() for some in (one, other)]
        score = scores[np.ix_(one, other)].mean()
        return float(model.log_likelihood_ratio(score, (len(one), squares[0]), (len(other), squares[1])))

    def close(a: set[int], b: set[int], by_mean: bool) -> bool:
        block = scores[np.ix_(sorted(a), sorted(b))]
        if not by_mean:
            return bool((block >= model.neutral).any())
        lengths = [scores[np.ix_(sorted(some), sorted(some))].mean() for some in (a, b)]
        return bool(block.mean() / math.sqrt(lengths[0] * lengths[1]) >= model.neutral)

    def best_pair(by_mean: bool) -> tuple[float, int, int]:
        pairs = [
            (ratio(a, b), i, j)
            for i, a in enumerate(groups)
            for j, b in enumerate(groups[:i])
            if close(a, b, by_mean) and joinable(a, b)
        ]
        return max(pairs, default=(-1.0, 0, 0))

    groups = [{row} for row in range(len(rows))]
    states, lowest, cut, held = [groups], math.inf, math.inf, 0
    while True:
        best = best_pair(by_mean=False)
        lowest = min(lowest, best[0])
        expected = false.expected(lowest, len(groups)) if best[0] >= 0 else math.inf
        if expected > rate * (len(rows) - 1):
            break
        groups = [group for place, group in enumerate(groups) if place not in best[1:]]
        groups.append(states[-1][best[1]] | states[-1][best[2]])
        states.append(groups)
        if expected <= rate * (len(states) - 1):
            held, cut = len(states) - 1, lowest
    groups = states[held]
    while True:  # later searches, by the means of the groups
        best = best_pair(by_mean=True)
        if best[0] < cut:
            return groups
        joined = groups[best[1]] | groups[best[2]]
        groups = [group for place, group in enumerate(groups) if place not in best[1:]] + [joined]


def as_sets(found: Grouping) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(found.groups == one).tolist()) for one in set(found.groups.tolist())}


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("constrained", [False, True])
def test_grouping_agrees_with_naive_agglomeration(
    calibration: ScoreCalibration, rate: float, constrained: bool
) -> None:
    rows, identities = draw(7, 5, seed=3, noise=0.7)
    photos = np.arange(len(rows)) // 2 if constrained else np.arange(len(rows))
    exclusive = [[0, 2], [5, 10, 15]] if constrained else []
    found = group_faces(rows, calibration, photos, rate=rate, exclusive=exclusive, neighbors=len(rows))
    assert as_sets(found) == {frozenset(map(int, one)) for one in naive(rows, calibration, rate, photos, exclusive)}
    assert 1 < len(set(found.groups.tolist())) < len(identities)


def test_people_are_found_and_scores_are_those_with_the_rest_of_the_group(calibration: ScoreCalibration) -> None:
    rows, identities = draw(80, 6, seed=5, noise=0.6)
    found = group_faces(rows, calibration, rate=0.05)
    rates = grouping_rates(found.groups, identities)
    assert rates.pair_f1 > 0.98 and rates.false_merge_rate <= 0.05
    assert 0 <= found.expected_rate <= 0.05
    group = np.flatnonzero(found.groups == found.groups[0])
    mean = np.mean([rows[0] @ rows[other] for other in group if other != 0])
    assert found.scores[0] == pytest.approx(mean, abs=1e-5)
    assert found.groups[0] == 0 and found.groups.max() + 1 == len(set(found.groups.tolist()))


def test_a_larger_rate_only_merges_more(calibration: ScoreCalibration) -> None:
    rows, _ = draw(30, 4, seed=8, noise=1.1)
    strict, loose = (group_faces(rows, calibration, rate=rate) for rate in (0.005, 0.3))
    assert strict.cut > loose.cut and strict.merges < loose.merges


def test_faces_of_one_photo_stay_apart_even_when_identical(calibration: ScoreCalibration) -> None:
    rows = np.tile(draw(1, 1)[0], (20, 1))
    assert len(set(group_faces(rows, calibration, np.zeros(20)).groups.tolist())) == 20
    two = group_faces(rows, calibration, np.arange(20) // 2).groups
    assert (two[::2] != two[1::2]).all()


def test_known_people_stay_together_and_new_faces_join_them(calibration: ScoreCalibration) -> None:
    rows, identities = draw(10, 6, seed=2, noise=0.5)
    opposite = np.array([0, 6])  # of two people
    start = np.arange(len(rows))
    start[opposite[1]] = opposite[0]
    found = group_faces(rows, calibration, start=start).groups
    assert found[0] == found[6]
    assert grouping_rates(np.delete(found, opposite), np.delete(identities, opposite)).pair_f1 > 0.9


def test_decisions_that_contradict_each_other_are_refused(calibration: ScoreCalibration) -> None:
    rows, _ = draw(2, 3)
    with pytest.raises(InputError, match="one person and two"):
        group_faces(rows, calibration, start=[0, 0, 1, 2, 3, 4], exclusive=[[1, 0]])


def test_no_faces_and_one_face(calibration: ScoreCalibration) -> None:
    assert len(group_faces(np.empty((0, SIZE), np.float32), calibration).groups) == 0
    one = group_faces(draw(1, 1)[0], calibration)
    assert one.groups.tolist() == [0] and np.isnan(one.scores).all() and one.cut == math.inf


@pytest.mark.parametrize(
    ("rows", "options", "match"),
    [
        (np.full((3, SIZE), np.nan), {}, "NaN"),
        (np.full((3, SIZE), 2.0), {}, "unit length"),
        (np.zeros(3), {}, r"\(N, D\)"),
        (draw(1, 3)[0], {"rate": 0.0}, "between 0 and 1"),
        (draw(1, 3)[0], {"correlation": 2.0}, "correlation"),
    ],
)
def test_invalid_input_is_refused(
    calibration: ScoreCalibration, rows: np.ndarray, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        group_faces(rows, calibration, **options)


def test_a_model_whose_scores_say_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="tell people apart"):
        PersonModel.from_calibration(Calibration("logistic", (0.0, 1.0), (0.0, 0.0), 10, 10))


def test_memory_of_identical_and_of_crowded_faces_grows_with_their_number(calibration: ScoreCalibration) -> None:
    """Quadratic memory would be 6 and 26 times as much for faces that are 2.5 and 5 times as many."""
    peaks = []
    for count in (2_000, 10_000):
        rows = np.tile(draw(2, 1)[0], (count // 2, 1))
        tracemalloc.start()
        found = group_faces(rows, calibration, np.arange(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(set(found.groups.tolist())) == 2
    assert peaks[1] < 8 * peaks[0]


def test_the_work_for_a_person_grows_with_the_photos_and_none_is_left_out(
    calibration: ScoreCalibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing all candidates after each merge would be nine times the ratios for three times the photos."""
    compared = [0]
    original = PersonModel.log_likelihood

    def counted(self: PersonModel, size: Any, square: Any) -> Any:
        compared[-1] += np.size(size)
        return original(self, size, square)

    monkeypatch.setattr(PersonModel, "log_likelihood", counted)
    for count in (700, 2100):
        compared.append(0)
        rows, identities = draw(2, count // 2, seed=4, noise=0.7)
        found = group_faces(rows, calibration)
        assert grouping_rates(found.groups, identities).pair_f1 == 1
    assert compared[2] < 5 * compared[1]
