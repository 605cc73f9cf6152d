"""Mistakes in tables of scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import read_scores


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score,same\n0.5,1\n\nhigh,0\n", "Line 4 of .* has 'high' as score"),
        ('score,same,note\n0.5,1,"two\nlines"\nnan,0,\n', r"\(first lines: 4\)"),
        ("score,same,fold\n0.5,1,1\n0.5,0,\n", "Line 3 of .* has no fold"),
        ("score,same,identity_b\n0.5,1,x\n", "has identity_b alone"),
        ("score,same,identity_a,identity_b\n0.5,1,,x\n", "Line 2 of .* has no identity_a"),
    ],
)
def test_a_mistake_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "scores.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_scores(tmp_path / "scores.csv")
