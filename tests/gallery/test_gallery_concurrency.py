"""Several threads and processes with one gallery."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.gallery import Gallery, GalleryKey, GalleryModel

Faces = NDArray[np.float32]

PROGRAM = """
import sys
import numpy as np
from siamese_verify.gallery import Gallery, GalleryKey, GalleryModel

path, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = np.random.default_rng(int(who))
with Gallery.open(path, GalleryModel("ab" * 32, 16, "mine"), key=GalleryKey(bytes(range(32)))) as gallery:
    for turn in range(count):
        rows = rng.normal(size=(2, 16))
        gallery.enroll_embeddings(f"{who}-{turn}", rows, compare=False)
        gallery.enroll_embeddings("everybody", rows[:1], compare=False)
        assert gallery.identify_embedding(rows[1], threshold=0.999).name == f"{who}-{turn}"
        if turn % 3 == 2:
            gallery.forget(f"{who}-{turn - 1}")
            assert gallery.identify_embedding(rows[0], threshold=0.999).name is not None
"""


def expected(who: int, count: int) -> set[str]:
    return {f"{who}-{turn}" for turn in range(count) if not (turn % 3 == 1 and turn + 1 < count)}


def test_no_update_of_several_processes_is_lost(path: Path, model: GalleryModel, key: GalleryKey) -> None:
    count, processes = 24, range(4)
    commands = [[sys.executable, "-c", PROGRAM, str(path), str(who), str(count)] for who in processes]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for run in runs:
        _, complaint = run.communicate(timeout=100)
        assert run.returncode == 0, complaint
    with Gallery.open(path, model, key=key) as gallery:
        gallery.check()
        people = {person.name: person.templates for person in gallery.people()}
        assert people.pop("everybody") == count * len(processes)
        assert set(people) == set.union(*(expected(who, count) for who in processes))
        assert set(people.values()) == {2}
        events = [entry.event for entry in gallery.log()]
        assert events.count("enrolled") == 2 * count * len(processes)
        assert events.count("forgotten") == count // 3 * len(processes)
        assert events.count("matched") >= count * len(processes)


def test_no_update_of_several_threads_is_lost(gallery: Gallery) -> None:
    def work(who: int) -> None:
        rng = np.random.default_rng(who)
        for turn in range(20):
            rows = rng.normal(size=(2, 16))
            gallery.enroll_embeddings(f"{who}-{turn}", rows, compare=False)
            assert gallery.identify_embedding(rows[1], threshold=0.999).name == f"{who}-{turn}"
            if turn % 3 == 2:
                gallery.forget(f"{who}-{turn - 1}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert {person.name for person in gallery.people()} == set.union(*(expected(who, 20) for who in range(8)))
    gallery.check()


def test_one_name_enrolled_by_many_at_once_is_one_person(gallery: Gallery) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 16))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: gallery.enroll_embeddings("Ann", row), rows))
    assert [(person.name, person.templates) for person in gallery.people()] == [("Ann", 40)]


def test_somebody_is_forgotten_once(gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Ann", faces[0])

    def forget(_: int) -> str:
        try:
            return str(gallery.forget("Ann"))
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(forget, range(8)))
    assert told.count("3") == 1
    assert sum("There is no 'Ann'" in one for one in told) == 7


def test_a_gallery_that_another_process_holds_is_said(
    path: Path, model: GalleryModel, key: GalleryKey, faces: Faces
) -> None:
    with Gallery.open(path, model, key=key) as gallery, Gallery.open(path, model, key=key, busy_seconds=0.05) as other:
        with gallery._store.writing(), pytest.raises(InputError, match="has been locked by another process for 0"):
            other.enroll_embeddings("Ann", faces[0])
        other.enroll_embeddings("Ann", faces[0])
        assert len(gallery) == 1


def test_a_transaction_that_fails_leaves_nothing(
    gallery: Gallery, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.enroll_embeddings("Ann", faces[0])
    before = gallery.people(), gallery.log()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("siamese_verify.gallery.gallery.add_log", fail)
        for call in (lambda: gallery.enroll_embeddings("Ben", faces[1]), lambda: gallery.forget("Ann")):
            with pytest.raises(KeyboardInterrupt):
                call()
    assert (gallery.people(), gallery.log()) == before
    assert gallery.identify_embedding(faces[0, 0]).name == "Ann"
    gallery.check()
