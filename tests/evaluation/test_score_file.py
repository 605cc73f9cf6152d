from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import read_curve, read_published, read_scores, roc_curve, verification_report
from siamese_verify.evaluation.roc import write_curve

SHARED = Path(__file__).resolve().parents[3] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared with the reference scores is not here")


@needs_shared
def test_the_reference_scores_give_the_reference_metrics() -> None:
    found = read_scores(SHARED / "reference" / "lfw_view2_casia_scores.csv")
    expected = json.loads((SHARED / "reference" / "lfw_view2_casia_metrics.json").read_text())
    report = verification_report(found.scores, found.same, np.arange(6000) // 600)
    assert report.eer == pytest.approx(expected["eer"], abs=1e-9)
    assert report.auc == pytest.approx(expected["auc"], abs=1e-9)
    assert report.kfold is not None
    assert report.kfold.mean == pytest.approx(expected["accuracy_10fold"], abs=1e-9)
    for point in report.operating_points:
        assert point.tar == pytest.approx(expected[f"tar_at_far_{point.target:g}"], abs=1e-9)
        assert point.threshold == pytest.approx(expected[f"threshold_at_far_{point.target:g}"], abs=1e-9)


def test_all_columns_are_read_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(
        "fold,same,extra,score,identity_b,identity_a,group,b,a\n1,true,x,0.5,Ann,Ann,g,2.png,1.png\n2,0,x,-1e-3,Bob,Ann,,3.png,1.png\n"
    )
    found = read_scores(tmp_path / "s.csv")
    assert found.scores.tolist() == [0.5, -0.001]
    assert found.same.tolist() == [True, False]
    assert found.folds is not None and found.identities is not None and found.groups is not None
    assert found.folds.tolist() == [1, 2]
    assert found.identities.tolist() == [["Ann", "Ann"], ["Ann", "Bob"]]
    assert found.groups.tolist() == ["g", ""]
    assert found.names is not None
    assert found.names.tolist() == [["1.png", "2.png"], ["1.png", "3.png"]]


def test_a_table_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes("\ufeffscore,same\r\n0.5,1\r\n\r\n0.25,0\r\n".encode())
    found = read_scores(tmp_path / "s.csv")
    assert found.scores.tolist() == [0.5, 0.25]
    assert (found.folds, found.identities, found.groups, found.names) == (None, None, None, None)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("score,truth\n1,1\n", r"no column same \(its columns: score, truth\)"),
        ("score,same\n0.5,1\nhigh,0\n", "Line 3 of .* has 'high' as score: write a number"),
        ("score,same\n0.5,1\nnan,0\ninf,0\n", r"2 scores in .* are NaN or infinite \(first lines: 3, 4\)"),
        ("score,same\n0.5,2\n", "Line 2 of .* has '2' as same"),
        ("score,same\n", "no line below its header"),
        ("score,same\n0.5,1\n\nhigh,0\n", "Line 4 of .* has 'high' as score"),
        ('score,same,note\n0.5,1,"two\nlines"\nnan,0,\n', r"\(first lines: 4\)"),
        ("score,same,fold\n0.5,1,1\n0.5,0,\n", "Line 3 of .* has no fold"),
        ("score,same,identity_b\n0.5,1,x\n", "has identity_b alone"),
        ("score,same,identity_a,identity_b\n0.5,1,,x\n", "Line 2 of .* has no identity_a"),
    ],
)
def test_invalid_scores_raise_with_their_line(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        read_scores(tmp_path / "s.csv")


def test_a_curve_is_read_as_it_was_written(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    same = generator.random(200) < 0.5
    curve = roc_curve(generator.normal(size=200).astype(np.float32) + same, same)
    (tmp_path / "curve.csv").write_text(write_curve(curve))
    found = read_curve(tmp_path / "curve.csv")
    for name in ("thresholds", "false_accepts", "true_accepts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(curve, name))
    assert (found.genuine, found.impostors) == (curve.genuine, curve.impostors)
    for damaged in ("inf,0,0\n", "inf,x,0\n0,1,1\n", "inf,0,0\n1,2,2\n0,1,3\n"):
        (tmp_path / "curve.csv").write_text("threshold,false_accepts,true_accepts\n" + damaged)
        with pytest.raises(InputError, match="holds no curve"):
            read_curve(tmp_path / "curve.csv")


@needs_shared
def test_published_curves_are_read_whichever_column_comes_first() -> None:
    curves = read_published(SHARED / "data" / "lfw" / "published-roc")
    assert len(curves) == 9
    for curve in curves:
        assert (np.diff(curve.far) >= 0).all()
        at = {far: curve.tar[np.searchsorted(curve.far, far, side="right") - 1] for far in (0.01, 0.1)}
        assert at[0.1] > 0.6 or "eigenfaces" in curve.name
        assert at[0.1] >= at[0.01]
    best = {curve.name: curve for curve in curves}["dlib"]
    assert best.tar[np.searchsorted(best.far, 0.01, side="right") - 1] > 0.99


def test_tar_and_far_are_recognized_in_either_order_and_nan_is_left_out(tmp_path: Path) -> None:
    points = "0.0 nan\n0.0 0.0\n0.1 0.7\n0.5 0.9\n1.0 1.0\n"
    (tmp_path / "a_b.txt").write_text(points)
    (tmp_path / "turned.txt").write_text("\n".join(" ".join(line.split()[::-1]) for line in points.splitlines()))
    first, second = read_published(tmp_path)
    assert first.name == "a b"
    assert first.far.tolist() == second.far.tolist() == [0.0, 0.1, 0.5, 1.0]
    assert first.tar.tolist() == second.tar.tolist() == [0.0, 0.7, 0.9, 1.0]


@pytest.mark.parametrize("content", ["x y\n", "1 2\n0 1\n", "0 1\n", "0 1 2\n1 1 1\n"])
def test_a_file_without_a_curve_raises(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.txt").write_text(content)
    with pytest.raises(InputError, match="holds no curve"):
        read_published(tmp_path)


def test_a_folder_without_curves_raises(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no published curves"):
            read_published(folder)


def test_folds_by_number_keep_their_order_and_may_have_names_too(tmp_path: Path) -> None:
    lines = [f"{row % 5},{row % 2},{row // 4 + 1}" for row in range(44)]
    (tmp_path / "x.csv").write_text("\n".join(["score,same,fold", *lines]))
    found = read_scores(tmp_path / "x.csv").folds
    assert found is not None
    assert np.unique(found).tolist() == list(range(1, 12))
    (tmp_path / "x.csv").write_text("score,same,fold\n1,1,a\n0,0,2\n")
    named = read_scores(tmp_path / "x.csv").folds
    assert named is not None
    assert named.tolist() == ["a", "2"]
