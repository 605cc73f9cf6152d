"""The sheet that a picture is drawn on, with text of any script and length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from siamese_verify.evaluation.pages.palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 11.0, 150  # inches, pixels per inch
EDGE = 0.4  # inches around everything
FALLBACKS = (  # for names in scripts that DejaVu Sans does not have, where they are installed
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans CJK KR",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
    "Noto Sans Devanagari",
    "Noto Sans Hebrew",
    "Noto Sans Thai",
)


class Sheet:
    """Places things on a figure by inches from its upper left corner."""

    def __init__(self, figure: Figure, height: float) -> None:
        from matplotlib import font_manager
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.figure, self.height = figure, height
        self._renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        installed = {font.name: font.fname for font in font_manager.fontManager.ttflist}
        self.families = ["DejaVu Sans", *(name for name in FALLBACKS if name in installed)]
        self._known: set[int] = set()
        for name in self.families:
            self._known |= set(font_manager.get_font(installed[name]).get_charmap())

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Make room for a drawing, in inches."""
        bounds = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        return self.figure.add_axes(bounds, facecolor=LIGHT.ground)

    def write(
        self, left: float, top: float, text: str, size: float, colour: str = LIGHT.ink, room: float = 0, **how: Any
    ) -> None:
        """Write one line; names may hold dollars, which are no formula, and signs that no font has.

        Args:
            left: inches from the left, of where the text is aligned.
            top: inches from above, of its middle.
            text: of any length; line breaks become blanks.
            size: in points.
            colour: of the text.
            room: inches; the middle of what is wider is left out. 0 for as much as there is.
            how: for matplotlib.
        """
        shown = "".join(sign if ord(sign) in self._known else "\u25a1" for sign in " ".join(text.split()))
        how = {"fontsize": size, "color": colour, "family": self.families, "parse_math": False, "va": "center", **how}
        line = self.figure.text(left / WIDTH, 1 - top / self.height, shown, **how)
        room = room or WIDTH - EDGE - left
        while (width := line.get_window_extent(self._renderer).width / DPI) > room and len(shown) > 1:
            shown = shortened(shown, min(len(shown) - 1, math.ceil(len(shown) * room / width)))
            line.set_text(shown)


def shortened(name: str, most: int) -> str:
    """Leave the middle of a name out if it has more than `most` signs; its end tells files apart."""
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"
