"""`siamese-verify evaluate`: evaluate a model on a protocol, or a table of scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from siamese_verify.atomic_write import atomic_write
from siamese_verify.cli.configuration import check_values, refuse_code, trusted_code
from siamese_verify.cli.hydra_command import hydra_command
from siamese_verify.cli.measure import (
    Result,
    check_claim,
    further_protocols,
    measure,
    measure_robustness,
    on_the_same,
    print_results,
    save_results,
)
from siamese_verify.cli.run_metadata import set_threads, versions
from siamese_verify.data import FaceCropper
from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    TARGETS,
    VerificationReport,
    calibrate,
    group_differentials,
    group_reports,
    inverted_hint,
    mean_of_groups,
    read_published,
    read_scores,
    verification_report,
)
from siamese_verify.evaluation.operating_points import DECISIVE_IMPOSTORS
from siamese_verify.faces import ranges_of
from siamese_verify.models import PRETRAINED, load_model, ships_thresholds, store_thresholds
from siamese_verify.protocols import (
    HeldOutShare,
    PairProtocol,
    Protocol,
    TemplateProtocol,
    TrainingSubset,
    read_training_run,
    refuse_leak,
    with_doubtful,
    with_groups,
)
from siamese_verify.structures import Photos

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig, folder: Path) -> float:
    """Evaluate a model on a protocol, or a table of scores, and write the report to `folder`.

    Thresholds and calibration of a pretrained model that ships without are stored for `siamese-verify verify`.

    Returns:
        The equal error rate, or what else stands for the first protocol.
    """
    if cfg.scores is not None:
        return evaluate_scores(cfg, folder).eer
    if OmegaConf.is_missing(cfg, "model"):
        raise InputError("No model is given: set model=sface, or the path of a bundle, a run or a checkpoint.")
    check_values(cfg)
    set_threads(cfg.threads)
    published = read_published(cfg.published) if cfg.published else []
    model = load_model(cfg.model, cfg.device, trusted_code(cfg), or_onnx=True)
    results: dict[str, Result] = {}
    leaks: dict[str, str] = {}
    protocols = [(name, with_tables(one, cfg), leak) for name, one, leak in protocols_for(cfg)]
    refuse_unused(cfg, [one for _, one, _ in protocols])
    for number, (name, protocol, leak) in enumerate(protocols):
        cropper = FaceCropper(model.encoder.input_spec, cfg.cache, on_multiple_faces=cfg.on_multiple_faces)
        rates, called = further_rates(cfg.far), Path(str(cfg.model)).name
        given, earlier = (called, model.encoder, protocol, cropper, model), [*results.values()]
        options = {"resamples": cfg.resamples, "targets": rates, "earlier": earlier, "device": cfg.device}
        result = measure(*given, **options, quality=cfg.quality if uses_quality(protocol) else None)
        if not number:
            check_claim(result.lfw_category, cfg.claim)
        if cfg.robustness:
            result = measure_robustness(result, model.encoder, cfg.cache, cfg.robustness)
        record = run_record(cfg) | ({"tested people": f"trained on in part: {leak}"} if leak else {})
        save_results(folder / "report" / name, result, [], record, published, cfg.keep_embeddings)
        results[name], leaks[protocol.name] = result, leak
    print_results({name: (result.protocol, [result.figures]) for name, result in results.items()}, folder)
    for protocol_name, leak in leaks.items():
        if leak:
            print(f"The result on {protocol_name} does not show how the model does on other people: {leak}.")
    result = results[""]
    if isinstance(result.protocol, PairProtocol) and needs_thresholds(cfg.model):
        if result.protocol.identities_known:
            store_measurement(cfg, result)
        else:
            print("Its thresholds are not stored for verify: the people on the photos of the pairs must be known.")
    return result.report.value


def with_tables(protocol: Protocol, cfg: DictConfig) -> Protocol:
    """A protocol of pairs with the groups and the doubtful photos of the settings; another one as it is."""
    if not isinstance(protocol, PairProtocol):
        return protocol
    if cfg.groups is not None:
        protocol = with_groups(protocol, cfg.groups, cfg.group)
    return protocol if cfg.doubtful is None else with_doubtful(protocol, cfg.doubtful)


def uses_quality(protocol: Protocol) -> bool:
    """Whether the qualities of photos play a part in a protocol."""
    return isinstance(protocol, PairProtocol) or (
        isinstance(protocol, TemplateProtocol) and protocol.combine == "quality"
    )


def refuse_unused(cfg: DictConfig, protocols: Sequence[Protocol]) -> None:
    """Refuse tables that no protocol takes.

    Raises:
        InputError: groups or doubtful without a protocol of pairs, or quality without that or templates by quality.
    """
    pairs = any(isinstance(one, PairProtocol) for one in protocols)
    used = {"groups": pairs, "doubtful": pairs, "quality": any(map(uses_quality, protocols))}
    for setting, taken in used.items():
        if cfg[setting] is not None and not taken:
            raise InputError(
                f"{setting}={cfg[setting]} is of no use to {protocols[0].name}: leave it out, or choose a protocol of "
                f"pairs{', or templates with combine=quality' if setting == 'quality' else ''}."
            )


def needs_thresholds(model: Any) -> bool:
    """Whether a model is a pretrained one that ships without thresholds."""
    return model in PRETRAINED and not ships_thresholds(model)


def store_measurement(cfg: DictConfig, result: Result) -> None:
    """Store thresholds and calibration of a pretrained model on this machine."""
    embeddings, people, name = result.embeddings, result.compared.photos.identities, result.protocol.name
    assert isinstance(result.report, VerificationReport)
    measurement = {
        **result.report.to_metadata(),
        "score_calibration": calibrate(embeddings, people, name, intervals=cfg.resamples > 0).to_dict(),
        "measured_on": name,
        "quality": ranges_of(result.cropper.qualities),
        "versions": versions(),
    }
    print(f"Its thresholds are stored for verify: {store_thresholds(str(cfg.model), measurement)}")


def protocols_for(cfg: DictConfig) -> list[tuple[str, Protocol, str]]:
    """Return the protocols to evaluate on: name, protocol, and what of it the model's run was trained on, in words.

    The first one has the name "".

    Raises:
        InputError: see `refuse_leak` and `further_protocols`; people held out by a run that is not there.
    """
    first, held_out, seen = first_protocol(cfg)
    found = [("", first, "" if held_out else refuse_leak(seen, first, cfg.allow_leakage))]
    further = {name: on_the_same(one, first) for name, one in further_protocols(cfg).items()}
    return found + [(name, one, refuse_leak(seen, one, cfg.allow_leakage)) for name, one in further.items()]


def first_protocol(cfg: DictConfig) -> tuple[Protocol, bool, Sequence[TrainingSubset]]:
    """Return the first protocol, whether the model's run held its people out, and what that run has seen, if any."""
    run = read_training_run(cfg.model)
    if run is not None:
        forget_official(cfg)
    chosen: Protocol | HeldOutShare | None = instantiate(cfg.protocol) if cfg.get("protocol") else None
    if run is None:
        chosen = chosen or instantiate(cfg.usual)
        if isinstance(chosen, HeldOutShare) and chosen.make is not None:  # nobody was held out: all of the data set
            return chosen.make(instantiate(cfg.data.photos), cfg.data.name), False, []
        if isinstance(chosen, HeldOutShare):
            raise InputError(f"No run of {cfg.model} has held people out: choose another protocol than held_out.")
        return chosen, False, []
    parts = [run.configuration["datamodule"]["photos"], run.configuration.get("protocol")]
    refuse_code(parts, trusted_code(cfg), f"The run of {cfg.model}")
    own = run.tested is not None and (chosen is None or isinstance(chosen, HeldOutShare))
    try:
        trained_on: Photos | None = instantiate(run.configuration["datamodule"]["photos"])
    except (InstantiationException, InputError) as error:
        if own:
            raise
        log.warning("The photos trained on cannot be compared with those of the protocol, only names: %s", error)
        trained_on = None
    if own:
        assert trained_on is not None
        share = chosen or instantiate(run.configuration["protocol"])
        assert isinstance(share, HeldOutShare)
        return run.test_protocol(trained_on, share), True, run.with_photos(trained_on)
    if chosen is None or isinstance(chosen, HeldOutShare):
        tested: Protocol = instantiate(run.configuration["protocol"])
        chosen = tested if chosen is None or chosen.make is None else on_the_same(chosen, tested)
    return chosen, False, run.with_photos(trained_on) if trained_on is not None else run.seen


def forget_official(cfg: DictConfig) -> None:
    """Take the official test people of `data` out of the protocols: the people that the model's run tested count."""
    with open_dict(cfg):
        for settings in (cfg.get("protocol"), *cfg.protocols.values()):
            for part in (settings, settings.get("people") if settings else None):
                if part and "official" in part:
                    part.official = None


def evaluate_scores(cfg: DictConfig, folder: Path) -> VerificationReport:
    """Write the report of a table of scores."""
    given = read_scores(cfg.scores, cfg.group)
    people = given.identities if cfg.resamples else None
    report = verification_report(
        given.scores,
        given.same,
        given.folds,
        people,
        None,
        sorted({*TARGETS, *further_rates(cfg.far)}, reverse=True),
    )
    if given.groups is not None:
        groups = group_reports(
            *(given.scores, given.same, given.groups, report.threshold, people),
            resamples=max(cfg.resamples, 1),
            device=cfg.device,
        )
        report = replace(report, groups=tuple(groups), mean_of_groups=mean_of_groups(groups))
    if given.sides is not None:
        within = group_differentials(
            given.scores,
            given.same,
            given.sides,
            report.threshold,
            people,
            column=cfg.group,
            intervals=cfg.resamples > 0,
        )
        report = replace(report, differentials=within)
    page = report.save(
        folder / "report",
        title=Path(str(cfg.scores)).stem,
        details={"versions": versions(), "scores": str(cfg.scores), "resamples of the people": cfg.resamples},
        captions=given.describe,
        published=read_published(cfg.published) if cfg.published else [],
    )
    atomic_write(folder / "report" / "scores.csv", Path(str(cfg.scores)).read_bytes())  # for the command compare
    known = report.intervals.get("eer") if report.intervals else None
    interval = f" ({known.low:.2%} to {known.high:.2%})" if known else ""
    few = "" if given.identities is not None else " Without identities there are no confidence intervals."
    if not known and report.eer * min(report.curve.genuine, report.curve.impostors) < DECISIVE_IMPOSTORS:
        few += " Fewer than ten errors decide the EER: a rough estimate."
    print(f"EER {report.eer:.2%}{interval}, AUC {report.auc:.4f}, {report.pairs:,} pairs.{few} Report: {page}")
    remedy = "replace each number of the column score by its negative"
    if hint := inverted_hint(report.auc, report.eer, remedy):
        print(hint)
    return report


def further_rates(asked: Any) -> list[float]:
    """Return the false accept rates of the setting `far`.

    Raises:
        InputError: one is not in [0, 1].
    """
    try:
        rates = [float(one) for one in (asked if isinstance(asked, ListConfig) else [asked])]
    except (TypeError, ValueError):
        rates = [math.nan]
    if not all(0 <= rate <= 1 for rate in rates):
        raise InputError(f"far must list rates between 0 and 1, such as far=[2e-4], got {asked}.")
    return rates


def run_record(cfg: DictConfig) -> dict[str, Any]:
    """Return versions and configuration, for the details of a report."""
    configuration = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    return {"versions": versions(), "configuration": configuration}


@hydra_command("evaluate")
def main(cfg: DictConfig) -> float:
    """Entry point."""
    return evaluate(cfg, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
