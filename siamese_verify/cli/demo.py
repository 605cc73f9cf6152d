"""`siamese-verify demo`: train on synthetic faces, then verify two pairs of photos."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from siamese_verify.atomic_write import atomic_open
from siamese_verify.cli.user_errors import report_user_errors
from siamese_verify.datasets import SyntheticFaces

FIRST_UNSEEN = 2_000_000  # first synthetic person in neither training nor protocol


def draw_photos(folder: Path) -> dict[str, Path]:
    """Draw two photos of one person and one of another, as PNG files."""
    faces = SyntheticFaces(identities=2, images=2, first=FIRST_UNSEEN)
    folder.mkdir(parents=True, exist_ok=True)
    photos = {}
    for name, row in (("anna-1", 0), ("anna-2", 1), ("berta", 2)):
        photos[name] = folder / f"{name}.png"
        with atomic_open(photos[name]) as file:
            faces[row].save(file, "PNG")
    return photos


@report_user_errors
def main(overrides: list[str]) -> None:
    """Train with `overrides`, then verify a genuine and an impostor pair, each by the commands a user would type."""
    command = [sys.executable, "-m", "siamese_verify.cli.main"]
    run = Path("runs/demo") / time.strftime("%Y-%m-%d_%H-%M-%S")
    code = subprocess.run([*command, "train", "experiment=demo", f"hydra.run.dir={run}", *overrides]).returncode
    if code:
        raise SystemExit(code)
    if not (run / "bundle").is_dir():
        return  # Hydra only printed something, as --help does
    photos = draw_photos(run / "photos")
    console = Console(soft_wrap=True, highlight=False)
    for title, other in (("A genuine pair", "anna-2"), ("An impostor", "berta")):
        arguments = ["verify", str(photos["anna-1"]), str(photos[other]), "--model", str(run), "--far", "1e-2"]
        console.print(f"\n[bold]{title}[/bold]\n$ siamese-verify {' '.join(arguments)}")
        code = subprocess.run([*command, *arguments]).returncode
        if code not in (0, 1, 3):  # the same, different, inconclusive
            raise SystemExit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
