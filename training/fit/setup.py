"""Set up one training run: its key, folder, data, tokenizer, model and device."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.precision import refuse_slow_precision
from data_catalog.base.settings import json_values
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.files import digest, write_bytes
from training.changes import ChangeRules
from training.config import TrainConfig
from training.data.batches import TrainSplit, open_train_split
from training.data.pairs import PairFiles
from training.fit.hard_negatives import DRAWS_VERSION, require_rules, rules_within
from training.fit.losses import refuse_batch_statistics, with_loss_constants
from training.runs.attempts import METRICS_FILE, RESULT_FILE, WEIGHTS_FILE
from training.runs.processes import chosen_device, process_count
from training.runs.trackers import require_trackers
from training.towers.architecture import has_image_weights, keyed_config, model_config_of
from training.towers.model import (
    ENCODER_CONFIG_FILE,
    OPEN_CLIP_CONFIG_FILE,
    create_model,
    require_encoding,
    write_model_config,
)
from training.towers.model_files import load_weights
from training.towers.preprocessing import Preprocessing, preprocessing_of
from training.towers.pretrained import (
    identity_of_weights,
    load_image_tower,
    load_text_encoder,
    require_recorded_features,
    save_encoder_config,
)
from training.towers.tokenizer import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    SavedTokenizer,
    copy_tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

LOSS_PLOT_FILE = "loss.png"
TEXT_FILES = (ENCODER_CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)
# Files of a finished model folder, which never change.
MODEL_FILES = (
    *(WEIGHTS_FILE, OPEN_CLIP_CONFIG_FILE, RUN_FILE, METRICS_FILE, LOSS_PLOT_FILE, RESULT_FILE),
    *TEXT_FILES,
)
TRAIN_VERSION = 6  # raise it when the same settings and data would give different weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The settings, data and model of a run.

    Args:
        batch_size: images per step of all processes: the configured number, or all samples if there are fewer.
        rules: rules by which captions change. None without `train.hard_negatives`.
        is_pretrained: the image tower started from given weights.
    """

    config: TrainConfig
    files: PairFiles
    out: Path
    device: torch.device
    num_threads: int
    preprocessing: Preprocessing
    split: TrainSplit
    batch_size: int
    rules: ChangeRules | None
    tokenizer: SavedTokenizer
    module: Any
    is_pretrained: bool


def set_up(
    files: PairFiles,
    config: TrainConfig,
    out: Path,
    *,
    model_config: dict[str, Any],
    num_threads: int,
    rules: ChangeRules | None,
) -> Setup:
    """Load data, tokenizer and model, and write the files of the model folder except weights."""
    device, preprocessing, count = chosen_device(config.device), preprocessing_of(model_config), process_count()
    mirror = rules.mirrored if rules and "mirror" in config.augmentations else None
    split = open_train_split(files.train, config, preprocessing=preprocessing, num_threads=num_threads, mirror=mirror)
    num_samples = len(split.captions)
    if num_samples < 2 * count:
        raise InputError("the train split has fewer than two samples per process: build a larger dataset")
    tokenizer, module = start_model(model_config, config, out, (text.as_py() for text in split.captions.flat))
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
        tokenizer=tokenizer,
        module=module.to(device),
        is_pretrained=has_image_weights(model_config, config),
    )


def model_and_key(
    config: TrainConfig, shards: Mapping[str, list[str]], rules: ChangeRules | None = None
) -> tuple[dict[str, Any], str]:
    """Return the model config that the settings name, and the key of the run.

    Args:
        config: settings of the run.
        shards: sha256 of the pair shards by split.
        rules: rules by which captions of the language change, if it has some. They count only if training uses them.
    """
    require_rules(config, rules)
    count = process_count()
    if config.batch_size % count:
        raise SettingsError(
            f"train.batch_size {config.batch_size} cannot be divided among {count} processes: use a multiple"
        )
    model_config = model_config_of(config)
    made_of = {
        "settings": config.what(),
        "model": keyed_config(model_config),
        "weights": identity_of_weights(model_config, config),
        "shards": shards,
    }
    if config.needs_rules:
        made_of["changes"] = {"draws": DRAWS_VERSION, "rules": json_values(rules)}
    return model_config, digest({"version": TRAIN_VERSION, **made_of})


def require_trainable(config: TrainConfig, rules: ChangeRules | None = None) -> int:
    """Refuse a run that could not start with any data, by its model, weights, tokenizer, device or batch size.

    Returns:
        The minimum number of bytes that a run writes: its best weights, and a resume state of weights and two moments.
    """
    require_trackers(config.log)
    refuse_slow_precision(config.precision, chosen_device(config.device).type, setting="train.precision")
    model_config, _ = model_and_key(config, {}, rules)
    with TemporaryDirectory(prefix="vernaclip-") as folder:
        _, module = start_model(model_config, config, Path(folder), ())
    return 4 * sum(int(tensor.nbytes) for tensor in module.state_dict().values())


def start_model(
    model_config: dict[str, Any], config: TrainConfig, out: Path, captions: Iterable[str]
) -> tuple[SavedTokenizer, Any]:
    """Return the tokenizer and the initial model, and write their files except weights into the folder.

    The tokenizer is that of the text encoder. If the model has none, a tokenizer is trained on the captions. Weights
    are pretrained if the settings name some, and random otherwise.
    """
    model_config = with_loss_constants(model_config, config)
    text, start = model_config["text_cfg"], model_config.get("start_folder")
    if start is not None:
        for name in TEXT_FILES:
            if (Path(start) / name).is_file():
                write_bytes(out / name, (Path(start) / name).read_bytes())
    elif "hf_model_name" in text:
        save_encoder_config(model_config, out)
        copy_tokenizer(text["hf_tokenizer_name"], out)
    else:
        trained = train_tokenizer(captions, vocab_size=config.vocab_size)
        save_tokenizer(trained, out, context_length=text["context_length"])
        text["vocab_size"] = trained.get_vocab_size()
    tokenizer, preprocessing = (
        load_tokenizer(out, context_length=text["context_length"]),
        preprocessing_of(model_config),
    )
    write_model_config(out, model_config)
    module = create_model(model_config, out)
    if start is not None:
        without = ("logit_bias",) if config.loss == "clip" else ()
        load_weights(module, Path(model_config["start_weights"]), without=without)
        if config.logit_scale:
            module.logit_scale.data.fill_(math.log(config.logit_scale))
    else:
        load_image_tower(module, model_config, config)
        if "hf_model_name" in text:
            load_text_encoder(module, model_config)
        require_recorded_features(module, tokenizer, preprocessing, model_config)
    if config.microbatch:
        refuse_batch_statistics(module)
    require_encoding(module, tokenizer, image_size=preprocessing.size, model=config.model)
    return tokenizer, module
