"""`siamese-verify COMMAND`: a command's module is imported when it runs."""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import sys
import traceback

from siamese_verify import __version__
from siamese_verify.entry import explained

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
    "verify": ("verify", "say whether two photos show the same person"),
    "export": ("export", "make a bundle of a run or checkpoint: all that a verifier needs"),
    "models": ("models", "list the models of this machine, or get one for later"),
    "enroll": ("gallery", "add a person to a gallery"),
    "identify": ("gallery", "say which person of a gallery a photo shows"),
    "people": ("gallery", "list the people of a gallery"),
    "forget": ("gallery", "remove a person from a gallery"),
    "serve": ("serve", "answer over HTTP, with a web page"),
}

CRASHED = 70  # EX_SOFTWARE of sysexits.h
CLOSED = 141  # as a shell tells of SIGPIPE


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit status: 0 done or same person, 1 different people, 2 wrong usage, 3 no decision, 70 a fault of ours.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else ""
    if name in HYDRA_COMMANDS:
        sys.argv = [f"siamese-verify {name}", *arguments[1:]]
        # As `python -m`, so that DDP finds out how to start its other processes.
        try:
            runpy.run_module(f"siamese_verify.{name}", run_name="__main__", alter_sys=True)
        except Exception:
            traceback.print_exc()
            return CRASHED
        return 0
    if name not in COMMANDS:
        overview().parse_args(arguments)  # ends here, with help or a complaint
    module = importlib.import_module(f"siamese_verify.commands.{COMMANDS[name][0]}")
    parser = argparse.ArgumentParser(prog=f"siamese-verify {name}", description=f"{COMMANDS[name][1].capitalize()}.")
    getattr(module, f"{name}_arguments")(parser)
    options = parser.parse_args(arguments[1:])
    try:
        status: int = explained(getattr(module, name))(options)
    except BrokenPipeError:  # whoever read the answer has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return CLOSED
    except Exception:  # a fault of ours must not pass for an answer, as Python's own status 1 would
        traceback.print_exc()
        return CRASHED
    return status


def overview() -> argparse.ArgumentParser:
    """The command line as a whole."""
    top = argparse.ArgumentParser(
        prog="siamese-verify", description="Train, measure and use Siamese networks for face verification."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, text in {**HYDRA_COMMANDS, **{name: text for name, (_, text) in COMMANDS.items()}}.items():
        commands.add_parser(name, help=text, add_help=False)
    return top


if __name__ == "__main__":
    sys.exit(main())
