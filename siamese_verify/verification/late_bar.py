"""A progress bar for what turns out to take long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE = 2.0  # seconds that nobody needs an explanation for


@contextmanager
def late_bar(title: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on standard error once two seconds have passed, if that is a terminal.

    Args:
        title: what is being done.
        shown: False never draws it.

    Yields:
        A function to call with how much is done, and of how much.
    """
    start = time.monotonic()
    progress: Progress | None = None

    def advance(done: int, total: int) -> None:
        nonlocal progress
        if progress is None:
            if not shown or time.monotonic() - start < PATIENCE or done >= total:
                return
            from rich.console import Console  # late, as most of those who wait for less never need it
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            console = Console(stderr=True)
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
            progress.start()
            progress.add_task(title, total=total, completed=done)
        progress.update(progress.task_ids[0], completed=done, total=total)

    try:
        yield advance
    finally:
        if progress is not None:
            progress.stop()
