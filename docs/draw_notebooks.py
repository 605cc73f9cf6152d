"""Run the notebooks and keep their pictures for the site, in docs/notebooks: `python docs/draw_notebooks.py [folder]`.

The notebooks themselves are committed without outputs. The one that may show photos of people is left out.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image, ImageSequence
from site_pages import CHECKSUMS, PICTURES, ROOT, code_checksums

OF_PEOPLE = {"4_lfw_to_verifier"}  # photos of people are no part of the project
WIDTH = 1200  # pixels


def compressed(picture: bytes) -> tuple[str, bytes]:
    """Suffix and bytes of a picture of few colors: PNG, or WebP if it moves."""
    with Image.open(io.BytesIO(picture)) as opened:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(opened)]
        times = [frame.info.get("duration", 0) for frame in ImageSequence.Iterator(opened)]
    packed = io.BytesIO()
    if len(frames) > 1:
        packing = {"lossless": True, "method": 6, "quality": 60}
        frames[0].save(packed, "WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0, **packing)
        return ".webp", packed.getvalue()
    frames[0].thumbnail((WIDTH, WIDTH))
    frames[0].quantize(64).save(packed, "PNG", optimize=True)
    return ".png", packed.getvalue()


def pictures(notebook: Path) -> Iterator[tuple[str, str, bytes]]:
    """Cell, file name and bytes of each picture of a notebook, after running it in an empty folder."""
    content = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(content, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in content.cells:
        shown = [output.get("data", {}) for output in cell.get("outputs", ())]
        drawn = [data[kind] for data in shown for kind in ("image/gif", "image/png") if kind in data]
        for number, picture in enumerate(drawn):
            suffix, packed = compressed(b64decode(picture))
            yield cell.id, f"{notebook.stem}-{cell.id}{f'-{number + 1}' * (number > 0)}{suffix}", packed


def main() -> None:
    """Write the pictures, and the checksums of the code that drew them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    before = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")) if (folder / CHECKSUMS).is_file() else {}
    drawn: dict[str, str] = {}
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if notebook.stem not in OF_PEOPLE:
            print(notebook.stem, flush=True)
            checksums = code_checksums(notebook)
            for cell, name, packed in pictures(notebook):
                (folder / name).write_bytes(packed)
                drawn[name] = checksums[cell]
    for name in before.keys() - drawn.keys():
        (folder / name).unlink(missing_ok=True)
    (folder / CHECKSUMS).write_text(json.dumps(drawn, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
