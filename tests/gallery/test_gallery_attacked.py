"""Files of galleries that somebody without the key has changed."""

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
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.gallery import Gallery, GalleryKey, GalleryModel
from siamese_verify.gallery.store import INDEX, TABLES

KEY = GalleryKey(bytes(range(32)))
FACES = np.linalg.qr(np.random.default_rng(5).normal(size=(16, 16)))[0][:6]
MODEL = GalleryModel("ab" * 32, 16, "mine")


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


def changed(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_an_unchanged_copy_answers(copy: Path) -> None:
    people, log, searches = answers(copy)
    assert [person.name for person in people] == ["P0", "P1", "P2", "P3"]
    assert [name for name, _ in searches] == ["P0", "P1", "P2", "P3", None, None]
    assert len(log) == 7


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_gives_a_sentence_or_the_same_answers(
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
            gallery.enroll_embeddings("New", FACES[4:5])
            gallery.forget("P0")
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert found == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.data(), end=st.integers(0, 3) | st.integers(0, 60_000))
def test_a_file_that_was_cut_or_has_something_else_behind_it_gives_a_sentence_or_the_same_answers(
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


@pytest.mark.parametrize("content", [b"", b"not a database\n" * 100, os.urandom(8192), b"SQLite format 3\x00"])
def test_a_file_that_is_no_gallery_is_said(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"no gallery"):
        Gallery.open(path, key=KEY)


def test_another_database_is_no_gallery_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    changed(path, "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT)", "INSERT INTO person VALUES (1, 'Ann')")
    before = path.read_bytes()
    with pytest.raises(InputError, match="is no gallery, or one of another version"):
        Gallery.open(path, MODEL, key=KEY)
    assert path.read_bytes() == before


def test_a_trigger_of_somebody_else_is_refused(copy: Path) -> None:
    changed(copy, "CREATE TRIGGER spy AFTER INSERT ON log BEGIN DELETE FROM person; END")
    with pytest.raises(InputError, match="is no gallery"):
        answers(copy)


def test_a_database_copied_to_another_key_is_refused(copy: Path) -> None:
    for key in (GalleryKey(bytes(32)), GalleryKey(bytes(range(1, 33)))):
        with pytest.raises(InputError, match="was made with another key"):
            Gallery.open(copy, MODEL, key=key)
    assert answers(copy)


def test_a_forged_check_does_not_help_another_key(copy: Path, tmp_path: Path) -> None:
    other = GalleryKey(bytes(32))
    with Gallery.open(tmp_path / "other.db", MODEL, key=other):
        pass
    connection = sqlite3.connect(tmp_path / "other.db")
    salt, check = connection.execute("SELECT salt, key_check FROM gallery").fetchone()
    connection.close()
    changed(copy, f"UPDATE gallery SET salt = X'{salt.hex()}', key_check = X'{check.hex()}'")
    with Gallery.open(copy, MODEL, key=other) as gallery, pytest.raises(InputError, match="a state in it was changed"):
        gallery.people()


FORGERIES: dict[str, tuple[str, ...]] = {
    "templates of two people exchanged": ("UPDATE template SET person = 3 - person WHERE person IN (1, 2)",),
    "a template given to somebody else": ("UPDATE template SET person = 2 WHERE id = 1",),
    "names of two people exchanged": (
        "UPDATE person SET sealed = (SELECT sealed FROM person AS other WHERE other.id = 3 - person.id) "
        "WHERE id IN (1, 2)",
    ),
    "numbers of two people exchanged": (
        "UPDATE person SET id = 99 WHERE id = 1",
        "UPDATE person SET id = 1 WHERE id = 2",
        "UPDATE person SET id = 2 WHERE id = 99",
    ),
    "the contents of two templates exchanged": (
        "UPDATE template SET sealed = (SELECT sealed FROM template AS other WHERE other.id = 4 - template.id) "
        "WHERE id IN (1, 3)",
    ),
    "the contents of two templates of one person exchanged": (
        "UPDATE template SET sealed = (SELECT sealed FROM template AS other WHERE other.id = 3 - template.id) "
        "WHERE id IN (1, 2)",
    ),
    "a template left out": ("DELETE FROM template WHERE id = 1",),
    "a person left out": ("DELETE FROM template WHERE person = 1", "DELETE FROM person WHERE id = 1"),
    "a template doubled": ("INSERT INTO template (person, sealed) SELECT person, sealed FROM template WHERE id = 1",),
    "a person doubled": ("INSERT INTO person (sealed) SELECT sealed FROM person WHERE id = 1",),
    "a template of nobody": ("UPDATE template SET person = 77 WHERE id = 1",),
    "a template of text": ("UPDATE template SET sealed = 'text' WHERE id = 1",),
    "a person who is a word": ("UPDATE template SET person = 'me' WHERE id = 1",),
    "an empty template": ("UPDATE template SET sealed = X'' WHERE id = 1",),
    "a state of text": ("UPDATE gallery SET state = 'text'",),
    "no first row": ("DELETE FROM gallery",),
    "another dimension": ("UPDATE gallery SET dimension = 17",),
    "a dimension of words": ("UPDATE gallery SET dimension = 'many'",),
    "another model": ("UPDATE gallery SET fingerprint = 'x'",),
    "another name of the model": ("UPDATE gallery SET model = 'theirs'",),
    "another format": ("UPDATE gallery SET format = 2",),
    "an entry of the log left out": ("DELETE FROM log WHERE id = 2",),
    "the whole log left out": ("DELETE FROM log",),
    "two entries of the log exchanged": (
        "UPDATE log SET sealed = (SELECT sealed FROM log AS other WHERE other.id = 3 - log.id) WHERE id IN (1, 2)",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_refused_in_a_sentence(forgery: str, copy: Path) -> None:
    changed(copy, *FORGERIES[forgery])
    with pytest.raises(InputError) as error:
        answers(copy)
    sentence = str(error.value)
    assert str(copy) in sentence
    assert sentence.endswith((".", "!"))


def test_a_forgery_under_an_open_gallery_is_refused_and_teaches_it_nothing(copy: Path) -> None:
    with Gallery.open(copy, MODEL, key=KEY) as gallery:
        before = gallery.people()
        changed(copy, *FORGERIES["a template left out"])
        with Gallery.open(copy, MODEL, key=KEY) as other, pytest.raises(InputError, match="missing, or were put back"):
            other.enroll_embeddings("New", FACES[4:5])
        assert gallery.people() == before, "what it knows of was checked"


def test_a_row_of_before_cannot_be_put_back(copy: Path) -> None:
    connection = sqlite3.connect(copy)
    person, sealed = connection.execute("SELECT person, sealed FROM template WHERE id = 1").fetchone()
    row = connection.execute("SELECT sealed FROM person WHERE id = 1").fetchone()[0]
    connection.close()
    with Gallery.open(copy, MODEL, key=KEY) as gallery:
        gallery.forget("P0")
    changed(
        copy,
        f"INSERT INTO person VALUES (1, X'{row.hex()}')",
        f"INSERT INTO template VALUES (1, {person}, X'{sealed.hex()}', NULL)",
    )
    with pytest.raises(InputError, match="missing, or were put back"):
        answers(copy)


def test_rows_of_another_gallery_with_the_same_key_are_refused(copy: Path, tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "other.db", MODEL, key=KEY) as gallery:
        gallery.enroll_embeddings("P0", FACES[5:6])
    connection = sqlite3.connect(tmp_path / "other.db")
    (state,), (sealed,) = (
        connection.execute(f"SELECT {what}").fetchone() for what in ("state FROM gallery", "sealed FROM person")
    )
    connection.close()
    for statement in (f"UPDATE gallery SET state = X'{state.hex()}'", f"UPDATE person SET sealed = X'{sealed.hex()}'"):
        changed(copy, statement)
        with pytest.raises(InputError, match="was changed or belongs elsewhere"):
            answers(copy)


def test_a_photo_moved_to_another_template_is_refused(tmp_path: Path) -> None:
    crop: NDArray[np.uint8] = np.zeros((4, 4, 3), np.uint8)
    with Gallery.open(tmp_path / "g.db", MODEL, key=KEY) as gallery:
        gallery.enroll_embeddings("Ann", FACES[:2], crops=[crop, crop + 1], compare=False)
    changed(
        tmp_path / "g.db",
        "UPDATE template SET photo = (SELECT photo FROM template AS other WHERE other.id = 3 - template.id)",
    )
    with Gallery.open(tmp_path / "g.db", MODEL, key=KEY) as gallery, pytest.raises(InputError, match="a photo in it"):
        gallery.photos("Ann")


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "'; DROP TABLE person; --", "$(rm -rf .)", "a" * 200, "C:\\con", "%s%n", "{0}"]
)
def test_a_name_is_a_name_and_nothing_else(name: str, copy: Path) -> None:
    folder = sorted(file.name for file in copy.parent.iterdir())
    with Gallery.open(copy, MODEL, key=KEY) as gallery:
        gallery.enroll_embeddings(name, FACES[5:6])
        assert gallery.identify_embedding(FACES[5], threshold=0.9).name == name
        gallery.forget(name)
        assert len(gallery) == 4
    assert sorted(file.name for file in copy.parent.iterdir()) == folder


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.symlink_to(p)])
def test_a_path_that_is_no_file_is_said(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "odd.db"
    make(path)
    with pytest.raises(InputError, match=r"cannot be|no gallery"):
        Gallery.open(path, MODEL, key=KEY)


@pytest.mark.parametrize("path", ["/dev/null/gallery.db", "a\x00b", "/proc/gallery.db"])
def test_a_path_where_nothing_can_be_made_is_said(path: str) -> None:
    with pytest.raises(InputError, match=r"cannot be|There is no"):
        Gallery.open(path, MODEL, key=KEY)


def test_the_tables_are_all_that_a_gallery_has(copy: Path) -> None:
    connection = sqlite3.connect(copy)
    found = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}
    connection.close()
    assert found == {*TABLES.values(), INDEX}
