"""The process of a run of a sweep: its environment, its ends, and that nothing of it is left."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from siamese_verify.run_record import RunRecord
from siamese_verify.sweeps.child_run import OUTPUT, pasted, run_environment, run_in_process
from tests.conftest import TINY

REPOSITORY = Path(__file__).resolve().parents[2]
Python = Callable[[str], dict[str, str]]


@pytest.fixture
def starting_with(tmp_path: Path) -> Python:
    """`starting_with(code)`: environment in which each process of Python runs `code` before anything else."""

    def prepare(code: str) -> dict[str, str]:
        (tmp_path / "start").mkdir()
        (tmp_path / "start" / "sitecustomize.py").write_text(code)
        return {"PYTHONPATH": f"{tmp_path / 'start'}{os.pathsep}{REPOSITORY}"}

    return prepare


def is_running(process: int) -> bool:
    """Whether a process runs: zombies of other parents do not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("around", "kept"),
    [
        ({"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x"}, set()),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID"}),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, set()),  # srun around the sweep
        ({"SUBMITIT_EXECUTOR": "slurm", "SLURM_NTASKS": "1"}, {"SUBMITIT_EXECUTOR"}),
        (
            {"SUBMITIT_EXECUTOR": "slurm", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
            {"SUBMITIT_EXECUTOR", "SLURM_NTASKS", "SLURM_PROCID"},  # each task starts its rank
        ),
        ({"OMPI_COMM_WORLD_RANK": "1", "PMI_RANK": "1", "CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES"}),
    ],
)
def test_a_run_is_no_rank_of_a_program_around_the_sweep(around: dict[str, str], kept: set[str]) -> None:
    assert set(run_environment({"HOME": "/home/me", **around})) == {"HOME", *kept}
    alone = run_environment({"HOME": "/home/me", **around}, alone=True)
    assert set(alone) == {"HOME", *kept} - {"SLURM_NTASKS", "SLURM_PROCID"}


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", -9, "The run was killed by SIGKILL, such as for want of memory."),
        ("import os; os.kill(os.getpid(), 11)", -11, "The run was ended by SIGSEGV."),
        ("import os; print('half a', flush=True); os._exit(3)", 3, "half a"),
        ("import os; os._exit(4)", 4, "The run ended with status 4."),
    ],
)
def test_a_run_that_ends_without_a_last_word_is_recorded_as_failed_with_the_reason(
    code: str, status: int, reason: str, starting_with: Python, tmp_path: Path
) -> None:
    RunRecord(status="finished", process=1, metrics={"val/eer": 0.1}).write(tmp_path)  # of an earlier attempt
    record = run_in_process(["seed=1"], tmp_path, starting_with(code))
    assert (record.status, record.exit_status, record.error) == ("failed", status, reason)
    assert (record.overrides, record.host) == (["seed=1"], os.uname().nodename)
    assert RunRecord.read(tmp_path) == record


def test_a_user_error_is_the_reason_of_a_run(tmp_path: Path) -> None:
    record = run_in_process(["loss.margn=1"], tmp_path / "a folder, with it's name")
    assert (record.status, record.exit_status) == ("failed", 2)
    assert record.error == "There is no setting loss.margn: did you mean loss.margin?"


STUBBORN = """
import os, signal, subprocess, time
if "SIAMESE_VERIFY_SWEEP_PROCESS" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank = subprocess.Popen(["sleep", "300"])
    print(os.getpid(), rank.pid, flush=True)
    time.sleep(300)
"""


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_that_does_not_stop_is_killed_with_all_its_processes(
    interrupted: bool, starting_with: Python, tmp_path: Path
) -> None:
    def stop() -> bool:
        started = bool((tmp_path / OUTPUT).read_text())
        if started and interrupted:
            raise KeyboardInterrupt
        return started

    environment = starting_with(STUBBORN)
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            run_in_process([], tmp_path, environment, stop=stop, grace=0.5)
    else:
        run_in_process([], tmp_path, environment, stop=stop, grace=0.5)
    record = RunRecord.read(tmp_path)
    assert (record.status, record.exit_status) == ("stopped", -signal.SIGKILL)
    assert record.error == "The run was told to stop, and was killed by SIGKILL before it did."
    processes = [int(number) for number in (tmp_path / OUTPUT).read_text().split()]
    assert len(processes) == 2
    until = time.monotonic() + 30  # the kernel takes a moment
    while (left := [process for process in processes if is_running(process)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def test_a_run_that_is_told_to_stop_is_recorded_as_stopped(starting_with: Python, tmp_path: Path) -> None:
    environment = starting_with("import time; time.sleep(300)")
    record = run_in_process([], tmp_path, environment, stop=lambda: True)
    assert (record.status, record.exit_status) == ("stopped", -signal.SIGTERM)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_run_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    overrides = [*TINY, "trainer.max_epochs=100000"]
    program = (
        "import sys; from pathlib import Path; from siamese_verify.sweeps.child_run import run_in_process;"
        f"run_in_process({overrides}, Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environment)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 60
    while not (numbers := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.05)
    (run,) = map(int, numbers)
    time.sleep(1)
    parent.kill()
    parent.wait()
    while is_running(run) and time.monotonic() < deadline:
        time.sleep(0.1)
    ended = not is_running(run)
    if not ended:
        os.killpg(run, signal.SIGKILL)
    assert ended


@pytest.mark.parametrize(
    "value", ["prepared/a-b_1.x", "prepared é/u v", "a'b", 'a"b', "a\\b", "end\\", "b\\c'\"", "a,b", "k=v", "$HOME"]
)
def test_a_pasted_override_is_the_value_again(value: str) -> None:
    (argument,) = shlex.split(pasted("data.root", value))
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert (override.key_or_group, override.value()) == ("data.root", value)
    assert pasted("resume", "runs/demo/1") == "resume=runs/demo/1"
