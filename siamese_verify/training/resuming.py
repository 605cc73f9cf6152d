"""Whether a run may begin in a folder, or go on from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from siamese_verify.errors import InputError

FREE = ("encoder.dropout ", "encoder.pretrained ")  # settings that the weights do not depend on
NAMED = 5  # settings that an error names


def refuse_used(folder: Path, resumed: str | Path | None) -> None:
    """Refuse a folder that holds another run than the one that is resumed.

    Raises:
        InputError: it does.
    """
    left = [path for name in ("checkpoints/*.ckpt", "bundle") for path in sorted(folder.glob(name))]
    if left and not (resumed and Path(resumed).resolve().is_relative_to(folder.resolve())):
        raise InputError(
            f"{folder} holds a run already ({left[0].relative_to(folder)}): go on with it by "
            f"ckpt_path={folder / 'checkpoints' / 'last.ckpt'}, or set another folder by hydra.run.dir."
        )


def check_resumed(path: Path, module: nn.Module, configuration: dict[str, Any]) -> None:
    """See that a checkpoint is of the same encoder, loss, optimizer and schedule.

    Args:
        path: of a checkpoint of ours.
        module: that would take its weights.
        configuration: of the run that would go on with it.

    Raises:
        InputError: it is of another configuration; the settings that differ are named.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    earlier = checkpoint["hyper_parameters"]
    shapes, saved = shapes_of(module.state_dict()), shapes_of(checkpoint["state_dict"])
    others = []
    for part in ("optimizer", "scheduler"):
        before, now = ((one.get(part) or {}).get("_target_") for one in (earlier, configuration))
        others += differing(before, now, f"{part}._target_")
    within = differing(earlier.get("encoder"), configuration.get("encoder"), "encoder")
    others += [one for one in within if not one.startswith(FREE)]
    if shapes != saved:
        others += differing(earlier.get("loss"), configuration.get("loss"), "loss")
        if not others:
            odd = min(name for name in {*shapes, *saved} if shapes.get(name) != saved.get(name))
            others = differing(saved.get(odd), shapes.get(odd), odd)
    if others:
        told = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
        raise InputError(f"The checkpoint {path} is of another configuration: {told}; resume with the same settings.")


def shapes_of(state: dict[str, Any]) -> dict[str, str]:
    """The sizes of all tensors."""
    return {name: str(list(value.shape)) for name, value in state.items() if isinstance(value, torch.Tensor)}


def differing(earlier: Any, now: Any, place: str) -> list[str]:
    """What two configurations do not share, setting by setting, in words."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        names = sorted({*earlier, *now}) if earlier.get("_target_") == now.get("_target_") else ["_target_"]
        return [one for name in names for one in differing(earlier.get(name), now.get(name), f"{place}.{name}")]
    return [] if earlier == now else [f"{place} is {earlier} there and {now} here"]
