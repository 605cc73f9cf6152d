"""Pictures within a terminal, for those that can show them."""

from __future__ import annotations

import base64
import io
import os
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TextIO

import numpy as np

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Graphics = Literal["kitty", "iterm", "blocks"]

ESCAPE, BELL = "\x1b", "\x07"
KITTY_CHUNK = 4096  # base64 characters in one command, by the protocol's rules
WIDEST = 120  # columns: a wider picture is not clearer, and scrolls away what was above it
KITTY = ("kitty", "ghostty")
ITERM = ("iTerm.app", "WezTerm", "mintty")


def protocol_of(environment: Mapping[str, str], is_tty: bool) -> Graphics | None:
    """Say how a terminal shows pictures.

    Args:
        environment: its variables.
        is_tty: whether standard output is a terminal.

    Returns:
        `kitty`: kitty's graphics protocol; `iterm`: inline images of iTerm2; `blocks`: half blocks in 24-bit colour;
        None: not at all. tmux swallows the first two; screen does not know 24-bit colours either.
    """
    terminal, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if not is_tty or terminal == "dumb":
        return None
    within_tmux = "TMUX" in environment or program == "tmux" or terminal.startswith("tmux")
    if "STY" in environment or (terminal.startswith("screen") and not within_tmux):
        return None
    if not within_tmux:
        if "KITTY_WINDOW_ID" in environment or terminal in [f"xterm-{name}" for name in KITTY] or program in KITTY:
            return "kitty"
        if program in ITERM or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm"
    return "blocks" if environment.get("COLORTERM") in ("truecolor", "24bit") else None


def encode(image: Image.Image, protocol: Graphics, columns: int) -> str:
    """Turn a picture into what a terminal shows as that picture, the cursor below it afterwards.

    Args:
        image: in any mode of Pillow's.
        protocol: see `protocol_of`.
        columns: of text that the picture is wide, >= 1; its height follows.

    Raises:
        InputError: fewer columns, or another protocol.
    """
    if columns < 1:
        raise InputError(f"A picture in a terminal is one column wide or more, not {columns}.")
    if protocol == "kitty":
        return _kitty(image, columns)
    if protocol == "iterm":
        return _iterm(image, columns)
    if protocol == "blocks":
        return _blocks(image, columns)
    raise InputError(f"A terminal shows pictures by kitty, iterm or blocks, not by {protocol!r}.")


def show(image: Image.Image, stream: TextIO | None = None, environment: Mapping[str, str] | None = None) -> bool:
    """Show a picture where the terminal can.

    Args:
        image: in any mode of Pillow's.
        stream: standard output by default.
        environment: that of this process by default.

    Returns:
        Whether it was shown.
    """
    stream = sys.stdout if stream is None else stream
    protocol = protocol_of(os.environ if environment is None else environment, stream.isatty())
    if protocol is None:
        return False
    stream.write(encode(image, protocol, min(shutil.get_terminal_size().columns, WIDEST)))
    stream.flush()
    return True


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return file.getvalue()


def _kitty(image: Image.Image, columns: int) -> str:
    content = base64.b64encode(_png(image)).decode()
    chunks = [content[start : start + KITTY_CHUNK] for start in range(0, len(content), KITTY_CHUNK)]
    commands = []
    for number, chunk in enumerate(chunks):
        # a=T: show at once; f=100: PNG; q=2: answer nothing, which would land in the shell's input.
        keys = [f"a=T,f=100,q=2,c={columns}"] if number == 0 else []
        keys.append(f"m={int(number < len(chunks) - 1)}")
        commands.append(f"{ESCAPE}_G{','.join(keys)};{chunk}{ESCAPE}\\")
    return "".join(commands) + "\n"


def _iterm(image: Image.Image, columns: int) -> str:
    content = _png(image)
    keys = f"inline=1;size={len(content)};width={columns};height=auto;preserveAspectRatio=1"
    return f"{ESCAPE}]1337;File={keys}:{base64.b64encode(content).decode()}{BELL}\n"


def _blocks(image: Image.Image, columns: int) -> str:
    """Two pixels to a character: the upper one its foreground, the lower one its background."""
    rows = max(1, round(columns * image.height / image.width / 2))
    pixels = np.asarray(image.convert("RGB").resize((columns, 2 * rows)))
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        cells = []
        before: tuple[list[int], list[int]] | None = None
        for top, bottom in zip(upper, lower, strict=True):
            if (top, bottom) != before:
                colours = ";".join(map(str, (38, 2, *top, 48, 2, *bottom)))
                cells.append(f"{ESCAPE}[{colours}m")
                before = top, bottom
            cells.append("▀")
        lines.append("".join(cells) + f"{ESCAPE}[0m\n")
    return "".join(lines)
