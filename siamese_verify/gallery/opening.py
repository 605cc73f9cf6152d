"""The first row of a gallery: its model, its salt, and whether the key fits."""

from __future__ import annotations

import os
import sqlite3
from typing import NamedTuple

from siamese_verify.errors import InputError
from siamese_verify.gallery.cipher import Cipher, damaged, together
from siamese_verify.gallery.contents import Ledger
from siamese_verify.gallery.enrolled_people import GalleryModel
from siamese_verify.gallery.key import GalleryKey
from siamese_verify.gallery.store import Store

FORMAT = 1


class Opened(NamedTuple):
    """What the first row says."""

    model: GalleryModel
    cipher: Cipher
    header: bytes  # model and salt, which everything in the gallery is bound to
    unswept: bool  # somebody was forgotten, and the file not yet built anew


def open_store(store: Store, key: GalleryKey, given: GalleryModel | None, create: bool) -> Opened:
    """Read the first row, or write it.

    Args:
        store: with the file.
        key: of the gallery.
        given: its model; None for the one that it was made for.
        create: make a gallery of an empty file if a model is given.

    Raises:
        InputError: no gallery, another key, another model, or a damaged row.
    """
    with store.reading() as connection:
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if empty:
        if given is None or not create:
            raise InputError(f"There is no gallery {store.path}: enrol somebody first.")
        with store.writing() as connection:
            if store.make_tables(connection):  # else another process was first
                _write_first_row(connection, store, key, given)
    with store.reading() as connection:
        store.make_tables(connection)
        row = connection.execute(
            "SELECT format, fingerprint, model, dimension, salt, key_check, unswept FROM gallery WHERE one = 1"
        ).fetchone()
    kinds = (int, str, str, int, bytes, bytes, int)
    if row is None or not all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True)):
        raise damaged(str(store.path), "its first row is missing or of another kind")
    form, fingerprint, name, dimension, salt, check, unswept = row
    if form != FORMAT:
        raise InputError(f"The gallery {store.path} has format {form}, this version reads {FORMAT}: update it.")
    cipher = Cipher(key, salt, str(store.path))
    if check != cipher.check:
        raise InputError(f"The gallery {store.path} was made with another key than the one given: give its own.")
    if given and (given.fingerprint, given.dimension) != (fingerprint, dimension):
        raise InputError(
            f"The gallery {store.path} holds templates of {name or 'a model'} ({fingerprint[:12]}), which those of "
            f"{given.name or 'another'} ({given.fingerprint[:12]}) cannot be compared with: use one gallery for each."
        )
    header = _header(fingerprint, name, dimension, salt)
    return Opened(given or GalleryModel(fingerprint, dimension, name), cipher, header, bool(unswept))


def _write_first_row(connection: sqlite3.Connection, store: Store, key: GalleryKey, model: GalleryModel) -> None:
    salt = os.urandom(16)
    cipher = Cipher(key, salt, str(store.path))
    state = cipher.seal("state", Ledger(0, 0).packed(), _header(model.fingerprint, model.name, model.dimension, salt))
    connection.execute(
        "INSERT INTO gallery VALUES (1, ?, ?, ?, ?, ?, ?, ?, 0)",
        (FORMAT, model.fingerprint, model.name, model.dimension, salt, cipher.check, state),
    )


def _header(fingerprint: str, name: str, dimension: int, salt: bytes) -> bytes:
    return together((str(FORMAT).encode(), fingerprint.encode(), name.encode(), str(dimension).encode(), salt))
