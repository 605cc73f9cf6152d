"""`siamese-verify center`: export a model that adds the mirror image and subtracts the mean embedding."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from siamese_verify.cli.configuration import check_values, trusted_code
from siamese_verify.cli.hydra_command import hydra_command
from siamese_verify.cli.measure import measure, print_results, save_results
from siamese_verify.cli.run_metadata import set_threads, versions
from siamese_verify.data import FaceCropper
from siamese_verify.encoders import MirroredEncoder
from siamese_verify.errors import InputError
from siamese_verify.evaluation import VerificationReport, calibrate
from siamese_verify.faces import ranges_of
from siamese_verify.models import FaceModel, embed_photos, load_model, read_operating_points, save_bundle
from siamese_verify.protocols import PairProtocol, Protocol, TrainingSubset, refuse_leak
from siamese_verify.structures import Photos


def center(cfg: DictConfig, output: Path) -> FaceModel:
    """Wrap the encoder of a model, measure its mean embedding on photos and its thresholds on a protocol."""
    if OmegaConf.is_missing(cfg, "model"):
        raise InputError("No model is given: set model=sface, or the path of a bundle, a run or a checkpoint.")
    if (output / "bundle.json").exists():
        raise InputError(f"{output} holds a bundle already: set another folder by output.")
    check_values(cfg)
    set_threads(cfg.threads)
    model = load_model(cfg.model, trust_code=trusted_code(cfg))
    if isinstance(model.encoder, MirroredEncoder):
        raise InputError(f"The model {cfg.model} is centered already.")
    photos: Photos = instantiate(cfg.data.photos)
    protocol: Protocol = instantiate(cfg.protocol)
    if not isinstance(protocol, PairProtocol):
        raise InputError(f"Thresholds are measured on pairs: choose another protocol than {cfg.protocol._target_}.")
    leak = refuse_leak([TrainingSubset.from_photos(photos, np.arange(len(photos)))], protocol, cfg.allow_leakage)
    encoder = MirroredEncoder(model.encoder, cfg.mirror).eval()
    cropper = FaceCropper(encoder.input_spec, cfg.cache, on_multiple_faces=cfg.on_multiple_faces)
    embeddings, _ = embed_photos(encoder, photos, cropper, title=f"Mean over {cfg.data.name}")
    encoder.center.copy_(torch.from_numpy(embeddings.mean(axis=0, dtype="float64")))
    inner = {**model.metadata.configuration, "crop": asdict(encoder.input_spec.crop)}
    configuration = {
        "_target_": "siamese_verify.encoders.MirroredEncoder",
        "encoder": inner,
        "mirror": bool(cfg.mirror),
    }
    result = measure(output.name, encoder, protocol, cropper, None, resamples=cfg.resamples)
    assert isinstance(result.report, VerificationReport)
    figures = result.report.to_metadata()
    metadata = replace(
        model.metadata,
        configuration=configuration,
        embedding_size=encoder.embedding_size,
        operating_points=read_operating_points(figures["operating_points"]),
        eer_threshold=figures.get("eer_threshold"),
        measured_on=protocol.name,
        training={**model.metadata.training, "center": f"{len(photos):,} photos of {cfg.data.name}"},
        metrics=figures,
        score_calibration=calibrate(
            result.embeddings,
            result.compared.photos.identities,
            protocol.name,
            cfg.seed,
            intervals=cfg.resamples > 0,
        ),
        quality=ranges_of(cropper.qualities),
        weights_sha256="",
    )
    centered = FaceModel(encoder, metadata)
    made_by: dict[str, Any] = {
        "versions": versions(),
        "configuration": cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True)),
        "data": cropper.digest,
        **({"tested people": f"among those averaged in part: {leak}"} if leak else {}),
    }
    save_bundle(output, centered, made_by["versions"])
    save_results(output / "report", result, [], made_by)
    print_results({"": (protocol, [result.figures])}, output)
    print(f"Bundle: {output}")
    return centered


@hydra_command("center")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    center(cfg, Path(cfg.output))


if __name__ == "__main__":
    main()
