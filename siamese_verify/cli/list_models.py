"""`siamese-verify models`: list the models of this machine, or download one for later."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from siamese_verify.errors import InputError, printable
from siamese_verify.structures import DEFAULT_MODEL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `models`."""
    parser.description = "List pretrained models and the bundles below this folder, or download a model for later."
    parser.add_argument("action", nargs="?", choices=("list", "pull"), default="list", help="list by default")
    parser.add_argument("name", nargs="?", help="with pull: pretrained model to download")
    parser.add_argument(
        "--from",
        dest="sources",
        metavar="PATH",
        type=Path,
        nargs="+",
        default=[],
        help="with pull sface or openface: the files as published, or a folder that holds them",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """List models, or download one."""
    from siamese_verify.models.registry import list_models, pretrained_bundle

    if options.action == "pull":
        if not options.name:
            raise InputError(f"No model is named: siamese-verify models pull {DEFAULT_MODEL}.")
        from siamese_verify.verification import Verifier

        folder = pretrained_bundle(options.name, options.sources, check=True)
        Verifier.load(folder, engine="onnx", quick_start=True)  # the first `verify` finds its network optimized
        print(f"{options.name} is in {printable(folder)}: it needs no network any more.")
        return 0
    if options.sources:
        raise InputError("--from goes with pull: siamese-verify models pull sface --from PATH.")
    entries = list(list_models(Path()))
    if options.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=1))
        return 0
    for entry in entries:
        size = f"{entry.megabytes:.0f} MB {'on this machine' if entry.available else 'to download'}"
        print(printable(f"{entry.name}: {size}" if entry.megabytes else f"{entry.name}: cannot be used"))
        named = {"trained by": entry.stages, "license of the weights": entry.license}
        facts = [entry.note, entry.accuracy, *(f"{name}: {value}" for name, value in named.items() if value)]
        print(*(printable(f"  {fact}") for fact in facts if fact), sep="\n")
    return 0
