"""Many pairs of photos -> their scores and decisions, each photo looked at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from siamese_verify.errors import InputError
from siamese_verify.verification.decision import best_pair
from siamese_verify.verification.embedded_photos import EmbeddedPhotos, Embedder
from siamese_verify.verification.kept_embeddings import KeptEmbeddings
from siamese_verify.verification.late_bar import late_bar
from siamese_verify.verification.pair_table import PairTable, ScoreWriter, check_suffix, check_writable, read_pairs
from siamese_verify.verification.verifier import Several, checked_several

if TYPE_CHECKING:
    from siamese_verify.verification.result import SeenFace, Verification

PAIRS = 16_384  # decided and written together
TOLD = 5  # failed rows that a summary names


class Judge(Embedder, Protocol):
    """What a list of pairs needs of a verifier."""

    def decide(
        self,
        score: float,
        /,
        faces: Sequence[SeenFace] = (),
        *,
        far: float | None = None,
        threshold: float | None = None,
        prior: float | None = None,
        decide: bool = False,
        comparisons: int = 1,
    ) -> Verification:
        """Say what a score means."""


class Summary(NamedTuple):
    """What came of a list of pairs; `pairs` = `decided` + `inconclusive` + `failed`."""

    pairs: int
    decided: int  # `same` + `different`
    same: int
    different: int
    inconclusive: int
    failed: int  # a photo of theirs is missing, unreadable, or shows no face or several
    photos: int  # distinct ones
    errors: tuple[str, ...]  # of the first that failed, each with its line

    def sentence(self) -> str:
        """Say it in words."""
        return (
            f"{self.pairs:,} pairs of {self.photos:,} photos: {self.same:,} the same person, {self.different:,} "
            f"different people, {self.inconclusive:,} inconclusive, {self.failed:,} without a decision."
        )


def verify_pairs(
    verifier: Judge,
    table: str | Path,
    out: str | Path,
    root: str | Path | None = None,
    far: float | None = None,
    threshold: float | None = None,
    several: Several | None = None,
    decide: bool = False,
    prior: float | None = None,
    progress: bool = True,
) -> Summary:
    """Decide about many pairs.

    Each photo is read, searched and embedded once, in however many pairs it is. The output has every row of the table,
    in its order, with every column, and `score, same, log_likelihood_ratio, probability, prior, one_in, threshold,
    reasons, warnings, error`; what a row lacks is empty. It appears when it is complete. Until then, embeddings are
    kept in a folder beside it, so that the same command goes on where it was stopped; the folder is removed at the end.

    Args:
        verifier: of photos.
        table: `.csv` or `.parquet` with the columns `a` and `b`; what it calls like a column of the output is carried
            along as `..._given`.
        out: `.csv` or `.parquet`, replaced if it is there.
        root: folder that the paths in `a` and `b` start from; by default that of the table.
        far: see `Verifier.verify`.
        threshold: likewise.
        several: what to do about photos of several faces, see `Verifier.load`; of `any`, the best pair of faces counts.
        decide: see `Verifier.verify`.
        prior: likewise; without one `probability` is empty.
        progress: draw a bar once it takes longer than two seconds.

    Raises:
        InputError: a table or an output that cannot be used, see `read_pairs`; a threshold or rate that
            `Verifier.verify` would refuse; another process is at the same output. Never for a bad photo.
    """
    source, target = Path(table), Path(out)
    check_suffix(target)
    if not target.absolute().parent.is_dir():
        raise InputError(f"There is no folder {target.parent} for the output {target.name}: make it first.")
    if target.is_dir() or (target.exists() and source.exists() and target.samefile(source)):
        raise InputError(f"The output {out} is a folder or the table of pairs itself: give another name.")
    if several is not None:
        checked_several(several)
    folder = source.parent if root is None else Path(root)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} for the photos to start from: give another root.")
    verifier.decide(
        0.0, far=far, threshold=threshold, prior=prior, decide=decide
    )  # refuses what it must before any photo is read
    pairs = read_pairs(source)
    check_writable(pairs, target.suffix)
    kept = KeptEmbeddings(target.with_name(f".{target.name}.unfinished"), _origin(verifier, several))
    try:
        photos = EmbeddedPhotos(verifier, pairs.photos, folder, several)
        with late_bar("Embedding photos", progress) as advance:
            photos.embed(kept, advance)
        unfinished = kept.folder / f"output{target.suffix}"
        with late_bar("Deciding about pairs", progress) as advance:
            writer = ScoreWriter(unfinished, target.suffix, pairs)
            scores = _Scores(
                verifier, pairs, photos, {"far": far, "threshold": threshold, "prior": prior, "decide": decide}
            )
            summary = scores.write(writer, advance)
        unfinished.replace(target)
        kept.remove()
    except OSError as error:
        raise InputError(
            f"The output {out} cannot be written ({error}): mend that, and the same command goes on where it was."
        ) from None
    finally:
        kept.release()
    return summary


def _origin(verifier: Judge, several: Several | None) -> str:
    """Name all that decides which faces are embedded, and how: nothing that was embedded another way is used."""
    policy = several or getattr(verifier, "several", "refuse")
    hook: Any = getattr(verifier, "liveness", None)  # may refuse what was accepted without it; its name has to do
    named = f"{hook.__module__}.{hook.__qualname__}" if hasattr(hook, "__qualname__") else repr(hook)
    return f"{verifier.record.fingerprint} {policy} {named}"


class _Scores:
    """The scores of pairs, row by row."""

    def __init__(self, verifier: Judge, pairs: PairTable, photos: EmbeddedPhotos, asked: dict[str, Any]) -> None:
        self.verifier, self.pairs, self.photos, self.asked = verifier, pairs, photos, asked

    def write(self, writer: ScoreWriter, advance: Callable[[int, int], None]) -> Summary:
        """Write them all, and count what came out."""
        pairs = self.pairs
        same = different = inconclusive = 0
        told: list[str] = []
        for start in range(0, len(pairs), PAIRS):
            block = slice(start, start + PAIRS)
            rows = [
                self.row(a, b) for a, b in zip(pairs.left[block].tolist(), pairs.right[block].tolist(), strict=True)
            ]
            writer.write(start, rows)
            for number, row in enumerate(rows, start):
                if "error" in row:
                    told += [f"{pairs.place} {pairs.places[number]}: {row['error']}"] * (len(told) < TOLD)
                    continue
                same += row["same"] is True
                different += row["same"] is False
                inconclusive += row["same"] is None
            advance(min(start + PAIRS, len(pairs)), len(pairs))
        writer.close()
        decided = same + different
        failed = len(pairs) - decided - inconclusive
        distinct = len(self.photos.paths)
        return Summary(len(pairs), decided, same, different, inconclusive, failed, distinct, tuple(told))

    def row(self, left: int, right: int) -> dict[str, Any]:
        """What the output says of two photos, by the numbers of their names; -1 where none is named."""
        photos = self.photos
        errors = [
            photos.error(name) if name >= 0 else f"No photo is named in the column {column}."
            for column, name in (("a", left), ("b", right))
        ]
        if any(errors):
            return {"error": " ".join(dict.fromkeys(filter(None, errors)))}
        first, second = photos.rows_of(left), photos.rows_of(right)
        embeddings = photos.embeddings
        place, other, score = best_pair(embeddings[first.start : first.stop], embeddings[second.start : second.stop])
        result = self.verifier.decide(
            score,
            (photos.face(first[place], left), photos.face(second[other], right)),
            comparisons=len(first) * len(second),
            **self.asked,
        )
        return {
            "score": result.score,
            "same": result.same,
            "log_likelihood_ratio": result.log_likelihood_ratio,
            "probability": result.probability,
            "prior": result.prior,
            "one_in": result.one_in,
            "threshold": result.threshold if math.isfinite(result.threshold) else None,
            "reasons": " ".join(result.reasons) or None,
            "warnings": " ".join(result.warnings) or None,
        }
