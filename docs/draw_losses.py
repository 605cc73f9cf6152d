"""Draws the pictures of losses.md: `python docs/draw_losses.py [folder]`, by default into docs/losses.

Nothing is drawn from a formula: losses are those of the package, slopes are autograd's through its own backward
passes, and the choices of miners are their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from siamese_verify import losses, miners
from siamese_verify.evaluation.pages.rendering import LIGHT
from siamese_verify.structures import Pairs, Triplets

SOLID, DASHED, DOTTED = "-", "--", ":"
NEGATIVES = 15  # negatives of an anchor beside the one that moves, at cosine 0
BAND, DRAWS = 0.2, 400  # of the semi-hard miner, and of the one that draws


class Curve(NamedTuple):
    """One line of a picture."""

    name: str
    color: str
    style: str
    loss: Callable[[Tensor], Tensor]  # of the distance or cosine that changes


def axis(number: int, count: int = 1) -> Tensor:
    """(count, 8) equal rows: one of eight directions that are perpendicular to each other."""
    return torch.eye(8, dtype=torch.float64)[number].expand(count, 8)


def at(cosine: Tensor | float, number: int) -> Tensor:
    """(1, 8) unit row: direction 0, turned towards another one up to this cosine."""
    return cosine * axis(0) + (1 - cosine**2) ** 0.5 * axis(number)


def pair(objective: losses.BatchLoss, distance: bool, genuine: bool, moved: Tensor) -> Tensor:
    """Two unit embeddings, so far apart or of that cosine."""
    cosine = 1 - moved**2 / 2 if distance else moved
    return objective.items(torch.cat([axis(0), at(cosine, 1)]), torch.tensor([0, 0 if genuine else 1]))[0]


def triplet(objective: losses.TripletLoss, genuine: bool, moved: Tensor) -> Tensor:
    """The positive or the negative moves, the other one stands 0.8 from the anchor."""
    near, far = (moved, 0.8) if genuine else (0.8, moved)
    rows = torch.cat([0 * axis(0), near * axis(0), far * axis(1)])
    return objective.items(rows, torch.tensor([0, 0, 1]))[0]


def anchor(objective: losses.BatchLoss, positives: int, genuine: bool, moved: Tensor) -> Tensor:
    """What one anchor costs. One positive or one negative moves, the (other) positives stand at cosine 0.5."""
    beside = positives - genuine
    rows = torch.cat([axis(0), at(moved, 1), *[at(0.5, 2)] * beside, axis(3, NEGATIVES)])
    labels = torch.tensor([0, 0 if genuine else 1, *[0] * beside, *range(2, 2 + NEGATIVES)])
    items = objective.items(rows, labels)
    return items[0] if isinstance(objective, losses.SupConLoss) else items[:positives].mean()


def query(objective: losses.QueryLoss, negatives: int, genuine: bool, moved: Tensor) -> Tensor:
    """The positive moves before negatives at cosine 0, or one negative moves and the positive stands at 0.5."""
    moving, still = at(moved, 1), axis(3, negatives - (not genuine))
    return objective.items(axis(0), moving if genuine else at(0.5, 2), still if genuine else torch.cat([moving, still]))


def crowd(people: int, genuine: bool, moved: Tensor) -> Tensor:
    """All photos move from their center, centers 1 apart; or all centers move apart, photos 0.3 from their own."""
    spread, apart = (moved, 1.0) if genuine else (0.3, moved)
    *corners, aside = torch.eye(people + 1, dtype=torch.float64)
    centers, aside = torch.stack(corners) * apart / 2**0.5, aside * spread
    rows = torch.cat([centers + aside, centers + aside, centers - aside, centers - aside])
    return losses.MagnetLoss().items(rows, torch.arange(people).repeat(4)).mean()


def classified(objective: losses.ArcFaceLoss, genuine: bool, moved: Tensor) -> Tensor:
    """One photo. Its identity's weight moves before others at cosine 0, or another moves and its own stands at 0.6."""
    two = (at(moved, 1), axis(2)) if genuine else (at(0.6, 1), at(moved, 2))
    weights = torch.cat([*two, axis(3, objective.num_identities - 2)])
    loss: Tensor = torch.func.functional_call(objective, {"weights": weights}, (axis(0), torch.tensor([0])))
    return loss


def both(loss: Callable[..., Tensor], *variants: tuple[object, ...], kinds: str = "positive / negative") -> list[Curve]:
    """Genuine curves, then impostor ones; a variant is its name, its line and what `loss` takes first."""
    return [
        Curve(f"{kind}, {name}", color, str(style), partial(loss, *given, color == LIGHT.genuine))
        for kind, color in zip(kinds.split(" / "), (LIGHT.genuine, LIGHT.impostor), strict=True)
        for name, style, *given in variants
    ]


def pictures() -> dict[str, list[Curve]]:
    """What the picture of each loss shows."""
    plain, angular = losses.ContrastiveLoss(), losses.ContrastiveLoss(distance="cosine")
    narrow, wide = losses.CosinePairLoss(0.3), losses.CosinePairLoss(0)
    squared, hinge, soft = losses.TripletLoss(squared=True), losses.TripletLoss(), losses.TripletLoss(soft=True)
    sharp, blunt, sup_con = losses.NTXentLoss(0.1), losses.NTXentLoss(0.5), losses.SupConLoss(0.1)
    choice, in_batch = losses.InfoNCELoss(), losses.InBatchNegatives(losses.InfoNCELoss(0.1))
    arc, cos = (
        [(f"margin {m:g}", style, kind(100, 32.0, m, 8)) for m, style in ((margin, SOLID), (0, DASHED))]
        for kind, margin in ((losses.ArcFaceLoss, 0.3), (losses.CosFaceLoss, 0.2))
    )
    pairs, weights = {"kinds": "genuine / impostor"}, {"kinds": "own identity / another's"}
    return {
        "contrastive": both(pair, ("euclidean", SOLID, plain, True), ("cosine", DASHED, angular, True), **pairs),
        "cosine_pair": both(pair, ("margin 0.3", SOLID, narrow, False), ("margin 0", DASHED, wide, False), **pairs),
        "triplet": both(triplet, ("squared", SOLID, squared), ("plain", DASHED, hinge), ("soft", DOTTED, soft)),
        "nt_xent": both(anchor, ("t = 0.1", SOLID, sharp, 1), ("t = 0.5", DASHED, blunt, 1)),
        "sup_con": both(anchor, ("SupCon", SOLID, sup_con, 3), ("InfoNCE", DASHED, in_batch, 3)),
        "info_nce": both(query, ("K = 16", SOLID, choice, 16), ("K = 4,096", DASHED, choice, 4096)),
        "nce": both(query, ("t = 0.1", SOLID, losses.NCELoss(0.1), 1), ("t = 1", DASHED, losses.NCELoss(1), 1)),
        "magnet": both(crowd, ("2 people", SOLID, 2), ("32 people", DASHED, 32), kinds="photos / centers"),
        "arc_face": both(classified, *arc, **weights),
        "cos_face": both(classified, *cos, **weights),
    }


def style_axes(axes: Axes, title: str = "") -> None:
    """Set title, grid and colors of a panel."""
    axes.set_title(title, loc="left", color=LIGHT.ink, fontsize=12)
    axes.grid(True, color=LIGHT.faint, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=LIGHT.ink, length=0, labelsize=11)
    axes.spines[:].set_visible(False)
    axes.xaxis.label.set(color=LIGHT.ink, fontsize=12)


def draw(curves: list[Curve], along: str) -> Figure:
    """Draw a loss above its slope, along the distance or the cosine."""
    figure = Figure(figsize=(5, 5.6), dpi=150, facecolor=LIGHT.ground)  # narrow: its words stay large on a phone
    panels = figure.subplots(2, 1, sharex=True)
    first, last = (0, 2) if along == "distance" else (-1, 1)
    for curve in curves:
        places = torch.linspace(first + 2e-3, last - 2e-3, 101, dtype=torch.float64).requires_grad_()
        values = []
        for moved in places.unbind():
            loss = curve.loss(moved)
            values.append([loss.item(), torch.autograd.grad(loss.sum(), moved)[0].item()])
        for axes, heights in zip(panels, np.transpose(values), strict=True):
            axes.plot(places.detach(), heights, curve.style, color=curve.color, linewidth=2.2, label=curve.name)
    for axes, title in zip(panels, ("loss", f"its slope by the {along}"), strict=True):
        style_axes(axes, title)
        axes.axhline(0, color=LIGHT.ink, linewidth=0.8, zorder=1)
    panels[1].set(xlabel=along, xticks=np.linspace(first, last, 5))
    keys = panels[0].get_legend_handles_labels()
    figure.legend(*keys, loc="upper left", ncols=2, frameon=False, labelcolor=LIGHT.ink, fontsize=11)
    figure.subplots_adjust(left=0.11, right=0.97, bottom=0.1, top=0.93 - 0.0225 * len(curves), hspace=0.22)
    return figure


def draw_miners() -> Figure:
    """Draw what each miner chooses for one anchor, on the axis of its distances."""
    generator = torch.Generator().manual_seed(8)
    labels = torch.arange(24).repeat_interleave(3)
    rows = torch.nn.functional.normalize(torch.randn(24, 8, generator=generator)).repeat_interleave(3, dim=0)
    rows = torch.nn.functional.normalize(rows + 0.28 * torch.randn(rows.shape, generator=generator))
    distance = (rows - rows[0]).norm(dim=1).numpy()
    strategies: dict[str, Callable[[Tensor, Tensor], Pairs | Triplets]] = {
        "AllPairs, AllTriplets": miners.AllTriplets(),
        "BatchHard": miners.BatchHard(),
        f"SemiHard, margin {BAND:g}": miners.SemiHard(BAND),
        f"DistanceWeighted, {DRAWS} draws": miners.DistanceWeighted(),
        "HardPairs, ratio 1": miners.HardPairs(),
    }
    figure = Figure(figsize=(5, 5.6), dpi=150, facecolor=LIGHT.ground)
    axes = figure.add_subplot()
    for row, (name, miner) in enumerate(strategies.items()):
        axes.text(0, row - 0.3, name, color=LIGHT.ink, fontsize=12)
        draws = range(DRAWS if isinstance(miner, miners.DistanceWeighted) else 1)
        times = torch.stack([others(miner(rows, labels)).bincount(minlength=len(rows)) for _ in draws])
        share = (times > 0).double().mean(dim=0).numpy()
        for kind, color, height in ((slice(1, 3), LIGHT.genuine, row), (slice(3, None), LIGHT.impostor, row + 0.25)):
            places = distance[kind], np.full_like(distance[kind], height)
            axes.scatter(*places, s=16, facecolors=LIGHT.ground, edgecolors=color, linewidths=0.7)
            axes.scatter(*places, s=65 * share[kind] / share[kind].max(), color=color, linewidths=0)
        for place in distance[1:3] if isinstance(miner, miners.SemiHard) else ():
            axes.plot([place, place + BAND], [row, row], color=LIGHT.genuine, linewidth=1.5)
    style_axes(axes)
    axes.set(xlabel="distance from the anchor", xlim=(-0.03, 2), ylim=(4.5, -0.65))
    axes.set(xticks=np.linspace(0, 2, 5), yticks=[])
    figure.subplots_adjust(left=0.04, right=0.96, bottom=0.11, top=0.99)
    return figure


def others(tuples: Pairs | Triplets) -> Tensor:
    """(K,) rows that row 0 is compared with."""
    if isinstance(tuples, Triplets):
        return torch.cat([tuples.positive, tuples.negative])[(tuples.anchor == 0).repeat(2)]
    return torch.cat([tuples.other[tuples.anchor == 0], tuples.anchor[tuples.other == 0]])


def main() -> None:
    """Draw everything, as PNG of few colors."""
    torch.manual_seed(0)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "losses"
    folder.mkdir(parents=True, exist_ok=True)
    by_distance = ("contrastive", "triplet", "magnet")
    figures = {name: draw(lines, "distance" if name in by_distance else "cosine") for name, lines in pictures().items()}
    for name, figure in {**figures, "miners": draw_miners()}.items():
        path = folder / f"{name}.png"
        figure.savefig(path, metadata={"Software": None})
        Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)  # these tensors are too small for two
    main()
