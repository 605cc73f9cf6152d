"""Check that no refused word of docs/glossary.md and no duplicate file or class name is in the tree."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = Path("docs/glossary.md")
PACKAGE = Path("siamese_verify")
SUFFIXES = {".py", ".yaml", ".md", ".j2", ".html", ".js", ".toml", ".ipynb"}


def refused_words(glossary: str) -> list[str]:
    """Words of the last column of the glossary's tables that are not in parentheses."""
    rows = [line.strip().strip("|").split("|") for line in glossary.splitlines() if line.startswith("|")]
    words = [word.strip().strip("`") for row in rows for word in row[-1].split(",")]
    return [word for word in words if word and word != "not" and not word.startswith(("(", "-"))]


def found_words(files: list[Path], words: list[str]) -> Iterator[str]:
    """A line for each place where a refused word is used."""
    pattern = re.compile(r"(?<![\w])(" + "|".join(map(re.escape, words)) + r")(?![\w])", re.IGNORECASE)
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            for word in pattern.findall(line):
                yield f"{file}:{number}: {word!r} is refused by docs/glossary.md: use its term."


def duplicates(files: list[Path]) -> Iterator[str]:
    """A line for each file name and each public class name that occurs twice in the package."""
    places: dict[str, list[str]] = defaultdict(list)
    for file in files:
        if file.name != "__init__.py":
            places[file.name].append(str(file))
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[f"class {node.name}"].append(str(file))
    for name, found in places.items():
        if len(found) > 1:
            yield f"{name} occurs {len(found)} times: {', '.join(found)}."
    for file in files:
        if file.stem in sys.stdlib_module_names:
            yield f"{file} shadows a module of the standard library."


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    os.chdir(ROOT)
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True)
    tracked = [Path(name) for name in listed.stdout.splitlines()]
    texts = [file for file in tracked if file.suffix in SUFFIXES and file != GLOSSARY and file.is_file()]
    package = [file for file in texts if file.suffix == ".py" and file.is_relative_to(PACKAGE)]
    wrong = [*found_words(texts, refused_words(GLOSSARY.read_text(encoding="utf-8"))), *duplicates(package)]
    print(*wrong, sep="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
