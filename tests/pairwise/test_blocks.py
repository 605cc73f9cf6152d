"""The blocks cover every pair of rows once."""

import pytest
import torch

from siamese_verify.pairwise.blocks import blocks, ranges


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64])
def test_blocks_of_a_set_with_itself_cover_the_upper_triangle(count: int) -> None:
    seen = torch.zeros(count, count, dtype=torch.int64)
    for rows, columns in blocks(count, size=4):
        seen[rows, columns] += 1
        assert rows == columns or rows.stop <= columns.start
    assert torch.equal(seen.triu(), torch.ones_like(seen).triu())


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (5, 9), (8, 8)])
def test_blocks_of_two_sets_cover_the_rectangle(rows: int, columns: int) -> None:
    seen = torch.zeros(rows, columns, dtype=torch.int64)
    for row, column in blocks(rows, columns, size=4):
        seen[row, column] += 1
    assert torch.equal(seen, torch.ones_like(seen))


def test_ranges_are_evenly_long() -> None:
    assert list(ranges(513)) == [slice(0, 257), slice(257, 513)]
    assert list(ranges(9, size=4, start=3)) == [slice(3, 6), slice(6, 9)]
    assert list(ranges(0)) == []
