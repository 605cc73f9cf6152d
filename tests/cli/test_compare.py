from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from siamese_verify.cli.compare import compare_runs, read_evaluation
from siamese_verify.cli.evaluate import evaluate
from siamese_verify.errors import InputError
from siamese_verify.evaluation import compare_scores, verification_report


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
    for part in ("old", "new", 'id="roc"', 'id="det"', "Plotly"):
        assert part in html


def test_evaluations_of_other_pairs_have_curves_only(tmp_path: Path) -> None:
    one = table(tmp_path / "one.csv", 0)
    verification_report([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]).save(tmp_path / "run" / "report", title="another")
    sentences, _ = compare_runs([one, tmp_path / "run"], tmp_path / "out")
    assert sentences == ["one and another cannot be tested pair by pair: the single scores of another were not kept."]
    turned = table(tmp_path / "turned.csv", 0)
    turned.write_text(turned.read_text().replace("p7.png", "other.png"))
    sentences, _ = compare_runs([one, turned], tmp_path / "out")
    assert sentences == ["one and turned did not compare the same pairs, so only the curves compare."]


def test_distances_among_what_is_compared_draw_a_hint(tmp_path: Path) -> None:
    sentences, _ = compare_runs([table(tmp_path / "one.csv", 0), table(tmp_path / "two.csv", -3)], tmp_path / "out")
    assert sentences[-1].startswith("two: Genuine pairs score lower than impostors (AUC 0.")


def test_evaluations_with_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [table(tmp_path / folder / "scores.csv", 0, seed) for seed, folder in enumerate("ab")]
    compare_runs(paths, tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "compare.json").read_text())["figures"]
    assert list(figures) == [f"scores ({path})" for path in paths]


def test_runs_are_compared_from_the_command_line(
    tiny_run: Path, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    arguments = (
        "threads=1",
        "data=synthetic",
        "protocol=synthetic",
        "protocol.photos.identities=6",
        "protocol.photos.images=3",
    )
    evaluate(configured("evaluate", tmp_path / "again", *arguments, f"model='{tiny_run}'"), tmp_path / "again")
    command = [sys.executable, "-m", "siamese_verify.cli.main", "compare", str(tiny_run), str(tmp_path / "again")]
    ended = subprocess.run([*command, "--output", str(tmp_path / "out")], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "compare.html" in ended.stdout
    first, second = json.loads((tmp_path / "out" / "compare.json").read_text())["figures"].values()
    assert first["eer"] == second["eer"]
    assert first["eer_interval"].keys() == {"low", "high"}
    assert "compared the same 153 pairs, so their figures and curves compare; their single scores" in ended.stdout
    other = (*arguments[:-2], "protocol.photos.identities=5", "protocol.photos.images=3")
    evaluate(configured("evaluate", tmp_path / "other", *other, f"model='{tiny_run}'"), tmp_path / "other")
    assert "did not compare the same pairs" in compare_runs([tiny_run, tmp_path / "other"], tmp_path / "out")[0][0]


def test_the_evaluation_of_a_table_is_compared_pair_by_pair_with_the_table(
    configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    given = table(tmp_path / "scores.csv", 0.0)
    other = table(tmp_path / "other.csv", 2.0)
    evaluate(configured("evaluate", tmp_path / "run", f"scores='{given}'"), tmp_path / "run")
    assert compare_runs([tmp_path / "run", other], tmp_path)[0][0].startswith("other is better")


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 evaluation has nothing to be compared with"):
        compare_runs([tmp_path], tmp_path)
    with pytest.raises(InputError, match="holds no finished evaluation"):
        compare_runs([tmp_path, tmp_path], tmp_path)
