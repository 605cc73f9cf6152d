"""`siamese-verify train resume=SWEEP`: the command of a sweep again, in its folder, for what is not finished there.

Each run of it then finds what it left: a finished one is not repeated, and one that was cut off goes on from its last
checkpoint. A study of Optuna proposes only the trials that are left.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.run_record import has_plain_interpolations
from siamese_verify.sweeps.child_run import quoted

SWEEP = "sweep.json"  # in the folder of a sweep
FOREIGN = ("-c", "--config", "hydra.searchpath", "hydra.job_logging", "hydra.hydra_logging")

# Settings that a resumed run may be given anew: they say where and for how long it runs, not what it learns.
FREE = (
    "cache",
    "data.root",
    "datamodule.workers",
    "datamodule.device",
    "hydra",
    "logger",
    "threads",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.log_every_n_steps",
    "trainer.max_epochs",
    "trainer.num_nodes",
    "trust_code",
)


def refuse_other_sweep(folder: Path, arguments: Sequence[str]) -> None:
    """Check that a folder holds no sweep of another command, Hydra's settings aside.

    Raises:
        InputError: it holds one.
    """
    try:
        recorded = [str(one) for one in json.loads((folder / SWEEP).read_bytes())["arguments"]]
    except (OSError, ValueError, KeyError, TypeError):
        return  # none, or the command is started again since it is damaged
    earlier, present = own_arguments(recorded), own_arguments(arguments)
    if earlier != present:
        raise InputError(
            f"{folder} holds another sweep ({shlex.join(earlier) or 'no overrides'}): set another hydra.sweep.dir."
        )


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments of a sweep, or overrides of a run, that say what is trained: not Hydra's, nor those that resume it."""
    apart = ("hydra.", "hydra/", "resume=", "trust_code=")
    return [one for one in arguments if one not in ("-m", "--multirun") and not one.lstrip("+~").startswith(apart)]


def record_sweep(folder: Path, arguments: Sequence[str]) -> None:
    """Write the command of a sweep to `sweep.json` in its folder, unless the sweep is resumed."""
    if (folder / SWEEP).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["siamese-verify", "train", *arguments])
    content = {"command": command, "arguments": [*arguments], "cwd": str(Path.cwd())}
    atomic_write(folder / SWEEP, json.dumps(content, indent=1).encode())


def resume_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments of `siamese-verify train` with the command of a sweep in place of `resume=SWEEP`.

    Hydra's settings may be added, such as `hydra.sweeper.n_trials=100` or another launcher, and by `trust_code=CLASS` a
    permission for code of others that the recorded command names. The working directory
    becomes that of the sweep, whose paths may start from there.

    Returns:
        The arguments; those given, if they resume no sweep.

    Raises:
        InputError: settings beside Hydra's, which would make other runs; a damaged `sweep.json`, or one that names
            code or configs outside of the package.
    """
    named = [argument.removeprefix("resume=").strip("'\"") for argument in arguments if argument.startswith("resume=")]
    if not named or not (Path(named[-1]) / SWEEP).is_file():
        return [*arguments]
    folder = Path(named[-1]).absolute()
    trusted = [name for one in arguments if one.startswith("trust_code=") for name in re.findall(r"[\w.]+", one)[1:]]
    apart = ("resume=", "trust_code=")
    added = [one for one in arguments if not one.startswith(apart) and one not in ("-m", "--multirun")]
    if other := [one for one in added if not one.lstrip("+~").startswith(("hydra.", "hydra/"))]:
        raise InputError(f"resume={named[-1]} continues the sweep with its own settings: leave out {other[0]}.")
    try:
        recorded = json.loads((folder / SWEEP).read_bytes())
        started, cwd = [str(one) for one in recorded["arguments"]], Path(recorded["cwd"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / SWEEP} is damaged ({error}): start the sweep's command again.") from None
    if code := [one for one in started if untrusted(one, trusted)]:
        raise InputError(
            f"The command of the sweep {named[-1]} names code or configs of its own, {code[0]}, which are never used "
            "unasked: if you trust them, add trust_code=CLASS, or give the command itself again with "
            f"hydra.sweep.dir={named[-1]}, which continues the sweep as well."
        )
    if cwd.is_dir():
        os.chdir(cwd)
    replaced = {one.partition("=")[0] for one in added} | {"hydra.sweep.dir"}
    kept = [one for one in started if one.partition("=")[0] not in replaced]
    if "hydra/launcher" in replaced:
        kept = [one for one in kept if not one.lstrip("+~").startswith("hydra.launcher.")]
    return [*kept, *added, f"hydra.sweep.dir={quoted(str(folder))}"]


def untrusted(argument: str, trusted: Collection[str]) -> bool:
    """Whether an argument brings code or configs of others that are not trusted."""
    if argument.lstrip("+").startswith(FOREIGN) or not has_plain_interpolations(argument):
        return True
    named = re.findall(r"[a-zA-Z_]\w*(?:\.\w+)+", argument.partition("=")[2])
    return "_target_" in argument and (not named or not set(named) <= {*trusted})


def resume_override(folder: Path) -> list[str]:
    """Override that lets a run of a sweep go on from the last checkpoint in its folder; none if it has none."""
    found = any((folder / "checkpoints" / name).is_file() for name in ("last.ckpt", "best.ckpt"))
    return [f"resume={quoted(str(folder))}"] if found else []
