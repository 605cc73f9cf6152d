"""The colours of the figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """Colours that keep their contrast on one ground; the two kinds stay apart for colour-blind readers."""

    ground: str
    ink: str
    faint: str
    genuine: str
    impostor: str


LIGHT = Palette("#ffffff", "#1d2733", "#d5dbe3", "#1769c2", "#d9591a")
