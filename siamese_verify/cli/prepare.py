"""`siamese-verify prepare`: download, check and align a data set."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from siamese_verify.cli.configuration import check_values
from siamese_verify.cli.hydra_command import hydra_command
from siamese_verify.cli.run_metadata import versions
from siamese_verify.datasets import IMAGE_FOLDERS, Preparation, fetch_lfw, unpack_once
from siamese_verify.errors import InputError, printable
from siamese_verify.preparation import Alignment, prepare_faces
from siamese_verify.preparation.prepare_faces import OUTCOMES
from siamese_verify.structures import InputSpec, Photos
from siamese_verify.sweeps.child_run import pasted


def prepare(cfg: DictConfig) -> Preparation:
    """Write the aligned faces of a data set to a folder."""
    check_values(cfg)
    if cfg.data.get("root"):
        unpack_or_download(cfg, Path(str(cfg.data.root)) if "://" not in str(cfg.data.root) else None)
    spec: InputSpec = instantiate(cfg.align)
    photos: Photos = instantiate(cfg.data.source if "source" in cfg.data else cfg.data.photos)
    people = len(set(photos.identities.tolist()))
    print(f"{cfg.data.name}: {len(photos):,} photos of {people:,} identities.")
    found = prepare_faces(
        photos,
        cfg.data.name,
        Path(cfg.output),
        Alignment(spec, cfg.on_multiple_faces, cfg.quality),
        versions(),
        cfg.drop,
        cfg.processes,
    )
    print_outcomes(found, Path(cfg.output))
    return found


def unpack_or_download(cfg: DictConfig, root: Path | None) -> None:
    """Unpack the archive given, or download LFW, if the data set is missing."""
    if cfg.archive:
        if root is None:
            raise InputError(f"An archive is unpacked on this machine, not into {cfg.data.root}: set data.root.")
        count = unpack_once(Path(cfg.archive), root)
        print(
            printable(
                f"{cfg.archive} is unpacked already." if count is None else f"{count:,} files unpacked into {root}."
            )
        )
    elif cfg.data.name == "lfw" and root and not any((root / name).is_dir() for name in IMAGE_FOLDERS):
        for missing in fetch_lfw(root):
            print(f"{missing} could not be downloaded: put it into {root}, else the people of View 1 are unknown.")


def print_outcomes(found: Preparation, output: Path) -> None:
    """Print the outcomes of the photos and where the output is."""
    console = Console()
    console.print(printable(f"{found.source}, aligned as {found.alignment}:"), highlight=False, markup=False)
    table = Table()
    table.add_column("photos", justify="right")
    table.add_column("outcome")
    for outcome, words in OUTCOMES.items():
        if found.outcomes.get(outcome):
            table.add_row(f"{found.outcomes[outcome]:,}", words)
    console.print(table)
    for one in found.dropped[:10]:
        dropped = f"Dropped {one['identity']}, {one['photos']} photos: {one['reason']}."
        console.print(printable(dropped), highlight=False, markup=False)
    if len(found.dropped) > 10:
        console.print(f"... and {len(found.dropped) - 10:,} identities more.", highlight=False)
    console.print(f"Faces and index: {output}", soft_wrap=True, markup=False)
    console.print(
        f"Contact sheets: {output / 'sheets'}; left out: {output / 'left_out.csv'}", soft_wrap=True, markup=False
    )
    command = f"siamese-verify train data=prepared {pasted('data.root', output)}"
    console.print(f"To train on: {command}", soft_wrap=True, markup=False, highlight=False)


@hydra_command("prepare")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    prepare(cfg)


if __name__ == "__main__":
    main()
