from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from siamese_verify.evaluation.score_history import read_score_history
from siamese_verify.run_record import RunRecord
from tests.cli.conftest import SENTENCE, Command, save_faces


def numbers_of(page: Path) -> dict[str, list[object]]:
    text = page.read_text(encoding="utf-8")
    content: dict[str, list[object]] = json.loads(text.split('id="numbers">')[1].split("</script>")[0])
    return content


def test_a_run_is_drawn_with_the_photos_that_it_was_tested_on(tiny_run: Path, command: Command) -> None:
    ended = command("visualize", str(tiny_run), "--no-umap", "--output", "seen")
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in Path("seen").iterdir()) == ["index.html", "pca.png", "score_history.png"]
    assert {path.stat().st_mode & 0o777 for path in Path("seen").iterdir()} == {0o600}, "photos, and names of people"
    assert "UMAP" not in ended.out
    shown = numbers_of(Path("seen/index.html"))
    assert len(shown["names"]) == 18 and len(set(shown["identities"])) == 6, "all test photos of its configuration"
    assert not {str(name) for name in shown["names"]} & {f"person {row:04} photo 00" for row in range(12)}, (
        "none trained on"
    )
    assert "18 photos of 6 identities: synthetic faces" in Path("seen/index.html").read_text()
    assert [one.epoch for one in read_score_history(tiny_run)] == [0, 1, 2, 3]


def test_other_photos_a_smaller_draw_and_no_pictures(tiny_run: Path, command: Command, tmp_path: Path) -> None:
    save_faces(tmp_path / "photos", 5, 3)
    Path("photos").rename("photos\udcff")  # a name that is no text
    options = ("--faces", "photos\udcff", "--photos", "9", "--no-pictures", "--no-umap", "--output", "seen")
    assert command("visualize", str(tiny_run / "bundle"), *options).code == 0
    page = Path("seen/index.html").read_text()
    assert len(numbers_of(Path("seen/index.html"))["names"]) == 9
    assert "drawn at random from 15 photos (seed 0)" in page
    assert "data:image" not in page
    assert "This page holds the names of photos" in page
    assert '<option value="p00">p00</option>' in page


def test_digits_are_tested_on_other_images_of_the_same_digits_which_the_record_says(
    trained: Callable[..., Path], command: Command, tmp_path: Path
) -> None:
    few = ("trainer.max_epochs=1", "sampler.batches=3", "threads=1", "baseline=null")
    run = trained(tmp_path / "run", "experiment=digits", *few)
    assert RunRecord.read(run).tested_people.startswith("trained on in part: 10 of its 10 people")
    assert command("visualize", str(run), "--no-umap").code == 0
    shown = numbers_of(run / "visualize" / "index.html")
    assert sorted(set(map(str, shown["identities"]))) == [str(digit) for digit in range(10)]
    assert [str(name)[-5:] for name in shown["names"]] == [f"{number:05}" for number in range(1297, 1797)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("casia-webface",), "casia-webface is no run that has tested people: give photos by --faces FOLDER"),
        (("RUN", "--photos", "1"), "--photos must be from 2 to 5000, got 1"),
        (("RUN", "--seed", "-1"), "--seed must be from 0 to 4294967295, got -1"),
        (("RUN", "--output", "file"), "--output file is a file: name a folder"),
        (("nowhere",), "There is no model nowhere"),
        (("RUN", "--faces", "nowhere"), "There is no folder nowhere"),
        (
            ("RUN", "--faces", "a", "--output", "a/../a/c"),
            "a/../a/c lies in a, among its people: give an output",
        ),
    ],
)
def test_a_mistake_is_explained_in_a_sentence(
    arguments: tuple[str, ...], sentence: str, tiny_run: Path, command: Command
) -> None:
    Path("file").touch()
    save_faces(Path("a"), 2, 1)
    ended = command("visualize", *(str(tiny_run) if one == "RUN" else one for one in arguments))
    assert ended.code == 2
    assert SENTENCE.fullmatch(ended.err)
    assert sentence in ended.err
