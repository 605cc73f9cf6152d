from __future__ import annotations

import csv
import json
import re
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.run_record import RunRecord
from siamese_verify.sweeps.sweep_page import render_sweep
from siamese_verify.sweeps.sweep_progress import SweepProgress, closing_lines, finish_sweep
from siamese_verify.sweeps.sweep_results import read_sweep, record_files
from tests.sweeps.written_runs import PROTOCOL, make, write_grid, write_run


def test_the_end_of_a_sweep_shows_its_runs_its_best_and_its_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    write_grid(tmp_path / "grid")
    (tmp_path / "grid" / "3" / "bundle").mkdir()
    text = finish_sweep(tmp_path / "grid")
    lines = text.splitlines()
    rows = [re.split(r"\s*│\s*", line)[1] for line in lines if line.startswith("│")]
    assert rows[:8] == ["3", "4", "0", "1", "2", "5", "11", "10"]
    assert "CUDA is out of memory: <b>256</b> faces." in " ".join(text.split())
    assert "4.00% ± 2.65% (0.00% to 10.57%)" in text, "by Student's t; an error rate is not negative"
    assert lines[-4:] == [
        "Best run by val/eer, in which the test has no part: 3 (2.00%).",
        "Command: siamese-verify train loss.margin=0.5 seed=0",
        f"Bundle: {tmp_path / 'grid' / '3' / 'bundle'}",
        f"Page: {tmp_path / 'grid' / 'sweep.html'}",
    ]
    assert (tmp_path / "grid" / "sweep.csv").read_text().count("\n") == 9


def test_the_page_has_every_part_and_needs_nothing_else(tmp_path: Path) -> None:
    write_grid(tmp_path)
    page = render_sweep(read_sweep(tmp_path))
    for heading in (
        "Best run",
        "Runs",
        "Over seeds",
        "Figures",
        "Importance of each parameter",
        "Runs without a result",
    ):
        assert f"<h2>{heading}</h2>" in page
    for figure in ("parameter-0", "seeds", "parallel", "importance", "curves"):
        assert f'<figure id="{figure}"' in page
    assert "&lt;b&gt;256&lt;/b&gt;" in page
    assert "<b>256</b>" not in page
    assert "siamese-verify train loss.margin=0.5 seed=0" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_other_protocols_show_the_metric_that_stands_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for seed, value in enumerate((0.9, 0.94)):
        shots = {"accuracy": value, "accuracy_interval": [value - 0.1, value + 0.05]}
        ranked = {"mean_average_precision": value / 2, "mean_average_precision_interval": None, "recall_at_1": 0.5}
        tests = {"5-way": shots, "ranking": ranked, "pairs": {"eer": 0.03, "eer_interval": None, "auc": 0.99}}
        write_run(tmp_path / str(seed), 0.1 + seed / 100, {"seed": seed}, test=tests)
    text = " ".join(finish_sweep(tmp_path).split())
    for shown in ("test accuracy (5-way)", "test mAP (ranking)", "90.00% (80.00% to 95.00%)", "46.00% ± 1.41%"):
        assert shown in text
    header, first, _ = csv.reader((tmp_path / "sweep.csv").read_text().splitlines())
    row = dict(zip(header, first, strict=True))
    assert (row["test accuracy (5-way)"], row["low (5-way)"], row["high (5-way)"]) == (
        "0.9",
        "0.8",
        "0.9500000000000001",
    )
    assert (row["test mAP (ranking)"], row["low (ranking)"], row["recall@1 (ranking)"]) == ("0.45", "", "0.5")
    assert (row["test EER (pairs)"], row["AUC (pairs)"]) == ("0.03", "0.99")
    page = (tmp_path / "sweep.html").read_text()
    assert ">test accuracy: 5-way</th>" in page
    assert "92.00% ± 2.83%" in page


def test_a_sweep_without_a_finished_run_has_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "0", None, {"x": 1}, status="failed", error="No.")
    assert "<h2>Best run</h2>" not in render_sweep(read_sweep(tmp_path))
    assert "No run has finished with a metric" in finish_sweep(tmp_path)


def test_the_page_of_a_thousand_runs_is_bounded(tmp_path: Path) -> None:
    record = write_run(tmp_path / "0", 0.1, {"x": 0})
    record.history = [(epoch, epoch, {"val/eer": 0.5 - epoch / 300}) for epoch in range(100)]
    for place in range(1000):
        record.configuration["x"] = place % 10
        record.overrides = [f"x={place % 10}"]
        record.metrics = {"val/eer": 0.1 + place / 1e4, "epoch": 3.0}
        record.status, record.error = ("failed", "Lost. " * 200) if place % 3 == 0 else ("finished", None)
        make(tmp_path / str(place)).joinpath("run.json").write_text(json.dumps(asdict(record)))
    page = render_sweep(read_sweep(tmp_path))
    assert len(page) < 2_500_000
    assert "800 more runs are in sweep.csv." in page


def test_each_run_that_ends_is_a_line_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("siamese_verify.sweeps.sweep_progress.POLL", 0.01)
    deleted = tmp_path / "deleted meanwhile" / "run.json"
    monkeypatch.setattr(
        "siamese_verify.sweeps.sweep_progress.record_files", lambda folder: [*record_files(folder), deleted]
    )
    write_run(tmp_path / "0", 0.2, {"x": 1})
    progress = SweepProgress(tmp_path, lines=True)
    progress.start()
    write_run(tmp_path / "1", 0.1, {"x": 2})
    write_run(tmp_path / "2", None, {"x": 3}, status="failed", error="No faces.")
    RunRecord("running", host="elsewhere").write(tmp_path / "0")  # resumed
    text = progress.finish()
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "Run 1 finished, val/eer 10.00%, test EER 11.00% (10.00% to 12.00%), 1:23: x=2",
        "Run 2 failed: No faces, 1:23: x=3",
    ]
    assert "Best run by val/eer, in which the test has no part: 1" in text
    assert PROTOCOL in (tmp_path / "sweep.html").read_text()


def test_the_page_shows_the_last_run_that_ended_while_others_still_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_verify.sweeps.sweep_progress.POLL", 0.01)
    monkeypatch.setattr("siamese_verify.sweeps.sweep_progress.LOOK_SHARE", 0)
    monkeypatch.setattr("siamese_verify.sweeps.sweep_progress.PAGE_SHARE", 1)
    page = tmp_path / "sweep.html"
    write_run(tmp_path / "0", None, {"x": 1}, status="running")
    progress = SweepProgress(tmp_path)
    progress.start()
    for number in (1, 2):  # the second ends while the page of the first is not yet due to be drawn again
        write_run(tmp_path / str(number), None, {"x": number}, status="failed", error=f"Reason {number}.")
        shown_by = time.monotonic() + 30
        while not page.exists() or f"Reason {number}." not in page.read_text():
            assert time.monotonic() < shown_by
            time.sleep(0.01)
    progress.finish()


def test_folds_have_a_mean_and_a_standard_error_and_no_best_run(tmp_path: Path) -> None:
    """As LFW's authors report them; a fold that was run again counts as it was run last."""
    accuracies = [0.91, 0.88, 0.94, 0.90]
    for fold, accuracy in [(2, 0.5), *enumerate(accuracies)]:
        test = {"LFW View 2, one fold": {"eer": 0.1, "balanced_accuracy": accuracy}}
        changes = {"test": test, "lfw_category": "unrestricted", "started": f"2026-01-0{fold + (accuracy != 0.5)}"}
        write_run(tmp_path / f"{fold}{accuracy}", 0.1, {"fold": fold}, **changes)
    sweep = read_sweep(tmp_path)
    mean, error = np.mean(accuracies), np.std(accuracies, ddof=1) / 2
    ending = "\n".join(closing_lines(sweep))
    assert f"LFW View 2, one fold: accuracy {mean:.2%} ± {error:.2%} over 4 folds" in ending
    assert "Category of LFW's results page: unrestricted." in ending
    assert "Best run" not in ending
    page = render_sweep(sweep)
    assert "All folds" in page and "<td>88.00 %</td>" in page and "Best run" not in page


@pytest.mark.parametrize("folds", [(0, "a"), (0, None)])
def test_a_setting_that_is_called_fold_need_not_be_a_number(folds: tuple[object, ...], tmp_path: Path) -> None:
    for place, fold in enumerate(folds):
        write_run(tmp_path / str(place), 0.1, {"fold": fold})
    assert "Best run" in "\n".join(closing_lines(read_sweep(tmp_path)))


def test_folds_that_are_missing_are_said(tmp_path: Path) -> None:
    for fold in range(3):
        test = {"LFW View 2, one fold": {"eer": 0.1, "balanced_accuracy": 0.9}}
        write_run(tmp_path / str(fold), 0.1, {"fold": fold}, test=test, status=("finished", "failed")[fold == 1])
    assert "over 2 of 3 folds" in "\n".join(closing_lines(read_sweep(tmp_path)))
