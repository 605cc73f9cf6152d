"""`siamese-verify COMMAND`: the table of commands; a command's module is imported when it runs."""

from __future__ import annotations

import argparse
import atexit
import difflib
import errno
import io
import os
import pkgutil
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from siamese_verify import __version__
from siamese_verify.atomic_write import DISK_FULL
from siamese_verify.cli.user_errors import (
    EXIT_BUG,
    EXIT_CTRL_C,
    EXIT_TEMPORARY,
    own_frames,
    place_in_own_code,
    report_stopped,
    report_user_errors,
    terminate,
)
from siamese_verify.errors import InputError, printable


class Command(NamedTuple):
    """A command: what it does, and where its code is, as `module` or `module:function` for `pkgutil.resolve_name`."""

    help: str
    run: str  # a module run as __main__ by Hydra commands, else a function of the parsed options that returns a status
    add_arguments: str | None = None  # None for Hydra commands, which take overrides
    examples: tuple[str, ...] = ()  # of Hydra commands
    leaves: bool = False  # without freeing what it holds, which takes long beside the little that it does


COMMANDS = {
    "prepare": Command(
        "download, check and align a data set: Hydra overrides follow, such as data=lfw align=five_point",
        "siamese_verify.cli.prepare",
        examples=("data=lfw align=five_point", "data=folder data.root=photos output=prepared/mine"),
    ),
    "preview": Command(
        "draw the batches that training will see: takes the overrides of train",
        "siamese_verify.cli.preview",
        examples=("experiment=demo", "data=prepared data.root=prepared/mine batches=4"),
    ),
    "train": Command(
        "train an encoder: Hydra overrides follow, such as experiment=lfw_triplet trainer.max_epochs=10",
        "siamese_verify.cli.train",
        examples=("experiment=demo loss=contrastive loss.margin=1", "-m experiment=demo loss.margin=0.1,0.2 seed=0,1"),
    ),
    "evaluate": Command(
        "evaluate a model: Hydra overrides follow, such as model=sface protocol=lfw_view2",
        "siamese_verify.cli.evaluate",
        examples=("model=sface protocol=lfw_view2", "model=runs/demo/TIME"),
    ),
    "probe": Command(
        "train classifiers on the frozen embeddings of a model, such as model=RUN data=lfw",
        "siamese_verify.cli.probe",
        examples=("model=runs/demo/TIME", "model=sface data=lfw shots=[1,5]"),
    ),
    "center": Command(
        "export a bundle that adds the mirror image and subtracts the mean face, such as model=sface",
        "siamese_verify.cli.center",
        examples=("model=sface output=centered", "model=sface output=centered mirror=false"),
    ),
    "demo": Command(
        "train on built-in synthetic faces and verify two pairs of photos; takes the overrides of train",
        "siamese_verify.cli.demo",
        examples=("trainer.max_epochs=2", "loss=contrastive loss.margin=1"),
    ),
    "compare": Command(
        "compare evaluations side by side",
        "siamese_verify.cli.compare:run",
        "siamese_verify.cli.compare:add_arguments",
    ),
    "visualize": Command(
        "draw what a network has learned: maps with photos, nearest neighbors, scores over the epochs",
        "siamese_verify.cli.visualize:run",
        "siamese_verify.cli.visualize:add_arguments",
    ),
    "group": Command(
        "sort the faces of an album by person",
        "siamese_verify.cli.group_album:run",
        "siamese_verify.cli.group_album:add_arguments",
    ),
    "clean": Command(
        "list photos of a labelled set whose label is probably wrong",
        "siamese_verify.cli.clean_album:run",
        "siamese_verify.cli.clean_album:add_arguments",
    ),
    "verify": Command(
        "decide whether two photos show the same person",
        "siamese_verify.cli.verify_photos:run",
        "siamese_verify.cli.verify_photos:add_arguments",
        leaves=True,
    ),
    "export": Command(
        "export a run or checkpoint as a bundle: everything that verifying needs",
        "siamese_verify.cli.export_model:run",
        "siamese_verify.cli.export_model:add_arguments",
    ),
    "recalibrate": Command(
        "evaluate a model on your own photos, and measure its thresholds on them",
        "siamese_verify.cli.recalibrate:run",
        "siamese_verify.cli.recalibrate:add_arguments",
    ),
    "adapt": Command(
        "train a small head on your own people, and keep it if it helps people it has not seen",
        "siamese_verify.cli.adapt:run",
        "siamese_verify.cli.adapt:add_arguments",
    ),
    "models": Command(
        "list the models on this machine, or download one for later",
        "siamese_verify.cli.list_models:run",
        "siamese_verify.cli.list_models:add_arguments",
    ),
    "enroll": Command(
        "add a person to a gallery",
        "siamese_verify.cli.gallery_commands:enroll",
        "siamese_verify.cli.gallery_commands:enroll_arguments",
    ),
    "identify": Command(
        "find the person of a gallery that a photo shows",
        "siamese_verify.cli.gallery_commands:identify",
        "siamese_verify.cli.gallery_commands:identify_arguments",
    ),
    "people": Command(
        "list the people of a gallery",
        "siamese_verify.cli.gallery_commands:people",
        "siamese_verify.cli.gallery_commands:people_arguments",
    ),
    "forget": Command(
        "remove a person from a gallery",
        "siamese_verify.cli.gallery_commands:forget",
        "siamese_verify.cli.gallery_commands:forget_arguments",
    ),
    "embed": Command(
        "embed every face of many photos into a folder that search, group and clean read",
        "siamese_verify.cli.embed_photos:run",
        "siamese_verify.cli.embed_photos:add_arguments",
    ),
    "search": Command(
        "find the faces of embedded photos that are most like the one on a photo",
        "siamese_verify.cli.search_photos:run",
        "siamese_verify.cli.search_photos:add_arguments",
    ),
    "serve": Command(
        "serve the HTTP API and the web page",
        "siamese_verify.cli.serve:run",
        "siamese_verify.cli.serve:add_arguments",
    ),
}

# Hydra's flags that a value follows.
WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
EXIT_OUTPUT = 74  # EX_IOERR
EXIT_PIPE = 141  # 128 + SIGPIPE, as shells report it
STOPPING = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")  # Windows lacks some
UNWRITABLE = (*DISK_FULL, errno.EIO)


class Parser(argparse.ArgumentParser):
    """Argument parser whose error messages contain no control characters of the arguments."""

    def error(self, message: str) -> NoReturn:
        """Exit with the usage, the message and status 2."""
        super().error(printable(message))


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit status: 0 success or same person, 1 different people or failed runs of a sweep, 2 user error, 3 no
        decision, 70 a bug, 74 output that cannot be written, 75 stopped by a signal, 130 by Ctrl-C, 141 a closed pipe.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal may lack a letter
    with suppress(OSError, ValueError, AttributeError):  # standard error is closed or replaced
        if os.get_terminal_size(sys.stderr.fileno()) == (0, 0):  # as of `docker run -t`: tqdm would draw nothing
            os.environ |= {"TQDM_NCOLS": "80", "TQDM_NROWS": "24"}
    given = sys.argv[1:] if arguments is None else arguments
    command = COMMANDS.get(given[0]) if given else None
    leaves = arguments is None and command is not None and command.leaves
    try:
        try:
            status = run(given)
            if leaves:
                atexit._run_exitfuncs()
        finally:
            for stream in (sys.stdout, sys.stderr):  # now: an error while Python exits would be a traceback
                if stream is not None:
                    stream.flush()
        if leaves:
            os._exit(status)
        return status
    except OSError as error:
        closed = isinstance(error, BrokenPipeError)  # the reader has ended
        if not closed and error.errno not in UNWRITABLE:
            raise
        with suppress(OSError):
            if not closed:
                sentence = f"The output cannot be written ({error.strerror}): make room, or redirect it elsewhere."
                print(f"siamese-verify: {sentence}", file=sys.stderr, flush=True)
        for stream in (sys.stdout, sys.stderr):  # drop what they still hold
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return EXIT_PIPE if closed else EXIT_OUTPUT


def run(arguments: list[str]) -> int:
    """Run a command; errors of writing to standard output and standard error are raised.

    Returns:
        Exit status, see `main`.
    """
    name = arguments[0] if arguments else ""
    command = COMMANDS.get(name)
    if command is None:
        parse_overview(arguments)
        return 0
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        with suppress(ValueError):  # in another thread than the main one
            signal.signal(signal.SIGTERM, terminate)
    try:
        if command.add_arguments is None:
            return run_hydra(name, command.run, arguments[1:])
        parser = Parser(prog=f"siamese-verify {name}", description=f"{command.help.capitalize()}.")
        pkgutil.resolve_name(command.add_arguments)(parser)
        options = parser.parse_args(arguments[1:])
        status: int = report_user_errors(pkgutil.resolve_name(command.run))(options)
        return status
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich's way to end
            raise end.__context__ from None
        raise
    except KeyboardInterrupt as stopped:  # while modules are imported
        return report_stopped(stopped)
    except Exception as error:
        return report_bug(error)


def run_hydra(name: str, module: str, overrides: list[str]) -> int:
    """Run a Hydra command as `python -m` does, so that DDP finds out how to start its other processes."""
    from siamese_verify.cli.configuration import hydra_form
    from siamese_verify.sweeps.child_run import follow_parent, quote_elements
    from siamese_verify.sweeps.resume_sweep import resume_arguments

    if invisible := [one for one in overrides if printable(one) != one]:  # Hydra would print it as it is
        Parser(prog="siamese-verify").error(f"the override {invisible[0]} holds an invisible character: remove it")
    given = report_user_errors(flags_first)(overrides)
    if given[:1] == ["--help"]:
        print(hydra_help(name))
        return 0
    overrides = [hydra_form(quote_elements(one)) for one in given]
    follow_parent()
    pass_on_search_path()
    if name == "train":
        overrides = report_user_errors(resume_arguments)(overrides)
    sys.argv = [f"siamese-verify {name}", *overrides]
    if name == "train":  # imports take seconds, then the run receives the signals
        for number in (getattr(signal, one) for one in STOPPING if hasattr(signal, one)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, stop_before_start)
    import runpy

    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Arguments of a Hydra command with its flags before the overrides, as Hydra needs them; only --help if asked for.

    Raises:
        InputError: a flag that Hydra does not have.
    """
    from hydra._internal.utils import get_args_parser

    flags: list[str] = []
    overrides: list[str] = []
    for last, one in zip(("", *arguments), arguments, strict=False):
        is_value = last in WITH_VALUE or (last in ("--info", "-i") and re.fullmatch(r"[\w-]+", one))
        (flags if one.startswith("-") or is_value else overrides).append(one)
    known, unknown = get_args_parser().parse_known_args([*flags, *overrides])
    if unknown:
        flag, _, value = unknown[0].partition("=")
        after = [*arguments, ""][arguments.index(unknown[0]) + 1]
        value = value or (after if re.fullmatch(r"[^-=][^=]*", after) else "VALUE")
        setting = flag.lstrip("-").replace("-", "_")
        raise InputError(f"There is no option {flag}: write settings without dashes, {setting}={value}.")
    return ["--help"] if known.help else [*flags, *overrides]


def hydra_help(name: str) -> str:
    """Help of a Hydra command: what it does, how it is called, and the choices of its groups."""
    from siamese_verify.cli.configuration import choices_of

    command = COMMANDS[name]
    indent = {"initial_indent": "  ", "subsequent_indent": "      ", "width": 100, "break_on_hyphens": False}
    groups = choices_of("train" if name == "demo" else name).items()
    return "\n".join(
        [
            f"usage: siamese-verify {name} [-m] [--config-dir FOLDER] [GROUP=CHOICE ...] [SETTING=VALUE ...]",
            f"\n{command.help.partition(': ')[0].partition('; ')[0].capitalize()}.\n\nexamples:",
            *(f"  siamese-verify {name} {example}" for example in command.examples),
            "\ngroups, and their choices:",
            *(textwrap.fill(f"{group}: {', '.join(choices)}", **indent) for group, choices in groups),  # type: ignore[arg-type]
            f"\nSettings and their values: siamese-verify {'train' if name == 'demo' else name} --cfg job",
        ]
    )


def pass_on_search_path() -> None:
    """Let the runs of a sweep and the ranks of a run find the modules that this process finds.

    They start by `python -m`, which looks in the working folder first; the command `siamese-verify` does not.
    """
    if sys.path[0] not in ("", str(Path.cwd())):
        os.environ["PYTHONSAFEPATH"] = "1"


def stop_before_start(number: int, _: object) -> NoReturn:
    """End a run that has not begun."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    print(f"Stopped by {name} before the start: start it again.", file=sys.stderr, flush=True)
    os._exit(EXIT_CTRL_C if number == signal.SIGINT else EXIT_TEMPORARY)


def report_bug(error: Exception) -> int:
    """Print the traceback of a bug, and return a status that cannot be mistaken for a decision, as 1 would.

    Of one in a user's own code, the traceback begins there, and a sentence says so.

    Raises:
        OSError: output that cannot be written, which is not a bug.
    """
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno in UNWRITABLE):
        raise error
    if own := own_frames(error):
        error.__traceback__ = own[0]
    traceback.print_exception(error)
    if own:
        print(f"siamese-verify: {printable(place_in_own_code(error))}", file=sys.stderr)
    return EXIT_BUG


def parse_overview(arguments: list[str]) -> None:
    """Print the help or version that is asked for, or exit with a usage error."""
    top = Parser(prog="siamese-verify", description="Train, measure and use Siamese networks for face verification.")
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help, add_help=False)
    if close := difflib.get_close_matches(arguments[0] if arguments else "", COMMANDS, n=1):
        top.error(f"there is no command {arguments[0]}: did you mean {close[0]}?")
    top.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
