from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.verification.terminal import WIDEST, encode, protocol_of, show

TRUE = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


def picture(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app", "COLORTERM": "truecolor"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm", "TERM_PROGRAM": "mintty"}, "iterm"),
        (TRUE, "blocks"),
        ({**TRUE, "COLORTERM": "24bit"}, "blocks"),
        ({**TRUE, "TERM_PROGRAM": "vscode"}, "blocks"),
        ({**TRUE, "TERM": "tmux-256color", "TMUX": "/tmp/x", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({**TRUE, "TERM": "screen-256color", "TMUX": "/tmp/x", "LC_TERMINAL": "iTerm2"}, "blocks"),
        ({"TERM": "screen-256color", "TMUX": "/tmp/x", "KITTY_WINDOW_ID": "1"}, None),
        ({**TRUE, "TERM": "screen.xterm-256color", "STY": "1.x", "KITTY_WINDOW_ID": "1"}, None),
        ({**TRUE, "TERM": "screen"}, None),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, None),
        ({}, None),
    ],
)
def test_a_terminal_is_known_by_its_environment(environment: dict[str, str], protocol: str | None) -> None:
    assert protocol_of(environment, True) == protocol
    assert protocol_of(environment, False) is None


def test_kitty_gets_the_picture_in_chunks_that_it_accepts() -> None:
    text = encode(picture(), "kitty", 33)
    commands = re.findall("\x1b_G([^;]*);([^\x1b]*)\x1b\\\\", text)
    assert "".join(f"\x1b_G{keys};{chunk}\x1b\\" for keys, chunk in commands) + "\n" == text
    assert len(commands) > 1
    first = dict(key.split("=") for key in commands[0][0].split(","))
    assert first == {"a": "T", "f": "100", "q": "2", "c": "33", "m": "1"}
    assert [keys for keys, _ in commands[1:]] == ["m=1"] * (len(commands) - 2) + ["m=0"]
    assert all(len(chunk) <= 4096 for _, chunk in commands)
    assert all(len(chunk) % 4 == 0 for _, chunk in commands)
    assert_is_the_picture(base64.b64decode("".join(chunk for _, chunk in commands), validate=True))


def test_a_small_picture_is_one_command_for_kitty() -> None:
    assert re.fullmatch("\x1b_Ga=T,f=100,q=2,c=5,m=0;[^\x1b]*\x1b\\\\\n", encode(picture(2, 2), "kitty", 5))


def test_iterm_gets_the_picture_as_an_inline_file() -> None:
    found = re.fullmatch("\x1b\\]1337;File=([^:]*):([^\x07]*)\x07\n", encode(picture(), "iterm", 33))
    assert found
    keys = dict(key.split("=") for key in found[1].split(";"))
    content = base64.b64decode(found[2], validate=True)
    assert keys == {
        "inline": "1",
        "size": str(len(content)),
        "width": "33",
        "height": "auto",
        "preserveAspectRatio": "1",
    }
    assert_is_the_picture(content)


def assert_is_the_picture(content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as found:
        assert found.format == "PNG"
        np.testing.assert_array_equal(np.asarray(found), np.asarray(picture()))


def drawn(text: str) -> np.ndarray:
    """What half blocks look like, a pixel each."""
    rows: list[list[tuple[int, ...]]] = []
    for line in text.splitlines():
        assert line.endswith("\x1b[0m")
        upper: list[tuple[int, ...]] = []
        lower: list[tuple[int, ...]] = []
        colours: tuple[int, ...] = ()
        for part in re.findall("\x1b\\[[0-9;]*m|.", line.removesuffix("\x1b[0m")):
            if part == "▀":
                upper.append(colours[:3])
                lower.append(colours[3:])
            else:
                numbers = tuple(map(int, part[2:-1].split(";")))
                assert (numbers[:2], numbers[5:7], len(numbers)) == ((38, 2), (48, 2), 10)
                colours = (*numbers[2:5], *numbers[7:])
        rows += [upper, lower]
    return np.array(rows, dtype=np.uint8)


def test_half_blocks_show_every_pixel_of_a_picture_that_fits() -> None:
    np.testing.assert_array_equal(drawn(encode(picture(), "blocks", 60)), np.asarray(picture()))


def test_half_blocks_keep_the_shape_of_a_larger_picture() -> None:
    assert drawn(encode(picture(300, 200), "blocks", 30)).shape == (20, 30, 3)
    assert drawn(encode(picture(200, 2), "blocks", 10)).shape == (2, 10, 3)


def test_a_plain_picture_sets_its_colour_once_a_line() -> None:
    text = encode(Image.new("L", (40, 20), 77), "blocks", 40)
    assert text.count("\x1b[38") == 10
    assert (drawn(text) == 77).all()


@pytest.mark.parametrize("protocol", ["kitty", "iterm", "blocks"])
@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "CMYK"])
def test_pictures_of_any_mode_are_shown(protocol: str, mode: str) -> None:
    assert encode(picture().convert(mode), protocol, 10)  # type: ignore[arg-type]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="not 0"):
        encode(picture(), "kitty", 0)
    with pytest.raises(InputError, match="not by 'sixel'"):
        encode(picture(), "sixel", 10)  # type: ignore[arg-type]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_written_to_what_is_no_terminal_or_cannot_show_it() -> None:
    for stream, environment in ((io.StringIO(), TRUE), (Terminal(), {"TERM": "xterm"})):
        assert not show(picture(), stream, environment)
        assert stream.getvalue() == ""


def test_a_picture_is_as_wide_as_the_terminal_but_not_wider_than_is_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, width in (("50", 50), ("400", WIDEST)):
        monkeypatch.setenv("COLUMNS", columns)
        stream = Terminal()
        assert show(picture(), stream, TRUE)
        assert drawn(stream.getvalue()).shape[1] == width
