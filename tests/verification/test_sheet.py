from __future__ import annotations

import pytest

from siamese_verify.verification.picture import shortened


@pytest.mark.parametrize("most", [1, 2, 5, 10, 11])
def test_a_shortened_name_keeps_both_ends_within_its_width(most: int) -> None:
    name = "abcdefghijklmnop.jpg"
    found = shortened(name, most)
    start, end = found.split("…")
    assert len(found) == most
    assert name.startswith(start)
    assert name.endswith(end)
    assert abs(len(start) - len(end)) <= 1
    assert shortened(name, len(name)) == name
