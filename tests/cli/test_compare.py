from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from siamese_verify.cli.evaluate import evaluate
from siamese_verify.evaluation import all_pairs_report, compare_runs
from siamese_verify.evaluation.embedding_file import EMBEDDINGS, write_embeddings
from siamese_verify.evaluation.report import PAIRS_DIGEST
from tests.cli.conftest import SENTENCE, Command
from tests.sweeps.written_runs import write_run


def test_runs_are_compared_from_the_command_line(
    tiny_run: Path, configured: Callable[..., DictConfig], command: Command, tmp_path: Path
) -> None:
    people = "protocol.photos.identities"
    arguments = ("threads=1", "data=synthetic", "protocol=synthetic", f"{people}=6", "protocol.photos.images=3")

    def again(name: str, *overrides: str) -> Path:
        evaluate(
            configured("evaluate", tmp_path / name, *arguments, f"model='{tiny_run}'", *overrides), tmp_path / name
        )
        return tmp_path / name

    ended = command("compare", str(tiny_run), str(again("same")), "--output", str(tmp_path / "out"))
    assert ended.code == 0, ended.err
    assert "compare.html" in ended.out
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    first, second = content["figures"].values()
    assert first["eer"] == second["eer"]
    assert first["eer_interval"].keys() == {"low", "high"}
    (test,) = content["all_pairs_tests"]
    assert (test["pairs"], test["eer"]) == (153, {"value": 0.0, "low": 0.0, "high": 0.0})
    assert "No difference shown" in ended.out
    kept = tmp_path / "same" / "report" / "embeddings.npz"
    assert kept.stat().st_mode & 0o077 == 0
    without = again("without", "keep_embeddings=false")
    assert not (without / "report" / "embeddings.npz").exists()
    sentences, _ = compare_runs([tiny_run, without], tmp_path / "out")
    assert "compared the same 153 pairs, so their metrics and curves compare; neither" in sentences[0]
    other = again("other", f"{people}=5")
    assert "did not compare the same pairs" in compare_runs([tiny_run, other], tmp_path / "out")[0][0]


def evaluated(folder: Path, noise: float, overrides: dict[str, float], **changes: Any) -> None:
    """Write a run whose report has all pairs of the same photos."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 4)
    seen = rng.normal(size=(30, 12))[people] + rng.normal(size=(120, 12))
    rows = seen + noise * rng.normal(size=seen.shape)
    report = all_pairs_report(rows, people)
    report.save(folder / "report", title="trained network on faces", details={PAIRS_DIGEST: "the same"})
    write_embeddings(folder / "report" / EMBEDDINGS, rows.astype(np.float32), people, np.arange(120))
    write_run(folder, report.eer, overrides, **changes)


def test_a_sweep_is_compared_while_it_runs(command: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    evaluated(sweep / "0", 2.0, {"loss.margin": 0.9, "seed": 0})
    evaluated(sweep / "1", 0.3, {"loss.margin": 0.2, "seed": 0})
    evaluated(sweep / "2", 0.4, {"loss.margin": 0.2, "seed": 1})
    write_run(sweep / "3", None, {"loss.margin": 0.9, "seed": 1}, status="running")
    ended = command("compare", str(sweep))
    assert ended.code == 0, ended.err
    assert "4 runs: 3 finished, 1 running." in ended.out
    assert "loss.margin=0.2, seed=0 is better: an EER " in ended.out
    assert {"sweep.html", "sweep.csv", "compare.html"} <= {path.name for path in sweep.iterdir()}
    tests = json.loads((sweep / "compare.json").read_text())["all_pairs_tests"]
    names = [["loss.margin=0.2, seed=0", "loss.margin=0.9, seed=0"]]
    assert [test["names"] for test in tests] == names, "the best run of each setting"


def test_runs_of_a_sweep_are_compared_by_what_they_differ_in(command: Command, tmp_path: Path) -> None:
    for place, margin in enumerate((0.9, 0.2)):
        evaluated(tmp_path / "sweep" / str(place), margin, {"loss.margin": margin})
    ended = command("compare", str(tmp_path / "sweep" / "0"), str(tmp_path / "sweep" / "1"), "--output", "out")
    assert ended.code == 0, ended.err
    figures = json.loads((tmp_path / "out" / "compare.json").read_text())["figures"]
    assert list(figures) == ["loss.margin=0.9", "loss.margin=0.2"], "in the order given"
    assert (tmp_path / "out" / "sweep.csv").is_file()
    ended = command("compare", str(tmp_path / "sweep"), str(tmp_path / "nowhere"))
    assert ended.code == 2
    assert SENTENCE.fullmatch(ended.err)


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
