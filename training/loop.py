"""Trains a CLIP model on pair shards: contrastive loss, AdamW, warm-up and cosine, the best validation loss kept.

The loss, the models and the tokenizer's wrapper are open_clip's; the loop is ours, so that a run that was killed
goes on bit for bit where its last resume state was written.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import ConfigError
from data_catalog.progress import Progress
from data_catalog.shards import read_json, sha256_of, sweep_temporary, write_atomically, write_json
from training.augment import random_crops
from training.batches import TrainSplit, epoch_batches, held_out_batches, open_train_split
from training.checkpoint import STATE_FILE, RunState, load_state, save_state, save_weights
from training.config import TrainConfig, run_key
from training.data import PairFiles, refuse_leaks
from training.model import (
    OPEN_CLIP_CONFIG_FILE,
    WEIGHTS_FILE,
    create_model,
    normalise_pixels,
    read_model_config,
    write_model_config,
)
from training.optimisation import adamw, contrastive_loss, learning_rate, optimizer_step
from training.threads import deterministic_torch
from training.tokenizer import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

if TYPE_CHECKING:
    import torch

    from training.tokenizer import Tokenize

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
RESULT_FILE = "result.json"
METRICS_FILE = "metrics.jsonl"
# What a trained model's folder has, which nothing changes any more.
MODEL_FILES = (
    *(WEIGHTS_FILE, OPEN_CLIP_CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE),
    *(RUN_FILE, METRICS_FILE, RESULT_FILE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a finished run made.

    Args:
        key: what it was made of.
        model_sha256: of `model.safetensors`.
        num_samples: images of the train split.
        best_epoch: whose weights were kept, 1-based.
        best_val_loss: None without a validation split; then the last epoch's weights are kept.
    """

    key: str
    model_sha256: str
    num_samples: int
    epochs: int
    steps: int
    best_epoch: int
    best_val_loss: float | None


@dataclass(slots=True, kw_only=True)
class _Run:
    """A run under way: what the functions below share."""

    config: TrainConfig
    files: PairFiles
    out: Path
    key: str
    image_size: int
    batch_size: int
    num_threads: int
    split: TrainSplit
    tokenizer: "Tokenize"
    module: Any
    optimizer: Any
    state: RunState

    @property
    def steps_per_epoch(self) -> int:
        return self.split.num_batches(self.batch_size)


def train(
    files: PairFiles, config: TrainConfig, out: Path, *, sha256: Callable[[Path], str] = sha256_of
) -> TrainResult:
    """Train a model into a folder, or go on with a run that was interrupted, or return what a finished one made.

    The folder gets `model.safetensors` (best weights), `open_clip_config.json`, the tokenizer's two files, `run.json`,
    `metrics.jsonl` (one line an epoch), `result.json` at the end, and `last/` until then.

    Args:
        sha256: content hash of a file, where the caller knows hashes already.

    Raises:
        ConfigError: splits overlap, there is nothing to train on, or the folder holds another run.
        ShardError: a shard cannot be read.
    """
    model_config = read_model_config(config.model)
    key = run_key(config, model_config, files.hashes(sha256))
    _claim(out, key, config)
    if (out / RESULT_FILE).is_file():
        logger.info("%s is trained already", out)
        return TrainResult(**read_json(out / RESULT_FILE))
    refuse_leaks(files)
    with deterministic_torch(seed=config.seed, num_threads=config.num_threads) as num_threads:
        run = _start(files, config, out, key=key, model_config=model_config, num_threads=num_threads)
        try:
            _go(run)
        finally:
            run.split.images.close()
    return _finish(run)


def _claim(out: Path, key: str, config: TrainConfig) -> None:
    """Make the folder this run's, or make sure that it is."""
    sweep_temporary([out, (out / STATE_FILE).parent])
    path = out / RUN_FILE
    if not path.is_file():
        write_json(path, {"key": key, "settings": config.what()})
    elif read_json(path)["key"] != key:
        raise ConfigError(f"{out} holds a run with other settings or other data: train into another folder")


def _start(
    files: PairFiles, config: TrainConfig, out: Path, *, key: str, model_config: dict[str, Any], num_threads: int
) -> _Run:
    """Data, tokenizer, model and optimizer, as they were at the last resume state if there is one."""
    image_size = int(model_config["vision_cfg"]["image_size"])
    split = open_train_split(files.train, config, image_size=image_size, num_threads=num_threads)
    if len(split.captions) < 2:
        raise ConfigError("the train split has fewer than two samples: build a larger dataset")
    model_config["text_cfg"]["vocab_size"] = _make_tokenizer(split, config, out, model_config)
    write_model_config(out, model_config)
    module = create_model(model_config).train()
    optimizer = adamw(module, config)
    return _Run(
        config=config,
        files=files,
        out=out,
        key=key,
        image_size=image_size,
        batch_size=min(config.batch_size, len(split.captions)),
        num_threads=num_threads,
        split=split,
        tokenizer=load_tokenizer(out, context_length=model_config["text_cfg"]["context_length"]),
        module=module,
        optimizer=optimizer,
        state=load_state(out / STATE_FILE, key=key, module=module, optimizer=optimizer),
    )


def _make_tokenizer(split: TrainSplit, config: TrainConfig, out: Path, model_config: dict[str, Any]) -> int:
    """Train the tokenizer and save it; returns its number of tokens."""
    captions = (text for texts in split.captions for text in texts.as_py())
    tokenizer = train_tokenizer(captions, vocab_size=config.vocab_size)
    save_tokenizer(tokenizer, out, context_length=model_config["text_cfg"]["context_length"])
    return tokenizer.get_vocab_size()


def _go(run: _Run) -> None:
    """All epochs that are left."""
    total = run.config.epochs * run.steps_per_epoch
    with Progress("train", total=total, unit="steps", initial=run.state.step) as progress:
        for epoch in range(run.state.epoch, run.config.epochs):
            _train_epoch(run, epoch, progress, total)
            _end_epoch(run, epoch)


def _train_epoch(run: _Run, epoch: int, progress: Progress, total: int) -> None:
    skip = run.state.step - epoch * run.steps_per_epoch
    batches = epoch_batches(run.split, run.tokenizer, run.config, epoch=epoch, batch_size=run.batch_size, skip=skip)
    for pixels, token_ids in batches:
        lr = learning_rate(run.state.step, config=run.config, total=total)
        loss = _train_step(run, pixels, token_ids, lr)
        run.state.step += 1
        run.state.loss_sum += loss
        progress.advance(1, epoch=epoch + 1, loss=f"{loss:.3f}")
        if run.state.step % run.config.checkpoint_every_steps == 0:
            _save_state(run)


def _train_step(run: _Run, pixels: "torch.Tensor", token_ids: "torch.Tensor", lr: float) -> float:
    """One optimizer step; returns the loss."""
    images = normalise_pixels(pixels)
    if run.config.augment:
        images = random_crops(images, seed=run.config.seed, step=run.state.step)
    loss = contrastive_loss(run.module, images, token_ids, precision=run.config.precision)
    optimizer_step(run.optimizer, run.module, loss, lr=lr, max_grad_norm=run.config.max_grad_norm)
    return float(loss.item())


def _end_epoch(run: _Run, epoch: int) -> None:
    """Validate, keep the weights if they are the best, write metrics and the resume state."""
    state = run.state
    val_loss = _validate(run)
    if state.best_epoch == 0 or val_loss is None or val_loss < (state.best_val_loss or math.inf):
        state.best_epoch, state.best_val_loss = epoch + 1, val_loss
        save_weights(run.module, run.out / WEIGHTS_FILE)
    state.history.append(
        {
            "epoch": epoch + 1,
            "step": state.step,
            "samples_seen": state.step * run.batch_size,
            "train_loss": state.loss_sum / run.steps_per_epoch,
            "val_loss": val_loss,
            "logit_scale": float(run.module.logit_scale.exp().item()),
        }
    )
    state.epoch, state.loss_sum = epoch + 1, 0.0
    lines = "".join(json.dumps(line) + "\n" for line in state.history)
    write_atomically(run.out / METRICS_FILE, lambda path: _write(path, lines))
    held_out = "" if val_loss is None else f", validation loss {val_loss:.3f}"
    logger.info("epoch %d: train loss %.3f%s", epoch + 1, state.history[-1]["train_loss"], held_out)
    _save_state(run)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _validate(run: _Run) -> float | None:
    """Mean contrastive loss of the validation split, one caption an image, in batches as large as training's."""
    import torch

    losses: list[tuple[float, int]] = []
    run.module.eval()
    batches = held_out_batches(
        run.files.val,
        run.tokenizer,
        image_size=run.image_size,
        batch_size=run.batch_size,
        num_threads=run.num_threads,
    )
    with torch.no_grad():
        for pixels, token_ids in batches:
            loss = contrastive_loss(run.module, normalise_pixels(pixels), token_ids, precision="fp32")
            losses.append((float(loss.item()), len(pixels)))
    run.module.train()
    return sum(loss * count for loss, count in losses) / sum(count for _, count in losses) if losses else None


def _save_state(run: _Run) -> None:
    save_state(run.out / STATE_FILE, key=run.key, module=run.module, optimizer=run.optimizer, state=run.state)


def _finish(run: _Run) -> TrainResult:
    """Write the result, which makes the run a finished one, and remove the resume state."""
    result = TrainResult(
        key=run.key,
        model_sha256=sha256_of(run.out / WEIGHTS_FILE),
        num_samples=len(run.split.captions),
        epochs=run.config.epochs,
        steps=run.state.step,
        best_epoch=run.state.best_epoch,
        best_val_loss=run.state.best_val_loss,
    )
    write_json(run.out / RESULT_FILE, asdict(result))
    shutil.rmtree((run.out / STATE_FILE).parent, ignore_errors=True)
    return result
