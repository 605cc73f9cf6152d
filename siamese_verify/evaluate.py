"""`siamese-verify evaluate`: any model on any protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from siamese_verify.data import FaceCropper, Protocol
from siamese_verify.entry import CONF, explained, set_threads, versions
from siamese_verify.errors import InputError
from siamese_verify.results import measure, print_results, save_results
from siamese_verify.verification import PRETRAINED, load_model, ships_thresholds, store_thresholds


def evaluate(cfg: DictConfig, folder: Path) -> float:
    """Measure a model on a protocol and leave the report in `folder`.

    The thresholds of a pretrained model that ships without any are kept for `siamese-verify verify`.

    Returns:
        The equal error rate.
    """
    if OmegaConf.is_missing(cfg, "model"):
        raise InputError("Say which model: model=casia-webface, or the path of a bundle, a run or a checkpoint.")
    set_threads(cfg.threads)
    protocol: Protocol = instantiate(cfg.protocol)
    model = load_model(cfg.model, cfg.device)
    cropper = FaceCropper(model.encoder.input_spec, cfg.cache)
    result = measure(Path(str(cfg.model)).name, model.encoder, protocol, cropper, model)
    configuration = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    record = {"versions": versions(), "configuration": configuration}
    save_results(folder / "report", result, [], record)
    print_results([result], folder)
    if cfg.model in PRETRAINED and not ships_thresholds(cfg.model):
        measurement = {**result.report.to_dict(), "measured_on": protocol.name, "versions": versions()}
        print(f"Its thresholds are kept for verify: {store_thresholds(str(cfg.model), measurement)}")
    return result.report.eer


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
@explained
def main(cfg: DictConfig) -> float:
    """Entry point."""
    return evaluate(cfg, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
