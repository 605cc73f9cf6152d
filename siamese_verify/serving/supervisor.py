"""Several server processes behind one socket, each restarted when it ends."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

MAX_FAILURES = 3  # processes in a row that end before they serve
PAUSE = 1.0  # seconds before the next one
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # environment variable of prometheus_client
log = logging.getLogger("siamese_verify.serving")

Serve = Callable[[Any, socket.socket, Callable[[str], None]], int]


class Supervisor:
    """Starts server processes, restarts those that end, and ends all of them on SIGTERM or Ctrl-C.

    uvicorn's own supervisor needs an application that can be imported by name, and its processes outlive it when it is
    killed.

    Args:
        serve: function at the top level of a module that each process calls with options, socket and `ready`.
        options: passed to it.
        listener: socket on which all processes accept connections.
        count: number of processes.
        seconds: time that a process may take to end before it is killed.
        ready: called with the URL once all processes serve.
    """

    def __init__(
        self,
        serve: Serve,
        options: Any,
        listener: socket.socket,
        count: int,
        seconds: float,
        ready: Callable[[str], None],
    ) -> None:
        self.serve, self.options, self.listener = serve, options, listener
        self.count, self.seconds, self.ready = count, seconds, ready
        self._context = multiprocessing.get_context("spawn")  # threads and locks of libraries do not survive a fork
        self._processes: dict[BaseProcess, Connection] = {}
        self._ending = threading.Event()

    def run(self) -> int:
        """Supervise until a signal ends it; returns exit status 0, or that of a process that cannot serve."""
        before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with tempfile.TemporaryDirectory(prefix="siamese-verify-") as folder:
                os.environ[METRICS_FOLDER] = folder
                try:
                    return self._supervise()
                finally:
                    self._stop()
                    del os.environ[METRICS_FOLDER]
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, *_: Any) -> None:
        self._ending.set()

    def _supervise(self) -> int:
        serving, failures, announced, url = set[BaseProcess](), 0, False, ""
        while not self._ending.is_set():
            while len(self._processes) < (self.count if serving else 1):  # the first one finds errors, alone
                self._start()
            links = [link for process, link in self._processes.items() if process not in serving]
            wait([*links, *(process.sentinel for process in self._processes)], 0.2)
            for process, link in list(self._processes.items()):
                if process not in serving and link.poll():
                    with suppress(EOFError):  # it ended
                        url = link.recv()
                        serving.add(process)
                        failures = 0
                if process.exitcode is None or self._ending.is_set():
                    continue
                failures += process not in serving
                if failures and (not announced or failures >= MAX_FAILURES):
                    return process.exitcode or 1
                log.error("Process %s ended with status %s: it is restarted.", process.pid, process.exitcode)
                self._forget(process)
                serving.discard(process)
                self._ending.wait(PAUSE if failures else 0)
            if len(serving) == self.count and not announced:
                announced = True
                self.ready(url)
        return 0

    def _start(self) -> None:
        link, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(self.serve, self.options, self.listener, theirs))
        process.start()
        theirs.close()
        self._processes[process] = link

    def _forget(self, process: BaseProcess) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        self._processes.pop(process).close()
        if process.pid is not None:
            mark_process_dead(process.pid)  # type: ignore[no-untyped-call]

    def _stop(self) -> None:
        self.listener.close()
        for process in self._processes:
            process.terminate()
        end = time.monotonic() + self.seconds
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.exitcode is None:
                log.error("Process %s did not end in time: it is killed.", process.pid)
                process.kill()
                process.join()


def _work(serve: Serve, options: Any, listener: socket.socket, link: Connection) -> None:
    """Serve as one of several processes, and end with the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the supervisor ends this one
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.exit(serve(options, listener, link.send))
