from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.protocols import insightface_bin


def encoded(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (level, level, level)).save(file, "PNG")
    return file.getvalue()


def a_set(pairs: int, kind: type = bool) -> tuple[list[bytes], list[Any]]:
    return [encoded(row) for row in range(2 * pairs)], [kind(pair % 2 == 0) for pair in range(pairs)]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [bool, np.bool_])
def test_photos_and_pairs_are_read_from_any_pickle(tmp_path: Path, protocol: int, kind: type) -> None:
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(a_set(20, kind), protocol=protocol))
    found = insightface_bin(tmp_path / "lfw.bin")
    pairs = found.pairs
    assert pairs is not None and pairs.folds is not None
    assert found.name == "lfw"
    assert (pairs.left.tolist(), pairs.right.tolist()) == (list(range(0, 40, 2)), list(range(1, 40, 2)))
    assert pairs.same.tolist() == [pair % 2 == 0 for pair in range(20)]
    assert pairs.folds.tolist() == [fold for fold in range(10) for _ in range(2)]
    assert [found.photos[row].getpixel((3, 3)) for row in (0, 7)] == [(0, 0, 0), (7, 7, 7)]
    assert found.photos.names[3] == "pair 2 b"
    people = found.photos.identities
    np.testing.assert_array_equal(people[pairs.left] == people[pairs.right], pairs.same)
    assert len(set(people.tolist())) == 30


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """As written by hand: protocol 2 with str where bytes are meant, and numpy's booleans with a str type."""
    photo = encoded(9)
    text = b"T" + len(photo).to_bytes(4, "little") + photo  # BINSTRING
    true = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x02b1K\x00K\x01tR"
    true += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x01\x01tR"
    content = b"\x80\x02(](" + text + text + b"e](" + true + b"e" + b"t."
    (tmp_path / "old.bin").write_bytes(content)
    found = insightface_bin(tmp_path / "old.bin", "old set")
    assert found.pairs is not None
    assert found.name == "old set"
    assert found.pairs.same.tolist() == [True]
    assert found.pairs.folds is None
    assert found.photos[0].getpixel((0, 0)) == (9, 9, 9)


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("evil", "asked"),
    [
        (lambda target: Evil(os.mkdir, str(target)), "mkdir"),
        (lambda target: Evil(eval, f"__import__('os').mkdir({str(target)!r})"), "eval"),
        (lambda target: Evil(np.fromfile, str(target)), "fromfile"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, evil: Any, asked: str, protocol: int) -> None:
    target = tmp_path / "made"
    photos, same = a_set(2)
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([*photos[:3], evil(target)], same), protocol=protocol))
    with pytest.raises(InputError, match=f"it calls .*{asked}, which no set of photos needs"):
        insightface_bin(tmp_path / "x.bin")
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (([encoded(1)] * 3, [True]), "3 photos for 1 pairs"),
        (([], []), "0 photos for 0 pairs"),
        (([encoded(1), "text"], [True]), "it holds 'text' where encoded photos"),
        (([encoded(1)] * 2, [1]), "it holds 1 where encoded photos"),
        ([1, 2, 3], "is not a list of photos"),
        ({"a": 1}, "is not a list of photos"),
        (([encoded(1)] * 2, [np.float64(1)]), "the type 'f8' where booleans"),
        (([encoded(1)] * 2, np.array([True])), "it calls .*, which no set of photos needs"),
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=message):
        insightface_bin(tmp_path / "x.bin")


def test_damaged_missing_and_huge_files_are_refused(tmp_path: Path) -> None:
    whole = pickle.dumps(a_set(20))
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2]):
        (tmp_path / "x.bin").write_bytes(damaged)
        with pytest.raises(InputError, match="is not one of InsightFace's sets, or damaged"):
            insightface_bin(tmp_path / "x.bin")
    with pytest.raises(InputError, match="There is no file"):
        insightface_bin(tmp_path / "nowhere.bin")
    with (tmp_path / "x.bin").open("r+b") as file:
        file.truncate(4 * 2**30 + 2**20)  # sparse
    with pytest.raises(InputError, match=r"4\.0 GiB, the limit is 4 GiB"):
        insightface_bin(tmp_path / "x.bin")


def test_a_damaged_photo_is_reported_when_it_is_opened(tmp_path: Path) -> None:
    photos, same = a_set(2)
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([*photos[:3], b"no photo"], same)))
    found = insightface_bin(tmp_path / "x.bin")
    assert found.photos[2].size == (12, 12)
    with pytest.raises(InputError, match="pair 2 b is not an image"):
        found.photos[3]


def test_a_repeated_photo_is_stored_once_and_shows_one_person(tmp_path: Path) -> None:
    a, b, c, d = map(encoded, range(4))
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([a, b, b, c, d, a], [True, True, False])))
    found = insightface_bin(tmp_path / "x.bin")
    assert found.pairs is not None
    assert (found.pairs.left.tolist(), found.pairs.right.tolist()) == ([0, 1, 3], [1, 2, 0])
    assert found.photos.names == ["pair 1 a", "pair 1 b", "pair 2 b", "pair 3 a"]
    assert [found.photos[row].getpixel((3, 3)) for row in range(4)] == [(row, row, row) for row in range(4)]
    people = found.photos.identities
    assert people[0] == people[1] == people[2] != people[3]


def test_photos_of_contradictory_pairs_are_taken_to_be_different(tmp_path: Path) -> None:
    a, b, c = map(encoded, range(3))
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([a, b, b, c, a, c], [True, True, False])))
    found = insightface_bin(tmp_path / "x.bin")
    assert found.pairs is not None
    assert (len(found.photos), found.pairs.left.tolist(), found.pairs.right.tolist()) == (6, [0, 2, 4], [1, 3, 5])
    people = found.photos.identities
    assert (people[found.pairs.left] == people[found.pairs.right]).tolist() == [True, True, False]
