from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from siamese_verify.verification import late_bar as module
from siamese_verify.verification.late_bar import PATIENCE, late_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed, for the bar alone."""
    passed = [0.0]

    class Clock:
        monotonic = staticmethod(lambda: passed[0])

    monkeypatch.setattr(module, "time", Clock)
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, standard error is a terminal
    monkeypatch.setenv("TERM", "xterm")
    return passed


def test_a_bar_appears_after_two_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with late_bar("Counting sheep") as advance:
        advance(1, 10)
        assert capsys.readouterr().err == ""
        clock[0] = PATIENCE + 0.1
        advance(2, 10)
        advance(10, 10)
    shown = capsys.readouterr()
    assert "Counting sheep" in shown.err
    assert "2/10" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(("shown", "last"), [(False, 2), (True, 10)], ids=["not wanted", "done by then"])
def test_no_bar_appears(shown: bool, last: int, clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with late_bar("Counting sheep", shown) as advance:
        clock[0] = PATIENCE + 0.1
        advance(last, 10)
    assert capsys.readouterr().err == ""


def test_the_bar_goes_when_what_is_done_fails(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), late_bar("Counting sheep") as advance:
        clock[0] = PATIENCE + 0.1
        advance(1, 10)
        raise RuntimeError
    assert "\x1b[?25h" in capsys.readouterr().err  # the cursor is back


def test_what_is_no_terminal_gets_no_bar() -> None:
    program = (
        "from siamese_verify.verification import late_bar as m\nm.PATIENCE = 0\n"
        "with m.late_bar('Counting sheep') as advance:\n    advance(1, 10)\n"
    )
    folder = Path(module.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, timeout=60)
    assert (run.returncode, run.stdout) == (0, "")
    assert "sheep" not in run.stderr
