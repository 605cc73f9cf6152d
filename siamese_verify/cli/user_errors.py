"""User errors: one sentence and exit status 2 instead of a traceback."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, ParamSpec, TypeVar

from siamese_verify.atomic_write import DISK_FULL
from siamese_verify.errors import InputError, printable

P = ParamSpec("P")
R = TypeVar("R")

EXIT_USER_ERROR = 2
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_LOST = 71  # EX_OSERR: another process of the run was killed
EXIT_TEMPORARY = 75  # EX_TEMPFAIL: stopped, to be resumed
EXIT_CTRL_C = 130  # 128 + SIGINT, as shells report it
PACKAGE = Path(__file__).parents[1]
STANDARD = sysconfig.get_path("stdlib")
INSTALLED = {"site-packages", "dist-packages"}  # parts of the paths of libraries
CONFIGURED_LIBRARIES = ("hydra", "omegaconf", "lightning_fabric", "pytorch_lightning", "wandb")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which commands answer as they answer Ctrl-C."""


def terminate(*_: object) -> NoReturn:
    """Handler of SIGTERM."""
    raise Terminated


def report_stopped(stopped: KeyboardInterrupt) -> int:
    """Say what has stopped a command, and how to go on if the exception has a note of it; the exit status."""
    terminated = isinstance(stopped, Terminated)
    by = "SIGTERM" if terminated else "Ctrl-C"
    print(": ".join([f"Stopped by {by}", *getattr(stopped, "__notes__", ())]) + ".", file=sys.stderr)
    return EXIT_TEMPORARY if terminated else EXIT_CTRL_C


def report_user_errors(main: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command: a user's mistake ends with one sentence and status 2, Ctrl-C with status 130."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra prints what it raises, and ends with status 1
        logging.raiseExceptions = False  # a log on a full disk is not worth a traceback for each line
        try:
            return main(*args, **kwargs)
        except (KeyboardInterrupt, SystemExit) as end:
            stopped = end.__context__ if isinstance(end, SystemExit) and not end.__suppress_context__ else end
            if not isinstance(stopped, KeyboardInterrupt):
                raise  # not Lightning's answer to Ctrl-C
            raise SystemExit(report_stopped(stopped)) from None
        except Exception as error:
            sentence = user_message(error, args)
            if sentence is None:
                raise
            print(f"siamese-verify: {printable(sentence)}", file=sys.stderr)
            raise SystemExit(EXIT_USER_ERROR) from None

    return run


def user_message(error: Exception, arguments: tuple[object, ...]) -> str | None:
    """Sentence that tells a user what to correct; None for an error that is a bug.

    Args:
        error: raised by a command.
        arguments: of the command; a composed configuration among them gives settings their names.
    """
    causes: list[BaseException] = [error]  # Hydra wraps what a constructor raises
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    sentence, place = _sentence(causes, arguments), place_in_own_code(causes[-1])
    return sentence if sentence is None or place in sentence else f"{sentence.rstrip('.')}. {place}"


def _sentence(causes: Sequence[BaseException], arguments: tuple[object, ...]) -> str | None:
    from siamese_verify.cli.configuration import refused_setting, setting_name

    error = causes[0]
    for cause in causes:
        if isinstance(cause, InputError):
            return str(cause)
        if isinstance(cause, ModuleNotFoundError) and cause.name and library_of(error) in CONFIGURED_LIBRARIES:
            return _cannot_import(cause.name)
        if isinstance(cause, OSError) and library_of(cause) not in CONFIGURED_LIBRARIES and cause.filename:
            way_out = "make room there" if cause.errno in DISK_FULL else "check that it exists and may be used"
            return f"{cause.filename} cannot be read or written ({cause.strerror}): {way_out}, or name another path."
    if library_of(error) not in CONFIGURED_LIBRARIES:
        return None
    text, kind = " ".join(str(error).split()), type(error).__name__
    if kind == "MissingMandatoryValue" and (key := getattr(error, "full_key", "")):
        key = setting_name(key, arguments)
        return f"{key} is required: add {key}=... to the command."
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{missing[1]} is required: add {missing[1]}=... to the command."
    if unknown := re.search(r"got an unexpected keyword argument '(\w+)'.*full_key: ([\w.]+)", text):  # added by +
        return refused_setting(unknown[2], unknown[1], next(iter(arguments), None))
    if kind == "InstantiationException" and len(causes) > 1:
        part = text.rpartition("full_key: ")[2] if "full_key: " in text else "configuration"
        return _cannot_configure(part, causes[-1])
    if library_of(error) == "wandb":
        return f"W&B cannot be used ({text}): set WANDB_MODE=offline to keep its files on this machine."
    return text


def own_frames(error: BaseException) -> list[TracebackType]:
    """Frames of an error's traceback that are in a user's own code, outermost first; none if ours come after them."""
    found: list[TracebackType] = []
    step = error.__traceback__
    while step is not None:
        path = Path(step.tb_frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            found.clear()
        elif not (path.name.startswith("<") or path.is_relative_to(STANDARD) or INSTALLED & {*path.parts}):
            found.append(step)
        step = step.tb_next
    return found


def place_in_own_code(error: BaseException) -> str:
    """Sentence on the line of a user's own code that raised an error, "" if that was somebody else's."""
    if not (frames := own_frames(error)):
        return ""
    line, code = frames[-1].tb_lineno, frames[-1].tb_frame.f_code
    return f"This was raised in code of your own: {code.co_qualname}, line {line} of {code.co_filename}."


@contextmanager
def configuring(part: str) -> Iterator[None]:
    """Name the part of a configuration whose values a class refuses.

    Raises:
        InputError: in place of what is raised within, unless that is an InputError.
    """
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(_cannot_configure(part, error)) from error


def library_of(error: BaseException) -> str:
    """Top-level package that defines an error's class."""
    return type(error).__module__.partition(".")[0]


def _cannot_import(name: str) -> str:
    """Sentence on a module that a configuration names; a package is recommended only if ours asks for it."""
    module, _, missing = name.rpartition(".")
    package = name.partition(".")[0].replace("_", "-")
    from importlib.metadata import PackageNotFoundError, requires

    with suppress(PackageNotFoundError):
        if package in {re.split(r"[^\w.-]", one)[0].lower() for one in requires("siamese-verify") or ()}:
            return f"The configuration asks for {package}, which is not installed: pip install {package}."
    path = "PYTHONPATH to the folder of its module"
    if module in sys.modules:
        return f"{module} has no {missing}: correct the _target_ that names it, or set {path}."
    return f"The configuration names {name}, which cannot be imported: install its package, or set {path}."


def _cannot_configure(part: str, error: BaseException) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if "No supported gpu backend" in reason:
        return f"The {part} asks for a GPU, and torch finds none here: write trainer=cpu."
    return f"The {part} cannot be created as configured ({reason}): correct its settings."
