"""Adapt a model to one's own people: a linear head on its embeddings, kept if people it has not seen gain by it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreComparison, VerificationReport, compare_scores, verification_report
from siamese_verify.evaluation.calibration import calibrate_pairs
from siamese_verify.faces import ranges_of
from siamese_verify.models.bundle import CARD, NETWORK, WEIGHTS, Bundle, FaceModel, write_bundle
from siamese_verify.models.engines import OnnxEngine, TorchEngine, embed_crops
from siamese_verify.models.exported_network import network_of
from siamese_verify.models.loading import torch_model
from siamese_verify.models.metadata import ModelMetadata, model_card
from siamese_verify.verification.recalibration import embed_people, measured_in_words
from siamese_verify.verification.verifier import Verifier

FOLDS = 5  # of the people: each is scored by a head that was trained without them
MAX_ROWS = 1024  # photos that a head is trained on: every step compares all with all
MAX_PAIRS = 100_000  # that decide whether the head is kept
RESAMPLES = 300  # for the correlation of both models' errors
TEMPERATURE = 0.1
DECAY = 0.2  # weight of the head's squared distance from the identity
STEPS = 30

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Adaptation:
    """A head for the people on some photos, and what it does to people it has not seen.

    Attributes:
        comparison: of the model as it is and with heads, on the same pairs of held-out people.
        report: of these pairs with heads.
        head: (D,D), trained on all of the people; None where held-out people do not gain.
        metadata: of the model with it; without it, of the model as it is.
        photos: number with a face.
        people: number of them.
        left_out: photos without a face that was used, counted by reason.
    """

    comparison: ScoreComparison
    report: VerificationReport
    head: Floats | None
    metadata: ModelMetadata
    photos: int
    people: int
    left_out: Counter[str]

    def sentences(self) -> Iterator[str]:
        """Yield the results in words."""
        value, low, high = (100 * number for number in self.comparison.eer)
        eer, folds = self.report.eer, f"{FOLDS} heads, each trained without the people it is measured on"
        yield (
            f"EER of held-out people {eer:.2%} with the head and {eer - value / 100:.2%} without: a difference of "
            f"{value:+.2f} percentage points (95 % interval over people: {low:+.2f} to {high:+.2f}; {folds})."
        )
        yield from measured_in_words(self.report, self.photos, self.people, self.left_out)
        if self.head is None:
            yield "No gain is shown on people whom a head has not seen: the model stays as it is."
        else:
            yield f"The head is kept, trained on all {self.people:,} people."


class HeldOutPairs(NamedTuple):
    """M pairs of people whom the heads have not seen.

    Attributes:
        left: (M,) rows of the embeddings.
        right: (M,) rows.
        plain: (M,) scores of the embeddings.
        adapted: (M,) scores behind the heads.
    """

    left: Whole
    right: Whole
    plain: Floats
    adapted: Floats


def apply_head(embeddings: Floats, head: Floats) -> Floats:
    """(N,D) embeddings of unit length behind a (D,D) head."""
    rows = embeddings @ head
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12)))


def fit_head(embeddings: Floats, people: Whole, seed: int = 0) -> Floats:
    """Train a linear head: the minimum of the loss of its normalized outputs and of its distance from the identity.

    With X the embeddings and H the head, SupCon(X H / |X H|) + `DECAY` |H - I|^2, by L-BFGS from the identity on.

    Args:
        embeddings: (N,D) of unit length.
        people: (N,) numbers.
        seed: of the choice of `MAX_ROWS` photos, an equal number of each person, where there are more.

    Returns:
        (D,D) the head.

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020.
    """
    import torch
    from torch.nn import functional as F

    from siamese_verify.losses import SupConLoss

    chosen = choose_rows(people, np.random.default_rng(seed))
    rows, labels = torch.from_numpy(embeddings[chosen]), torch.from_numpy(people[chosen])
    change = torch.zeros(rows.shape[1], rows.shape[1], requires_grad=True)
    objective = SupConLoss(TEMPERATURE)
    optimizer = torch.optim.LBFGS([change], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = objective(F.normalize(rows + rows @ change), labels) + DECAY * change.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return np.asarray(change.detach().numpy() + np.eye(rows.shape[1], dtype=np.float32))


def choose_rows(people: Whole, rng: np.random.Generator, most: int = MAX_ROWS) -> Whole:
    """At most so many rows, of each person in turn, ascending."""
    order = rng.permutation(len(people))
    order = order[np.argsort(people[order], kind="stable")]
    turn = np.arange(len(order)) - np.searchsorted(people[order], people[order])  # photos of the person before it
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])


def hold_out(embeddings: Floats, people: Whole, seed: int = 0, progress: bool = False) -> HeldOutPairs:
    """Score pairs of people by heads that were trained without them: cross-validation over people.

    Args:
        embeddings: (N,D) of unit length.
        people: (N,) numbers.
        seed: of the folds, and of the choice of `MAX_PAIRS` pairs where there are more.
        progress: show a progress bar.
    """
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(people))
    parts: list[HeldOutPairs] = []
    for fold in tqdm(range(FOLDS), "Training heads", delay=2, leave=False, disable=not progress or None):
        tested = np.isin(people, names[fold::FOLDS])
        head = fit_head(embeddings[~tested], people[~tested], seed)
        rows = np.flatnonzero(tested)[choose_rows(people[tested], rng, int((2 * MAX_PAIRS / FOLDS) ** 0.5))]
        upper = np.triu_indices(len(rows), 1)
        plain, behind = embeddings[rows], apply_head(embeddings[rows], head)
        scores = (plain @ plain.T)[upper], (behind @ behind.T)[upper]
        parts.append(HeldOutPairs(rows[upper[0]], rows[upper[1]], *scores))
    return HeldOutPairs(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def adapt(verifier: Verifier, folder: str | Path, seed: int = 0, *, progress: bool = True) -> Adaptation:
    """Train a head on photos of one's own people, and keep it if people whom it has not seen gain by it.

    It is kept if the 95 % interval of the difference of the equal error rates, over people and on the same pairs, lies
    below zero; see `hold_out` and `compare_scores`.

    Args:
        verifier: of the model, with its face selection.
        folder: a folder for each person, see `FolderPhotos`.
        seed: of the folds and draws.
        progress: show progress bars.

    Raises:
        InputError: no such folder, or too few people or pairs for a threshold.
    """
    if verifier.on_multiple_faces == "any":
        raise InputError("One face of each photo is learned: set on_multiple_faces to error, largest or central.")
    shipped = verifier.metadata
    embeddings, people, qualities, left_out = embed_people(verifier, folder, progress)
    pairs = hold_out(embeddings, people, seed, progress)
    both = np.stack([people[pairs.left], people[pairs.right]], axis=1)
    same = both[:, 0] == both[:, 1]
    names = "the model as it is", "the model with a head"
    comparison = compare_scores(
        pairs.plain, pairs.adapted, same, both, names=names, targets=(), resamples=RESAMPLES, seed=seed
    )
    report = verification_report(pairs.adapted, same, identities=both)
    count, place = int(people.max()) + 1, Path(folder).resolve().name
    head, metadata = None, shipped
    if comparison.eer.high < 0:
        head = fit_head(embeddings, people, seed)
        name = f"{len(same):,} pairs of {count:,} people in {place}, by heads that were trained without them"
        metadata = replace(
            shipped,
            operating_points=report.operating_points,
            eer_threshold=report.eer_threshold,
            measured_on=name,
            training={**shipped.training, "adapted": f"{len(people):,} photos of {count:,} people in {place}"},
            metrics=report.to_metadata(),
            score_calibration=calibrate_pairs(pairs.adapted, same, both, name, seed),
            quality=ranges_of(qualities),
        )
    return Adaptation(comparison, report, head, metadata, len(people), count, left_out)


def append_head(network: bytes, head: Floats) -> bytes:
    """An ONNX network with a (D,D) head behind its embeddings, and outputs of unit length."""
    from onnx import helper, load_from_string, numpy_helper

    model = load_from_string(network)
    graph, given = model.graph, model.graph.output[0].name
    weight, product, output = (f"{given}_{word}" for word in ("head", "product", "adapted"))
    graph.initializer.append(numpy_helper.from_array(head, weight))
    graph.node.append(helper.make_node("MatMul", [given, weight], [product]))
    graph.node.append(helper.make_node("LpNormalization", [product], [output], axis=1, p=2))
    graph.output[0].name = output
    return bytes(model.SerializeToString())


def with_head(model: FaceModel, head: Floats) -> FaceModel | None:
    """A model for torch with a (D,D) head, which becomes a part of the one it has; None for a mirrored encoder."""
    import torch

    from siamese_verify.encoders import AdaptedEncoder, MirroredEncoder

    encoder, configuration = model.encoder, model.metadata.configuration
    if isinstance(encoder, MirroredEncoder):
        return None  # encoders are wrapped once
    if not isinstance(encoder, AdaptedEncoder):
        encoder = AdaptedEncoder(encoder)
        inner = {name: value for name, value in configuration.items() if name != "pretrained"}
        configuration = {"_target_": "siamese_verify.encoders.AdaptedEncoder", "encoder": inner}
    with torch.no_grad():
        encoder.head.weight.copy_(torch.from_numpy(head).T @ encoder.head.weight)
    return FaceModel(encoder.eval(), replace(model.metadata, configuration=configuration))


def save_adapted(folder: Path, bundle: Bundle, found: Adaptation, versions: Mapping[str, str]) -> Bundle:
    """Write a bundle with the head in its ONNX network and, if the model can be run on torch, in its weights.

    Args:
        folder: of the bundle.
        bundle: that the verifier runs.
        found: with a head.
        versions: of the software.

    Raises:
        InputError: a file of the bundle is damaged, the network with the head gives other embeddings than the head, or
            the folder cannot be written to.
    """
    from siamese_verify.models.export import MIN_COSINE, lowest_cosine, random_inputs, weights_file

    assert found.head is not None
    stored = network_of(bundle)
    plain = stored if isinstance(stored, bytes) else stored.read_bytes()
    network, metadata = append_head(plain, found.head), found.metadata
    spec, size = metadata.input_spec, metadata.embedding_size
    images = random_inputs(spec)
    before, after = (
        embed_crops(OnnxEngine(one, NETWORK, arrays=spec.array_type), images, size) for one in (plain, network)
    )
    expected = [apply_head(before, found.head)]
    files = {name: bundle.read(name) for name in bundle.files if name not in (CARD, NETWORK, WEIGHTS)}
    model = torch_model(bundle)
    if model and (adapted := with_head(model, found.head)):
        files[WEIGHTS] = weights_file(adapted.encoder)
        expected.append(embed_crops(TorchEngine(adapted.encoder), images, size))
        metadata = replace(metadata, configuration=adapted.metadata.configuration)
    lowest = min(lowest_cosine(one, after) for one in expected)
    if not lowest > MIN_COSINE:
        raise InputError(f"The network of {metadata.name} takes no head (cosine {lowest:.6f}): report this.")
    digest = hashlib.sha256(files.get(WEIGHTS, network)).hexdigest()
    metadata = replace(metadata, weights_sha256=digest)
    checks = {"pictures": len(images), "lowest_cosine": lowest, "weights_sha256": digest}
    files |= {NETWORK: network, CARD: model_card(metadata, checks).encode()}
    return write_bundle(folder, metadata, files, checks, dict(versions))
