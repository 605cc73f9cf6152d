"""Pages of the documentation site that are made from elsewhere: README, notebooks, commands, settings, packages.

A hook of mkdocs (https://www.mkdocs.org/user-guide/configuration/#hooks), named in mkdocs.yml.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pkgutil
import re
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from siamese_verify.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "notebooks"  # of the notebooks, by docs/draw_notebooks.py
FORMULA = '<div class="formula">'
CHECKSUMS = "pictures.json"  # there: of the code that drew each picture
PACKAGES = (  # in the order in which photos become decisions
    *("datasets", "faces", "preparation", "samplers", "data", "encoders", "losses", "miners"),
    *("methods", "training"),
    *("protocols", "evaluation", "models", "verification", "gallery", "albums"),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, text in pages():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "LICENSE", abs_src_path=str(ROOT / "LICENSE")))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Name and Markdown text of each page."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    yield "index.md", re.sub(r'(\]\(|src=")docs/', r"\1", readme).replace("(data/README.md)", "(getting_data.md)")
    yield "getting_data.md", (ROOT / "data" / "README.md").read_text(encoding="utf-8").replace("(../docs/", "(")
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield f"notebooks/{notebook.stem}.md", notebook_page(notebook)
    yield "reference/commands.md", commands()
    yield "reference/configuration.md", configuration()
    for package in PACKAGES:
        yield f"reference/{package}.md", f"# siamese_verify.{package}\n\n::: siamese_verify.{package}\n"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Lead links to notebooks to their pages, and pictures to themselves, to be seen larger; keep formulas as they are.

    Pictures are written as Markdown, as mkdocs checks and adapts the paths of these only.
    """
    markdown = re.sub(r"\(\.\./notebooks/(\w+)\.ipynb\)", r"(notebooks/\1.md)", markdown)
    block = r"(?ms)^```math\n(.*?)^```$"
    markdown = re.sub(block, lambda found: f"{FORMULA}\n{escape(found[1])}</div>", markdown)
    markdown = re.sub(r'<img src="([^"]+)"(?: width="(\d+)")? alt="([^"]+)">', in_markdown, markdown)
    return re.sub(r"^!\[[^]]+\]\(([^)]+)\)({[^}]+})?$", r"[\g<0>](\1)", markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: object) -> str:
    """Write formulas, LaTeX as on GitHub, in MathML, which browsers show without a script."""
    try:
        from latex2mathml.converter import convert
    except ImportError:  # of an environment that is older than this: they stay LaTeX
        return html
    html = re.sub(r"\$<code>(.*?)</code>\$", lambda found: convert(unescape(found[1])), html)
    block = rf"(?s){FORMULA}\n(.*?)</div>"
    return re.sub(block, lambda found: FORMULA + convert(unescape(found[1]), display="block") + "</div>", html)


def in_markdown(picture: re.Match[str]) -> str:
    """`![words](path)` with its width in pixels."""
    path, width, words = picture.groups()
    return f"![{words}]({path}){{ width={width} }}" if width else f"![{words}]({path})"


def notebook_page(notebook: Path) -> str:
    """Text and code of a notebook, with the pictures that its cells draw."""
    drawn: list[str] = sorted(json.loads((PICTURES / CHECKSUMS).read_text(encoding="utf-8")))
    parts, section = [], ""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            parts.append(fenced(text, "python"))
        else:
            parts.append(text)
            section = next(reversed(re.findall(r"^#+ (.+)", text, re.MULTILINE)), section)
        parts += [f"![{section}]({name})" for name in drawn if name.startswith(f"{notebook.stem}-{cell['id']}")]
    page = "\n\n".join(parts).replace("(../data/README.md)", "(../getting_data.md)")
    return page.replace("(../README.md)", "(../index.md)").replace("(../docs/", "(../") + "\n"


def code_checksums(notebook: Path) -> dict[str, str]:
    """SHA-256 of the code of a notebook from its beginning up to each cell, by the cell's name."""
    found, digest = {}, hashlib.sha256()
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            digest.update("".join(cell["source"]).encode())
        found[cell["id"]] = digest.hexdigest()
    return found


def commands() -> str:
    """What each command does, and its options."""
    parts = ["# Commands", "Those with overrides of Hydra are composed from the [configuration](configuration.md)."]
    for name, command in COMMANDS.items():
        parts += [f"## siamese-verify {name}", f"{command.help.capitalize()}."]
        if command.add_arguments:
            parser = argparse.ArgumentParser(f"siamese-verify {name}", formatter_class=Wide)
            pkgutil.resolve_name(command.add_arguments)(parser)
            parts.append(fenced(parser.format_help(), "text"))
    return "\n\n".join(parts) + "\n"


class Wide(argparse.HelpFormatter):
    """Help as wide as the site's code, whatever terminal builds it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)


def configuration() -> str:
    """Every file of `conf/`: the commands first, then each group."""
    conf = ROOT / "conf"
    parts = [
        "# Configuration",
        "Any setting can be overridden on the command line, as `optimizer.lr=3e-4`; a group takes the name of a "
        "file, as `loss=contrastive`.",
    ]
    for folder in (conf, *sorted(path for path in conf.rglob("*") if path.is_dir())):
        if files := sorted(folder.glob("*.yaml")):
            parts.append(f"## {folder.relative_to(conf)}" if folder != conf else "## Commands")
        for file in files:
            parts += [f"### {file.stem}", fenced(file.read_text(encoding="utf-8"), "yaml")]
    return "\n\n".join(parts) + "\n"


def fenced(text: str, language: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"
