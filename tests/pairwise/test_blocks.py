"""The blocks cover every pair of rows once."""

import pytest
import torch

from siamese_verify.pairwise.blocks import blocks, ranges, share_blocks


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


@pytest.mark.parametrize("sizes", [[20], [10, 10], [7, 0, 13], [1, 9, 6, 5]], ids=str)
def test_ranks_share_all_pairs(sizes: list[int]) -> None:
    """Each pair of two rows is one rank's, and each pair of a row and a reference its row's; all have as much to do."""
    count, references, start = sum(sizes), 7, 0
    seen, others = torch.zeros(count, count, dtype=torch.int64), torch.zeros(count, references, dtype=torch.int64)
    for size in sizes:
        pairs = 0
        for rows, columns, itself in share_blocks(slice(start, start + size), count, references, size=3):
            part = (seen if itself else others)[rows, columns]
            if itself and rows == columns:
                part += torch.ones_like(part).triu(1)
                pairs += len(part) * (len(part) - 1) // 2
            else:
                part += 1
                pairs += part.numel() * itself
        assert pairs == pytest.approx(size * (count - 1) / 2, abs=size / 2)
        start += size
    assert torch.equal(seen + seen.T, 1 - torch.eye(count, dtype=torch.int64))
    assert torch.equal(others, torch.ones_like(others))
