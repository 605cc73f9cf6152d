"""Several server processes behind one socket; one that ends is replaced."""

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

from siamese_verify.cli.user_errors import report_user_errors

MOST_FAILURES = 3  # processes in a row that ended before they served
PAUSE = 1.0  # seconds before the next one
COUNTERS = "PROMETHEUS_MULTIPROC_DIR"  # where the processes' counters meet, as prometheus_client wants it
log = logging.getLogger("siamese_verify.serving")

Serve = Callable[[Any, socket.socket, Callable[[str], None]], int]


class Supervisor:
    """Starts server processes, replaces those that end, and ends them all on SIGTERM or Ctrl-C.

    Args:
        serve: run in each process, on (options, socket, ready); a function of a module, as it is found there by name.
        options: for it.
        place: the socket, on which all take connections.
        count: of processes.
        seconds: that a process may take to end before it is killed.
        ready: is told the address once all of them serve.
    """

    def __init__(
        self,
        serve: Serve,
        options: Any,
        place: socket.socket,
        count: int,
        seconds: float,
        ready: Callable[[str], None],
    ) -> None:
        self.serve, self.options, self.place = serve, options, place
        self.count, self.seconds, self.ready = count, seconds, ready
        self._context = multiprocessing.get_context("spawn")  # threads and locks of libraries do not outlive a fork
        self._processes: dict[BaseProcess, Connection] = {}
        self._ending = threading.Event()

    def run(self) -> int:
        """Supervise until told to end.

        Returns:
            Exit status: 0, or that of a process that cannot serve.
        """
        before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with tempfile.TemporaryDirectory(prefix="siamese-verify-") as folder:
                os.environ[COUNTERS] = folder
                try:
                    return self._supervise()
                finally:
                    self._stop()
                    del os.environ[COUNTERS]
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, *_: Any) -> None:
        self._ending.set()

    def _supervise(self) -> int:
        serving, failures, told, address = set[BaseProcess](), 0, False, ""
        while not self._ending.is_set():
            while len(self._processes) < (self.count if serving else 1):  # the first one finds what is wrong, alone
                self._start()
            links = [link for process, link in self._processes.items() if process not in serving]
            wait([*links, *(process.sentinel for process in self._processes)], 0.2)
            for process, link in list(self._processes.items()):
                if process not in serving and link.poll():
                    with suppress(EOFError):  # it ended
                        address = link.recv()
                        serving.add(process)
                        failures = 0
                if process.exitcode is None or self._ending.is_set():
                    continue
                failures += process not in serving
                if failures and (not told or failures >= MOST_FAILURES):
                    return process.exitcode or 1
                log.error("Process %s ended with status %s: another takes its place.", process.pid, process.exitcode)
                self._forget(process)
                serving.discard(process)
                self._ending.wait(PAUSE if failures else 0)
            if len(serving) == self.count and not told:
                told = True
                self.ready(address)
        return 0

    def _start(self) -> None:
        link, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=work, args=(self.serve, self.options, self.place, theirs))
        process.start()
        theirs.close()
        self._processes[process] = link

    def _forget(self, process: BaseProcess) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        self._processes.pop(process).close()
        if process.pid is not None:
            mark_process_dead(process.pid)  # type: ignore[no-untyped-call]

    def _stop(self) -> None:
        self.place.close()
        for process in self._processes:
            process.terminate()
        end = time.monotonic() + self.seconds
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.exitcode is None:
                log.error("Process %s did not end in time: it is killed.", process.pid)
                process.kill()
                process.join()


def work(serve: Serve, options: Any, place: socket.socket, link: Connection) -> None:
    """Serve as one of several processes, and end with the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; until it serves, the supervisor ends this one
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    sys.exit(report_user_errors(serve)(options, place, link.send))
