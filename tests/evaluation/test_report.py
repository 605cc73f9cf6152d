from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    PublishedCurve,
    VerificationReport,
    check_calibration,
    damaged_rates,
    fit_logistic,
    roc_curve,
    verification_report,
)
from siamese_verify.evaluation.roc import downsample
from siamese_verify.evaluation.score_statistics import hardest_pairs

FILES = {"metrics.json", "curve.csv", "roc.png", "det.png", "histogram.png", "errors.png", "report.html"}
EXTRA = ("reliability", "robustness")  # figures of reports that have been given what they show


def strict(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return content


def sample() -> tuple[np.ndarray, np.ndarray]:
    same = np.arange(400) % 2 == 0
    return np.random.default_rng(0).normal(size=400) + 2 * same, same


def sample_report(**options: Any) -> VerificationReport:
    return verification_report(*sample(), **options)


def two_photos(row: int) -> tuple[Image.Image, Image.Image]:
    return Image.new("RGB", (300, 200), (row % 256, 90, 120)), Image.new("L", (92, 112), 80)


@pytest.fixture(scope="module")
def replaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a report whose photos are damaged, saved over another report."""

    def damaged(row: int) -> tuple[Image.Image, Image.Image]:
        raise InputError(f"photo {row} is damaged")

    folder = tmp_path_factory.mktemp("report")
    sample_report().save(folder, title="first")
    return sample_report().save(folder, title="second", pictures=damaged)


class Resources(HTMLParser):
    """Collects what a browser would load, and the tags that stay open."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attributes if name in {"src", "srcset", "href", "data"}]
        if tag not in {"meta", "img", "br", "source", "link", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_holds_what_the_single_functions_say() -> None:
    report = sample_report(folds=np.arange(400) // 40, threshold=1.0, targets=(0.2, 0.1))
    assert (report.pairs, report.genuine, report.impostors) == (400, 200, 200)
    assert [point.target for point in report.operating_points] == [0.2, 0.1]
    assert report.kfold is not None
    assert len(report.kfold.per_fold) == 10
    assert report.at_threshold is not None
    assert report.threshold == 1.0
    scores, same = sample()
    assert report.at_threshold.accuracy == np.mean((scores >= 1.0) == same)
    assert sample_report().threshold == report.eer_threshold
    assert sample_report() == sample_report()
    assert "curve" not in repr(report)


def test_json_round_trips_and_has_null_for_what_is_infinite() -> None:
    content = strict(verification_report([0.1, 0.9], [True, False]).to_json())
    assert content["d_prime"] is None
    assert content["operating_points"][0]["threshold"] is None
    assert content["kfold"] is None
    assert content["eer"] == 1.0
    assert not {"curve", "histogram", "hardest"} & set(content)
    full = sample_report(folds=np.arange(400) // 40, threshold=1.0)
    assert strict(full.to_json()) == full.to_dict()
    assert full.to_dict()["kfold"]["per_fold"] == list(full.kfold.per_fold) if full.kfold else False


def test_the_folder_is_complete_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    details = {
        "source": "https://example.org/lfw",
        "config": {"lr": 3e-4, "layers": [1, 2]},
        "note": "<script>x</script>",
    }
    comparison = [{"encoder": "trained", "eer": 0.02}, {"encoder": "raw pixels", "accuracy": float("nan")}]
    report = sample_report(folds=np.arange(400) // 40, threshold=1.0)
    check = check_calibration(fit_logistic(report.curve, "others"), report.curve)
    damaged = tuple(damaged_rates("blur", f"blur {step}", *sample(), report.threshold) for step in range(3))
    report = replace(report, calibration=check, robustness=damaged)
    path = report.save(
        tmp_path / "deep" / "report",
        title="Faces & <names>",
        details=details,
        pictures=two_photos,
        captions=lambda row: f"Ann & Bob {row}",
        comparison=comparison,
    )
    assert path == tmp_path / "deep" / "report" / "report.html"
    assert {each.name for each in path.parent.iterdir()} == FILES | {f"{name}.png" for name in EXTRA}
    for name in ("roc", "det", "histogram", "errors", *EXTRA):
        with Image.open(path.with_name(f"{name}.png")) as picture:
            assert picture.size == (960, 660)
    page = path.read_text(encoding="utf-8")
    parser = Resources()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.loaded) == 2 * 40  # twenty pairs of photos of each kind
    assert all(resource.startswith("data:image/") for resource in parser.loaded)
    assert page.count("<svg") == 6
    assert "url(" not in page.replace("url(#", "")  # only parts of the page itself
    assert "@import" not in page
    assert "<script>x" not in page
    assert "&lt;script&gt;" in page
    assert "Faces &amp; &lt;names&gt;" in page
    assert "Ann &amp; Bob" in page
    assert "raw pixels" in page
    assert "https://example.org/lfw" in page  # as text
    metrics = strict(path.with_name("metrics.json").read_text())
    assert metrics["details"]["config"] == {"lr": 3e-4, "layers": [1, 2]}
    assert metrics["comparison"][1]["accuracy"] is None
    assert metrics["eer"] == report.eer


def test_insufficient_points_are_flagged_in_words(replaced: Path) -> None:
    page = replaced.read_text(encoding="utf-8")
    assert page.count("Too few impostors to rely on") == 2  # 200 impostors: FAR 0.01 and 0.001
    assert "1 in 1,000" in page


def test_a_damaged_photo_leaves_a_gap_but_a_bug_is_not_hidden(replaced: Path, tmp_path: Path) -> None:
    def wrong(row: int) -> tuple[Image.Image, Image.Image]:
        raise KeyError(row)

    assert replaced.read_text(encoding="utf-8").count("no picture") == 40
    with pytest.raises(KeyError):
        sample_report().save(tmp_path, pictures=wrong)


def test_a_second_report_replaces_the_first(replaced: Path) -> None:
    assert strict(replaced.with_name("metrics.json").read_text())["title"] == "second"
    assert "<h1>second</h1>" in replaced.read_text(encoding="utf-8")


def test_a_page_of_many_pairs_and_published_curves_is_small(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    same = generator.random(200_000) < 0.5
    report = verification_report(generator.normal(size=200_000) + 2 * same, same)
    rates = np.linspace(0, 1, 1000)
    published = [PublishedCurve(f"_method {number} of $5 & <others>", rates**2, rates) for number in range(40)]
    page = report.save(tmp_path, published=published).read_text(encoding="utf-8")
    assert len(page) < 1_500_000
    for number in range(40):
        assert f"_method {number} of $5 &amp; &lt;others&gt;</text>" in page


@pytest.mark.parametrize(
    ("scores", "same", "threshold"),
    [
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], None),
        ([0.5] * 4, [1, 0, 1, 0], float("inf")),
        ([1e9, -1e9], [1, 0], None),
    ],
    ids=["reversed", "identical", "one of each"],
)
def test_extreme_scores_can_be_drawn_without_warnings(
    scores: list[float], same: list[int], threshold: float | None, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verification_report(scores, same, threshold=threshold).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_file_in_place_of_the_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'taken'} is a file")):
        sample_report().save(tmp_path / "taken")
    with pytest.raises(InputError, match="needs a folder, got NoneType: give its path"):
        sample_report().save(None)  # type: ignore[arg-type]


def test_the_hardest_pairs_are_listed_in_order() -> None:
    scores = np.array([0.9, 0.1, 0.5, 0.5, 0.5, 0.95])
    same = np.array([False, True, False, False, True, True])
    hardest = hardest_pairs(scores, same, count=2)
    assert [(pair.row, pair.wrong(0.6)) for pair in hardest.impostors] == [(0, True), (2, False)]
    assert [(pair.row, pair.wrong(0.6)) for pair in hardest.genuine] == [(1, True), (4, True)]


def test_a_downsampled_curve_is_close_to_the_whole_and_keeps_its_ends() -> None:
    generator = np.random.default_rng(0)
    same = generator.random(100_000) < 0.5
    curve = roc_curve(generator.normal(size=100_000) + 2 * same, same)
    few = downsample(curve)
    assert len(few) < 6_000
    assert (few.thresholds[0], few.thresholds[-1]) == (np.inf, curve.thresholds[-1])
    before = (
        np.searchsorted(-few.thresholds, -curve.thresholds, side="right") - 1
    )  # the kept point it falls together with
    assert np.abs(few.far[before] - curve.far).max() <= 1e-3
    assert np.abs(few.tar[before] - curve.tar).max() <= 1e-3


def test_importing_the_metrics_loads_nothing_that_draws_or_trains() -> None:
    heavy = {"torch", "matplotlib", "jinja2", "PIL", "sklearn", "scipy"}
    code = f"import sys, siamese_verify.evaluation; print({heavy} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"
