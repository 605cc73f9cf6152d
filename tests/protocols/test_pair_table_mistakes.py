"""Mistakes in tables of pairs, and in how many pairs of a folder are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.protocols import folder_pairs, pair_file


@pytest.fixture(autouse=True)
def photos(tmp_path: Path) -> None:
    for name in "abcd":
        Image.new("RGB", (2, 2)).save(tmp_path / f"{name}.png")


def table(folder: Path, text: str) -> Path:
    (folder / "pairs.csv").write_text(text, encoding="utf-8")
    return folder / "pairs.csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,same\na.png,b.png,1\n\n\nb.png,c.png,maybe\n", "Line 5 of .* has 'maybe' as same"),
        ('a,b,same,note\na.png,b.png,1,"two\nlines"\nb.png,c.png,maybe,\n', "Line 4 of .* has 'maybe' as same"),
        ("a,b,same\n\na.png,b.png,1\nb.png,a.png,0\n", "contradict .* line 4"),
        ("a,b,same,fold\na.png,b.png,1,1\nb.png,c.png,0, \n", "Line 3 of .* has no fold"),
        ("a,b,same,fold\na.png,b.png,1,NaN\nb.png,c.png,0,2\n", "Line 2 of .* has no fold"),
        ("a,b,same,identity_a,identity_b\na.png,b.png,1,x,\n", "Line 2 of .* has no identity_b"),
        ("a,b,same,identity_a\na.png,b.png,1,x\n", "has identity_a alone"),
        (f"a,b,same\n{'x' * 300}.png,b.png,1\n", "1 of the 2 photos"),
        ("a,b,same,identity_a,identity_b\n\na.png,b.png,0,x,y\na.png,c.png,0,z,w\n", "Line 3 .* than some other line"),
    ],
)
def test_a_mistake_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pair_file(table(tmp_path, text))


def test_one_photo_may_be_written_in_two_ways(tmp_path: Path) -> None:
    protocol = pair_file(table(tmp_path, "a,b,same\na.png,./b.png,1\nb.png,.//c.png,0\n"))
    assert protocol.photos.names == ["a.png", "b.png", "c.png"]
    a, b, c = protocol.photos.identities.tolist()
    assert a == b != c


def test_pairs_that_are_not_there_are_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/1.png", "x/2.png", "x/3.png", "y/1.png"):
        (tmp_path / "shop" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "shop" / name)
    for pairs in (5, 8, 100):  # 3 genuine pairs and 3 impostors
        with pytest.raises(InputError, match=f"half of {pairs} pairs was asked"):
            folder_pairs(tmp_path / "shop", pairs=pairs)
    found = folder_pairs(tmp_path / "shop", pairs=6).pairs
    assert found is not None
    assert (len(found.same), found.same.sum()) == (6, 3)
    monkeypatch.chdir(tmp_path / "shop")
    assert folder_pairs(".").name == "shop, all pairs"
