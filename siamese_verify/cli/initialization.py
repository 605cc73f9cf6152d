"""`initialize_from=MODEL`: training starts from the encoder of another model, whose configuration comes along."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from siamese_verify.cli.configuration import CONF, encoder_settings, trusted_code
from siamese_verify.cli.resume import selected, setting_of
from siamese_verify.encoders import Encoder, encoder_class
from siamese_verify.errors import InputError
from siamese_verify.models import PRETRAINED, code_of_others, load_model, read_origin
from siamese_verify.protocols import TrainingSubset, read_training_run
from siamese_verify.structures import Photos
from siamese_verify.training.run_files import differing_settings

log = logging.getLogger(__name__)
WRAPPERS = ("siamese_verify.encoders.AdaptedEncoder", "siamese_verify.encoders.MirroredEncoder")
FREE = ("crop", "drop_path", "dropout", "mirror", "normalize", "size")  # settings that may differ from the model's


def initialized_configuration(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A configuration with the encoder of the model that `initialize_from` names.

    Photos are cropped as `data.crop` says. The result is complete: with the weights it needs nothing of the model.

    Args:
        cfg: composed from the command line.
        overrides: that it was composed with; those of the encoder may repeat its settings, or change one of `FREE`.

    Returns:
        A copy with `encoder`, `earlier_stages` and the absolute path of the model; without `initialize_from`, or where
        that was done, the same.

    Raises:
        InputError: there is no such model, it has no weights for torch or needs code of others that is not trusted, or
            has interpolations; an override contradicts its encoder.
    """
    if not cfg.get("initialize_from") or cfg.earlier_stages:
        return cfg
    name = str(cfg.initialize_from)
    origin = read_origin(name)
    theirs = origin.configuration
    if not theirs:
        raise InputError(f"{name} does not say how its encoder is made: train from Python, with the encoder itself.")
    if "${" in str(theirs):  # resolving it could make a target that no check has seen, or copy the environment
        raise InputError(f"The encoder of {name} has a setting that is computed, which could hide code of others.")
    if untrusted := sorted({*code_of_others(theirs)} - {*trusted_code(cfg)}):
        raise InputError(
            f"The encoder of {name} is code of others, {untrusted[0]}, which is never imported unasked: if you trust "
            f"it, add trust_code={untrusted[0]}."
        )
    if name in PRETRAINED:
        file = f"{name}.yaml" if name in ("sface", "openface") else "inception_resnet.yaml"
        usual = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(CONF / "encoder" / file)))
        usual["crop"]["kind"] = inspect.signature(encoder_class(theirs)).parameters["crop"].default.kind
        theirs = {**usual, **theirs}
    wrapped = theirs if theirs["_target_"] in WRAPPERS else None
    if wrapped:  # settings are those of the encoder within
        theirs = wrapped["encoder"]
    if isinstance(crop := theirs.get("crop"), dict):
        if crop.get("kind") != cfg.data.crop:
            log.warning("Photos are cropped as %s; those of %s were cropped as %s.", cfg.data.crop, name, crop["kind"])
        theirs = {**theirs, "crop": {**crop, "kind": "${data.crop}"}}
    if cfg.get("pretrain") and cfg.encoder.get("_target_") == theirs["_target_"]:  # the run's own, of both stages
        own = cast("dict[str, Any]", OmegaConf.to_container(cfg.encoder))
        theirs = {**theirs, **{key: value for key, value in own.items() if key in FREE}}
    encoder = OmegaConf.create(theirs)
    change_free_settings(encoder, cfg, name, overrides)
    if wrapped:
        encoder = OmegaConf.create({**wrapped, "encoder": encoder})
    found = cfg.copy()
    with open_dict(found):
        found.encoder = encoder
        found.initialize_from = name if name in PRETRAINED else str(Path(name).absolute())
        found.earlier_stages = escaped(earlier_stages(name, origin.training, origin.weights_sha256))
    return found


def change_free_settings(encoder: DictConfig, cfg: DictConfig, name: str, overrides: Sequence[str]) -> None:
    """Give an encoder the overridden settings of `FREE`.

    Raises:
        InputError: another override contradicts the encoder; it names the settings.
    """
    given = [setting_of(one) for one in OverridesParser.create().parse_overrides([*overrides])]
    wrong: list[str] = []
    for key in given:
        part = key.removeprefix("encoder.").partition(".")[0]
        if key.partition("@")[0] == "encoder" and cfg.get("encoder") is not None:
            theirs = OmegaConf.to_container(OmegaConf.create({"data": cfg.data, "encoder": encoder}), resolve=True)
            found = differing_settings(cast("Any", theirs)["encoder"], encoder_settings(cfg), "encoder")
            wrong += [one for one in found if not one.startswith(tuple(f"encoder.{name}" for name in FREE))]
        elif key.startswith("encoder.") and part in FREE:
            OmegaConf.update(encoder, key.removeprefix("encoder."), OmegaConf.select(cfg, key), force_add=True)
        elif key.startswith("encoder."):
            wrong += differing_settings(selected(encoder, key.removeprefix("encoder.")), selected(cfg, key), key)
    if wrong:
        raise InputError(
            f"Training starts from the encoder of {name}, but {', '.join(dict.fromkeys(wrong))}: leave that out, or "
            f"change only {', '.join(FREE)}."
        )


def earlier_stages(name: str, training: dict[str, Any], weights_sha256: str) -> list[dict[str, Any]]:
    """The stages of a model, the last with its name and its weights' SHA-256; of an older model what it records."""
    stages = training.get("stages") or [{"method": None, "loss": None, "data": training.get("data")}]
    return [*stages[:-1], {**stages[-1], "model": Path(name).name, "weights_sha256": weights_sha256}]


def escaped(value: Any) -> Any:
    """A value whose texts are no interpolations."""
    if isinstance(value, dict):
        return {name: escaped(one) for name, one in value.items()}
    if isinstance(value, list):
        return [escaped(one) for one in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def take_weights(encoder: Encoder, cfg: DictConfig) -> None:
    """Load the weights of the model that `initialize_from` names, unless the run is resumed, whose checkpoint has all.

    Raises:
        InputError: see `load_model`; the model is another than when the run was started, or its weights do not fit.
    """
    if not cfg.get("initialize_from") or cfg.resume:
        return
    name = str(cfg.initialize_from)
    model = load_model(name, trust_code=code_of_others(encoder_settings(cfg)))
    recorded, now = cfg.earlier_stages[-1].get("weights_sha256"), model.metadata.weights_sha256
    if recorded and now != recorded:
        raise InputError(f"The model {name} is not the one that the run was started with: start another run.")
    try:
        encoder.load_state_dict(model.encoder.state_dict())
    except RuntimeError as error:
        raise InputError(f"The weights of {name} do not fit the encoder: {' '.join(str(error).split())}") from None
    log.info("The encoder starts from %s.", name)


def earlier_people(cfg: DictConfig, photos: Photos) -> tuple[list[TrainingSubset], bool]:
    """People that earlier stages were trained and validated on, and whether those of all stages are known.

    Those of a stage with the same data set come with their photos, so that files are compared too. Of a run that is
    resumed from its own record, so that the first model may be gone.

    Args:
        cfg: of the run.
        photos: of its training set.
    """
    if not cfg.get("initialize_from"):
        return [], True
    if cfg.resume and (own := read_training_run(str(cfg.resume))):
        return own.with_photos(photos)[2:], own.is_complete  # behind its own training and validation people
    run = None if str(cfg.initialize_from) in PRETRAINED else read_training_run(str(cfg.initialize_from))
    return (run.with_photos(photos), run.is_complete) if run else ([], False)
