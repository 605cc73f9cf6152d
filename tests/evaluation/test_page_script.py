"""The script of report and comparison pages, in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.evaluation import compare_runs, rates_at, roc_curve, verification_report

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


def pairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    same = np.arange(2000) % 2 == 0
    return np.random.default_rng(seed).normal(size=2000) + 2 * same, same


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 1100, "height": 900})
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        yield opened
        browser.close()
        assert errors == []


def test_the_slider_shows_the_rates_at_a_threshold(page: Page, tmp_path: Path) -> None:
    scores, same = pairs(0)
    page.goto(verification_report(scores, same).save(tmp_path).as_uri())
    page.locator("#threshold").evaluate("slider => { slider.value = 1.5; slider.dispatchEvent(new Event('input')) }")
    rates = rates_at(roc_curve(scores, same), 1.5)
    told = page.locator("#rates").inner_text()
    assert told.startswith("Threshold 1.5000: ")
    assert f"({rates.false_accepts} of 1,000)" in told
    assert f"({rates.false_rejects} of 1,000)" in told
    assert page.locator("#errors .mark circle").count() == 2
    line, axis = page.locator("#errors .mark line"), page.evaluate("data.axes.errors")
    share = (1.5 - axis["x"][0]) / (axis["x"][-1] - axis["x"][0])
    left, _, right, _ = axis["box"]
    assert float(line.get_attribute("x1") or 0) == pytest.approx(left + share * (right - left), abs=0.01)


@pytest.mark.parametrize("figure", ["roc", "det", "errors", "histogram"])
def test_a_figure_reads_out_the_operating_point_under_the_pointer(page: Page, tmp_path: Path, figure: str) -> None:
    scores, same = pairs(0)
    page.goto(verification_report(scores, same).save(tmp_path).as_uri())
    page.locator(f"#{figure} svg").hover(position={"x": 250, "y": 150})
    told = page.locator(f"#{figure} output").inner_text()
    found = re.fullmatch(r"FAR ([\d.]+) %, FRR ([\d.]+) %, TAR ([\d.]+) %, threshold (-?[\d.]+)", told)
    assert found, told
    far, frr, tar, threshold = map(float, found.groups())
    rates = rates_at(roc_curve(scores, same), threshold)
    assert far == pytest.approx(100 * rates.far, abs=0.2)  # thresholds are rounded, and the curve is downsampled
    assert frr == pytest.approx(100 * rates.frr, abs=0.2)
    assert tar == pytest.approx(100 - frr, abs=0.1)


def test_a_comparison_reads_out_every_curve(page: Page, tmp_path: Path) -> None:
    for seed in range(2):
        verification_report(*pairs(seed)).save(tmp_path / str(seed), title=f"model {seed}")
    page.goto(compare_runs([tmp_path / "0", tmp_path / "1"], tmp_path)[1].as_uri())
    page.locator("#det svg").hover(position={"x": 250, "y": 150})
    told = page.locator("#det output").inner_text().splitlines()
    assert [line.partition(":")[0] for line in told] == ["model 0", "model 1"]
    assert page.locator("#det .hover circle").count() == 2
