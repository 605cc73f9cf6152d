"""The file of a gallery: an SQLite database encrypted by SQLCipher, its transactions, and its errors in sentences."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese_verify.atomic_write import data_folder
from siamese_verify.errors import InputError
from siamese_verify.gallery.enrolled_people import GalleryModel, LogEntry, Person, now
from siamese_verify.gallery.template_search import remove_index

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from siamese_verify.faces import Quality
    from siamese_verify.gallery.key import GalleryKey

FORMAT = 2
BUSY_SECONDS = 60.0
SETTINGS = (
    "cipher_page_size = 8192",  # bytes: three templates of 512 dimensions
    "secure_delete = ON",
    "temp_store = MEMORY",  # VACUUM's copy is written nowhere else
    "foreign_keys = ON",
    "synchronous = FULL",
)
TABLES = """
CREATE TABLE gallery (format INTEGER NOT NULL, fingerprint TEXT NOT NULL, model TEXT NOT NULL,
    dimension INTEGER NOT NULL, version INTEGER NOT NULL, removals INTEGER NOT NULL, vacuumed INTEGER NOT NULL);
CREATE TABLE person (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, pseudonym TEXT NOT NULL,
    enrolled TEXT NOT NULL);
CREATE TABLE template (id INTEGER PRIMARY KEY AUTOINCREMENT, person INTEGER NOT NULL REFERENCES person (id),
    embedding BLOB NOT NULL, quality TEXT NOT NULL, enrolled TEXT NOT NULL, photo BLOB);
CREATE INDEX template_of_person ON template (person);
CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, event TEXT NOT NULL,
    pseudonym TEXT NOT NULL, model TEXT NOT NULL, details TEXT NOT NULL);
"""  # AUTOINCREMENT: the id of a person who was forgotten is never given to another

INSERT_TEMPLATE = "INSERT INTO template (person, embedding, quality, enrolled, photo) VALUES (?, ?, ?, ?, ?)"


def default_gallery() -> Path:
    """Path of the gallery that is used unless the user names one."""
    return data_folder() / "gallery.db"


class Store:
    """One connection to the file of a gallery, for all threads of one process.

    The rollback journal is deleted at the end of each transaction. A write-ahead log would keep pages of people who
    were forgotten for as long as another process keeps it open.

    Args:
        path: of the file.
        key: that encrypts it.
        model: that a new gallery is created for; None to open an existing one only.
        busy_seconds: to wait for another process.

    Raises:
        InputError: there is no gallery and no model, it cannot be opened with this key, or it cannot be created.
    """

    def __init__(
        self, path: Path, key: GalleryKey, model: GalleryModel | None, busy_seconds: float = BUSY_SECONDS
    ) -> None:
        self.path, self._key, self._busy_seconds = path, key, busy_seconds
        self._sqlite = _sqlcipher()
        self._lock = threading.RLock()
        self._process = os.getpid()
        try:
            if not path.exists():
                if model is None:
                    raise InputError(f"There is no gallery {path}: enroll a person first.")
                self._create(model)
            if path.is_file() and path.stat().st_size <= 1:  # one byte is an empty database to SQLite
                raise InputError(f"{path} is an empty file, not a gallery: restore it from a backup, or delete it.")
        except (OSError, ValueError, self._sqlite.Error) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"The gallery {path} cannot be created ({error}): choose another path.") from None
        with self._readable_errors():
            self._connection = self._connect(path)
        try:
            with self.reading() as connection:
                tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
                if not {"gallery", "person", "template", "log"} <= tables:
                    raise InputError(f"{path} is a database, but not a gallery: give another path.")
                form = connection.execute("SELECT format FROM gallery").fetchone()[0]
            if form != FORMAT:
                raise InputError(f"The gallery {path} has format {form}, this version reads {FORMAT}: update it.")
        except BaseException:
            self.close()
            raise

    def _connect(self, path: Path) -> Any:
        connection = self._sqlite.connect(
            path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        for setting in ("cipher_log_level = NONE", f"""key = "x'{self._key.content.hex()}'" """, *SETTINGS):
            connection.execute(f"PRAGMA {setting}")
        return connection

    def _create(self, model: GalleryModel) -> None:
        """Create the file with its tables, readable by its owner only, completely or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.part")
        try:
            os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            with closing(self._connect(unfinished)) as connection:
                connection.executescript(TABLES)
                values = (FORMAT, model.fingerprint, model.name, model.embedding_size)
                connection.execute("INSERT INTO gallery VALUES (?, ?, ?, ?, 0, 0, 1)", values)
            try:
                os.link(unfinished, self.path)
            except FileExistsError:  # another process was faster
                pass
            except OSError:  # a file system without links
                unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)

    def model(self, given: GalleryModel | None) -> GalleryModel:
        """Model of the gallery.

        Raises:
            InputError: `given` is another one.
        """
        with self.reading() as connection:
            row = connection.execute("SELECT fingerprint, dimension, model FROM gallery").fetchone()
        own = GalleryModel(*row)
        if given and given[:2] != own[:2]:
            remedy = f"use the model {own.name}, or one gallery for each" if own.name else "use one gallery for each"
            raise InputError(
                f"The gallery {self.path} holds templates of {own.name or 'a model'} ({own.fingerprint[:12]}), which "
                f"cannot be compared with those of {given.name or 'another'} ({given.fingerprint[:12]}): {remedy}."
            )
        return given or own

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """A transaction that reads one consistent state, whatever others write meanwhile."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """A transaction that writes all or nothing; there is one at a time over all processes."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def vacuum(self) -> None:
        """Rewrite the file from what it still holds, so that no page keeps remains of what was deleted.

        `secure_delete` overwrites deleted rows, but not copies that SQLite left when it moved rows between pages. A
        saved index is deleted as well.

        Raises:
            InputError: the file or the index cannot be written.
        """
        try:
            remove_index(self.path)
        except OSError as error:
            raise InputError(f"The index of {self.path} cannot be deleted ({error}): delete it yourself.") from None
        with self._lock, self._readable_errors():
            self._connection.execute("VACUUM")
            self._connection.execute("UPDATE gallery SET vacuumed = 1")

    def check(self) -> None:
        """Verify the authentication code of each page and the structure of the database.

        Raises:
            InputError: the file is damaged or was changed without the key.
        """
        with self._lock, self._readable_errors():
            changed = self._connection.execute("PRAGMA cipher_integrity_check").fetchall()
            found = changed or self._connection.execute("PRAGMA integrity_check").fetchall()
        if found != [("ok",)]:
            raise self._damaged(str(found[0][0]))

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Any]:
        if self._process != os.getpid():  # SQLite's locks belong to the process that took them
            raise InputError(f"The gallery {self.path} was opened before this process was forked: open it in each.")
        with self._lock, self._readable_errors():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except self._sqlite.ProgrammingError as error:
            if "closed database" not in str(error):
                raise
            raise InputError(f"The gallery {self.path} is closed: open it again.") from None
        except self._sqlite.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name == "SQLITE_NOTADB":
                raise InputError(
                    f"{self.path} cannot be decrypted: it has another key, is not a gallery, or is damaged."
                ) from None
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise InputError(
                    f"The gallery {self.path} has been locked by another process for {self._busy_seconds:g} s: end "
                    "that process, or try again."
                ) from None
            if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_FULL", "SQLITE_IOERR")):
                raise InputError(
                    f"The gallery {self.path} cannot be read or written ({error}): check its path, its mode and the "
                    "room on the disk."
                ) from None
            raise self._damaged(str(error)) from None

    def _damaged(self, what: str) -> InputError:
        return InputError(f"The gallery {self.path} is damaged ({what}): restore it from a backup.")


def add_person(connection: Any, name: str) -> int:
    """Add a person without templates; return the new id."""
    values = (name, secrets.token_hex(8), now())
    cursor = connection.execute("INSERT INTO person (name, pseudonym, enrolled) VALUES (?, ?, ?)", values)
    return int(cursor.lastrowid)


def add_template(
    connection: Any, person: int, row: NDArray[np.float32], quality: Quality | None = None, photo: bytes | None = None
) -> None:
    """Add a template.

    Args:
        connection: in a writing transaction.
        person: id.
        row: (D,) of unit length.
        quality: of the face; None if unknown.
        photo: the aligned face as PNG; None to keep none.
    """
    values = (person, row.astype("<f4").tobytes(), json.dumps(quality and quality._asdict()), now(), photo)
    connection.execute(INSERT_TEMPLATE, values)


def remove_person(connection: Any, person: int) -> None:
    """Delete a person with all templates and photos; the file has to be vacuumed afterwards."""
    connection.execute("DELETE FROM template WHERE person = ?", (person,))
    connection.execute("DELETE FROM person WHERE id = ?", (person,))
    connection.execute("UPDATE gallery SET removals = removals + 1, vacuumed = 0")


def add_log(connection: Any, event: str, pseudonym: str, model: str, details: Mapping[str, Any]) -> None:
    """Add an entry to the log."""
    values = (now(), event, pseudonym, model, json.dumps(details))
    connection.execute("INSERT INTO log (at, event, pseudonym, model, details) VALUES (?, ?, ?, ?, ?)", values)


def read_log(connection: Any) -> list[LogEntry]:
    """All entries, oldest first; those of people since forgotten have no name."""
    rows = connection.execute(
        "SELECT at, event, log.pseudonym, person.name, model, details FROM log "
        "LEFT JOIN person ON person.pseudonym = log.pseudonym ORDER BY log.id"
    )
    return [
        LogEntry(at, event, pseudonym, name, model, json.loads(details))
        for at, event, pseudonym, name, model, details in rows
    ]


def person_by_name(connection: Any, name: str) -> tuple[int, Person] | None:
    """Id and person of a name; None if no one has it."""
    row = connection.execute(
        "SELECT id, name, pseudonym, enrolled, (SELECT count(*) FROM template WHERE person = person.id) "
        "FROM person WHERE name = ?",
        (name,),
    ).fetchone()
    return None if row is None else (row[0], Person(*row[1:]))


def _sqlcipher() -> Any:
    try:
        from sqlcipher3 import dbapi2
    except ImportError:
        raise InputError(
            "A gallery needs the package sqlcipher3, which is not installed: pip install 'siamese-verify[gallery]'."
        ) from None
    return dbapi2
