from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.verification.pair_scoring import FACE, CachedEmbeddings, Part, photo_key


def part(*counts: int, seed: int = 0) -> Part:
    faces = sum(counts)
    rng = np.random.default_rng(seed)
    return Part(
        keys=np.array([f"key {seed} {row}" for row in range(len(counts))]),
        errors=np.array(["" if count else "No face: \u00fc." for count in counts]),
        counts=np.array(counts, dtype=np.int32),
        faces=np.zeros(faces, dtype=FACE),
        embeddings=rng.standard_normal((faces, 4)).astype(np.float32),
    )


def assert_same(one: Part, other: Part) -> None:
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


def test_what_was_added_is_read_again_and_goes_on(tmp_path: Path) -> None:
    kept = CachedEmbeddings(tmp_path / "kept", "one")
    assert list(kept.read()) == []
    kept.add(part(1, 0, 2))
    kept.add(part(0, seed=1))
    kept.release()
    again = CachedEmbeddings(tmp_path / "kept", "one")
    for found, wanted in zip(again.read(), [part(1, 0, 2), part(0, seed=1)], strict=True):
        assert_same(found, wanted)
    again.add(part(3, seed=2))
    assert len(list(again.read())) == 3
    again.remove()
    assert list(tmp_path.iterdir()) == []
    again.release()
    again.release()


def test_parts_of_another_origin_or_shape_are_removed(tmp_path: Path) -> None:
    kept = CachedEmbeddings(tmp_path / "kept", "one")
    kept.add(part(1))
    kept.add(part(1)._replace(counts=np.array([2], dtype=np.int32)))
    kept.add(part(1)._replace(faces=np.zeros(1)))  # type: ignore[arg-type]
    assert len(list(kept.read())) == 1
    assert len(list((tmp_path / "kept").iterdir())) == 1
    kept.release()
    assert list(CachedEmbeddings(tmp_path / "kept", "two").read()) == []
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    kept = CachedEmbeddings(tmp_path / "kept", "one")
    content = {**part(1)._asdict(), "keys": np.array([{"a": "pickle"}], dtype=object)}
    np.savez(tmp_path / "kept" / "000000.npz", origin=np.array("one"), **content)
    assert list(kept.read()) == []
    assert list((tmp_path / "kept").iterdir()) == []


def test_one_folder_is_for_one_at_a_time(tmp_path: Path) -> None:
    first = CachedEmbeddings(tmp_path / "kept", "one")
    with pytest.raises(InputError, match="Another process is writing to"):
        CachedEmbeddings(tmp_path / "kept", "one")
    first.release()
    CachedEmbeddings(tmp_path / "kept", "one").release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.kept cannot be made"):
        CachedEmbeddings(tmp_path / "nowhere" / "kept", "one")


def test_a_key_changes_with_the_file_and_its_place_and_not_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    os.utime(path, ns=(10**18, 10**18))
    key = photo_key(path)
    path.read_bytes()
    assert photo_key(path) == key
    keys = {key}
    path.write_bytes(b"abcd")
    os.utime(path, ns=(10**18, 10**18))
    keys.add(photo_key(path))
    os.utime(path, ns=(10**18, 10**18 + 1))
    keys.add(photo_key(path))
    keys.add(photo_key(path.rename(tmp_path / "b.jpg")))
    assert len(keys) == 4


@pytest.mark.parametrize("name", ["gone.jpg", "a\0b.jpg", "x" * 5000])
def test_what_is_no_file_has_no_key(name: str, tmp_path: Path) -> None:
    assert photo_key(tmp_path / name) == ""
