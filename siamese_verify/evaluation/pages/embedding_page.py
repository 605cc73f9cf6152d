"""Pictures of embeddings: maps, neighbors of each photo, scores over the epochs; as images and as one page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedLocator
from PIL import Image, ImageDraw

from siamese_verify.evaluation.pages.page import data_uri, fill_template
from siamese_verify.evaluation.pages.rendering import LIGHT, ReportFigure, percent_label, render_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from siamese_verify.evaluation.embedding_map import EmbeddingMap, NeighborStrip
    from siamese_verify.evaluation.score_history import EpochScores

TILE = 64  # pixels of a picture: a multiple of a JPEG's blocks, so that neighbors on the sheet do not mix
FRAME = 4  # pixels around a picture among neighbors
MARKERS = "osD^vPX"
NAMED = 10  # identities that a legend names
RIDGES = 12  # validations that are drawn
# Okabe & Ito, "Color Universal Design", 2008, and others between them; with the markers, 70 identities differ.
COLORS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#a6a100",
    "#7b4fc9",
    "#8c564b",
    "#e7298a",
)
TEXTS = {
    "pca": (
        "Principal components",
        "The plane through the embeddings that shows most of their variance. Point at a dot to see its photo.",
    ),
    "umap": (
        "UMAP",
        "Photos with similar embeddings are close together; distances between groups mean little. "
        "Point at a dot to see its photo.",
    ),
    "score_history": (
        "Scores over the epochs",
        "Scores of genuine and impostor pairs of the validation people, epoch by epoch. Learning pulls them apart.",
    ),
}


def draw_map(axes: Axes, found: EmbeddingMap, identities: Sequence[str]) -> None:
    """Draw a map, a dot for each row in the color and shape of its identity.

    Args:
        axes: to draw on.
        found: N points.
        identities: N names.
    """
    names, numbers = np.unique(np.asarray(identities, dtype=str), return_inverse=True)
    colors = np.array(COLORS)[numbers % len(COLORS)]
    size = float(np.clip(12_000 / len(numbers), 8, 40))
    for shape, marker in enumerate(MARKERS):  # a few collections instead of one for each identity
        # Ten identities differ by color, the next ten by the next shape.
        rows = (numbers // len(COLORS)) % len(MARKERS) == shape
        x, y = found.points[rows].T
        axes.scatter(x, y, s=size, c=colors[rows], marker=marker, linewidths=0, alpha=0.8)
    if len(names) <= NAMED:
        for number, name in enumerate(names):
            label = f"\u200b{name}" if name.startswith("_") else name  # matplotlib leaves others out
            axes.scatter([], [], s=30, c=COLORS[number], label=label)
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelbottom=found.shares is not None, labelleft=found.shares is not None)
    labels = ("first", "second") if found.shares else ("", "")
    for axis, label, share in zip((axes.xaxis, axes.yaxis), labels, found.shares or (0, 0), strict=True):
        axis.set_label_text(f"{label} component ({percent_label(share)} of the variance)" if label else "")


def draw_score_history(axes: Axes, history: Sequence[EpochScores]) -> None:
    """Draw the distributions of genuine and impostor scores of some epochs below each other, the first one on top."""
    chosen = [history[place] for place in np.unique(np.linspace(0, len(history) - 1, RIDGES).round().astype(int))]
    for number, one in enumerate(chosen):
        edges, low = one.histogram.edges, -1.0 * number
        kinds = (one.histogram.impostors, "impostor", LIGHT.impostor), (one.histogram.genuine, "genuine", LIGHT.genuine)
        for counts, label, color in kinds:
            heights = low + 0.9 * counts / max(1, counts.max())
            axes.stairs(
                heights, edges, baseline=low, fill=True, color=color, alpha=0.35, label=None if number else label
            )
            axes.stairs(heights, edges, baseline=low, color=color, linewidth=1)
    axes.yaxis.set_major_locator(FixedLocator([-1.0 * number for number in range(len(chosen))]))
    axes.set_yticklabels([str(one.epoch + 1) for one in chosen])
    axes.set_ylim(0.9 - len(chosen), 1 + 0.08 * (len(chosen) + 1))  # room for the legend
    axes.set_xlabel("score (higher: more alike)")
    axes.set_ylabel("epoch")
    axes.legend(frameon=False, labelcolor=LIGHT.ink, loc="upper left", ncols=2, fontsize=9)


def map_figure(found: EmbeddingMap, identities: Sequence[str]) -> ReportFigure:
    """Draw a map of N points whose identities have N names; few identities are named in a legend."""
    few = len(set(identities)) <= NAMED
    return render_figure(found.name, *TEXTS[found.name], lambda axes: draw_map(axes, found, identities), legend=few)


def history_figure(history: Sequence[EpochScores]) -> ReportFigure:
    """Draw the scores of the validations of a run."""
    return render_figure("score_history", *TEXTS["score_history"], lambda axes: draw_score_history(axes, history))


def tile_of(picture: Image.Image) -> Image.Image:
    """A picture scaled to `TILE` x `TILE` pixels; of small ones without blur."""
    smooth = min(picture.size) >= TILE
    return picture.convert("RGB").resize((TILE, TILE), Image.Resampling.BOX if smooth else Image.Resampling.NEAREST)


def neighbor_picture(strips: Sequence[NeighborStrip], tiles: Sequence[Image.Image]) -> Image.Image:
    """Return rows with their neighbors as one image: the photo on the left, wrong neighbors in a frame.

    Args:
        strips: S of them, drawn below each other.
        tiles: pictures by row, as `tile_of` makes them.
    """
    side, columns = TILE + 2 * FRAME, 1 + max((len(strip.neighbors) for strip in strips), default=0)
    sheet = Image.new("RGB", (columns * side + 2 * FRAME, max(1, len(strips)) * side), LIGHT.ground)
    draw = ImageDraw.Draw(sheet)
    for number, strip in enumerate(strips):
        for column, (row, wrong) in enumerate(zip((strip.row, *strip.neighbors), (None, *strip.wrong), strict=True)):
            x, y = column * side + (2 * FRAME if column else 0), number * side
            if wrong is not None:
                draw.rectangle([x + 1, y + 1, x + side - 2, y + side - 2], LIGHT.impostor if wrong else LIGHT.faint)
            sheet.paste(tiles[row], (x + FRAME, y + FRAME))
    return sheet


def sprite_sheet(tiles: Sequence[Image.Image]) -> tuple[str, int]:
    """Return all tiles on one JPEG as a data URI, and how many are side by side."""
    columns = max(1, int(np.ceil(np.sqrt(len(tiles)))))
    sheet = Image.new("RGB", (columns * TILE, max(1, -(-len(tiles) // columns)) * TILE))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * TILE, number // columns * TILE))
    content = io.BytesIO()
    sheet.save(content, format="JPEG", quality=80)
    return data_uri(content.getvalue(), "jpeg"), columns


def render_embeddings(
    title: str,
    maps: Sequence[tuple[EmbeddingMap, ReportFigure]],
    history: ReportFigure | None,
    strips: Sequence[NeighborStrip],
    names: Sequence[str],
    identities: Sequence[str],
    tiles: Sequence[Image.Image] | None,
    shown: int,
    sentences: Sequence[str],
) -> str:
    """Return the page that shows what a network has learned.

    Args:
        title: heading.
        maps: of the N photos, each with its figure.
        history: scores over the epochs, None if they are unknown.
        strips: of all N photos, the worst first.
        names: of the photos.
        identities: of the photos, by name.
        tiles: pictures of the photos; None leaves pictures out.
        shown: strips to list.
        sentences: what is shown and what was left out.
    """
    sheet, columns = sprite_sheet(tiles) if tiles is not None else ("", 1)
    order = sorted(range(len(strips)), key=lambda place: strips[place].row)
    points = {}
    for found, figure in maps:
        low_x, high_x = figure.axes["x"]
        low_y, high_y = figure.axes["y"]
        left, top, right, bottom = figure.axes["box"]
        x = left + (found.points[:, 0] - low_x) / (high_x - low_x) * (right - left)
        y = bottom - (found.points[:, 1] - low_y) / (high_y - low_y) * (bottom - top)
        points[found.name] = np.stack([x, y], axis=1).round(1).tolist()
    numbers: dict[str, Any] = {
        "names": list(names),
        "identities": list(identities),
        "pictures": tiles is not None,
        "columns": columns,
        "tile": TILE,
        "worst": strips[0].row,
        "points": points,  # in the units of the figures
        "neighbors": [strips[place].neighbors for place in order],
        "scores": [[round(score, 3) for score in strips[place].scores] for place in order],
    }
    return fill_template(
        "embeddings.html.j2",
        script_file="embeddings.js",
        title=title,
        plots=[figure for _, figure in maps],
        history=history,
        strips=strips[:shown],
        names=names,
        identities=identities,
        people=sorted(set(identities)),
        sheet=sheet,
        columns=columns,
        rows=-(-len(names) // columns),
        tile=TILE,
        sentences=sentences,
        numbers=numbers,
    )
