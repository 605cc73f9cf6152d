"""What one transaction changes in a gallery."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese_verify.atomic_write import data_folder
from siamese_verify.errors import InputError
from siamese_verify.gallery.cipher import damaged, seal_of
from siamese_verify.gallery.contents import Contents, packed
from siamese_verify.gallery.enrolled_people import Person, now
from siamese_verify.gallery.template_search import remove_index

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from siamese_verify.faces import Quality


class Change:
    """Rows to write, each sealed and entered into the ledger, within one transaction.

    Args:
        connection: in a writing transaction.
        contents: are brought up to date first; what is written here they read afterwards.
        model: name of the model, for the log.
    """

    def __init__(self, connection: sqlite3.Connection, contents: Contents, model: str) -> None:
        self._connection, self._contents, self._model = connection, contents, model
        self._ledger = contents.refresh(connection)

    def add_person(self, person: Person) -> int:
        """Add somebody, without templates yet; return the number given."""
        values = {"name": person.name, "pseudonym": person.pseudonym, "enrolled": person.enrolled}
        sealed = self._contents.cipher.seal("person", packed(values), self._contents.header)
        number = self._insert("INSERT INTO person (sealed) VALUES (?)", sealed)
        self._ledger = self._ledger.plus(rows=self._contents.person_mark(number, sealed))
        return number

    def add_template(
        self, number: int, person: Person, row: NDArray[np.float32], quality: Quality | None, photo: bytes | None
    ) -> None:
        """Add a template.

        Args:
            number: of the person.
            person: whose it is.
            row: (D,) of unit length.
            quality: of the face; None where it is not known.
            photo: the face as PNG, to be kept; None for no photo.
        """
        bound, cipher = self._contents.bound(person), self._contents.cipher
        about = packed({"at": now(), "quality": quality and quality._asdict()})
        sealed = cipher.seal("template", row.astype("<f4").tobytes() + about, *bound)
        kept = None if photo is None else cipher.seal("photo", photo, *bound, seal_of(sealed))
        template = self._insert("INSERT INTO template (person, sealed, photo) VALUES (?, ?, ?)", number, sealed, kept)
        self._ledger = self._ledger.plus(rows=self._contents.template_mark(template, number, sealed))

    def remove(self, number: int) -> None:
        """Delete a person's rows; the file has to be swept afterwards."""
        self._connection.execute("DELETE FROM template WHERE person = ?", (number,))
        self._connection.execute("DELETE FROM person WHERE id = ?", (number,))
        self._connection.execute("UPDATE gallery SET unswept = 1")
        self._ledger = self._ledger.plus(rows=-self._contents.marks[number])

    def note(self, event: str, person: Person, details: Mapping[str, Any]) -> None:
        """Write into the log, under the person's pseudonym."""
        values = {"at": now(), "event": event, "person": person.pseudonym, "model": self._model, "details": details}
        sealed = self._contents.cipher.seal("log", packed(values), self._contents.header)
        number = self._insert("INSERT INTO log (sealed) VALUES (?)", sealed)
        self._ledger = self._ledger.plus(log=self._contents.log_mark(number, sealed))

    def finish(self) -> None:
        """Write the ledger: the last thing before the transaction ends."""
        self._connection.execute("UPDATE gallery SET state = ?", (self._contents.sealed_ledger(self._ledger),))

    def _insert(self, statement: str, *values: object) -> int:
        number = self._connection.execute(statement, values).lastrowid
        assert number is not None
        return number


APPLICATION = 0x53566779  # "SVgy", what `file` shows of it
PAGE = 8192  # bytes: three templates of 512 dimensions on a page, where 4,096 would hold one
BUSY_SECONDS = 60.0
TABLES = {
    "gallery": "CREATE TABLE gallery (one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, "
    "fingerprint TEXT NOT NULL, model TEXT NOT NULL, dimension INTEGER NOT NULL, salt BLOB NOT NULL, "
    "key_check BLOB NOT NULL, state BLOB NOT NULL, unswept INTEGER NOT NULL)",
    # AUTOINCREMENT: the number of somebody forgotten is never given to anybody else.
    "person": "CREATE TABLE person (id INTEGER PRIMARY KEY AUTOINCREMENT, sealed BLOB NOT NULL)",
    "template": "CREATE TABLE template (id INTEGER PRIMARY KEY AUTOINCREMENT, person INTEGER NOT NULL, "
    "sealed BLOB NOT NULL, photo BLOB)",
    "log": "CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, sealed BLOB NOT NULL)",
}
INDEX = "CREATE INDEX template_of_person ON template (person)"


def default_gallery() -> Path:
    """Where a gallery lies unless the user says otherwise."""
    return data_folder() / "gallery.db"


class Store:
    """One connection to a gallery's file, for any thread and one process.

    A rollback journal that is deleted, not a write-ahead log: between transactions there is one file only, so nothing
    of a forgotten person waits in a log that some other process keeps open.

    Args:
        path: made if it is missing, for its owner only.

    Raises:
        InputError: it cannot be opened or made, or is no gallery.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._process = os.getpid()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                _make(path)
            # None of ours ever is, so people may have been in it. To SQLite, a file of one byte is empty as well.
            if path.is_file() and path.stat().st_size <= 1:
                raise InputError(f"{path} is an empty file and no gallery: put a backup there, or delete it.")
        except (OSError, ValueError, sqlite3.Error) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"The gallery {path} cannot be made ({error}): choose another place.") from None
        with self._explained():
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            for setting in (
                f"page_size = {PAGE}",
                "secure_delete = ON",
                "temp_store = MEMORY",  # VACUUM's copy is written nowhere else
                "cell_size_check = ON",
                "trusted_schema = OFF",
                "synchronous = FULL",
            ):
                self._connection.execute(f"PRAGMA {setting}")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read what was committed when the first statement ran, whatever others write meanwhile."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write all or nothing: the only writer, in this and all other processes."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def make_tables(self, connection: sqlite3.Connection) -> bool:
        """Make the tables if the file is empty, within a transaction; say whether it was.

        Raises:
            InputError: the file holds something else.
        """
        found = connection.execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        if not found:
            for statement in (*TABLES.values(), INDEX, f"PRAGMA application_id = {APPLICATION}"):
                connection.execute(statement)
            return True
        # Not a line more: a trigger or a view of somebody else's would run with our statements.
        if {sql for (sql,) in found} != {*TABLES.values(), INDEX}:
            raise InputError(f"{self.path} is no gallery, or one of another version: give another path.")
        return False

    def sweep(self) -> None:
        """Build the file anew from what it still holds, so that no page keeps remains of what was deleted.

        `secure_delete` overwrites deleted rows, but not the copies that SQLite left behind when it moved rows between
        pages. An index that is kept beside the file goes as well.
        """
        try:
            remove_index(self.path)
        except OSError as error:
            raise InputError(f"The index of {self.path} cannot be deleted ({error}): delete it yourself.") from None
        with self._lock, self._explained():
            self._connection.execute("VACUUM")
            self._connection.execute("UPDATE gallery SET unswept = 0")

    def check(self) -> str:
        """Return what SQLite finds wrong with the file, `ok` if nothing."""
        with self._lock, self._explained():
            return str(self._connection.execute("PRAGMA integrity_check").fetchone()[0])

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        if self._process != os.getpid():  # SQLite's locks belong to the process that took them
            raise InputError(f"The gallery {self.path} was opened before this process was forked: open it in each.")
        with self._lock, self._explained():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            if "closed database" not in str(error):
                raise
            raise InputError(f"The gallery {self.path} is closed: open it again.") from None
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name == "SQLITE_NOTADB":
                raise InputError(
                    f"{self.path} is no gallery, or its beginning is damaged: give another path."
                ) from None
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise InputError(
                    f"The gallery {self.path} has been held by another process for {BUSY_SECONDS:.0f} s: "
                    "end that process, or try again."
                ) from None
            if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_FULL", "SQLITE_IOERR")):
                raise InputError(
                    f"The gallery {self.path} cannot be read or written ({error}): "
                    "look at its path, its mode and the room on the disk."
                ) from None
            raise damaged(str(self.path), str(error)) from None
        except UnicodeDecodeError:  # in a name that SQLite would have complained about
            raise damaged(str(self.path), "its tables cannot be read") from None


def _make(path: Path) -> None:
    """Make a database without tables, for its owner only, that is there with its first page or not at all."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA page_size = {PAGE}")
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
        try:
            os.link(unfinished, path)
        except FileExistsError:  # another process was faster
            pass
        except OSError:  # a file system without links
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
