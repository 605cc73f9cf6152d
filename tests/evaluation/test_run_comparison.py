from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import compare_runs, compare_scores, read_evaluation, verification_report


def table(path: Path, better: float, seed: int = 0, rows: int = 400) -> Path:
    generator = np.random.default_rng(seed)
    same = np.arange(rows) % 2 == 0
    scores = generator.normal(size=rows) + (1 + better) * same
    lines = [
        f"p{row}.png,q{row}.png,{score:.6f},{int(one)}"
        for row, (score, one) in enumerate(zip(scores, same, strict=True))
    ]
    path.write_text("\n".join(["a,b,score,same", *lines, ""]))
    return path


def test_tables_of_scores_are_compared_pair_by_pair(tmp_path: Path) -> None:
    first, second = table(tmp_path / "old.csv", 0), table(tmp_path / "new.csv", 1)
    sentences, page = compare_runs([first, second], tmp_path / "out")
    (sentence,) = sentences
    assert sentence.startswith("new is better: ")
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    scores = [read_evaluation(path).scores for path in (first, second)]
    assert scores[0] is not None and scores[1] is not None
    expected = compare_scores(scores[0].scores, scores[1].scores, scores[0].same, names=("old", "new"))
    assert content["tests"] == [json.loads(json.dumps(expected.to_dict()))]
    assert list(content["figures"]) == ["old", "new"]
    old = content["figures"]["old"]
    assert old["eer"] == read_evaluation(first).metrics["eer"]
    assert old["accuracy"] is old["balanced_accuracy"] is old["eer_interval"] is None
    assert [type(point["tar"]) for point in old["tar_at_far"]] == [float] * 3
    assert content["sentences"] == sentences
    html = page.read_text(encoding="utf-8")
    assert sentence in html.replace("&#39;", "'")
    for part in ("old", "new", 'id="roc"', 'id="det"'):
        assert part in html
    assert html.count("<svg") == 2
    assert len(html) < 500_000


def test_evaluations_of_other_pairs_have_curves_only(tmp_path: Path) -> None:
    one = table(tmp_path / "one.csv", 0)
    verification_report([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]).save(tmp_path / "run" / "report", title="another")
    sentences, _ = compare_runs([one, tmp_path / "run"], tmp_path / "out")
    assert sentences == ["one and another cannot be tested pair by pair: the single scores of another were not saved."]
    renamed = table(tmp_path / "renamed.csv", 0)
    renamed.write_text(renamed.read_text().replace("p7.png", "other.png"))
    sentences, _ = compare_runs([one, renamed], tmp_path / "out")
    assert sentences == ["one and renamed did not compare the same pairs, so only the curves compare."]


def test_distances_give_a_hint(tmp_path: Path) -> None:
    sentences, _ = compare_runs([table(tmp_path / "one.csv", 0), table(tmp_path / "two.csv", -3)], tmp_path / "out")
    assert sentences[-1].startswith("two: Genuine pairs score lower than impostors (AUC 0.")


def test_evaluations_of_one_name_are_listed_with_their_paths(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [table(tmp_path / folder / "scores.csv", 0, seed) for seed, folder in enumerate("ab")]
    compare_runs(paths, tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "compare.json").read_text())["figures"]
    assert list(figures) == [f"scores ({path})" for path in paths]


def test_what_cannot_be_compared_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 evaluation has nothing to be compared with"):
        compare_runs([table(tmp_path / "one.csv", 0)], tmp_path)
    with pytest.raises(InputError, match=r"There is no file or folder .*nowhere: name a run"):
        compare_runs([tmp_path / "nowhere"], tmp_path)
    with pytest.raises(InputError, match=r"holds no finished evaluation \(no metrics.json\)"):
        compare_runs([tmp_path, tmp_path], tmp_path)
