"""Files of galleries that were damaged, or changed without the key."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siamese_verify.errors import InputError
from siamese_verify.gallery import Gallery, GalleryKey, GalleryModel

KEY = GalleryKey(bytes(range(32)))
FACES = np.linalg.qr(np.random.default_rng(5).normal(size=(16, 16)))[0][:6]
MODEL = GalleryModel("ab" * 32, 16, "mine")
PAGE = 8192


class Content(bytes):
    """Of a file: too long to be shown when a test fails."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """A gallery of four people with two templates each, one of whom was matched and one forgotten."""
    path = tmp_path_factory.mktemp("original") / "gallery.db"
    with Gallery.open(path, MODEL, key=KEY) as gallery:
        for person in range(5):
            gallery.enroll_embeddings(f"P{person}", FACES[[person, person]], compare=False)
        gallery.identify_embedding(FACES[1], threshold=0.5)
        gallery.forget("P4")
    return Content(path.read_bytes())


@pytest.fixture
def copy(original: Content, tmp_path: Path) -> Path:
    path = tmp_path / "copy.db"
    path.write_bytes(original)
    return path


def answers(path: Path) -> list[Any]:
    """All that can be asked of a gallery."""
    with Gallery.open(path, MODEL, key=KEY) as gallery:
        searches = [gallery.identify_embedding(probe, threshold=0.9) for probe in FACES]
        return [
            gallery.people(),
            [(entry.event, entry.name) for entry in gallery.log()][:7],
            [(search.name, search.candidates) for search in searches],
        ]


def test_an_unchanged_copy_answers(copy: Path) -> None:
    people, log, searches = answers(copy)
    assert [person.name for person in people] == ["P0", "P1", "P2", "P3"]
    assert [name for name, _ in searches] == ["P0", "P1", "P2", "P3", None, None]
    assert len(log) == 7


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_an_error_or_changes_nothing(
    data: st.DataObject, original: Content, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.db"
    path.write_bytes(original)
    expected = answers(path)
    content = bytearray(original)
    place = data.draw(st.integers(0, len(content) - 1), label="place")
    content[place] ^= data.draw(st.integers(1, 255), label="bits")
    path.write_bytes(content)
    try:
        found = answers(path)
        with Gallery.open(path, MODEL, key=KEY) as gallery:
            gallery.check()
            gallery.enroll_embeddings("New", FACES[4:5])
            gallery.forget("P0")
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert found == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.data(), end=st.integers(0, 3) | st.integers(0, 60_000))
def test_a_file_that_was_cut_or_extended_is_an_error_or_changes_nothing(
    content: st.DataObject, end: int, original: Content, tmp_path: Path
) -> None:
    path = tmp_path / "cut.db"
    path.write_bytes(original)
    expected = answers(path)
    path.write_bytes(original[:end] + content.draw(st.binary(max_size=64)))
    try:
        found = answers(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert found == expected


def test_every_page_is_authenticated_with_its_place(original: Content, tmp_path: Path) -> None:
    count = len(original) // PAGE
    for first in range(1, count - 1):
        pages = [original[start : start + PAGE] for start in range(0, len(original), PAGE)]
        pages[first], pages[first + 1] = pages[first + 1], pages[first]
        path = tmp_path / f"{first}.db"
        path.write_bytes(b"".join(pages))
        with pytest.raises(InputError, match="is damaged"), Gallery.open(path, MODEL, key=KEY) as gallery:
            gallery.check()


@pytest.mark.parametrize("content", [b"", b"not a database\n" * 100, os.urandom(8192), b"SQLite format 3\x00"])
def test_a_file_that_is_no_gallery_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a gallery"):
        Gallery.open(path, key=KEY)


def test_another_database_is_no_gallery_and_is_left_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="is not a gallery"):
        Gallery.open(path, MODEL, key=KEY)
    assert path.read_bytes() == before


@pytest.mark.parametrize("key", [bytes(32), bytes(range(1, 33))])
def test_another_key_is_refused_and_changes_nothing(key: bytes, copy: Path, original: Content) -> None:
    with pytest.raises(InputError, match="it has another key"):
        Gallery.open(copy, MODEL, key=GalleryKey(key))
    assert copy.read_bytes() == original


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "'; DROP TABLE person; --", "$(rm -rf .)", "a" * 200, "C:\\con", "%s%n", "{0}"]
)
def test_a_name_is_only_a_name(name: str, copy: Path) -> None:
    folder = sorted(file.name for file in copy.parent.iterdir())
    with Gallery.open(copy, MODEL, key=KEY) as gallery:
        gallery.enroll_embeddings(name, FACES[5:6])
        assert gallery.identify_embedding(FACES[5], threshold=0.9).name == name
        gallery.forget(name)
        assert len(gallery) == 4
    assert sorted(file.name for file in copy.parent.iterdir()) == folder


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.symlink_to(p)])
def test_a_path_that_is_no_file_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "odd.db"
    make(path)
    with pytest.raises(InputError, match=r"cannot be|no gallery"):
        Gallery.open(path, MODEL, key=KEY)


@pytest.mark.parametrize("path", ["/dev/null/gallery.db", "a\x00b", "/proc/gallery.db"])
def test_a_path_where_nothing_can_be_created_is_named(path: str) -> None:
    with pytest.raises(InputError, match=r"cannot be|There is no"):
        Gallery.open(path, MODEL, key=KEY)
