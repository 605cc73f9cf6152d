"""The notebooks run, are committed without outputs, and lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LFW = ROOT.parent / "shared" / "data" / "lfw"


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LFW_ROOT", str(LFW) if LFW.is_dir() else "")
    content = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(content, timeout=600, kernel_name="python3", resources=resources).execute()
    shown = [output for cell in content.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown), "a notebook shows pictures"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_which_may_hold_photos(notebook: Path) -> None:
    nbformat.validate(nbformat.read(notebook, as_version=4))  # type: ignore[no-untyped-call]
    for cell in cells(notebook, "code"):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_what_exists_and_its_links_lead_somewhere(notebook: Path) -> None:
    code = "\n".join("".join(cell["source"]) for cell in cells(notebook, "code"))
    imports = re.findall(r"^(?:from \S+ )?import (?:\([^)]*\)|.+)$", code, re.MULTILINE)
    assert imports
    exec("\n".join(imports), {})
    text = "\n".join("".join(cell["source"]) for cell in cells(notebook, "markdown"))
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (notebook.parent / link).is_file(), link
