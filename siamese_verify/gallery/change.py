"""What one transaction changes in a gallery."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from siamese_verify.gallery.cipher import seal_of
from siamese_verify.gallery.contents import Contents, packed
from siamese_verify.gallery.person import Person, now

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
