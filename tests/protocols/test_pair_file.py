from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.protocols import pair_file
from siamese_verify.protocols.pair_file import connected_identities

TABLE = """a,b,same,note
x/1.png,x/2.png,1,one
x/2.png,x/3.png,TRUE,two
x/1.png,y.png,0,three
y.png,z.png,No,four
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "x").mkdir()
    for name in ("x/1.png", "x/2.png", "x/3.png", "y.png", "z.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    (tmp_path / "pairs.csv").write_text(TABLE)
    return tmp_path


def test_pairs_are_read_and_genuine_ones_connect_photos(root: Path) -> None:
    protocol = pair_file(root / "pairs.csv")
    assert protocol.name == "pairs"
    assert protocol.photos.names == ["x/1.png", "x/2.png", "x/3.png", "y.png", "z.png"]
    pairs = protocol.pairs
    assert pairs is not None
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0, 1, 0, 3], [1, 2, 3, 4])
    assert (pairs.same.tolist(), pairs.folds, pairs.groups) == ([True, True, False, False], None, None)
    people = protocol.photos.identities
    assert len(set(people[:3])) == 1
    assert len({people[0], people[3], people[4]}) == 3
    assert protocol.describe(3) == "y.png and z.png"
    assert protocol.photos[3].size == (4, 4)


def test_folds_groups_identities_and_another_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = tmp_path_factory.mktemp("elsewhere") / "mine.csv"
    table.write_text(
        "same,a,b,fold,identity_a,identity_b,group\n1,x/1.png,x/2.png,two,Ann,Ann,old\n0,y.png,x/3.png,one,Bob,Ann,\n"
    )
    protocol = pair_file(table, root, "my pairs")
    pairs = protocol.pairs
    assert pairs is not None and pairs.folds is not None and pairs.groups is not None
    assert protocol.name == "my pairs"
    assert (pairs.folds.tolist(), pairs.groups.tolist()) == ([1, 0], ["old", ""])
    assert protocol.photos.identities.tolist() == [0, 0, 0, 1]


def test_photos_are_connected_through_others() -> None:
    found = connected_identities(6, np.array([0, 2, 4]), np.array([1, 1, 5]))
    assert found[0] == found[1] == found[2]
    assert found[4] == found[5]
    assert len(set(found.tolist())) == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a,b\nx,y\n", r"has no column same \(its columns: a, b\)"),
        ("", r"has no column a, b, same \(its columns: none\)"),
        ("a;b;same\nx;y;1\n", r"separates its columns by semicolons \('a;b;same'\): write commas"),
        ("a,b,same\n", "has no line below its header"),
        ("a,b,same,a\nx,y,1,z\n", "has the column a twice"),
        ("a,b,same\nx,y\n", "Line 2 of .* has 2 fields, not 3"),
        ("a,b,same\ny.png,z.png,0\ny.png,z.png,maybe\n", "Line 3 of .* has 'maybe' as same"),
        (
            "a,b,same\nn1,n2,1\nn3,n4,1\nn5,n6,0\n",
            "6 of the 6 photos in .* the first: n1, n2, n3, n4, n5: set protocol.root",
        ),
        ("a,b,same\ny.png,z.png,1\n ,z.png,0\n", "Line 3 of .* has no a: fill it in, or remove the line"),
        ("a,b,same\n../y.png,/etc/passwd,1\n", "'../y.png' leads out of"),
        ("a,b,same\nC:\\x.png,x\\..\\y.png,1\n", "does not name a file in"),
        ("a,b,same,fold\ny.png,z.png,0,1\nx/1.png,x/2.png,1,1\n", "has one fold, '1'"),
        ("a,b,same\nx/1.png,x/2.png,1\nx/2.png,x/1.png,0\n", "1 lines of .* contradict the identities .* line 3"),
        (
            "a,b,same,identity_a,identity_b\nx/1.png,x/2.png,1,Ann,Ann\nx/1.png,y.png,0,Bob,Cyd\n",
            "Line 2 of .* another person",
        ),
        ("a,b,same\ny.png,z.png,1\n\n\nx/1.png,z.png,maybe\n", "Line 5 of .* has 'maybe' as same"),
        ('a,b,same,note\ny.png,z.png,1,"two\nlines"\nx/1.png,z.png,maybe,\n', "Line 4 of .* has 'maybe' as same"),
        ("a,b,same\n\ny.png,z.png,1\nz.png,y.png,0\n", "contradict .* line 4"),
        ("a,b,same,fold\ny.png,z.png,1,1\nx/1.png,z.png,0, \n", "Line 3 of .* has no fold"),
        ("a,b,same,fold\ny.png,z.png,1,NaN\nx/1.png,z.png,0,2\n", "Line 2 of .* has no fold"),
        ("a,b,same,identity_a,identity_b\ny.png,z.png,1,x,\n", "Line 2 of .* has no identity_b"),
        ("a,b,same,identity_a\ny.png,z.png,1,x\n", "has identity_a alone"),
        (f"a,b,same\n{'x' * 300}.png,y.png,1\n", "cannot be read .File name too long"),
    ],
)
def test_invalid_tables_are_refused_with_the_line(root: Path, table: str, message: str) -> None:
    (root / "pairs.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        pair_file(root / "pairs.csv")


def test_unreadable_tables_are_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv cannot be read: there is no such file\."):
        pair_file(root / "nowhere.csv")
    (root / "pairs.csv").write_bytes(b"a,b,same\n\xff\xfe,y,1\n")
    with pytest.raises(InputError, match="cannot be read"):
        pair_file(root / "pairs.csv")


def test_one_photo_may_be_written_in_two_ways(root: Path) -> None:
    (root / "pairs.csv").write_text("a,b,same\ny.png,./z.png,1\nz.png,.//x/1.png,0\n")
    protocol = pair_file(root / "pairs.csv")
    assert protocol.photos.names == ["x/1.png", "y.png", "z.png"]
    x, y, z = protocol.photos.identities.tolist()
    assert x != y == z


def test_any_column_gives_the_groups_of_pairs_or_of_photos(root: Path) -> None:
    (root / "mine.csv").write_text(
        "a,b,same,gap,sex_a,sex_b\nx/1.png,x/2.png,1,old,f,f\ny.png,x/3.png,0,,m,f\nz.png,y.png,0,old,,m\n"
    )
    by_pair = pair_file(root / "mine.csv", group="gap")
    assert by_pair.photo_groups is None
    assert by_pair.pairs is not None
    assert by_pair.pairs.groups is not None
    assert by_pair.pairs.groups.tolist() == ["old", "", "old"]
    by_photo = pair_file(root / "mine.csv", group="sex")
    assert by_photo.photo_groups is not None
    assert dict(zip(by_photo.photos.names, by_photo.photo_groups.tolist(), strict=True)) == {
        "x/1.png": "f",
        "x/2.png": "f",
        "x/3.png": "f",
        "y.png": "m",
        "z.png": "",
    }
    kept = by_photo.keep(np.array([1, 3]))
    assert kept.photo_groups is not None
    assert kept.photo_groups.tolist() == ["f", "m"]
    with pytest.raises(InputError, match="has no column age, or not both age_a and age_b"):
        pair_file(root / "mine.csv", group="age")
    (root / "two.csv").write_text("a,b,same,group_a,group_b\nx/1.png,x/2.png,1,f,f\ny.png,x/1.png,0,m,m\n")
    with pytest.raises(InputError, match="gives a photo another group than another line"):
        pair_file(root / "two.csv")
