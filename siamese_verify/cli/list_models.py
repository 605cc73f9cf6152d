"""`siamese-verify models`: which models there are, and getting one for a machine that will lose the network."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from siamese_verify.errors import InputError, printable


def models_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.description = "List pretrained models and the bundles below this folder, or get a pretrained one for later."
    parser.add_argument("action", nargs="?", choices=("list", "pull"), default="list", help="list (default) or pull")
    parser.add_argument("name", nargs="?", help="with pull: the pretrained model")
    parser.add_argument("--json", action="store_true", help="print JSON")


def models(options: argparse.Namespace) -> int:
    """List them, or pull one."""
    from siamese_verify.models.registry import models as known_models
    from siamese_verify.models.registry import pretrained_bundle

    if options.action == "pull":
        if not options.name:
            raise InputError("Say which model to get: siamese-verify models pull casia-webface.")
        folder = pretrained_bundle(options.name)
        print(f"{options.name} is here, in {printable(folder)}: it needs no network any more.")
        return 0
    found = list(known_models(Path()))
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return 0
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("model", "here", "size", "accuracy", "licence of the weights")
    for one in found:
        row = (one.name, "yes" if one.there else "no", f"{one.megabytes:.0f} MB" if one.megabytes else "")
        table.add_row(*(escape(printable(cell)) for cell in (*row, one.accuracy or one.note, one.licence)))
    Console().print(table)
    return 0
