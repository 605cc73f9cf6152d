"""`siamese-verify COMMAND`: a command's module is imported when it runs."""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
from dataclasses import asdict

from siamese_verify import __version__
from siamese_verify.entry import explained

SAME, DIFFERENT, NO_DECISION = 0, 1, 3  # 2 is argparse's and `explained`'s: wrong usage

HYDRA_COMMANDS = {
    "prepare": "get, check and align a data set: Hydra overrides follow, such as data=lfw align=five_point",
    "preview": "draw the batches that training will see: takes the overrides of train",
    "train": "train an encoder: Hydra overrides follow, such as experiment=lfw_triplet trainer.max_epochs=10",
    "evaluate": "measure a model: Hydra overrides follow, such as model=casia-webface protocol=lfw_view2",
    "center": "make a bundle that adds the mirror image and subtracts the mean face, such as model=casia-webface",
    "demo": "train on built-in synthetic faces and verify two pairs of photos; takes the overrides of train",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit status: 0 done or same person, 1 different people, 2 wrong usage, 3 no decision.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in HYDRA_COMMANDS:
        sys.argv = [f"siamese-verify {arguments[0]}", *arguments[1:]]
        # As `python -m`, so that DDP finds out how to start its other processes.
        runpy.run_module(f"siamese_verify.{arguments[0]}", run_name="__main__", alter_sys=True)
        return 0
    options = parser().parse_args(arguments)
    return compare(options) if options.command == "compare" else verify(options)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="siamese-verify", description="Train, measure and use Siamese networks for face verification."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in HYDRA_COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    compare = commands.add_parser(
        "compare",
        help="put evaluations beside one another",
        description="Put the reports of runs or evaluations beside one another, with paired tests on the same pairs.",
    )
    compare.add_argument("run", nargs="+", help="a run, an evaluation, a report folder or a table of scores")
    compare.add_argument("--output", default="runs/compare", help="folder for compare.html (%(default)s)")
    verify = commands.add_parser(
        "verify",
        help="say whether two photos show the same person",
        description="Say whether two photos show the same person.",
        epilog="Exit status: 0 same, 1 different, 2 wrong usage, 3 no decision (no face, several, unreadable file).",
    )
    verify.add_argument("photo", nargs=2, help="a photo with one face")
    verify.add_argument(
        "--model",
        default="casia-webface",
        help="casia-webface, vggface2, a bundle, a run or a checkpoint (%(default)s)",
    )
    limit = verify.add_mutually_exclusive_group()
    limit.add_argument("--far", type=float, help="false accept rate to work at, one of those measured, such as 1e-3")
    limit.add_argument("--threshold", type=float, help="accept at this score and above instead, in [-1, 1]")
    verify.add_argument("--json", action="store_true", help="print JSON")
    return top


@explained
def compare(options: argparse.Namespace) -> int:
    """Write a page that compares evaluations, and print what it says."""
    from siamese_verify.compare import compare as compare_runs

    sentences, page = compare_runs(options.run, options.output)
    print(*sentences, f"Page: {page}", sep="\n")
    return 0


@explained
def verify(options: argparse.Namespace) -> int:
    """Decide about two photos and print the decision."""
    from siamese_verify.verification import NoDecision, Verifier

    verifier = Verifier.load(options.model)
    try:
        result = verifier.verify(options.photo[0], options.photo[1], far=options.far, threshold=options.threshold)
    except NoDecision as error:
        if options.json:
            print(json.dumps({"same": None, "reason": str(error)}))
        print(f"No decision: {error}", file=sys.stderr)
        return NO_DECISION
    if options.json:
        threshold = result.threshold if math.isfinite(result.threshold) else None  # JSON has no infinity
        print(json.dumps({**asdict(result), "threshold": threshold}, allow_nan=False))
    else:
        decision = "The same person" if result.same else "Different people"
        print(f"{decision}: score {result.score:.3f}, threshold {result.threshold:.3f}.")
        if result.far is not None:
            doubt = " (fewer than ten decided it: a rough guess)" if result.insufficient else ""
            print(
                f"At this threshold {result.far:.3%} of {result.impostors:,} impostor pairs were accepted{doubt}; "
                f"measured on {result.measured_on}."
            )
        if result.probability is not None:
            likely = f"{min(max(result.probability, 0.001), 0.999):.1%}"
            bound = "under " if result.probability < 0.001 else "over " if result.probability > 0.999 else ""
            print(f"The probability of one person is {bound}{likely} if one pair in two is. {result.strangers}")
    return SAME if result.same else DIFFERENT


if __name__ == "__main__":
    sys.exit(main())
