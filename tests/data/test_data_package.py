"""What the package of data shows, and what it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from siamese_verify import data


@pytest.mark.parametrize("name", data.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(data, name) is not None


def test_what_is_loaded_late_is_exported_and_nothing_else_is_made_up() -> None:
    assert set(data.WITH_TORCH) < set(data.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        data.Nothing  # noqa: B018


@pytest.mark.parametrize(
    "module", ["siamese_verify.data", "siamese_verify.preparation.align_photos", "siamese_verify.cli.prepare"]
)
def test_prepare_and_its_processes_start_without_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
