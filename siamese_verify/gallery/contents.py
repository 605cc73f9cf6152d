"""What a gallery holds, opened, in memory: checked as a whole and kept current."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from siamese_verify.gallery.cipher import MODULUS, Cipher, damaged, seal_of
from siamese_verify.gallery.enrolled_people import Person
from siamese_verify.gallery.template_search import ApproximateIndex, Templates

CHUNK = 2048  # rows read at a time


class Ledger(NamedTuple):
    """Sums of the marks of all rows: a row that is missing, doubled or put back makes another sum."""

    rows: int  # of people and templates, modulo 2**256
    log: int  # of the log's entries, likewise

    def packed(self) -> bytes:
        """64 bytes."""
        return self.rows.to_bytes(32, "big") + self.log.to_bytes(32, "big")

    def plus(self, rows: int = 0, log: int = 0) -> Ledger:
        """Add marks, or take them away if negative."""
        return Ledger((self.rows + rows) % MODULUS, (self.log + log) % MODULUS)


class Contents:
    """People and templates as they were last read.

    Args:
        cipher: of the gallery.
        header: what is known of the gallery besides, bound to all of it.
        fingerprint: of the model.
        dimension: of its embeddings.
        where: the gallery is, for errors.
    """

    def __init__(self, cipher: Cipher, header: bytes, fingerprint: str, dimension: int, where: str) -> None:
        self.cipher, self.header, self._where = cipher, header, where
        self._fingerprint, self._dimension = fingerprint.encode(), dimension
        self._index: ApproximateIndex | None = None
        self.templates = Templates.empty(dimension)
        self._clear()

    def use_index(self, index: ApproximateIndex) -> None:
        """Search with it from now on."""
        self._index = index
        self.templates = replace(self.templates, index=index)

    def _clear(self) -> None:
        self.people: dict[int, Person] = {}
        self.numbers: dict[str, int] = {}  # by name
        self.marks: dict[int, int] = {}  # by person: of her row and her templates
        self.templates = replace(Templates.empty(self._dimension), index=self._index)
        self._total = self._last_person = self._last_template = 0
        self._sealed, self._ledger = b"", Ledger(0, 0)

    def refresh(self, connection: sqlite3.Connection) -> Ledger:
        """Read what changed since, within a transaction.

        Returns:
            The ledger, to be written anew with what that transaction changes.

        Raises:
            InputError: anything was changed by somebody without the key; nothing is held then.
        """
        row = connection.execute("SELECT state FROM gallery WHERE one = 1").fetchone()
        if row is None:
            raise damaged(self._where, "its first row is missing")
        (sealed,) = row
        if sealed == self._sealed:
            return self._ledger
        content = self.cipher.open("state", sealed, self.header)
        ledger = Ledger(int.from_bytes(content[:32], "big"), int.from_bytes(content[32:], "big"))
        try:
            self._read(connection, ledger.rows)
        except BaseException:
            self._clear()
            raise
        self._sealed, self._ledger = sealed, ledger
        return ledger

    def _read(self, connection: sqlite3.Connection, total: int) -> None:
        if self._total == total:
            return  # only the log is longer
        self._read_new(connection)
        if self._total != total:
            self._drop_forgotten(connection)
        if self._total != total:
            self._clear()
            self._read_new(connection)
        if self._total != total:
            raise damaged(self._where, "people or templates are missing, or were put back")

    def _read_new(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT id, sealed FROM person WHERE id > ? ORDER BY id", (self._last_person,))
        for number, sealed in rows:
            values = self._told("person", sealed)
            person = Person(values["name"], values["pseudonym"], values["enrolled"], 0)
            if person.name in self.numbers:  # a name is free again only after its person was forgotten
                self._drop_forgotten(connection)
            if person.name in self.numbers:
                raise damaged(self._where, "two people have one name")
            self.people[number] = person
            self.numbers[person.name] = number
            self._count(number, self.person_mark(number, sealed))
            self._last_person = number
        cursor = connection.execute(
            "SELECT id, person, sealed FROM template WHERE id > ? ORDER BY id", (self._last_template,)
        )
        while chunk := cursor.fetchmany(CHUNK):
            vectors = np.empty((len(chunk), self._dimension), dtype=np.float32)
            for place, (number, owner, sealed) in enumerate(chunk):
                vectors[place] = self._vector(owner, sealed)
                self._count(owner, self.template_mark(number, owner, sealed))
                self._last_template = number
            owners, numbers = [owner for _, owner, _ in chunk], [number for number, _, _ in chunk]
            self.templates = self.templates.grown(vectors, owners, numbers)

    def _vector(self, owner: object, sealed: object) -> np.ndarray:
        person = self.people.get(owner) if isinstance(owner, int) else None
        if person is None or not isinstance(owner, int):
            raise damaged(self._where, "a template belongs to nobody")
        content = self.cipher.open("template", sealed, *self.bound(person))
        self.people[owner] = person._replace(templates=person.templates + 1)
        return np.frombuffer(content, dtype="<f4", count=self._dimension)

    def _drop_forgotten(self, connection: sqlite3.Connection) -> None:
        present = {number for (number,) in connection.execute("SELECT id FROM person")}
        gone = self.people.keys() - present
        if not gone:
            return
        self.templates = self.templates.without(gone)
        for number in gone:
            del self.numbers[self.people.pop(number).name]
            self._total = (self._total - self.marks.pop(number)) % MODULUS

    def _count(self, person: int, mark: int) -> None:
        self.marks[person] = (self.marks.get(person, 0) + mark) % MODULUS
        self._total = (self._total + mark) % MODULUS

    def bound(self, person: Person) -> tuple[bytes, ...]:
        """What a person's templates are bound to."""
        return self._fingerprint, person.pseudonym.encode(), person.name.encode()

    def person_mark(self, number: int, sealed: bytes) -> int:
        """See `Ledger`."""
        return self.cipher.mark(b"person", str(number).encode(), seal_of(sealed))

    def template_mark(self, number: int, person: int, sealed: bytes) -> int:
        """See `Ledger`."""
        return self.cipher.mark(b"template", str(number).encode(), str(person).encode(), seal_of(sealed))

    def log_mark(self, number: int, sealed: bytes) -> int:
        """See `Ledger`."""
        return self.cipher.mark(b"log", str(number).encode(), seal_of(sealed))

    def sealed_ledger(self, ledger: Ledger) -> bytes:
        """Seal it for the gallery's row."""
        return self.cipher.seal("state", ledger.packed(), self.header)

    def read_log(self, connection: sqlite3.Connection, ledger: Ledger) -> list[dict[str, Any]]:
        """Open the log.

        Raises:
            InputError: an entry is missing or was changed.
        """
        entries, total = [], 0
        for number, sealed in connection.execute("SELECT id, sealed FROM log ORDER BY id"):
            entries.append(self._told("log", sealed))
            total = (total + self.log_mark(number, sealed)) % MODULUS
        if total != ledger.log:
            raise damaged(self._where, "entries of its log are missing")
        return entries

    def _told(self, kind: str, sealed: object) -> dict[str, Any]:
        """Open a row of JSON, which nobody without the key can have written."""
        values: dict[str, Any] = json.loads(self.cipher.open(kind, sealed, self.header))
        return values


def packed(values: Mapping[str, object]) -> bytes:
    """Write a row of JSON, to be sealed."""
    return json.dumps(values, separators=(",", ":")).encode()
