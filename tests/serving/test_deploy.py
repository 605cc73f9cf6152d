"""The examples in docs/deploy match the server. Containers are not built."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from siamese_verify.cli.serve import add_arguments, settings_from

DEPLOY = Path(__file__).resolve().parents[2] / "docs/deploy"
LOADED: Any = OmegaConf.load(DEPLOY / "compose.yaml")
COMPOSE = LOADED["services"]["siamese-verify"]
UNIT = (DEPLOY / "siamese-verify.service").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


@pytest.mark.parametrize(
    "command",
    [
        " ".join(json.loads(re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)[-1])),
        COMPOSE["command"],
        *re.findall(r"siamese-verify (serve .+?)(?: &&.*)?$", UNIT, re.MULTILINE),
        *re.findall(r"siamese-verify (serve .+)$", (DEPLOY / "nginx.conf").read_text(), re.MULTILINE),
        *re.findall(r"siamese-verify (serve .+?) &&", (DEPLOY / "compose.yaml").read_text()),
    ],
)
def test_server_accepts_the_options(command: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    settings = settings_from(parser.parse_args(shlex.split(command)[1:]))
    for seconds in re.findall(r"(?:TimeoutStopSec=|stop_grace_period: )(\d+)", f"{UNIT}{DEPLOY / 'compose.yaml'}"):
        assert int(seconds) > settings.shutdown_seconds


def test_image_contains_the_sources() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    kept = {name.removeprefix("!") for name in ignored if name.startswith("!")}
    assert kept == {"conf", "siamese_verify", "pyproject.toml", "README.md", "LICENSE"}
    assert all((DEPLOY.parents[1] / name).exists() for name in kept)
    assert (DEPLOY / COMPOSE["build"]["context"] / COMPOSE["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "siamese-verify.service"
    path.write_text(UNIT.replace("/opt/siamese-verify/bin/siamese-verify", sys.executable))
    run = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (run.returncode, "siamese-verify.service" in run.stderr) == (0, False), run.stderr
