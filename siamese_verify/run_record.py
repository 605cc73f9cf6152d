"""Record of a training run: what it is, how it goes and how it ended, in its `run.json`. Reading it needs no torch."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError

RECORD = "run.json"
FIRST_STAGE = "pretraining"  # folder of the first stage within a run
PLAIN = re.compile(r"\$\{((hydra|oc\.env|oc\.select|now):[^{}\[\]$]*|[\w./@-]+)\}")
SLACK = 2.0  # seconds: the time when a process began is known to one
Status = Literal["running", "finished", "failed", "stopped", "skipped"]


@dataclass
class RunRecord:
    """What a training run records of itself.

    Attributes:
        status: `stopped` by a signal, to be resumed; `skipped` as it can never work.
        error: what ended it, one sentence.
        exit_status: of its process.
        command: that repeats it.
        overrides: of the configuration.
        host: name of the machine.
        process: its number on that machine.
        started: ISO 8601 time.
        seconds: that it has run, over all its starts.
        working_folder: that relative paths of the configuration start from.
        metrics: of the epoch whose weights are bundled, by their names in the loggers, and its `epoch`, from 0.
        history: epoch from 0, step and metrics of each validation.
        pruned: whether the search that it is a trial of gave it up; it then has neither bundle nor test results.
        test: by the name of a protocol: the metric that stands for it, its interval and others.
        versions: of the software.
        data: SHA-256 of what was trained and validated on.
        filtered: what was left out of the training set, in words.
        tested_people: whether they were held out from training, in words.
        lfw_category: of the first result on pairs of LFW, in the words of its authors' results page; "" without one.
        configuration: composed and resolved.
        written: when, in seconds since the epoch by the clock of its machine; 0.0 if that is unknown.
    """

    status: Status = "running"
    error: str | None = None
    exit_status: int | None = None
    command: str = ""
    overrides: list[str] = field(default_factory=list)
    host: str = ""
    process: int = 0
    started: str = ""
    seconds: float = 0.0
    working_folder: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[tuple[int, int, dict[str, float]]] = field(default_factory=list)
    pruned: bool = False
    test: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    data: str = ""
    filtered: str = "no"
    tested_people: str = ""
    lfw_category: str = ""
    configuration: dict[str, Any] = field(default_factory=dict)
    written: float = field(default=0.0, compare=False)

    @property
    def best_epoch(self) -> int | None:
        """Number of the epoch whose weights are bundled, from 1 as people count; None without a validation."""
        epoch = self.metrics.get("epoch")
        return None if epoch is None else int(epoch) + 1

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """The record of a run's folder.

        Raises:
            InputError: there is none, or it is damaged.
        """
        try:
            values = json.loads((folder / RECORD).read_bytes())
            known = {one.name for one in fields(cls)}
            return cls(**{name: value for name, value in values.items() if name in known})
        except FileNotFoundError:
            raise InputError(f"{folder} is no run: it holds no {RECORD}.") from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{folder / RECORD} is damaged ({error}): the run cannot be read.") from None

    def write(self, folder: Path) -> None:
        """Write the record to a run's folder, completely or not at all."""
        self.written = time.time()
        atomic_write(folder / RECORD, json.dumps(asdict(self), indent=1).encode())


def runs_within(folder: str | Path) -> str:
    """The newest run in a folder of runs, in words that follow its name; empty if there is none.

    Runs lie in a folder of one experiment, or in one of experiments.
    """
    runs = [path for pattern in ("*", "*/*") for path in Path(folder).glob(f"{pattern}/{RECORD}")]
    if not runs:
        return ""
    newest = max(runs, key=lambda path: path.stat().st_mtime).parent
    return f" is a folder of runs ({len(runs)}): give one of them, such as the newest, {newest}."


def record_of(folder: Path) -> RunRecord | None:
    """The record of a run's folder; None if there is none that can be read."""
    try:
        return RunRecord.read(folder)
    except InputError:
        return None


def is_gone(host: str, process: int, wrote: float = math.inf) -> bool:
    """Whether a process has certainly ended; False in doubt, as on another machine or without /proc.

    Args:
        host: name of its machine.
        process: its number there, which is another's if that one began later than it wrote.
        wrote: when it last did, in seconds since the epoch by the clock of its machine, not that of a file server.
    """
    if host != socket.gethostname():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # of another user
    try:
        state, *numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        booted = re.search(r"btime (\d+)", Path("/proc/stat").read_text())
    except OSError:
        return False
    began = int(booted[1]) + int(numbers[18]) / os.sysconf("SC_CLK_TCK") if booted else 0.0
    return state == "Z" or began > wrote + SLACK


def has_plain_interpolations(text: str) -> bool:
    """Whether the interpolations of a recorded setting refer to other settings, the environment or the time only.

    Others, such as `oc.create`, could make a setting that no check of the configuration has seen.
    """
    return "${" not in PLAIN.sub("", text)
