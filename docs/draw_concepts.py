"""Draw the pictures of concepts.md: `python docs/draw_concepts.py [folder]`, by default into docs/concepts.

The faces are drawn by the package, and the scores of the second picture are drawn at random.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from siamese_verify.datasets import SyntheticFaces
from siamese_verify.evaluation import verification_report
from siamese_verify.evaluation.pages.figures import draw_errors, draw_histogram, draw_roc
from siamese_verify.evaluation.pages.rendering import LIGHT


def box(axes: Axes, x: float, y: float, text: str) -> None:
    """Words in a frame with their middle at a place."""
    frame = FancyBboxPatch((x - 0.5, y - 0.27), 1, 0.54, boxstyle="round,pad=0.05", fc=LIGHT.faint, ec=LIGHT.ink)
    axes.add_patch(frame)
    axes.text(x, y, text, ha="center", va="center", fontsize=12, color=LIGHT.ink)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Where the numbers go."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": LIGHT.ink, "lw": 1.5})


def draw_network() -> Figure:
    """Two photos, one encoder, two embeddings, a score, a decision."""
    faces = SyntheticFaces(2, 2, size=112)
    figure = Figure(figsize=(8, 3), dpi=100, facecolor=LIGHT.ground)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 8), ylim=(0, 3), aspect="equal")
    axes.axis("off")
    for y, photo, numbers in ((2.2, 0, "0.13, -0.41"), (0.8, 1, "0.10, -0.38")):
        axes.imshow(np.asarray(faces[photo]), extent=(0.2, 1.3, y - 0.55, y + 0.55), interpolation="bilinear")
        box(axes, 2.5, y, "encoder")
        axes.text(4.2, y, f"embedding\n({numbers}, ...)", ha="center", va="center", fontsize=11)
        arrow(axes, (1.4, y), (1.95, y))
        arrow(axes, (3.1, y), (3.45, y))
        arrow(axes, (4.95, y), (5.45, 1.5 + 0.2 * np.sign(y - 1.5)))
    axes.text(2.5, 1.5, "the same weights", ha="center", va="center", fontsize=11, style="italic")
    box(axes, 6.0, 1.5, "cosine\n= score")
    arrow(axes, (6.6, 1.5), (6.95, 1.5))
    axes.text(7.45, 1.5, "score ≥\nthreshold?", ha="center", va="center", fontsize=12)
    axes.set(xlim=(0, 8), ylim=(0, 3))
    return figure


def draw_decision() -> Figure:
    """Scores of both kinds, both error rates by the threshold, and both by each other."""
    rng = np.random.default_rng(0)
    same = np.arange(8000) % 2 == 0
    scores = np.tanh(rng.normal(0.05, 0.22, 8000) + 0.75 * same)
    report = verification_report(scores, same)
    figure = Figure(figsize=(5.4, 10.5), dpi=90, facecolor=LIGHT.ground)  # above each other: large on a phone too
    above, middle, below = figure.subplots(3, 1)
    draw_histogram(above, report.histogram, report.threshold, "equal error at")
    draw_errors(middle, report.curve, report.threshold, "equal error at")
    draw_roc(below, {"these scores": report.curve})
    figure.tight_layout(h_pad=2)
    return figure


def main() -> None:
    """Write both, as PNG of few colors."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "concepts"
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in {"siamese": draw_network(), "decision": draw_decision()}.items():
        path = folder / f"{name}.png"
        figure.savefig(path, metadata={"Software": None})
        Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
