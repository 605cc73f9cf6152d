"""Records of runs as a sweep leaves them, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siamese_verify.run_record import RunRecord

PROTOCOL = "faces, all pairs"


def write_run(folder: Path, eer: float | None, overrides: dict[str, Any], **changes: Any) -> RunRecord:
    """Write the record of a finished run; dotted overrides are also in its configuration."""
    configuration: dict[str, Any] = {"seed": 0, "sweep": {"metric": "val/eer", "mode": "min"}}
    for name, value in overrides.items():
        *above, last = name.split(".")
        node = configuration
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    configuration["datamodule"] = {"seed": configuration["seed"], "root": f"{folder}/faces"}
    record = RunRecord(
        status="finished",
        command=f"siamese-verify train {' '.join(f'{name}={value}' for name, value in overrides.items())}",
        overrides=[f"{name}={value}" for name, value in overrides.items()],
        host="elsewhere",
        seconds=83.0,
        exit_status=0,
        configuration=configuration,
    )
    if eer is not None:
        record.metrics = {"val/eer": eer, "epoch": 2.0}
        record.history = [(epoch, 10 * epoch, {"val/eer": eer + 0.1 * (2 - epoch)}) for epoch in range(3)]
        record.test = {PROTOCOL: {"eer": eer + 0.01, "eer_interval": [eer, eer + 0.02], "auc": 0.98}}
    for name, value in changes.items():
        setattr(record, name, value)
    record.write(make(folder))
    return record


def make(folder: Path) -> Path:
    """Make a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_grid(folder: Path) -> None:
    """Two margins with three seeds each, a run that failed, and one that still runs elsewhere."""
    for place, (margin, seed, eer) in enumerate(
        [(0.2, 0, 0.04), (0.2, 1, 0.05), (0.2, 2, 0.06), (0.5, 0, 0.02), (0.5, 1, 0.03), (0.5, 2, 0.07)]
    ):
        write_run(folder / str(place), eer, {"loss.margin": margin, "seed": seed})
    failed = {"status": "failed", "error": "CUDA is out of memory: <b>256</b> faces.", "exit_status": 2}
    write_run(folder / "10", None, {"loss.margin": 0.9, "seed": 0}, **failed)
    running: dict[str, Any] = {"status": "running", "exit_status": None, "metrics": {}, "test": {}}
    write_run(folder / "11", 0.001, {"loss.margin": 0.9, "seed": 1}, **running)
