"""People: the rows of everyone, whether they lie together or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.samplers import epoch as people_module
from siamese_verify.samplers.epoch import People, index_type

COUNTS = [3, 1, 2, 5, 1, 6]
SORTED = np.repeat(np.array([-40, -3, 0, 7, 2**40, 2**50]), COUNTS)
DISORDER = np.random.default_rng(0).permutation(SORTED)
CASES = {
    "sorted": SORTED,
    "disorder": DISORDER,
    "descending": SORTED[::-1],
    "together but not ascending": np.array([5, 5, 1, 1, 1, 3]),
    "unsigned": np.array([200, 3, 200, 255], dtype=np.uint8),
    "one row": np.array([9]),
    "one person": np.array([4, 4, 4]),
    "all single": np.arange(5, dtype=np.int32),
}


@pytest.mark.parametrize("block", [1, 4, 1000])
@pytest.mark.parametrize("identities", CASES.values(), ids=CASES)
def test_everyone_has_his_rows(identities: np.ndarray, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_module, "BLOCK", block)
    people = People(identities)
    numbers = sorted(set(identities.tolist()))
    assert people.identities.tolist() == numbers
    assert len(people) == len(numbers)
    assert people.photos == len(identities)
    for person, number in enumerate(numbers):
        rows = np.flatnonzero(identities == number).tolist()
        assert people.rows(person).tolist() == rows
        assert people.counts[person] == len(rows)
        assert people.at(np.array(person), np.arange(len(rows))).tolist() == rows
        assert (person in people.repeated) == (len(rows) > 1)
        assert (person in people.single) == (len(rows) == 1)
    assert [numbers[person] for person in people.person_of_row()] == identities.tolist()


def test_rows_in_order_need_no_list_of_rows() -> None:
    assert People(SORTED).order is None
    order = People(DISORDER).order
    assert order is not None
    assert order.dtype == np.int32


def test_the_first_photos_of_several_people_are_found_at_once() -> None:
    people = People(DISORDER)
    rows = people.at(np.array([[3], [5]]), np.array([0, 4]))
    assert rows.shape == (2, 2)
    assert rows.tolist() == [people.rows(3)[[0, 4]].tolist(), people.rows(5)[[0, 4]].tolist()]


def test_nobody_is_a_set_of_people_too() -> None:
    people = People(np.zeros(0, dtype=np.int64))
    assert (len(people), people.photos) == (0, 0)
    assert people.person_of_row().shape == people.repeated.shape == people.single.shape == (0,)


@pytest.mark.parametrize("identities", [[[0, 1]], [0.0, 1.0], [True, False], ["a"], 3])
def test_identities_that_are_no_vector_of_integers_are_refused(identities: Any) -> None:
    with pytest.raises(InputError, match="identities must be one integer for each row, but have shape"):
        People(identities)


def test_indices_are_as_small_as_their_number_allows() -> None:
    assert index_type(2**31 - 1) is np.int32
    assert index_type(2**31) is np.int64
