"""Set up one training run: its key, folder, data, tokenizer, model and device."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.precision import refuse_slow_precision
from data_catalog.base.settings import json_values
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.files import digest
from training.changes import ChangeRules
from training.config import TrainConfig
from training.data.batches import TrainSplit, open_train_split
from training.data.pairs import PairFiles
from training.fit.hard_negatives import DRAWS_VERSION, require_rules, rules_within
from training.fit.losses import refuse_batch_statistics, with_loss_constants
from training.runs.attempts import METRICS_FILE, RESULT_FILE, WEIGHTS_FILE
from training.runs.processes import chosen_device, process_count
from training.runs.trackers import require_trackers
from training.towers.model import OPEN_CLIP_CONFIG_FILE, LoadedModel
from training.towers.plan import TEXT_FILES, TowerPlan
from training.towers.preprocessing import Preprocessing
from training.towers.tokenizer import SavedTokenizer

LOSS_PLOT_FILE = "loss.png"
# Files of a finished model folder, which never change.
MODEL_FILES = (
    *(WEIGHTS_FILE, OPEN_CLIP_CONFIG_FILE, RUN_FILE, METRICS_FILE, LOSS_PLOT_FILE, RESULT_FILE),
    *TEXT_FILES,
)
FROZEN_DROPOUT = 0.3  # of the features of a frozen image tower, as `align.dropout`
TRAIN_VERSION = 6  # raise it when the same settings and data would give different weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The settings, data and model of a run."""

    config: TrainConfig
    files: PairFiles
    out: Path
    device: torch.device
    num_threads: int
    preprocessing: Preprocessing
    split: TrainSplit
    batch_size: int  # of all processes: the configured number, or all samples if there are fewer
    rules: ChangeRules | None  # None without `train.hard_negatives`
    tokenizer: SavedTokenizer
    module: Any
    is_pretrained: bool  # the image tower started from given weights


def set_up(
    files: PairFiles, config: TrainConfig, out: Path, *, plan: TowerPlan, num_threads: int, rules: ChangeRules | None
) -> Setup:
    """Load data, tokenizer and model, and write the files of the model folder except weights."""
    device, preprocessing, count = chosen_device(config.device), plan.preprocessing, process_count()
    mirror = rules.mirrored if rules and "mirror" in config.augmentations else None
    split = open_train_split(files.train, config, preprocessing=preprocessing, num_threads=num_threads, mirror=mirror)
    num_samples = len(split.captions)
    if num_samples < 2 * count:
        raise InputError("the train split has fewer than two samples per process: build a larger dataset")
    model = start_model(plan, config, out, (text.as_py() for text in split.captions.flat))
    return Setup(
        config=config,
        files=files,
        out=out,
        device=device,
        num_threads=num_threads,
        preprocessing=preprocessing,
        split=split,
        batch_size=min(config.batch_size, num_samples // count * count),
        rules=rules_within(rules, split.captions) if config.hard_negatives and rules else None,
        tokenizer=model.tokenizer,
        module=model.module.to(device),
        is_pretrained=plan.has_image_weights,
    )


def model_and_key(
    config: TrainConfig, shards: Mapping[str, list[str]], rules: ChangeRules | None = None
) -> tuple[TowerPlan, str]:
    """Return what the model is made of, and the key of the run, given the sha256 of the pair shards by split.

    Rules by which captions of the language change count only if training uses them.
    """
    require_rules(config, rules)
    count = process_count()
    if config.batch_size % count:
        raise SettingsError(
            f"train.batch_size {config.batch_size} cannot be divided among {count} processes: use a multiple"
        )
    plan = TowerPlan.of(config, loss=config.loss, dropout=FROZEN_DROPOUT if config.freeze_image else 0.0)
    made_of: dict[str, Any] = {"settings": config.what(), **plan.key(), "shards": shards}
    if config.needs_rules:
        made_of["changes"] = {"draws": DRAWS_VERSION, "rules": json_values(rules)}
    return plan, digest({"version": TRAIN_VERSION, **made_of})


def require_trainable(config: TrainConfig, rules: ChangeRules | None = None) -> int:
    """Refuse a run that could not start with any data, and return the least number of bytes that it writes.

    These are its best weights, and a resume state of weights and two moments.
    """
    require_trackers(config.log)
    refuse_slow_precision(config.precision, chosen_device(config.device).type, setting="train.precision")
    plan, _ = model_and_key(config, {}, rules)
    with TemporaryDirectory(prefix="vernaclip-") as folder:
        return 4 * start_model(plan, config, Path(folder), ()).num_bytes


def start_model(plan: TowerPlan, config: TrainConfig, out: Path, captions: Iterable[str]) -> LoadedModel:
    """Return the initial model with the constants of the loss, and write its files except weights into the folder."""
    model = replace(plan, config=with_loss_constants(dict(plan.config), config)).build(out, captions)
    if config.logit_scale:
        model.module.logit_scale.data.fill_(math.log(config.logit_scale))
    if config.microbatch:
        refuse_batch_statistics(model.module)
    return model
