"""Sweeps through SLURM of one machine, from Debian's slurm-wlm; its daemons live as long as the tests."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from siamese_verify.run_record import RunRecord
from tests.conftest import SMALL_BATCHES, TINY
from tests.sweeps.test_launchers import DDP, PROBE, REPOSITORY, processes_of, read_ranks

PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=tests Nodes={host} Default=YES State=UP
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment in which sbatch reaches a SLURM of this machine."""
    if missing := [name for name in (*DAEMONS, "sbatch", "srun") if not shutil.which(name, path=PATH)]:
        pytest.skip(f"{missing[0]} is not installed: apt-get install slurm-wlm")
    if os.getuid() != 0:
        pytest.skip("only root can start SLURM's daemons")
    if not find_spec("hydra_plugins.hydra_submitit_launcher"):
        pytest.skip("hydra-submitit-launcher is not installed")
    folder = Path(tmp_path_factory.mktemp("slurm"))
    folder.chmod(0o755)  # munge mistrusts other folders
    ports = free_ports(2)
    settings = {"host": socket.gethostname(), "controller": ports[0], "daemon": ports[1], "folder": folder}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**settings))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    files["seed-file"] = "munge.seed"
    munge = ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in files.items())]
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    with ExitStack() as stack, (folder / "daemons.log").open("w") as log:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D", "-N", socket.gethostname()]):
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(daemon.wait, 30)
            stack.callback(daemon.terminate)
            time.sleep(1)  # each needs the one before
        deadline = time.monotonic() + 60
        while "idle" not in (seen := subprocess.run(["sinfo"], env=environment, capture_output=True, text=True)).stdout:
            if time.monotonic() > deadline:
                said = seen.stdout + seen.stderr + (folder / "daemons.log").read_text()
                pytest.skip(f"SLURM does not start here: {said}")
            time.sleep(0.5)
        yield environment


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens on, and that it gives to nobody who asks for any."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: set[int] = set()
    while len(found) < count:
        with suppress(OSError), socket.create_server(("", random.randrange(first // 2, first))) as listener:
            found.add(listener.getsockname()[1])
    return [*found]


def test_processes_of_a_run_are_started_by_the_run_or_by_slurm(slurm: dict[str, str], tmp_path: Path) -> None:
    for tasks, margins in ((1, [0.2, 0.5]), (2, [0.2])):  # in one test: its daemons are of one worker of pytest
        folder = tmp_path / str(tasks)
        folder.mkdir()
        sweep(tasks, margins, slurm, folder)


def sweep(tasks: int, margins: list[float], slurm: dict[str, str], folder: Path) -> None:
    swept = f"loss.margin={','.join(map(str, margins))}"
    options = (f"hydra.launcher.tasks_per_node={tasks}", f"hydra.launcher.cpus_per_task={2 // tasks}")
    command = [sys.executable, "-m", "siamese_verify.cli.main", "train", "-m", *TINY, *SMALL_BATCHES, *DDP, PROBE]
    ended = subprocess.run(
        [*command, "hydra/launcher=submitit_slurm", *options, "trainer.max_epochs=1", swept, "hydra.sweep.dir=sweep"],
        cwd=folder,
        env={**slurm, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for number, margin in enumerate(margins):
        run = folder / "sweep" / str(number)
        assert RunRecord.read(run).status == "finished"
        assert read_ranks(run) == 2 * [{"margin": margin, "ranks": 2}]
    deadline = time.monotonic() + 60
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.2)  # a result is read before srun, which wrote it, ends
    assert not processes_of(folder)
