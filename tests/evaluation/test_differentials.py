"""Error rates within and across groups, against naive loops; the summaries against their definitions."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy.stats import norm

from siamese_verify.errors import InputError
from siamese_verify.evaluation.clustered_pairs import effective_size
from siamese_verify.evaluation.differentials import (
    all_pairs_differentials,
    group_differentials,
    labels_of,
)
from siamese_verify.evaluation.inequality import garbe, gini, inequalities, worst_ratio
from siamese_verify.evaluation.rate_intervals import proportion_interval


def photos(
    people: int = 30, each: int = 4, groups: int = 3, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of people of whom the last group is alike by `shift`, their people, and a group for each person."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(people), each)
    of_group = np.array(["young", "adult", "old"])[:groups][np.arange(people) % groups]
    centers = rng.normal(size=(people, 16)) + shift * (of_group == "old")[:, None]
    return (centers[who] + 0.8 * rng.normal(size=(len(who), 16))).astype(np.float32), who, of_group[who]


def listed(rows: np.ndarray, who: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, ...]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = np.triu_indices(len(who), 1)
    scores = (unit[left] * unit[right]).sum(axis=1)
    sides = (np.stack([values[left], values[right]], axis=1) for values in (groups, who))
    return scores, who[left] == who[right], *sides


def test_each_cell_has_the_rates_of_a_loop_over_its_pairs() -> None:
    rows, who, groups = photos(groups=3)
    groups[5], groups[17] = "", "young"  # one photo without a group, one of another group than the person's others
    scores, same, sides, people = listed(rows, who, groups)
    found = group_differentials(scores, same, sides, 0.35, people)
    assert found.groups == ("adult", "old", "young")
    for cell in found.cells:
        counts = np.zeros((2, 2), dtype=int)
        for score, genuine, (one, other) in zip(scores, same, sides.tolist(), strict=True):
            if tuple(sorted((one, other))) == cell.groups:
                counts[int(genuine)] += 1, int((score >= 0.35) != genuine)
        assert (cell.impostors, cell.genuine) == (counts[0, 0], counts[1, 0])
        assert cell.fmr == pytest.approx(counts[0, 1] / counts[0, 0])
        assert cell.fnmr == (pytest.approx(counts[1, 1] / counts[1, 0]) if counts[1, 0] else None)
    matrix = found.matrix()
    np.testing.assert_array_equal(matrix, matrix.T)
    assert [group == group2 for group, group2 in (cell.groups for cell in found.cells)].count(True) == 3


def test_all_pairs_of_a_set_are_the_listed_pairs() -> None:
    rows, who, groups = photos(shift=0.3)
    groups[[3, 40]] = "", "old"
    scores, same, sides, people = listed(rows, who, groups)
    one = group_differentials(scores, same, sides, 0.3, people)
    other = all_pairs_differentials(rows, who, groups, 0.3)
    for first, second in zip(one.cells, other.cells, strict=True):
        assert first[:3] == second[:3]
        assert first[4:6] == second[4:6]
        for ours, theirs in ((first.fmr_interval, second.fmr_interval), (first.fnmr_interval, second.fnmr_interval)):
            assert ours == pytest.approx(theirs)
    for found, again in zip(one.inequalities, other.inequalities, strict=True):
        assert found.name == again.name
        assert found.value == pytest.approx(again.value)
        assert found.interval == pytest.approx(again.interval)


def naive_interval(wrong: np.ndarray, people: list[tuple[int, int]], genuine: bool, most: int) -> list[float]:
    """Interval of one cell, its variance summed over all pairs of pairs that share a person."""
    rate = float(np.mean(wrong))
    products, within = 0.0, 0.0
    for first, one in zip(wrong - rate, map(set, people), strict=True):
        for second, other in zip(wrong - rate, map(set, people), strict=True):
            products += first * second * bool(one & other)
            within += first * second * (one == other)
    errors, rest, totals = ({one: 0 for pair in people for one in pair} for _ in range(3))
    for bad, pair in zip(wrong, people, strict=True):
        for person in set(pair):
            totals[person] += 1
            (errors if bad else rest)[person] += 1
    few = [sum(one.values()) ** 2 / max(1, sum(e**2 for e in one.values())) for one in (errors, rest)]
    if genuine:
        inner = sum(errors[one] * rest[one] / total for one, total in totals.items())
        correlation = min(1.0, 1 - inner / (len(wrong) - len(totals)) / (rate * (1 - rate))) if 0 < rate < 1 else 1.0
        kish = len(wrong) ** 2 / sum(total**2 for total in totals.values())
        variance = rate * (1 - rate) / len(wrong) * (1 + (len(wrong) / kish - 1) * max(correlation, 0))
        shared = max(float(effective_size(rate, variance, min(few), np.ones(len(totals)))), kish)
        own = np.array([*totals.values()])
        sums = float(effective_size(rate, products / len(wrong) ** 2, min(few), own))
        return list(proportion_interval(rate, min(shared, sums), 0.95, min(few)))
    count = min(*few, most)
    size = float(effective_size(rate, max(products, within) / len(wrong) ** 2, count, np.ones(most)))
    size = min(size, len(wrong))
    low, high = proportion_interval(rate, size, 0.95, count)
    if 0 < rate < 1:
        fewer = len(wrong) / (1 + (len(wrong) / size - 1) * (high / rate) ** 0.45)
        high = proportion_interval(rate, max(fewer, min(size, most)), 0.95, count).high
    return [low, high]


@pytest.mark.parametrize("kind", ["people", "dyads", "few"])
def test_intervals_are_those_of_a_loop_over_pairs_of_pairs(kind: str) -> None:
    rng, who = np.random.default_rng(1), np.repeat(np.arange(12), [2, 2, 3, 3, 4, 4] * 2)
    groups = np.where(who < 6, "a", "b")
    scores, same, sides, people = listed(rng.normal(size=(len(who), 8)), who, groups)
    left, right = people.T
    if kind == "people":
        scores = 2 * (rng.normal(size=12)[left] + rng.normal(size=12)[right]) + rng.normal(size=len(same))
    elif kind == "dyads":
        scores = rng.normal(size=(12, 12))[left, right] + 0.3 * rng.normal(size=len(same))
    else:
        scores = np.where(same, right % 6 != 1, (left % 6 == 0) & (right % 6 < 3)) + 0.1 * rng.random(len(same))
    found = group_differentials(scores, same, sides, 0.5, people)
    for cell in found.cells:
        inside = np.array([tuple(sorted(pair)) == cell.groups for pair in sides.tolist()])
        for genuine, interval in ((False, cell.fmr_interval), (True, cell.fnmr_interval)):
            some = inside & (same == genuine)
            if some.any():
                most = 3 if cell.groups[0] == cell.groups[1] else 6
                pairs = list(map(tuple, people[some].tolist()))
                expected = naive_interval((scores[some] >= 0.5) != genuine, pairs, genuine, most)
                assert interval == pytest.approx(expected), (cell.groups, genuine)


def test_people_without_genuine_pairs_do_not_narrow_the_false_non_match_rate() -> None:
    who = np.concatenate([np.repeat([0, 1], 20), np.arange(2, 100), np.repeat(np.arange(100, 150), 3)])
    rows = np.eye(150)[who] + 0.01 * np.random.default_rng(0).normal(size=(len(who), 150))
    cell = all_pairs_differentials(rows, who, np.where(who < 100, "a", "b"), 0.5).cells[0]
    assert (cell.genuine, cell.fnmr) == (380, 0)
    assert cell.fnmr_interval == pytest.approx((0, 1 - 0.05 ** (1 / 2)))


def test_without_intervals_no_variance_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = all_pairs_differentials(*photos(), 0.3)

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("siamese_verify.evaluation.differentials.equal_people", fail)
    found = all_pairs_differentials(*photos(), 0.3, intervals=False)
    assert [cell[:3] + cell[4:6] for cell in found.cells] == [cell[:3] + cell[4:6] for cell in whole.cells]


def test_more_errors_than_memory_holds_are_counted_without_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, who, groups = photos(shift=0.3)
    whole = all_pairs_differentials(rows, who, groups, 0.1)
    monkeypatch.setattr("siamese_verify.evaluation.differentials.MAX_ERRORS", 100)
    found = all_pairs_differentials(rows, who, groups, 0.1)
    assert [cell[:3] + cell[4:6] for cell in found.cells] == [cell[:3] + cell[4:6] for cell in whole.cells]
    assert {cell.fmr_interval for cell in found.cells} == {None}
    assert [(one.value, one.interval) for one in found.inequalities] == [
        (one.value, None) for one in whole.inequalities
    ]


def test_memory_does_not_grow_with_people_times_squared_groups() -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    groups = np.array([f"g{number % 50}" for number in range(2000)])
    tracemalloc.start()
    all_pairs_differentials(rows, np.arange(2000) // 2, groups, 0.99)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1000 * 50**2 * 8, "one array of (people, groups, groups)"


def test_summaries_are_their_published_formulas() -> None:
    rates = np.array([0.01, 0.02, 0.06])
    naive = sum(abs(a - b) for a in rates for b in rates) / (2 * 3**2 * rates.mean()) * 3 / 2
    assert gini(rates) == pytest.approx(naive)
    assert worst_ratio(rates) == pytest.approx(0.06 / np.prod(rates) ** (1 / 3))
    assert garbe(rates, np.array([0.1, 0.1, 0.1])) == pytest.approx(naive / 2)
    assert garbe(rates, rates[::-1], 0.3) == pytest.approx(naive)
    assert gini(np.full(4, 0.2)) == 0
    assert worst_ratio(np.full(4, 0.2)) == pytest.approx(1)
    assert gini(np.array([0.0, 0.0, 0.3])) == pytest.approx(1)  # one group has all errors
    assert math.isinf(worst_ratio(np.array([0.0, 0.3])))
    assert gini([0.1, 0.3]) == pytest.approx(0.5)
    assert garbe([0.1, 0.3], [0.2, 0.2]) == pytest.approx(0.25)
    assert worst_ratio([0.1, 0.4]) == pytest.approx(2)
    assert [float(one) for one in (gini([0.3]), garbe([0.3], [0.1]), worst_ratio([0.1]))] == [0, 0, 1], "one group"
    assert gini(np.zeros(3)) == 0
    assert worst_ratio(np.zeros(3)) == 1
    both = np.stack([rates, rates[::-1] + 0.1])
    assert gini(both) == pytest.approx([float(gini(both[0])), float(gini(both[1]))])


def test_a_group_that_is_mistaken_for_itself_is_found() -> None:
    equal, unequal = (all_pairs_differentials(*photos(90, 3, shift=shift), 0.45) for shift in (0, 0.8))
    measures = {one.name: one for one in unequal.inequalities}
    assert measures["GARBE"].interval is not None
    assert measures["GARBE"].interval.low <= measures["GARBE"].value <= measures["GARBE"].interval.high
    own = unequal.matrix().diagonal()
    assert own[unequal.groups.index("old")] > 3 * np.delete(own, unequal.groups.index("old")).max()
    alike = next(one for one in equal.inequalities if one.name == "Gini coefficient of FMR")
    assert measures["Gini coefficient of FMR"].interval is not None
    assert measures["Gini coefficient of FMR"].interval.low > alike.value


@pytest.mark.parametrize("rates", [[[0.02] * 4, [0.05] * 4], [[0.01, 0.01, 0.02, 0.04], [0.05, 0.05, 0.1, 0.1]]])
def test_intervals_of_inequality_hold_the_truth_where_groups_are_alike_and_where_not(rates: list[list[float]]) -> None:
    rng, true, trials = np.random.default_rng(0), np.array(rates), np.array([[1000] * 4, [200] * 4])
    truth = [float(worst_ratio(true[0])), float(worst_ratio(true[1])), float(gini(true[0])), float(gini(true[1]))]
    truth.append(float(garbe(*true)))
    held = np.zeros(5)
    for _ in range(16):
        found = inequalities(rng.binomial(trials, true) / trials, trials.astype(np.float64))
        ends = np.array([one.interval for one in found], dtype=np.float64)
        held += (ends[:, 0] <= np.array(truth) + 1e-9) & (np.array(truth) <= ends[:, 1] + 1e-9)
    assert (held >= 13).all(), held


def test_equal_rates_of_two_groups_may_differ_by_as_much_as_chance_hides() -> None:
    rates, trials = np.array([[0.02, 0.02], [0.1, 0.1]]), np.array([[20_000, 20_000], [10_000, 10_000]])
    found = inequalities(rates, trials.astype(np.float64))
    for kind in (0, 1):
        # The 97.5 % quantile of the absolute log ratio of rates; both the ratio and the coefficient are half of it.
        half = norm.ppf(1 - 0.025 / 2) * np.sqrt(2 * (1 - rates[kind, 0]) / (rates[kind, 0] * trials[kind, 0])) / 2
        for one, value in ((found[kind], np.exp(half) - 1), (found[2 + kind], half)):
            assert one.interval is not None
            low, high = np.array(one.interval) - one.name.startswith("largest")
            assert low == pytest.approx(0, abs=1e-9)
            assert high == pytest.approx(value, rel=0.15)
    assert found[4].interval is not None
    assert found[4].interval.high > 0.02


def test_without_errors_nothing_is_known_of_their_inequality() -> None:
    trials = np.full((2, 3), 100.0)
    found = inequalities(np.array([[0.1, 0.2, 0.0], [0.0, 0.0, 0.0]]), trials)
    assert [one.interval is None for one in found] == [False, True, False, True, True]
    assert found[0].interval is not None
    assert found[0].interval.high == found[0].value == np.inf
    assert all(one.interval is None for one in inequalities(np.full((2, 3), 0.1), None))


def test_people_decide_the_interval_and_not_pairs() -> None:
    rows, who, groups = photos(30, 4)
    scores, same, sides, people = listed(rows, who, groups)
    over_people = group_differentials(scores, same, sides, 0.3, people)
    assert group_differentials(scores, same, sides, 0.3).cells[0].fmr_interval is None
    cell = over_people.cells[0]
    assert cell.fmr is not None
    assert cell.fmr_interval is not None
    independent = 1.96 * (cell.fmr * (1 - cell.fmr) / cell.impostors) ** 0.5
    assert cell.fmr_interval.high - cell.fmr_interval.low > 2.5 * independent


def test_numbers_become_four_groups_and_many_words_raise() -> None:
    ages = np.random.default_rng(0).integers(0, 90, 400).astype(str)
    ages[7] = ""
    labels = labels_of(ages)
    assert labels[7] == ""
    names, sizes = np.unique(labels[labels != ""], return_counts=True)
    assert len(names) == 4
    assert sizes.min() > 70
    for name in names:
        low, high = (float(part) for part in name.partition(": ")[2].split(" to "))
        inside = ages[labels == name].astype(float)
        assert low <= inside.min() <= inside.max() <= high
    assert labels_of(["a", " b", ""]).tolist() == ["a", "b", ""]
    beards = labels_of(["0"] * 95 + [str(n) for n in range(1, 21)])
    assert np.unique(beards, return_counts=True)[1].tolist() == [95, 20]
    assert np.unique(beards).tolist() == ["1: 0", "2: 1 to 20"]
    with pytest.raises(InputError, match="60 groups, such as 'p0'"):
        labels_of([f"p{n}" for n in range(60)])


def test_what_cannot_be_compared_raises() -> None:
    rows, who, groups = photos()
    scores, same, _, people = listed(rows, who, groups)
    with pytest.raises(InputError, match="give two for each pair"):
        group_differentials(scores, same, groups, 0.3, people)
    with pytest.raises(InputError, match="column sex has 1 groups"):
        all_pairs_differentials(rows, who, np.full(len(who), "f"), 0.3, column="sex")
    with pytest.raises(InputError, match="give one for each photo"):
        all_pairs_differentials(rows, who, groups[:3], 0.3)
