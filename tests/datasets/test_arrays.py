from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siamese_verify.datasets import ArrayFile
from siamese_verify.errors import InputError


def test_rows_labels_and_names_are_those_of_the_file(tmp_path: Path) -> None:
    inputs = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    np.savez(tmp_path / "set.npz", inputs=inputs, labels=["b", "a", "b", "c"], names=["w", "x", "y", "z"])
    found = ArrayFile(tmp_path / "set.npz")
    assert len(found) == 4
    assert [found.people[number] for number in found.identities] == ["b", "a", "b", "c"]
    assert list(found.names) == ["w", "x", "y", "z"]
    np.testing.assert_array_equal(np.stack([found[row] for row in range(4)]), inputs)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"inputs": np.zeros((2, 3))}, "has no array labels"),
        ({"inputs": np.zeros((2, 3)), "labels": [1, 2, 3]}, "needs N inputs of numbers and N labels"),
        ({"inputs": np.zeros(()), "labels": [1]}, "needs N inputs"),
        ({"inputs": ["a", "b"], "labels": [1, 2]}, "needs N inputs of numbers"),
        ({"inputs": np.zeros((2, 3)), "labels": [0.5, 1.0]}, "labels of .* are float64"),
        ({"inputs": np.zeros((2, 3)), "labels": [1, 2], "names": ["a", "a"]}, "1 different names for 2 inputs"),
        ({"inputs": np.array([{}, {}]), "labels": [1, 2]}, "not a .npz file of plain arrays"),
    ],
)
def test_what_is_no_such_file_is_refused(arrays: dict[str, Any], told: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError, match=told):
        ArrayFile(tmp_path / "set.npz")


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        ArrayFile(tmp_path / "set.npz")
    (tmp_path / "set.npz").write_bytes(b"PK\3\4nothing")
    with pytest.raises(InputError, match=r"not a \.npz file"):
        ArrayFile(tmp_path / "set.npz")
