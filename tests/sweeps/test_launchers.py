"""Sweeps from the command line through each launcher, some runs of which break."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from siamese_verify.run_record import RunRecord
from tests.conftest import SMALL_BATCHES, TINY

REPOSITORY = Path(__file__).resolve().parents[2]
DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.sync_batchnorm=false")
PROBE = "+callbacks.probe={_target_: tests.sweeps.breaking_runs.Probe, crash: 0.3, kill: 0.4}"
LAUNCHERS = {
    "local": ("hydra.launcher.runs_at_once=2",),
    "joblib": ("hydra.launcher.n_jobs=2",),
    "submitit_local": (),
    "ray": ("+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"),
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals and process groups")]


def start(folder: Path, launcher: str, *overrides: str) -> subprocess.Popen[str]:
    """Start a sweep in `folder/sweep`, in a process group of its own; skip where the launcher is not installed."""
    if launcher != "local" and not find_spec(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"):
        pytest.skip(f"the plugin of hydra/launcher={launcher} is not installed")
    command = [sys.executable, "-m", "siamese_verify.cli.main", "train", "-m", *TINY, *SMALL_BATCHES, *overrides]
    return subprocess.Popen(
        [*command, f"hydra/launcher={launcher}", *LAUNCHERS[launcher], "hydra.sweep.dir=sweep"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that name a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it ended
    return [line for line in lines if str(folder) in line]


def read_ranks(run: Path) -> list[dict[str, float]]:
    return [json.loads(path.read_text()) for path in sorted(run.glob("rank_*.json"))]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_of_a_run_agree_and_broken_runs_do_not_end_the_sweep(launcher: str, tmp_path: Path) -> None:
    killed = r"(The run was killed by SIGKILL, such as for want of memory\.|Rank 0 has ended: .*)"  # who sees it first
    own = r"This was raised in code of your own: .*, line \d+ of .*breaking_runs\.py\."
    broken = {**({0.3: rf"RuntimeError: this run has a bug\. {own}"} if launcher == "local" else {}), 0.4: killed}
    margins = [*broken, 0.2]
    ranks = DDP if launcher == "submitit_local" else ()  # the others leave their runs no variables of a cluster
    swept = f"loss.margin={','.join(map(str, margins))}"
    sweep = start(tmp_path, launcher, *ranks, "trainer.max_epochs=1", PROBE, swept)
    out, err = sweep.communicate(timeout=1000)
    assert sweep.returncode == 1, out + err
    reasons = "; ".join(f"{number}: {reason}" for number, reason in enumerate(broken.values()))
    assert re.fullmatch(rf"{len(broken)} of {len(margins)} runs failed: {reasons}", err.splitlines()[-1]), err
    assert "Traceback" not in out + err
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]  # no rank swept by itself
    assert f"Best run by val/eer, in which the test has no part: {len(broken)} " in out
    assert (tmp_path / "sweep" / "sweep.csv").read_text().count("\n") == 1 + len(margins)
    page = (tmp_path / "sweep" / "sweep.html").read_text()
    assert all(re.search(reason, page) for reason in broken.values())
    for number, margin in enumerate(margins):
        run = tmp_path / "sweep" / str(number)
        record = RunRecord.read(run)
        assert record.configuration["loss"]["margin"] == margin
        assert record.status == ("failed" if margin in broken else "finished")
        if record.status == "finished":
            count = 2 if ranks else 1
            assert read_ranks(run) == count * [{"margin": margin, "ranks": count}]
            assert 0 <= record.metrics["val/eer"] <= 1
    assert not processes_of(tmp_path)


@pytest.mark.parametrize(
    ("launcher", "number", "whole_group", "status"),
    [("local", signal.SIGTERM, False, 75), ("joblib", signal.SIGINT, True, 130)],
)
def test_a_signal_stops_the_runs_of_a_sweep_which_write_their_checkpoints(
    launcher: str, number: signal.Signals, whole_group: bool, status: int, tmp_path: Path
) -> None:
    sweep = start(tmp_path, launcher, "trainer.max_epochs=100000", "loss.margin=0.2,0.5,0.6")
    first = [tmp_path / "sweep" / str(run) for run in range(2)]
    deadline = time.monotonic() + 300
    while not all(has_validated(run) for run in first):
        assert sweep.poll() is None, sweep.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (os.killpg if whole_group else os.kill)(sweep.pid, number)
    out, err = sweep.communicate(timeout=120)
    assert sweep.returncode == status, out + err
    assert "Traceback" not in out + err
    assert err.splitlines()[-1].startswith(f"Stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}: 0 of ")
    for run in first:
        assert RunRecord.read(run).status == "stopped"
        assert (run / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "sweep" / "2" / "run.json").exists()
    assert not processes_of(tmp_path)


def has_validated(run: Path) -> bool:
    return (run / "run.json").exists() and bool(RunRecord.read(run).history)
