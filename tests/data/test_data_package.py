"""What the package of data exports, and what importing it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from siamese_verify import data


@pytest.mark.parametrize("name", data.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(data, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        data.Nothing  # noqa: B018


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("siamese_verify.preparation.align_photos", "torch"),
        ("siamese_verify.cli.prepare", "torch"),
        ("siamese_verify.data", "pytorch_lightning"),
    ],
)
def test_commands_start_without_what_they_do_not_use(module: str, unused: str) -> None:
    program = f"import sys, {module}; print({unused!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
