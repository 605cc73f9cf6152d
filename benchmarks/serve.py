"""Throughput and latency of the server under load, relative to the verifier called directly in the same run.

The load comes from `wrk` (Debian: `apt-get install wrk`), which posts two photos again and again over keep-alive
connections on loopback. It shares the cores with the server. It is a closed loop: a connection asks again when it was
answered, so percentiles are of requests sent, not of those that would have been sent meanwhile.

- limit: `Verifier.verify` of the same bytes in as many threads, in a process of its own, without HTTP
- load: as many connections as threads; latency percentiles, throughput, and its ratio to the limit
- for both the processor time of a decision, which says what cores that do nothing else would reach
- overload: four times as many connections as the server answers requests; every answer is 200, 429 or 503, none is lost
- soak (`--minutes`): a moderate rate; resident memory of the server minute by minute

Claims: with the tiny model, where HTTP weighs most, the server reaches 0.5 of the limit, with sface and casia-webface
0.8; an overload gets no other answers; in a soak of ten minutes memory after the first minute grows by less than 5 %.
Run: `python benchmarks/serve.py [--model sface] [--minutes 10]`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

IN_FLIGHT = 32
CONNECTIONS = 8
ALLOWED = {200, 429, 503}
CLAIMS = {"tiny": 0.5, "sface": 0.8, "casia-webface": 0.8}
BOUNDARY = "benchmark"

SCRIPT = f"""
local file = io.open(os.getenv("SERVE_BODY"), "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "multipart/form-data; boundary={BOUNDARY}"
local pause = tonumber(os.getenv("SERVE_PAUSE"))
local threads = {{}}
function setup(thread) table.insert(threads, thread) end
function init() counts = "" ; seen = {{}} end
if pause > 0 then function delay() return pause * (0.5 + math.random()) end end
function response(status)
  seen[status] = (seen[status] or 0) + 1
  counts = ""
  for code, number in pairs(seen) do counts = counts .. code .. "=" .. number .. " " end
end
function done(summary, latency)
  local all = ""
  for _, thread in ipairs(threads) do all = all .. thread:get("counts") end
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d %d %d %d | %s\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(90), latency:percentile(99),
    e.connect, e.read, e.write, e.timeout, all))
end
"""


class Load(NamedTuple):
    """Result of a run of wrk."""

    per_second: float  # answers with status 200
    milliseconds: dict[str, float]  # of all answers
    statuses: dict[int, int]
    lost: int  # connections refused, broken or timed out

    def summary(self) -> str:
        """The result in a line."""
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in self.milliseconds.items())
        return f"{self.per_second:.1f} decisions/s, {times}, answers {self.statuses}, lost {self.lost}"


def photos() -> tuple[bytes, bytes]:
    """Two JPEGs of 250 x 250: of LFW if it is present, which pretrained models need, else noise."""
    folder = Path(__file__).resolve().parents[2] / "shared/data/lfw/lfw-deepfunneled/George_W_Bush"
    real = [folder / f"George_W_Bush_000{number}.jpg" for number in (1, 2)]
    if all(path.is_file() for path in real):
        return real[0].read_bytes(), real[1].read_bytes()
    found = []
    for seed in (1, 2):
        coarse = np.random.default_rng(seed).integers(0, 255, (25, 25, 3)).astype(np.uint8)
        content = io.BytesIO()
        Image.fromarray(coarse).resize((250, 250), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        found.append(content.getvalue())
    return found[0], found[1]


def encode_form(pair: tuple[bytes, bytes]) -> bytes:
    parts = b""
    for name, content in zip("ab", pair, strict=True):
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.jpg"\r\n'
        parts += f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + content + b"\r\n"
    threshold = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="threshold"\r\n\r\n0.5\r\n'
    return parts + threshold.encode() + f"--{BOUNDARY}--\r\n".encode()


def save_tiny_bundle(folder: str) -> str:
    """Save a bundle of a small encoder that takes the photo as the face."""
    import torch

    from siamese_verify.encoders import SmallResNet
    from siamese_verify.models import FaceModel, save_bundle
    from siamese_verify.structures import Crop

    torch.manual_seed(0)
    crop = {"_target_": "siamese_verify.structures.Crop", "kind": "whole"}
    target = "siamese_verify.encoders.SmallResNet"
    configuration = {"_target_": target, "size": 64, "width": 16, "embedding_size": 64, "crop": crop}
    encoder = SmallResNet(size=64, width=16, embedding_size=64, crop=Crop("whole"))
    save_bundle(Path(folder), FaceModel.create("tiny", encoder, configuration), {})
    return folder


def direct_throughput(model: str, threads: int, seconds: float) -> tuple[float, float]:
    """Decisions per second of the verifier without a server, and milliseconds of processor time for each."""
    import threading

    from siamese_verify.verification import Verifier

    verifier, (a, b) = Verifier.load(model), photos()
    verifier.verify(a, b, threshold=0.5)
    end, counts = time.monotonic() + seconds, [0] * threads

    def work(row: int) -> None:
        while time.monotonic() < end:
            verifier.verify(a, b, threshold=0.5)
            counts[row] += 1

    began, spent = time.monotonic(), time.process_time()
    running = [threading.Thread(target=work, args=(row,)) for row in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / (time.monotonic() - began), (time.process_time() - spent) / sum(counts) * 1000


def in_process(function: str, *arguments: object) -> str:
    """Run a function of this file in a process of its own, and return the last line that it prints."""
    command = [sys.executable, __file__, "--call", json.dumps([function, *arguments])]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{function} failed:\n{run.stderr}")
    return run.stdout.strip().rpartition("\n")[2]


@contextmanager
def running_server(model: str, log: Path) -> Iterator[tuple[str, int]]:
    """URL and process id of the server, started as by a user but without its rate limit."""
    command = [sys.executable, "-m", "siamese_verify.cli.main", "serve", "--model", model, "--port", "0", "--rate", "0"]
    with log.open("w") as lines:
        process = subprocess.Popen(
            [*command, "--in-flight", str(IN_FLIGHT)], stdout=subprocess.PIPE, stderr=lines, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"The server did not start:\n{log.read_text()}")
        yield line.split()[-1], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(60):
            raise SystemExit(f"The server ended with status {process.returncode}:\n{log.read_text()[-2000:]}")


def wrk(url: str, folder: Path, connections: int, seconds: float, per_second: float = 0) -> Load:
    """Send requests for some seconds; with a rate, each connection pauses between its requests."""
    pause = 1000 * connections / per_second if per_second else 0
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{round(seconds)}s", "--timeout", "30s"]
    run = subprocess.run(
        [*command, "-s", str(folder / "load.lua"), url + "v1/verify"],
        capture_output=True,
        text=True,
        check=True,
        env={"SERVE_BODY": str(folder / "body"), "SERVE_PAUSE": str(pause), "PATH": "/usr/local/bin:/usr/bin:/bin"},
    )
    line = next(line for line in run.stdout.splitlines() if line.startswith("RESULT "))
    numbers, _, counted = line.removeprefix("RESULT ").partition("|")
    _, duration, p50, p90, p99, *lost = (int(word) for word in numbers.split())
    statuses: dict[int, int] = {}
    for word in counted.split():
        code, _, count = word.partition("=")
        statuses[int(code)] = statuses.get(int(code), 0) + int(count)
    times = {"p50": p50 / 1000, "p90": p90 / 1000, "p99": p99 / 1000}
    return Load(statuses.get(200, 0) / (duration / 1e6), times, statuses, sum(lost))


def megabytes(pid: int) -> float:
    """Resident megabytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far, in user and kernel."""
    user, kernel = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(kernel)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, a pretrained name or a bundle (%(default)s)")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement (%(default)s)")
    parser.add_argument("--minutes", type=int, default=0, help="of the soak (none)")
    parser.add_argument("--rate", type=float, default=20, help="requests a second of the soak (%(default)s)")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        name, *arguments = json.loads(options.call)
        print(
            json.dumps(direct_throughput(*arguments) if name == "direct_throughput" else save_tiny_bundle(*arguments))
        )
        return
    if shutil.which("wrk") is None:
        raise SystemExit("The load comes from wrk, which is not installed: apt-get install wrk.")
    with tempfile.TemporaryDirectory() as place:
        measure(options, Path(place))


def measure(options: argparse.Namespace, folder: Path) -> None:
    (folder / "load.lua").write_text(SCRIPT)
    (folder / "body").write_bytes(encode_form(photos()))
    model = options.model
    if model == "tiny":
        model = str(folder / "tiny")
        in_process("save_tiny_bundle", model)
    direct, spent = json.loads(in_process("direct_throughput", model, CONNECTIONS, options.seconds))
    print(f"limit, {CONNECTIONS} threads without HTTP: {direct:.1f} decisions/s, {spent:.1f} ms of processor time each")
    with running_server(model, folder / "log") as (url, pid):
        wrk(url, folder, CONNECTIONS, 2)  # warm
        start, spent = megabytes(pid), processor_seconds(pid)
        load = wrk(url, folder, CONNECTIONS, options.seconds)
        spent = 1000 * (processor_seconds(pid) - spent) / max(1, load.statuses.get(200, 0))
        print(f"load, {CONNECTIONS} connections: {load.summary()}, {spent:.1f} ms of processor time each")
        print(f"ratio to the limit: {load.per_second / direct:.2f}, claimed {CLAIMS.get(options.model, 'nothing')}")
        over = wrk(url, folder, 4 * IN_FLIGHT, options.seconds)
        clean = set(over.statuses) <= ALLOWED and not over.lost
        print(f"overload, {4 * IN_FLIGHT} connections: {over.summary()}: {'as claimed' if clean else 'NOT as claimed'}")
        healthy = urllib.request.urlopen(url + "healthz", timeout=10).status
        print(f"afterwards: healthz {healthy}, memory {start:.0f} MB before and {megabytes(pid):.0f} MB after")
        if options.minutes:
            soak(options, url, pid, folder)


def soak(options: argparse.Namespace, url: str, pid: int, folder: Path) -> None:
    memory: list[float] = []
    statuses: dict[int, int] = {}
    lost, worst = 0, 0.0
    for minute in range(options.minutes):
        part = wrk(url, folder, CONNECTIONS, 60, options.rate)
        memory.append(megabytes(pid))
        lost, worst = lost + part.lost, max(worst, part.milliseconds["p99"])
        for status, count in part.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
        print(f"soak, minute {minute + 1}: {part.summary()}, {memory[-1]:.1f} MB", flush=True)
    growth: Any = memory[-1] / memory[0] - 1
    print(
        f"soak: answers {statuses}, lost {lost}, worst p99 {worst:.1f} ms; memory after the first minute "
        f"{memory[0]:.1f} MB, at the end {memory[-1]:.1f} MB ({growth:+.1%}, claimed below 5 %)"
    )


if __name__ == "__main__":
    main()
