"""People held out from a training for testing, and the record of who was trained and tested on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from siamese_verify.atomic_write import atomic_write
from siamese_verify.datasets.listing import identity_name
from siamese_verify.errors import InputError
from siamese_verify.protocols.leakage import TrainingSubset, namespace_of
from siamese_verify.protocols.protocol import PhotoSubset, Protocol, all_pairs
from siamese_verify.run_record import RunRecord
from siamese_verify.structures import Photos

PEOPLE = "people.json"


@dataclass(frozen=True)
class HeldOutShare:
    """How many people of a training set are held out for testing.

    Attributes:
        share: of the people, in (0, 1).
        max_identities: people at most.
        max_samples_per_identity: photos of each at most; >= 2.
        seed: of the choice; runs with other seeds are tested on the same people.
        make: makes another protocol than all pairs from the photos of these people and a name for them.
    """

    share: float = 0.1
    max_identities: int = 1000
    max_samples_per_identity: int = 10
    seed: int = 0
    make: Callable[[Photos, str], Protocol] | None = None

    @property
    def choice(self) -> dict[str, Any]:
        """Who is held out, as arguments of `hold_out`."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "make"}

    def protocol(self, photos: Photos, data: str) -> Protocol:
        """What is measured on photos of people held out of a data set of this name."""
        people = f"{len(np.unique(photos.identities)):,} people held out for testing"
        if self.make is None:
            return all_pairs(photos, f"{data}, all pairs of {people}")
        return self.make(photos, f"{data}, {people}")


def held_out(
    official: Protocol | None = None,
    share: float = 0.1,
    max_identities: int = 1000,
    max_samples_per_identity: int = 10,
    seed: int = 0,
) -> Protocol | HeldOutShare:
    """Test protocol of a training: the data set's official one if it has one, else a `HeldOutShare` of its people."""
    return official if official is not None else HeldOutShare(share, max_identities, max_samples_per_identity, seed)


def made_of(
    photos: Photos | None, people: Protocol | HeldOutShare | None, make: Callable[[Photos, str], Protocol]
) -> Protocol | HeldOutShare:
    """A protocol made of photos, of those of another protocol, or of people to hold out from training.

    Args:
        photos: of people; None takes those of `people`.
        people: another protocol, or how many people to hold out; None holds out the usual share.
        make: makes the protocol from photos and a name for them.

    Raises:
        InputError: of the other protocol only pairs are known.
    """
    if photos is not None:
        return make(photos, name_of_photos(photos))
    if people is None or isinstance(people, HeldOutShare):
        return replace(people or HeldOutShare(), make=make)
    if not people.identities_known:
        raise InputError(
            f"Of the protocol {people.name} only pairs are known, not who is on the photos: choose other photos, such "
            "as protocol.photos='${data.photos}'."
        )
    return make(people.photos, people.photos_name or people.name)


def name_of_photos(photos: Photos) -> str:
    """A name for photos: that of their folder or list, else what they are."""
    root = getattr(photos, "list", None) or getattr(photos, "root", None)
    return Path(str(root)).name if root else type(photos).__name__


@dataclass(frozen=True)
class TrainingRun:
    """People that a finished training has recorded.

    Attributes:
        configuration: composed and resolved, with absolute paths.
        seen: what was trained and validated on, without photos: two subsets of each stage, its own first.
        is_complete: whether those of all earlier stages are known.
        tested: names of the photos held out of the training set for testing, None if it was tested on another protocol.
        protocol: name of what it was tested on.
    """

    configuration: dict[str, Any]
    seen: list[TrainingSubset]
    tested: list[str] | None
    protocol: str
    is_complete: bool = True

    def with_photos(self, photos: Photos) -> list[TrainingSubset]:
        """`seen` with the training photos, so that `find_leak` can compare files."""
        found = []
        for subset in self.seen:
            known = np.unique(photos.identities).tolist() if subset.namespace == namespace_of(photos) else []
            chosen = [identity for identity in known if identity_name(photos, identity) in subset.people]
            rows = np.flatnonzero(np.isin(photos.identities, chosen))
            found.append(TrainingSubset(subset.namespace, subset.people, photos, rows))
        return found

    def test_protocol(self, photos: Photos, share: HeldOutShare | None = None) -> Protocol:
        """What is measured on the people that the training held out for testing, by default what was then.

        Args:
            photos: of the training set.
            share: what to measure.

        Raises:
            InputError: some of the photos held out are missing.
        """
        assert self.tested is not None
        rows = {name: row for row, name in enumerate(photos.names)}
        missing = [name for name in self.tested if name not in rows]
        if missing:
            raise InputError(
                f"{len(missing):,} of the {len(self.tested):,} photos that the run was tested on are missing, such as "
                f"{missing[0]}: bring them back, or choose another protocol."
            )
        subset = PhotoSubset(photos, np.array([rows[name] for name in self.tested]))
        return (share or HeldOutShare()).protocol(subset, self.configuration["data"]["name"])


def save_people(
    folder: Path,
    seen: Sequence[TrainingSubset],
    protocol: Protocol,
    held_out: PhotoSubset | None = None,
    *,
    earlier_are_known: bool = True,
) -> None:
    """Record who was trained and tested on, for later evaluations of the run.

    Args:
        folder: of the run.
        seen: what it trained and validated on, then what each earlier stage did.
        protocol: what it is tested on.
        held_out: photos of people held out of the training set for it, if any were.
        earlier_are_known: whether `seen` has all earlier stages.
    """
    content = {
        "working folder": str(Path.cwd()),
        "seen": [{"namespace": subset.namespace, "people": sorted(subset.people)} for subset in seen],
        "earlier stages are known": earlier_are_known,
        "protocol": protocol.name,
        "tested photos": list(held_out.names) if held_out else None,
    }
    atomic_write(folder / PEOPLE, json.dumps(content, indent=1).encode(), private=True)


def run_folder(model: str | Path) -> Path | None:
    """Folder of the run that a model is of, see `read_training_run`; None for a model outside of a run."""
    return next((one for one in (Path(model), *Path(model).parents[:2]) if (one / PEOPLE).is_file()), None)


def read_training_run(model: str | Path) -> TrainingRun | None:
    """Read what the run of a model has recorded; None for a model outside of a run.

    Args:
        model: a run's folder, its bundle, or one of its checkpoints.

    Raises:
        InputError: it is damaged.
    """
    folder = run_folder(model)
    if folder is None:
        return None
    try:
        people = json.loads((folder / PEOPLE).read_bytes())
        configuration = RunRecord.read(folder).configuration
        return TrainingRun(
            absolute_paths(configuration, Path(people["working folder"])),
            [TrainingSubset(part["namespace"], frozenset(part["people"])) for part in people["seen"]],
            people["tested photos"],
            people["protocol"],
            people.get("earlier stages are known", True),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:  # InputError is a ValueError
        raise InputError(f"The run {folder} is damaged ({error}): its {PEOPLE} or run.json cannot be read.") from None


def absolute_paths(configuration: Any, folder: Path) -> Any:
    """A configuration whose relative `root`, `path` and `drop` start from a folder."""
    if isinstance(configuration, list):
        return [absolute_paths(value, folder) for value in configuration]
    if not isinstance(configuration, dict):
        return configuration
    return {
        name: str(folder / value)
        if name in ("root", "path", "drop") and isinstance(value, str) and "://" not in value and "${" not in value
        else absolute_paths(value, folder)
        for name, value in configuration.items()
    }
