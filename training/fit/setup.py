"""Set up one training run: its key, folder, data, tokenizer, model and device."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import Sides
from data_catalog.base.precision import refuse_slow_precision
from data_catalog.base.settings import json_values
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.files import digest
from training.config import TrainConfig
from training.data.batches import open_train_split
from training.data.mirror import mirror_by
from training.data.pairs import PairFiles
from training.fit.losses import with_loss_constants
from training.runs.attempts import METRICS_FILE, RESULT_FILE, WEIGHTS_FILE
from training.runs.processes import chosen_device, process_count
from training.runs.trackers import require_trackers
from training.towers.model import OPEN_CLIP_CONFIG_FILE, LoadedModel
from training.towers.plan import TEXT_FILES, TowerPlan

LOSS_PLOT_FILE = "loss.png"
# Files of a finished model folder, which never change.
MODEL_FILES = (
    *(WEIGHTS_FILE, OPEN_CLIP_CONFIG_FILE, RUN_FILE, METRICS_FILE, LOSS_PLOT_FILE, RESULT_FILE),
    *TEXT_FILES,
)
FROZEN_DROPOUT = 0.3  # of the features of a frozen image tower, as `align.dropout`
TRAIN_VERSION = 6  # raise it when the same settings and data would give different weights


class Setup:
    """The settings, data and model of a run, whose folder gets its files except weights."""

    def __init__(
        self,
        files: PairFiles,
        config: TrainConfig,
        out: Path,
        *,
        plan: TowerPlan,
        num_threads: int,
        sides: Sides | None,
    ) -> None:
        self.files, self.config, self.out, self.num_threads = files, config, out, num_threads
        self.device, self.preprocessing = chosen_device(config.device), plan.preprocessing
        mirror = mirror_by(sides) if sides and "mirror" in config.augmentations else None
        self.split = open_train_split(
            files.train, config, preprocessing=self.preprocessing, num_threads=num_threads, mirror=mirror
        )
        captions, count = self.split.captions, process_count()
        if len(captions) < 2 * count:
            raise InputError("the train split has fewer than two samples per process: build a larger dataset")
        # Of all processes: the configured number, or all samples if there are fewer.
        self.batch_size = min(config.batch_size, len(captions) // count * count)
        model = start_model(plan, config, out, (text.as_py() for text in captions.flat))
        self.tokenizer, self.module = model.tokenizer, model.module.to(self.device)
        self.is_pretrained = plan.has_image_weights  # the image tower started from given weights


def model_and_key(
    config: TrainConfig, shards: Mapping[str, list[str]], sides: Sides | None = None
) -> tuple[TowerPlan, str]:
    """Return what the model is made of, and the key of the run, given the sha256 of the pair shards by split.

    Words for left and right count only if training mirrors images.
    """
    if "mirror" in config.augmentations and sides is None:
        raise SettingsError(
            "train.augment has mirror, but the language pack has no [sides]: add these words (docs/languages.md), or "
            "leave mirror out"
        )
    count = process_count()
    if config.batch_size % count:
        raise SettingsError(
            f"train.batch_size {config.batch_size} cannot be divided among {count} processes: use a multiple"
        )
    plan = TowerPlan.of(config, loss=config.loss, dropout=FROZEN_DROPOUT if config.freeze_image else 0.0)
    made_of: dict[str, Any] = {"settings": config.what(), **plan.key(), "shards": shards}
    if "mirror" in config.augmentations:
        made_of["sides"] = json_values(sides)
    return plan, digest({"version": TRAIN_VERSION, **made_of})


def require_trainable(config: TrainConfig, sides: Sides | None = None) -> int:
    """Refuse a run that could not start with any data, and return the least number of bytes that it writes.

    These are its best weights, and a resume state of weights and two moments.
    """
    require_trackers(config.log)
    refuse_slow_precision(config.precision, chosen_device(config.device).type, setting="train.precision")
    plan, _ = model_and_key(config, {}, sides)
    with TemporaryDirectory(prefix="vernaclip-") as folder:
        return 4 * start_model(plan, config, Path(folder), ()).num_bytes


def start_model(plan: TowerPlan, config: TrainConfig, out: Path, captions: Iterable[str]) -> LoadedModel:
    """Return the initial model with the constants of the loss, and write its files except weights into the folder."""
    model = replace(plan, config=with_loss_constants(dict(plan.config), config)).build(out, captions)
    if config.logit_scale:
        model.module.logit_scale.data.fill_(math.log(config.logit_scale))
    if config.microbatch and any(isinstance(part, _BatchNorm) for part in model.module.modules()):
        raise SettingsError(
            "train.microbatch does not work with batch normalisation, which would see only a piece of the batch. "
            "Set it to 0, or use a model with a vision transformer"
        )
    return model
