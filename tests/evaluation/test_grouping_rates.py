from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from siamese_verify.errors import InputError
from siamese_verify.evaluation import grouping_rates


@pytest.mark.parametrize("seed", range(4))
def test_rates_agree_with_scikit_learn_over_all_pairs_and_with_a_loop_over_the_faces(seed: int) -> None:
    generator = np.random.default_rng(seed)
    groups, people = generator.integers(0, 9, 60), generator.integers(0, 12, 60).astype(str)
    pairs = list(combinations(range(60), 2))
    same, together = ([values[i] == values[j] for i, j in pairs] for values in (people, groups))
    precision, recall, f1, _ = precision_recall_fscore_support(same, together, average="binary")
    found = grouping_rates(groups, people)
    np.testing.assert_allclose(found[:3], (precision, recall, f1))
    shares = []
    for face in range(60):
        group = {other for other in range(60) if groups[other] == groups[face]}
        person = {other for other in range(60) if people[other] == people[face]}
        shares.append((len(group & person) / len(group), len(group & person) / len(person)))
    bcubed = np.mean(shares, axis=0)
    np.testing.assert_allclose(found[3:6], (*bcubed, 2 * bcubed[0] * bcubed[1] / bcubed.sum()))
    surplus = sum(len({people[face] for face in range(60) if groups[face] == group}) - 1 for group in set(groups))
    assert found.false_merge_rate == surplus / (60 - len(set(groups)))
    assert (found.groups, found.people) == (len(set(groups)), len(set(people)))


def test_a_perfect_grouping_everybody_alone_and_one_face() -> None:
    people = np.array([3, 3, 5, 7])
    assert grouping_rates([1, 1, 0, 2], people)[:7] == (1, 1, 1, 1, 1, 1, 0)
    alone = grouping_rates(range(4), people)
    assert (alone.pair_precision, alone.pair_recall, alone.bcubed_precision) == (1, 0, 1)
    assert grouping_rates([4], ["a"])[:7] == (1, 1, 1, 1, 1, 1, 0)


@pytest.mark.parametrize(("groups", "people"), [([], []), ([1, 2], [1])])
def test_no_faces_and_other_lengths_are_refused(groups: list[int], people: list[int]) -> None:
    with pytest.raises(InputError, match="one for each face"):
        grouping_rates(groups, people)
