"""One run of a sweep as a training in a process of its own: started, watched, and ended with all of its ranks."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from siamese_verify.run_record import RunRecord, Status, record_of

OUTPUT = "output.log"  # what the process of a run printed
PARENT = "SIAMESE_VERIFY_SWEEP_PROCESS"  # for a run: the process that started it
STOPPED = (75, 130, -signal.SIGTERM, -signal.SIGINT)  # exit statuses of a training that was asked to stop
GRACE = 60.0  # seconds in which a run that is asked to stop finishes its step and writes its checkpoint
POLL = 0.2
PR_SET_PDEATHSIG = 1

# A run starts its own ranks. By these, those of torchrun, SLURM, LSF or MPI around the sweep would be taken for them.
CLUSTER = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")
CLUSTER_PREFIXES = ("LOCAL_WORLD_", "GROUP_RANK", "GROUP_WORLD_", "ROLE_RANK", "ROLE_WORLD_", "TORCHELASTIC_")
SCHEDULERS = ("SLURM_N", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_NAME", "JSM_NAMESPACE_", "LSB_", "OMPI_", "PMI")


def run_in_process(
    overrides: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    flags: Sequence[str] = (),
    cwd: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    grace: float = GRACE,
    alive: BinaryIO | None = None,
    alone: bool = False,
) -> RunRecord:
    """Train in a new process and session, and wait for its end.

    The process group is ended with it: no rank outlives its run. What it prints is in `output.log` of its folder.

    Args:
        overrides: of the configuration, as on the command line.
        folder: of the run.
        environment: variables beside those of this process; `run_environment` leaves out those of a cluster.
        flags: of Hydra, such as --config-dir.
        cwd: folder that relative paths start from; None for that of this process.
        stop: asked five times a second; once it is true the run is told to stop by SIGTERM, as it is when this call is
            interrupted by an exception, such as KeyboardInterrupt, which is raised again.
        grace: seconds from then until it is killed.
        alone: the run starts all of its processes itself, even in a job whose tasks would start one each.
        alive: claim that the process inherits, see `siamese_verify.run_lock`.

    Returns:
        The record of the run, which is `failed` with its reason if the process ended without a last word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank = 0 if alone else task_rank()
    arguments = [*flags, *overrides, f"hydra.run.dir={quoted(str(folder.resolve()))}"]
    if rank:  # as Lightning starts its other ranks
        arguments.append("hydra.output_subdir=null")
    began, started = time.monotonic(), datetime.now().astimezone().isoformat(timespec="seconds")
    variables = {**run_environment(os.environ, alone), **(environment or {}), PARENT: str(os.getpid())}
    printed = folder / (f"output_{rank}.log" if rank else OUTPUT)
    with printed.open("ab") as output:
        beginning = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "siamese_verify.cli.main", "train", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=cwd,
            start_new_session=True,
            pass_fds=[alive.fileno()] if alive and os.name == "posix" else [],
        )
    told = None  # when
    try:
        while (status := wait(process, POLL)) is None:
            if told is None and stop():
                told = time.monotonic()
                signal_group(process, signal.SIGTERM)
            if told is not None and time.monotonic() - told > grace:
                break
    except BaseException:
        if told is None:
            told = time.monotonic()
            signal_group(process, signal.SIGTERM)
            with suppress(KeyboardInterrupt):  # a second one ends it at once
                wait(process, grace)
        raise
    finally:
        signal_group(process, signal.SIGKILL)  # ranks that outlived the first; a run that did not stop
        status = process.wait()
        record = record_of(folder) or RunRecord()
        if record.process != process.pid:  # of an earlier attempt, or none: the run had no word
            record.status, record.command = "running", shlex.join(["siamese-verify", "train", *arguments])
            record.overrides, record.process = [*overrides], process.pid
            record.host, record.started = socket.gethostname(), started
        if record.status == "running":
            record.status, record.error = _end_of(status, told is not None, printed, beginning)
            record.seconds = round(time.monotonic() - began, 1)
        record.exit_status = status
        if not rank:
            record.write(folder)
    return record


def run_environment(variables: Mapping[str, str], alone: bool = False) -> dict[str, str]:
    """Environment for a run: without what tells of the ranks of another program around the sweep.

    A job of submitit with several tasks keeps it, unless the run is `alone`: each task starts its rank of the run.
    """
    if is_one_task_of_many(variables) and not alone:
        return dict(variables)
    return {
        name: value
        for name, value in variables.items()
        if name not in CLUSTER and not name.startswith(CLUSTER_PREFIXES + SCHEDULERS)
    }


def is_one_task_of_many(variables: Mapping[str, str]) -> bool:
    """Whether this process is one of several tasks that submitit's SLURM launcher started for one run."""
    return variables.get("SUBMITIT_EXECUTOR") == "slurm" and int(variables.get("SLURM_NTASKS", "1")) > 1


def task_rank() -> int:
    """Number of this process among the tasks that start one run together, 0 if it starts the run alone."""
    return int(os.environ["SLURM_PROCID"]) if is_one_task_of_many(os.environ) else 0


def follow_parent() -> None:
    """Let this process be stopped by SIGTERM when the process that started it dies; on Linux, for runs of a sweep."""
    parent = os.environ.pop(PARENT, "")  # the ranks of this run have another
    if not parent or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before that call
        raise SystemExit(STOPPED[0])


def quoted(text: str) -> str:
    """A text as a value in an override of Hydra."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


def pasted(name: str, value: object) -> str:
    """An override of Hydra as an argument to paste into a shell, quoted for both where that is needed."""
    text = str(value)
    if re.fullmatch(r"[\w./-]+", text, re.ASCII):
        return f"{name}={text}"
    return shlex.quote(f"{name}=" + (quoted(text) if '"' in text or text.endswith("\\") else f'"{text}"'))


def quote_elements(argument: str) -> str:
    """The argument `pretrain=[KEY=VALUE,...]` with its elements in quotes, which Hydra needs; any other as it is."""
    name, _, value = argument.partition("=")
    if name.lstrip("+") != "pretrain" or not value.startswith("["):
        return argument
    done, element, depth, quote = "", "", 0, ""
    for letter in value:
        quote = "" if letter == quote else letter if not quote and letter in "'\"" else quote
        depth += 0 if quote else (letter in "[{(") - (letter in "]})")
        if quote or depth > 1 or (depth == 1 and letter not in "[,"):  # within an element
            element += letter
            continue
        element = element.strip()
        done += element if not element or element[0] in "'\"" else quoted(element)
        done, element = done + letter, ""
    return f"{name}={done}{element}"


def wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Exit status of a process, None if it still runs after `seconds`."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to what is left of the process group of a run."""
    with suppress(ProcessLookupError, PermissionError):  # the latter of macOS, for a group of zombies
        os.killpg(process.pid, number)


def _end_of(status: int, stopped: bool, output: Path, beginning: int) -> tuple[Status, str | None]:
    """How a run ended that did not record it itself, and the reason in one sentence."""
    if status == 0:
        return "finished", None
    if status == -signal.SIGKILL:
        if stopped:
            return "stopped", "The run was told to stop, and was killed by SIGKILL before it did."
        return "failed", "The run was killed by SIGKILL, such as for want of memory."
    if stopped or status in STOPPED:
        return "stopped", "The run was told to stop."
    if status < 0:
        return "failed", f"The run was ended by {signal.Signals(-status).name}."
    with output.open("rb") as file:
        file.seek(beginning)
        lines = file.read().decode(errors="replace").split("\n")
    said = [line.removeprefix("siamese-verify: ") for line in lines if line.startswith("siamese-verify: ")]
    last = said or [line for line in lines if line.strip()] or [f"The run ended with status {status}."]
    return "failed", last[-1].strip()
