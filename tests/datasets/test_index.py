from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.datasets.index import FaceIndex, index_path, make_index, open_index, save_index
from siamese_verify.errors import InputError

PATHS = ["b/2.jpg", "a/1.jpg", "Ж/1.jpg", "b/1.jpg", "a/0.jpg"]
PEOPLE = ["b", "a", "Ж", "b", "a"]


@pytest.fixture
def index() -> FaceIndex:
    return make_index(PATHS, PEOPLE)


def test_photos_are_grouped_by_identity_in_the_order_given(index: FaceIndex) -> None:
    assert index.names == ["a/1.jpg", "a/0.jpg", "b/2.jpg", "b/1.jpg", "Ж/1.jpg"]
    assert index.people == ["a", "b", "Ж"]
    assert index.identities.tolist() == [0, 0, 1, 1, 2]
    assert len(index) == 5


def test_names_are_a_sequence(index: FaceIndex) -> None:
    assert index.names[-1] == "Ж/1.jpg"
    assert index.names[int(np.int64(2))] == "b/2.jpg"
    assert index.names[1:3] == ["a/0.jpg", "b/2.jpg"]
    assert list(index.names) == [index.names[row] for row in range(5)]
    assert index.names != ["a/1.jpg"]
    with pytest.raises(IndexError):
        index.names[5]


def test_a_saved_index_is_mapped_here_and_in_other_processes(index: FaceIndex, tmp_path: Path) -> None:
    saved = save_index(index, tmp_path / "deep" / "index.arrow")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["index.arrow"]
    for one in (saved, open_index(tmp_path / "deep" / "index.arrow"), pickle.loads(pickle.dumps(saved))):
        assert one.names == index.names
        assert one.people == index.people
        np.testing.assert_array_equal(one.identities, index.identities)
    assert len(pickle.dumps(saved)) < 500  # its path, not its content
    assert pickle.loads(pickle.dumps(index)).names == index.names


def test_a_mapped_index_is_not_read_into_memory(tmp_path: Path) -> None:
    rows = 100_000
    saved = save_index(make_index([f"{row}.jpg" for row in range(rows)], ["one"] * rows), tmp_path / "index.arrow")
    assert not saved.identities.flags.owndata
    assert not saved.identities.flags.writeable


@pytest.mark.parametrize("content", [b"", b"no arrow", None], ids=["empty", "text", "truncated"])
def test_a_damaged_index_is_refused(index: FaceIndex, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "index.arrow"
    save_index(index, file)
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    with pytest.raises(InputError, match="damaged"):
        open_index(file)


def test_names_that_are_not_unicode_are_refused() -> None:
    with pytest.raises(InputError, match="not Unicode"):
        make_index(["a/\udcff.jpg"], ["a"])


def test_a_list_that_changes_has_another_cached_index(tmp_path: Path) -> None:
    source = tmp_path / "list.csv"
    source.write_text("a")
    first = index_path(tmp_path, source, "train")
    assert first == index_path(tmp_path, source, "train")
    assert first != index_path(tmp_path, source, "test")
    source.write_text("ab")
    assert first != index_path(tmp_path, source, "train")
    assert index_path(None, source) is None


def test_an_index_may_be_empty(tmp_path: Path) -> None:
    assert len(save_index(make_index([], []), tmp_path / "index.arrow")) == 0
