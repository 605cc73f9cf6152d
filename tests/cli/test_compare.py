from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from siamese_verify.cli.evaluate import evaluate
from siamese_verify.evaluation import compare_runs
from tests.cli.conftest import Command


def test_runs_are_compared_from_the_command_line(
    tiny_run: Path, configured: Callable[..., DictConfig], command: Command, tmp_path: Path
) -> None:
    people = "protocol.photos.identities"
    arguments = ("threads=1", "data=synthetic", "protocol=synthetic", f"{people}=6", "protocol.photos.images=3")
    evaluate(configured("evaluate", tmp_path / "again", *arguments, f"model='{tiny_run}'"), tmp_path / "again")
    ended = command("compare", str(tiny_run), str(tmp_path / "again"), "--output", str(tmp_path / "out"))
    assert ended.code == 0, ended.err
    assert "compare.html" in ended.out
    first, second = json.loads((tmp_path / "out" / "compare.json").read_text())["figures"].values()
    assert first["eer"] == second["eer"]
    assert first["eer_interval"].keys() == {"low", "high"}
    assert "compared the same 153 pairs, so their metrics and curves compare; their single scores" in ended.out
    evaluate(
        configured("evaluate", tmp_path / "other", *arguments, f"{people}=5", f"model='{tiny_run}'"), tmp_path / "other"
    )
    assert "did not compare the same pairs" in compare_runs([tiny_run, tmp_path / "other"], tmp_path / "out")[0][0]


def test_the_evaluation_of_a_table_is_compared_pair_by_pair_with_the_table(
    configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    generator, same = np.random.default_rng(0), np.arange(400) % 2
    given, other = tmp_path / "scores.csv", tmp_path / "other.csv"
    for path, better in ((given, 0), (other, 2)):
        scores = generator.normal(size=400) + (1 + better) * same
        rows = [f"p{row}.png,q{row}.png,{scores[row]:.6f},{same[row]}" for row in range(400)]
        path.write_text("\n".join(["a,b,score,same", *rows, ""]))
    evaluate(configured("evaluate", tmp_path / "run", f"scores='{given}'"), tmp_path / "run")
    assert compare_runs([tmp_path / "run", other], tmp_path)[0][0].startswith("other is better")
