"""`siamese-verify COMMAND`: a command's module is imported when it runs."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import runpy
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

from siamese_verify import __version__
from siamese_verify.atomic_write import DISK_FULL
from siamese_verify.cli.errors import explained
from siamese_verify.errors import printable

HYDRA_COMMANDS = {
    "prepare": "get, check and align a data set: Hydra overrides follow, such as data=lfw align=five_point",
    "preview": "draw the batches that training will see: takes the overrides of train",
    "train": "train an encoder: Hydra overrides follow, such as experiment=lfw_triplet trainer.max_epochs=10",
    "evaluate": "measure a model: Hydra overrides follow, such as model=casia-webface protocol=lfw_view2",
    "center": "make a bundle that adds the mirror image and subtracts the mean face, such as model=casia-webface",
    "demo": "train on built-in synthetic faces and verify two pairs of photos; takes the overrides of train",
}
COMMANDS = {  # by name: module of `siamese_verify.commands`, and what it does
    "compare": ("compare", "put evaluations beside one another"),
    "verify": ("verify_photos", "say whether two photos show the same person"),
    "export": ("export_model", "make a bundle of a run or checkpoint: all that a verifier needs"),
    "recalibrate": ("recalibrate", "judge a model by photos of yours, and measure its thresholds anew on them"),
    "models": ("list_models", "list the models of this machine, or get one for later"),
    "enroll": ("gallery_commands", "add a person to a gallery"),
    "identify": ("gallery_commands", "say which person of a gallery a photo shows"),
    "people": ("gallery_commands", "list the people of a gallery"),
    "forget": ("gallery_commands", "remove a person from a gallery"),
    "serve": ("serve", "answer over HTTP, with a web page"),
}

CRASHED = 70  # EX_SOFTWARE of sysexits.h
UNWRITTEN = 74  # EX_IOERR
CLOSED = 141  # as a shell tells of SIGPIPE
NO_PLACE = (*DISK_FULL, errno.EIO)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints show what was typed, or what a shell's `*` stands for, as it cannot harm a terminal."""

    def error(self, message: str) -> NoReturn:
        """End with usage and status 2."""
        super().error(printable(message))


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit status: 0 done or same person, 1 different people, 2 wrong usage, 3 no decision, 70 a fault of ours, 74 the
        answer cannot be written.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an answer that the terminal has no letters for is one still
    try:
        try:
            return run(sys.argv[1:] if arguments is None else arguments)
        finally:
            for stream in (sys.stdout, sys.stderr):  # now: Python's own end would complain in its own way
                if stream is not None:
                    stream.flush()
    except OSError as error:
        closed = isinstance(error, BrokenPipeError)  # whoever read the answer has enough of it
        if not closed and error.errno not in NO_PLACE:
            raise
        with suppress(OSError):
            if not closed:
                sentence = f"The answer cannot be written ({error.strerror}): make room, or send it elsewhere."
                print(f"siamese-verify: {sentence}", file=sys.stderr, flush=True)
        for stream in (sys.stdout, sys.stderr):  # what they still hold is dropped
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return CLOSED if closed else UNWRITTEN


def run(arguments: list[str]) -> int:
    """Run a command, and let what an answer is written to fail as it may."""
    name = arguments[0] if arguments else ""
    if name in HYDRA_COMMANDS:
        if hidden := [one for one in arguments if printable(one) != one]:  # Hydra would show it as it is
            overview().error(f"the override {hidden[0]} holds a character that nobody sees: leave it out")
        sys.argv = [f"siamese-verify {name}", *arguments[1:]]
        # As `python -m`, so that DDP finds out how to start its other processes.
        try:
            runpy.run_module(f"siamese_verify.cli.{name}", run_name="__main__", alter_sys=True)
        except Exception as error:
            return crashed(error)
        return 0
    if name not in COMMANDS:
        overview().parse_args(arguments)  # ends here, with help or a complaint
    module = importlib.import_module(f"siamese_verify.cli.{COMMANDS[name][0]}")
    parser = Parser(prog=f"siamese-verify {name}", description=f"{COMMANDS[name][1].capitalize()}.")
    getattr(module, f"{name}_arguments")(parser)
    options = parser.parse_args(arguments[1:])
    try:
        status: int = explained(getattr(module, name))(options)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich's way to end
            raise end.__context__ from None
        raise
    except Exception as error:
        return crashed(error)
    return status


def crashed(error: Exception) -> int:
    """Show a fault of ours, and return a status that cannot pass for an answer, as Python's own status 1 would.

    Raises:
        OSError: what was written has no place, or no reader any more, which is no fault of ours.
    """
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno in NO_PLACE):
        raise error
    traceback.print_exc()
    return CRASHED


def overview() -> argparse.ArgumentParser:
    """The command line as a whole."""
    top = Parser(prog="siamese-verify", description="Train, measure and use Siamese networks for face verification.")
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, text in {**HYDRA_COMMANDS, **{name: text for name, (_, text) in COMMANDS.items()}}.items():
        commands.add_parser(name, help=text, add_help=False)
    return top


if __name__ == "__main__":
    sys.exit(main())
