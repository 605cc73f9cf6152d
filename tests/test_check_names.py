"""The check of names in `.ci`: refused words of the glossary, and files and classes of the same name."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECK = runpy.run_path(str(ROOT / ".ci" / "check_names.py"))
GLOSSARY = """
| term | meaning | source | not |
| --- | --- | --- | --- |
| sampler | Chooses rows. | torch | zibble, (zabble), `zob_zob` |
| embedding | A vector. | | |
"""


def test_words_of_the_last_column_are_refused_unless_in_parentheses() -> None:
    assert CHECK["refused_words"](GLOSSARY) == ["zibble", "zob_zob"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("the Zibble of a batch", ["Zibble"]),
        ("zob_zob(zibble)", ["zob_zob", "zibble"]),
        ("zabble, zibbles and my_zibble are other words", []),
    ],
)
def test_a_refused_word_is_found_with_its_place(line: str, found: list[str], tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"A heading\n\n{line}\n")
    sentences = list(CHECK["found_words"]([file], CHECK["refused_words"](GLOSSARY)))
    assert [sentence.partition(" is refused")[0] for sentence in sentences] == [f"{file}:3: {word!r}" for word in found]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (("losses/base.py", "miners/base.py"), "base.py occurs 2 times: losses/base.py, miners/base.py."),
        (("faces/one.py", "data/two.py"), "class Finder occurs 2 times: faces/one.py, data/two.py."),
        (("faces/queue.py",), "faces/queue.py shadows a module of the standard library."),
        (("faces/__init__.py", "data/__init__.py"), ""),
        (("faces/finder.py",), ""),
    ],
)
def test_two_of_a_name_are_found(
    files: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in files:
        Path(name).parent.mkdir()
        Path(name).write_text("class Finder: ...\n" if "class" in sentence else "finder = 1\n")
    assert list(CHECK["duplicates"](list(map(Path, files)))) == ([sentence] if sentence else [])
