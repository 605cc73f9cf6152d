from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.gallery.template_search import Hit, Templates, unit_templates


def random_rows(count: int, embedding_size: int = 8, seed: int = 0) -> NDArray[np.float32]:
    return unit_templates(np.random.default_rng(seed).normal(size=(count, embedding_size)), embedding_size)


def held(rows: NDArray[np.float32], people: list[int]) -> Templates:
    return Templates.empty(rows.shape[1]).grown(rows, people, range(1, len(rows) + 1))


def slow_best(rows: NDArray[np.float32], people: list[int], probe: NDArray[np.float32], top: int) -> list[Hit]:
    best: dict[int, float] = {}
    for row, person in zip(rows, people, strict=True):
        score = sum(float(a) * float(b) for a, b in zip(row, probe, strict=True))
        best[person] = max(best.get(person, -2.0), score)
    return [Hit(person, score) for person, score in sorted(best.items(), key=lambda one: (-one[1], one[0]))][:top]


@pytest.mark.parametrize("top", [1, 3, 50])
@pytest.mark.parametrize("count", [1, 2, 7, 60, 300])
def test_the_best_are_those_of_a_loop(count: int, top: int) -> None:
    rows = random_rows(count)
    people = np.random.default_rng(1).integers(1, max(2, count // 3), count).tolist()
    templates = held(rows, people)
    for probe in random_rows(5, seed=2):
        expected = slow_best(rows, people, probe, top)
        found = templates.best(probe, top)
        assert [hit.person for hit in found] == [hit.person for hit in expected]
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=1e-12)


def test_a_person_with_most_of_the_templates_hides_nobody() -> None:
    rows = random_rows(500)
    rows[:400] = rows[0]
    people = [1] * 400 + list(range(2, 102))
    found = held(rows, people).best(rows[0], 5)
    assert [hit.person for hit in found] == [hit.person for hit in slow_best(rows, people, rows[0], 5)]


def test_those_who_score_alike_stand_in_the_order_of_their_enrolment() -> None:
    rows = np.repeat(random_rows(1), 40, axis=0)
    found = held(rows, list(range(40, 0, -1))).best(rows[0], 3)
    assert [hit.person for hit in found] == [1, 2, 3]


def test_scores_do_not_depend_on_what_else_is_there() -> None:
    rows = random_rows(3000, 64)
    probe = random_rows(1, 64, seed=5)[0]
    alone = [held(rows[k : k + 1], [k]).best(probe, 1)[0] for k in range(3000)]
    assert held(rows, list(range(3000))).best(probe, 1) == [max(alone, key=lambda hit: hit.score)]


def test_scores_are_cosines_even_of_rows_a_little_too_long() -> None:
    row = np.full((1, 3), 0.57735032, np.float32)
    hit = held(row, [1]).best(row[0], 1)[0]
    assert hit.score == pytest.approx(1, abs=1e-6)
    assert hit.score <= 1


def test_growing_leaves_what_others_hold_as_it_was() -> None:
    rows = random_rows(100)
    states = [Templates.empty(8)]
    for start in range(0, 100, 7):
        these = list(range(start, min(100, start + 7)))
        states.append(states[-1].grown(rows[start : start + 7], these, these))
    for state in states:
        np.testing.assert_array_equal(state.rows, rows[: len(state)])
        assert state.people.tolist() == list(range(len(state)))
        assert state.rows.flags.c_contiguous


@pytest.mark.parametrize("people", [9, 90])  # of whom one is left out: few are kept anew, many stay where they are
def test_leaving_people_out_leaves_nothing_of_them_and_lets_it_grow_again(people: int) -> None:
    rows = random_rows(3 * people)
    before = held(rows, [*range(1, people + 1)] * 3)
    kept = before.rows
    left = before
    for person in (2, 5):
        left = left.without({person, 999})
    assert len(left) == 3 * people - 6
    for person in range(1, people + 1):
        for probe in rows[person - 1 :: people]:
            hit = left.best(probe, 1)[0]
            assert (hit.person == person) == (person not in (2, 5))
            assert hit == slow_best(left.rows, left.people.tolist(), probe, 1)[0]._replace(score=hit.score)
    for row in (1, 4):
        assert not kept[row::people].any(), "it is overwritten in memory"
    assert [hit.person for hit in left.best(rows[0], 999)].count(-1) == 0
    assert len(left.best(rows[0], 999)) == people - 2
    another = random_rows(1, seed=9)
    assert left.grown(another, [999], [10_000]).best(another[0], 1)[0].person == 999
    assert left.without(set(range(1, people + 1))).best(rows[0], 3) == []


def test_nobody_is_found_among_none() -> None:
    assert Templates.empty(8).best(random_rows(1)[0], 5) == []


@pytest.mark.parametrize("length", [1e-30, 0.5, 1, 1e30])
def test_embeddings_are_brought_to_unit_length(length: float) -> None:
    rows = unit_templates(length * random_rows(4).astype(np.float64), 8)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_one_embedding_is_a_row() -> None:
    assert unit_templates(np.ones(8), 8).shape == (1, 8)


@pytest.mark.parametrize(
    "embeddings", [np.zeros((0, 8)), np.ones((2, 7)), np.ones((1, 2, 8)), 3.0, [[1.0], [1.0, 2.0]], "text", [None] * 8]
)
def test_another_shape_is_refused(embeddings: object) -> None:
    with pytest.raises(InputError, match=r"\(N,8\)|NaN"):
        unit_templates(embeddings, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_a_row_without_a_direction_is_refused_and_counted(value: float) -> None:
    rows = np.ones((3, 8))
    rows[1] = value
    with pytest.raises(InputError, match="Embedding 2 is"):
        unit_templates(rows, 8)


def test_combined_templates_are_the_weighted_mean_of_each_person() -> None:
    rows = random_rows(40)
    people = np.random.default_rng(1).integers(1, 9, 40)
    templates, weights = held(rows, people.tolist()), np.random.default_rng(2).random(40) + 0.1
    for probe in random_rows(3, seed=3):
        for given, used in ((None, np.ones(40)), (weights, weights)):
            scores = {}
            for person in np.unique(people).tolist():
                mean = (rows[people == person] * used[people == person, None]).sum(axis=0)
                scores[person] = float(mean @ probe / np.linalg.norm(mean))
            expected = sorted(scores.items(), key=lambda one: -one[1])[:4]
            found = templates.best_combined(probe, 4, given)
            assert [hit.person for hit in found] == [person for person, _ in expected]
            np.testing.assert_allclose([hit.score for hit in found], [score for _, score in expected], atol=1e-6)
    gone = templates.without([int(people[0])])
    assert people[0] not in [hit.person for hit in gone.best_combined(rows[0], 9, None)]
    assert Templates.empty(8).best_combined(rows[0], 3, None) == []
