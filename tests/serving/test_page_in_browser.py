"""The page in a browser: two photos in, a decision out, and no request to another host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from siamese_verify.albums.people import Decisions
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.serving.schemas import EXAMPLE_DECISION
from tests.albums.people_album import PeopleAlbum, write_people

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
from playwright.sync_api import Browser, Page, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
HERE = Path(__file__).resolve().parent
KEY = "sv_a-key-of-a-test"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
SHARED = HERE.parents[2] / "shared"


def started(command: list[str], **environment: str) -> Iterator[str]:
    """URL of a server that runs meanwhile: the last word of the first line that has one."""
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    assert process.stdout is not None
    try:
        yield next(line for line in process.stdout if "http://" in line).split()[-1]
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    yield from started([str(HERE / "stand_in.py"), "rate=0"])


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    yield from started([str(HERE / "stand_in.py"), "rate=0", f"key={KEY}"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *CAMERA])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    faces = SyntheticFaces(2, 2, 96)
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{row}.png" for row in range(4)]
    for row, path in enumerate(paths):
        faces[row].save(path)
    return paths


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """`opened(url, **context)` returns a page; at the end no other host was asked and no error was logged."""
    asked: list[str] = []
    errors: list[str] = []
    allowed: list[str] = []
    contexts: list[Any] = []

    def go(url: str, expected_error: str = "", **options: Any) -> Page:
        allowed.append(urlsplit(url).netloc)
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda said: (
                errors.append(said.text)
                if said.type in ("error", "warning") and not (expected_error and re.search(expected_error, said.text))
                else None
            ),
        )
        page.goto(url)
        return page

    yield go
    for context in contexts:
        context.close()
    assert asked
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == set(allowed)
    assert not errors


def until(page: Page, condition: str) -> None:
    """Wait for a condition; Playwright's `wait_for_function` needs `eval`, which the page's policy forbids."""
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{condition} did not come true")


def compare(page: Page, first: Path, second: Path) -> str:
    """Choose two photos, compare them, and read the verdict."""
    page.set_input_files("#first", first)
    page.set_input_files("#second", second)
    page.click("#go")
    page.wait_for_selector("#result:not([hidden])")
    return page.inner_text("#verdict")


def test_decision_is_shown_in_plain_words(
    server: str, opened: Callable[..., Page], photos: list[Path], tmp_path: Path
) -> None:
    page = opened(server, viewport={"width": 1200, "height": 900})
    assert page.title() == "Siamese Verify"
    assert "stay on this machine" in page.inner_text("main")
    assert "printed photo" in page.inner_text(".notice")
    assert compare(page, photos[0], photos[0]) == "The same person"
    assert "times as frequent among pairs of one person" in page.inner_text("#meaning")
    said = page.get_attribute("#scale svg", "aria-label") or ""
    assert said.startswith("Scores of impostor and genuine pairs; score 1.000 ")
    assert page.locator("#scale path.steps").count() == 2
    assert page.locator("#faces img").count() == 2
    assert compare(page, photos[0], photos[2]) == "Different people"
    assert page.evaluate("document.querySelector('#result').dataset.same") == "false"
    page.screenshot(path=tmp_path / "light.png", full_page=True)
    with Image.open(tmp_path / "light.png") as shot:
        assert len(set(shot.convert("RGB").resize((60, 60)).get_flattened_data())) > 100, "something was drawn"


def test_probability_is_shown_for_a_stated_prior(server: str, opened: Callable[..., Page], photos: list[Path]) -> None:
    page = opened(server)
    compare(page, photos[0], photos[0])
    assert "times as frequent among pairs of one person" in page.inner_text("#meaning")
    assert "Probability" not in page.inner_text("#facts")
    page.click(".settings summary")
    page.fill("#prior", "20 %")
    page.click("#go")
    page.wait_for_selector("#facts >> text=Probability")
    assert "if 20\xa0% of the pairs you ask about are" in page.inner_text("#facts")
    page.fill("#prior", "100")
    page.click("#go")
    assert page.inner_text("#status").startswith("The share of pairs of one person is a number above 0")
    assert page.evaluate("document.activeElement.id") == "prior"


def test_open_interval_is_shown(server: str, opened: Callable[..., Page], photos: list[Path]) -> None:
    page = opened(server)
    answer = {**EXAMPLE_DECISION, "threshold_interval": [0.352, None]}
    page.route("**/v1/verify", lambda route: route.fulfill(json=answer))
    compare(page, photos[0], photos[1])
    assert "from 0.352 on, its upper end is unknown" in page.inner_text("#facts")
    shown = page.evaluate(
        "(({x, width}) => [x.baseVal.value, width.baseVal.value])(document.querySelector('.interval'))"
    )
    assert shown[1] > 50


@pytest.mark.parametrize(
    ("rotated_by", "box"),
    [(0, [0, 40, 20, 60]), (90, [40, 180, 60, 200]), (180, [180, 40, 200, 60]), (270, [40, 0, 60, 20])],
)
def test_box_of_a_rotated_photo_is_drawn_on_the_photo_as_shown(
    rotated_by: int, box: list[int], server: str, opened: Callable[..., Page], tmp_path: Path
) -> None:
    """A face at the left of a photo of 200 x 100 is at the bottom of it once that was rotated by 90 degrees."""
    Image.new("RGB", (200, 100), "white").save(tmp_path / "wide.png")
    page = opened(server)
    face = {**EXAMPLE_DECISION["faces"][0], "rotated_by": rotated_by, "box": box}
    page.route("**/v1/verify", lambda route: route.fulfill(json={**EXAMPLE_DECISION, "faces": [face, face]}))
    compare(page, tmp_path / "wide.png", tmp_path / "wide.png")
    place = page.evaluate("""(() => {
        const box = document.querySelector('#side-a .box').getBoundingClientRect();
        const photo = document.querySelector('#side-a .well').getBoundingClientRect();
        const scale = 200 / photo.width;
        const top = photo.top + photo.height / 2 - 50 / scale;
        return [(box.x - photo.x) * scale, (box.y - top) * scale, box.width * scale, box.height * scale];
    })()""")
    assert place == pytest.approx([0, 40, 20, 20], abs=4)  # the line has a width, the well a border


@pytest.mark.parametrize("width", [320, 1200])
def test_api_is_described_on_a_page(width: int, server: str, opened: Callable[..., Page], tmp_path: Path) -> None:
    page = opened(server, viewport={"width": width, "height": 844})
    page.click("footer a")
    page.wait_for_selector(".route")
    assert urlsplit(page.url).path == "/docs"
    for route in ("/v1/verify", "/v1/verify/batch", "/v1/faces", "/v1/embed", "/v1/model", "/healthz", "/metrics"):
        assert page.locator(f".route h2:has-text('{route}')").count() >= 1
    assert f"-F a=@a.jpg -F b=@b.jpg '{server}v1/verify'" in page.inner_text("#verify_v1_verify_post pre >> nth=0")
    assert "does not detect presentation attacks" in page.inner_text("#about")
    page.screenshot(path=tmp_path / f"docs-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_explanation_is_shown_on_request(server: str, opened: Callable[..., Page], photos: list[Path]) -> None:
    page = opened(server)
    page.click(".settings summary")
    page.check("#explain")
    compare(page, photos[0], photos[1])
    assert page.locator("#faces img").count() == 4
    assert page.evaluate("[...document.querySelectorAll('#faces img')].every((img) => img.naturalWidth > 0)")


def test_inconclusive_decision_is_shown_with_its_reasons(
    server: str, opened: Callable[..., Page], photos: list[Path]
) -> None:
    page = opened(server)

    answer = {**EXAMPLE_DECISION, "same": None, "reasons": ["photo a: the face is blurred."]}
    page.route("**/v1/verify", lambda route: route.fulfill(json=answer))
    assert compare(page, photos[0], photos[1]) == "Not sure enough to say"
    assert page.inner_text("#reasons") == "First photo: the face is blurred."


def test_error_names_the_photo(server: str, opened: Callable[..., Page], photos: list[Path], tmp_path: Path) -> None:
    Image.new("RGB", (77, 77)).save(tmp_path / "nobody.png")  # the stand-in finds no face on it
    page = opened(server, expected_error="422")
    page.set_input_files("#first", photos[0])
    page.set_input_files("#second", tmp_path / "nobody.png")
    page.click("#go")
    page.wait_for_selector("#failure:not([hidden])")
    assert page.inner_text("#failure-text").startswith("No face was found on the second photo")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dark_and_light_colors_have_contrast(
    scheme: str, server: str, opened: Callable[..., Page], photos: list[Path], tmp_path: Path
) -> None:
    page = opened(server, color_scheme=scheme)
    compare(page, photos[0], photos[2])
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    colors = """(names) => names.map(([element, property]) => {
        const found = getComputedStyle(document.querySelector(element))[property];
        return found.match(/[0-9.]+/g).slice(0, 3).map(Number);
    })"""
    pairs = [("body", "color"), ("body", "backgroundColor"), (".lead", "color"), ("body", "backgroundColor")]
    pairs += [
        (".facts dt", "color"),
        (".result", "backgroundColor"),
        (".primary", "color"),
        (".primary", "backgroundColor"),
    ]
    found = page.evaluate(colors, pairs)
    for text, ground in zip(found[::2], found[1::2], strict=True):
        assert contrast(text, ground) >= 4.5  # WCAG 2, level AA
    assert (luminance(found[1]) > 0.5) == (scheme == "light")


def luminance(color: list[float]) -> float:
    """Of WCAG 2, of a color in 0 ... 255."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    """Of WCAG 2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
def test_page_fits_into_its_window(
    width: int, server: str, opened: Callable[..., Page], photos: list[Path], tmp_path: Path
) -> None:
    page = opened(server, viewport={"width": width, "height": 844})
    compare(page, photos[0], photos[1])
    page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_page_works_by_keyboard(server: str, opened: Callable[..., Page], photos: list[Path]) -> None:
    page = opened(server)
    # `expect_file_chooser` would switch the interception of choosers off and on between the two photos without waiting
    # for it, and a chooser that opens in between is cancelled by the headless browser. Here it stays on.
    page.on("filechooser", lambda chooser: chooser.set_files(photos[0]))
    until(page, "document.querySelector('#model').textContent !== ''")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        here = page.evaluate(
            "[document.activeElement.id, document.activeElement.className, document.activeElement.tagName]"
        )
        reached.append(here)
        place = page.evaluate(
            "getComputedStyle(document.activeElement.closest('.well') || document.activeElement).outlineStyle"
        )
        assert place != "none", f"the focus on {here} cannot be seen"
        if here[0] in ("first", "second"):
            page.keyboard.press("Space")
            page.wait_for_selector(f".side:has(#{here[0]}) .well img")
        if here[0] == "go":
            break
    assert [place[0] for place in reached if place[0]] == ["first", "second", "go"]
    page.keyboard.press("Enter")
    page.wait_for_selector("#result:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "verdict"  # a screen reader goes on there


def test_controls_have_names_and_results_are_announced(server: str, opened: Callable[..., Page]) -> None:
    page = opened(server)
    nameless = page.evaluate("""[...document.querySelectorAll('button, input, select')].filter((one) =>
        !(one.labels && one.labels.length) && !one.textContent.trim() && !one.getAttribute('aria-label')).length""")
    assert nameless == 0
    assert page.get_attribute("#status", "aria-live") == "polite"
    assert page.get_attribute("#result", "aria-live") == "polite"
    assert page.get_attribute("#failure", "role") == "alert"
    assert page.get_attribute("html", "lang") == "en"


def test_missing_photos_are_named(server: str, opened: Callable[..., Page], photos: list[Path]) -> None:
    page = opened(server)
    page.focus("#go")
    page.keyboard.press("Enter")
    assert page.inner_text("#status") == "Choose the first photo first."
    page.set_input_files("#first", photos[0])
    assert page.inner_text("#status") == "Now the second photo."


def test_new_photo_removes_the_decision(server: str, opened: Callable[..., Page], photos: list[Path]) -> None:
    page = opened(server)
    compare(page, photos[0], photos[1])
    page.set_input_files("#second", photos[2])
    assert page.is_hidden("#result")
    page.click("#side-a .remove")
    assert page.is_hidden("#side-a .remove")
    assert page.evaluate("document.activeElement.id") == "first"


def test_photos_can_be_dropped_and_pasted(server: str, opened: Callable[..., Page], photos: list[Path]) -> None:
    page = opened(server)
    content = list(photos[0].read_bytes())
    both = "bubbles: true, cancelable: true"
    for script in (
        "(files) => document.querySelector('#side-a').dispatchEvent("
        f"new DragEvent('drop', {{dataTransfer: files, {both}}}))",
        f"(files) => document.dispatchEvent(new ClipboardEvent('paste', {{clipboardData: files, {both}}}))",
    ):
        files = page.evaluate_handle(
            """(content) => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(content)], "x.png", {type: "image/png"}));
                return files;
            }""",
            content,
        )
        page.evaluate(script, files)
    until(page, "document.querySelectorAll('.well img').length === 2")
    page.click("#go")
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#verdict") == "The same person"


def test_camera_takes_a_photo_and_is_released(server: str, opened: Callable[..., Page]) -> None:
    page = opened(server, permissions=["camera"])
    page.click("#side-b .camera")
    until(page, "document.querySelector('#video').videoWidth > 0")
    page.click("#shoot")
    page.wait_for_selector("#side-b .well img")
    assert page.evaluate("document.querySelector('#video').srcObject === null")
    assert not page.evaluate("document.querySelector('#camera').open")


def test_key_is_asked_for_and_kept_in_memory_only(locked: str, opened: Callable[..., Page], photos: list[Path]) -> None:
    page = opened(locked, expected_error="401")
    page.wait_for_selector("#key-form:not([hidden])")
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#key-note').textContent.includes('not known')")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-form", state="hidden")
    assert compare(page, photos[0], photos[0]) == "The same person"
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage]) + document.cookie + location.href")
    assert KEY not in kept


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, PeopleAlbum]]:
    album = write_people(tmp_path_factory.mktemp("people"))
    command = ["-m", "siamese_verify.cli.main", "group", str(album.folder), "--serve", "--port", "0"]
    for url in started(command):
        yield url, album


def said(page: Page, sentence: str) -> None:
    """Wait until the page has said something about people, and shows it."""
    until(page, f"document.querySelector('#status').textContent.includes({sentence!r})")
    until(page, "document.body.getAttribute('aria-busy') === 'false'")


def test_people_are_decided_about_by_keyboard_and_by_mouse(
    people: tuple[str, PeopleAlbum], opened: Callable[..., Page], tmp_path: Path
) -> None:
    url, album = people
    page = opened(url, viewport={"width": 1200, "height": 900})
    page.wait_for_selector("#question:not([hidden])")
    assert "#" in url and "#" not in page.url, "the key is not left where others see it"
    until(page, "document.querySelectorAll('#question img[src^=blob]').length >= 4")
    first = page.inner_text("#question-text")
    page.focus("#yes")
    page.keyboard.press("y")
    said(page, "are one person.")
    assert page.inner_text("#question-text") != first
    assert page.evaluate("document.activeElement.id") == "yes", "the next question is answered from here"
    assert len(Decisions.read(album.folder).same) == 1
    page.dblclick("#no")  # the second click is not about the next question
    said(page, "are not one person.")
    assert len(Decisions.read(album.folder).different) == 1
    for kept in (1, 0):
        page.click("#undo")
        said(page, "Taken back:")
        until(page, f"document.querySelector('#undo').disabled === {str(not kept).lower()}")
    assert page.evaluate("document.activeElement.id") == "list-title", "a button that goes out passes the focus on"
    assert not Decisions.read(album.folder).same + Decisions.read(album.folder).different
    page.locator(".person input[type=text]").nth(1).fill("not given yet")
    page.fill(".person input[type=text]", "<b>Ann</b>")
    page.keyboard.press("Enter")
    said(page, "Person 1 is <b>Ann</b>.")
    assert page.locator(".person input[type=text]").nth(1).input_value() == "not given yet"
    assert page.inner_text(".person h3") == "<b>Ann</b>" and page.locator("h3 b").count() == 0
    assert page.evaluate("document.activeElement.id") == "name-list-1"
    page.fill("#find", "ann")
    until(page, "document.querySelectorAll('.person').length === 1")
    page.click(".person button:has-text('All')")
    page.wait_for_selector("#sheet:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "sheet-title"
    page.focus("#faces input")
    page.keyboard.press("Space")
    page.click("#new")
    said(page, "1 face is a new person, not person 1.")
    assert page.inner_text("#sheet-title").startswith("<b>Ann</b>: 5 faces")
    page.click("#back")
    until(page, "document.activeElement.id === 'open-1'")
    page.fill("#find", "")
    until(page, "document.querySelectorAll('.person').length > 3")
    for place in (1, 2):
        page.locator(".person input[type=checkbox]").nth(place).click()
    page.click("#same")
    said(page, "are one person.")
    page.reload()
    page.wait_for_selector("#undo:not([disabled])")
    for nameless in ("'input'), (one) => !one.labels.length", "'button'), (one) => !one.textContent.trim()"):
        found, _, without = nameless.partition(", ")
        assert page.evaluate(f"[...document.querySelectorAll({found}].filter({without}).length") == 0
    assert page.locator("img:not([alt])").count() == 0
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.screenshot(path=tmp_path / "people.png", full_page=True)


def test_people_are_shown_to_nobody_without_the_whole_address(
    people: tuple[str, PeopleAlbum], opened: Callable[..., Page]
) -> None:
    page = opened(people[0].partition("#")[0], expected_error="401")
    page.wait_for_selector("#failure:not([hidden])")
    assert page.inner_text("#failure").startswith("Open the address that the command printed")
    assert page.locator(".person").count() == 0


FACES = [SHARED / f"data/lfw/lfw-deepfunneled/George_W_Bush/George_W_Bush_000{number}.jpg" for number in (1, 2)]
WEIGHTS = SHARED / "weights"


@pytest.mark.slow
@pytest.mark.skipif(
    not FACES[0].is_file() or not (WEIGHTS / "checkpoints/20180408-102900-casia-webface.pt").is_file(),
    reason="needs casia-webface's weights in ../shared/weights and LFW in ../shared/data/lfw",
)
def test_real_faces_are_boxed(opened: Callable[..., Page], tmp_path: Path) -> None:
    command = ["-m", "siamese_verify.cli.main", "serve", "--model", "casia-webface", "--port", "0"]
    for url in started(command, TORCH_HOME=str(WEIGHTS)):
        page = opened(url)
        assert compare(page, *FACES) == "The same person"
        assert page.locator("svg.marks .box").count() == 2
        page.screenshot(path=tmp_path / "real.png", full_page=True)
