"""The page of embeddings, in a browser, and its pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.evaluation import verification_report
from siamese_verify.evaluation.embedding_map import EmbeddingMap, NeighborStrip
from siamese_verify.evaluation.pages.embedding_page import (
    FRAME,
    TILE,
    history_figure,
    map_figure,
    neighbor_picture,
    render_embeddings,
    tile_of,
)
from siamese_verify.evaluation.score_history import FILE, MOST, add_scores, read_score_history
from siamese_verify.evaluation.score_statistics import ScoreHistogram

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
COLORS = [(200, 30, 30), (30, 160, 30), (30, 30, 200), (220, 200, 20)]
PEOPLE = ["Ada", "Ada", "Bo <b>", "Bo <b>"]
TILES = [Image.new("RGB", (TILE, TILE), color) for color in COLORS]
STRIPS = [NeighborStrip(row, (row ^ 2, row ^ 1), (0.9, 0.25), (True, False)) for row in range(4)]
POINTS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 2.0]])


def page(folder: Path, tiles: list[Image.Image] | None = TILES) -> Path:
    found = EmbeddingMap("pca", POINTS, (0.7, 0.2))
    names = [f"photo {row}" for row in range(4)]
    figure = map_figure(found, PEOPLE)
    text = render_embeddings("Title", [(found, figure)], None, STRIPS, names, PEOPLE, tiles, 3, ["A sentence."])
    path = folder / "index.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_pointing_at_a_dot_shows_its_photo_and_its_neighbors(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 1000, "height": 900})
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(page(tmp_path).as_uri())
        scale = opened.evaluate("document.querySelector('#pca svg').getScreenCTM().a")
        for row in (3, 1):
            x, y = opened.evaluate(f"data.points.pca[{row}]")
            opened.locator("#pca svg").hover(position={"x": scale * x, "y": scale * y})
            assert opened.locator("#pca .tip").inner_text().split("\n") == [PEOPLE[row], f"photo {row}"]
            shown = opened.locator("#pca .tip .face")
            assert shown.get_attribute("aria-label") == f"photo {row}"
            shown.screenshot(path=tmp_path / "shot.png")
            with Image.open(tmp_path / "shot.png") as shot:
                seen = np.asarray(shot.convert("RGB"))[shot.height // 2, shot.width // 2].astype(int)
            assert np.abs(seen - COLORS[row]).max() < 12, "the picture of that photo, not of another one"
            near = opened.locator("#pca .near .neighbor")
            assert [near.nth(place).inner_text().split("\n")[0] for place in range(2)] == ["0.900", "0.250"]
            assert opened.locator("#pca .near .wrong").count() == 1
            assert opened.locator("#pca .rings circle").count() == 2, "both photos of the person"
        opened.locator("#person").select_option("Ada")
        opened.mouse.move(5, 5)
        assert opened.locator("#pca .tip").count() == 0
        assert opened.locator("#pca .rings circle").count() == 2
        opened.locator("#pca .picture").focus()
        opened.keyboard.press("ArrowRight")
        opened.keyboard.press("ArrowRight")
        assert "photo 3" in opened.locator("#pca output").inner_text(), "on from the last one"
        browser.close()
    assert errors == []


def test_a_page_holds_everything_and_without_pictures_none(tmp_path: Path) -> None:
    text = page(tmp_path).read_text(encoding="utf-8")
    assert "http" not in text.replace("http://www.w3.org/", "")
    assert "personal data" in text
    assert text.count('class="card strip"') == 3
    assert "Bo <b>" not in text, "a name is no markup"
    without = page(tmp_path, None).read_text(encoding="utf-8")
    assert "data:image/jpeg" in text and "data:image" not in without
    assert "personal data" in without, "names and embeddings are, too"
    assert 'role="img" aria-label="photo' not in without


def test_neighbors_are_drawn_with_a_frame_around_the_wrong_ones() -> None:
    picture = np.asarray(neighbor_picture(STRIPS[:2], TILES))
    side = TILE + 2 * FRAME
    assert picture.shape == (2 * side, 3 * side + 2 * FRAME, 3)
    for line, row in enumerate((0, 1)):
        for column, shown in enumerate((row, row ^ 2, row ^ 1)):
            x = column * side + (2 * FRAME if column else 0)
            center = picture[line * side + side // 2, x + side // 2]
            assert tuple(center) == COLORS[shown]
            frame = tuple(picture[line * side + 1, x + side // 2])
            expected = [(255, 255, 255), (0xD9, 0x59, 0x1A), (0xD5, 0xDB, 0xE3)][column]
            assert frame == expected


def test_a_small_picture_is_enlarged_without_blur() -> None:
    tile = np.asarray(tile_of(Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))))
    assert tile.shape == (TILE, TILE, 3)
    assert set(tile.ravel().tolist()) == {0, 255}


def test_scores_over_the_epochs_are_kept_read_and_drawn(tmp_path: Path) -> None:
    assert read_score_history(tmp_path) == []
    for epoch in range(3):
        same = np.arange(40) % 2 == 0
        scores = np.random.default_rng(epoch).normal(size=40) + epoch * same
        histogram = verification_report(scores, same).histogram
        add_scores(tmp_path, epoch, 10 * (epoch + 1), histogram)
    history = read_score_history(tmp_path)
    assert [(one.epoch, one.step) for one in history] == [(0, 10), (1, 20), (2, 30)]
    for kept, given in zip(history[-1].histogram, histogram, strict=True):
        np.testing.assert_allclose(kept, given)
    figure = history_figure(history)
    assert "epoch" in figure.svg and figure.png.startswith(b"\x89PNG")
    add_scores(tmp_path, 1, 20, histogram)  # resumed after the first epoch
    assert [one.epoch for one in read_score_history(tmp_path)] == [0, 1]
    (tmp_path / FILE).write_text('[{"epoch": 1}]')
    with pytest.raises(InputError, match="damaged"):
        read_score_history(tmp_path)


def test_a_long_training_keeps_a_bounded_number_of_epochs_from_all_of_it(tmp_path: Path) -> None:
    histogram = ScoreHistogram(np.linspace(-1, 1, 81), np.full(80, 10**6), np.full(80, 10**9))
    for epoch in range(MOST + 60):
        add_scores(tmp_path, epoch, epoch + 1, histogram)
    epochs = [one.epoch for one in read_score_history(tmp_path)]
    assert len(epochs) == MOST
    assert (epochs[0], epochs[-1]) == (0, MOST + 59)
    assert max(np.diff(epochs)) <= 3
    assert (tmp_path / FILE).stat().st_size < 400_000
