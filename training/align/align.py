"""Align the frozen towers of a recipe: compute their features once, train the heads, and write a model folder.

The folder is an ordinary one: the heads become the projections of the model's towers, so nothing needs the training
features afterwards. Features are cached by content, batch by batch, and heads take a minute or two, so a run that was
interrupted starts its heads again and ends with the same bytes.
"""

import logging
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from data_catalog.base.errors import InputError, PipelineError
from data_catalog.base.settings import what_values
from data_catalog.disk.files import sha256_of
from training.align.frozen import FrozenTowers, aligned_model_and_key
from training.align.heads import FeaturePairs, Heads, HeadsTask
from training.config import AlignConfig, TowerConfig, TrainConfig
from training.data.images import Features
from training.data.pairs import PairFiles, refuse_leaks, require_several_validation_images
from training.runs.attempts import WEIGHTS_FILE, AttemptLog, Result, claim
from training.runs.processes import chosen_device, deterministic_torch, require_one_process
from training.runs.runner import Phase, Runner, RunState, finish, write_metrics
from training.runs.trackers import Trackers
from training.towers.model import save_weights

logger = logging.getLogger(__name__)


def align(
    files: PairFiles,
    towers: TrainConfig,
    config: AlignConfig,
    out: Path,
    *,
    cache: Path,
    sha256: Callable[[Path], str] = sha256_of,
) -> Result:
    """Align frozen towers into a model folder, or return the result of a finished run.

    The folder gets the same files as a trained model. `metrics.jsonl` has one line per epoch; epoch 0 is the start.
    `towers` name the towers, whose features are in the folder `cache`, shared by all runs. `sha256` may look up hashes
    that are already known.
    """
    require_one_process("align")
    hashes = files.hashes(sha256)
    plan, key = aligned_model_and_key(towers, config, hashes)
    named = {each.name for each in fields(TowerConfig)} - {"vocab_size"}  # of a tokenizer that none trains
    settings = {name: value for name, value in towers.what().items() if name in named}
    settings |= {"align": what_values(config), **plan.distilled()}
    learned = [*hashes["train"], *(hashes["val"] if config.refit else ()), *plan.learned()]
    is_new = not out.exists()
    if finished := claim(out, key, settings, plan.borrowed(), learned):
        logger.info("%s is already aligned", out)
        return finished
    try:
        refuse_leaks(files)
        require_several_validation_images(files)
        with (
            deterministic_torch(seed=config.seed, num_threads=towers.num_threads, device=torch.device("cpu")),
            Trackers(config.log, out) as trackers,  # an interrupted run starts its heads again
        ):
            attempts = AttemptLog(out, chosen_device("auto"), step=0)  # a GPU encodes, if there is one
            frozen = FrozenTowers(plan, out, cache=cache)
            train, val = frozen.pairs(files, "train", mirror=config.mirror), frozen.pairs(files, "val")
            if train is None or len(train) < 2:
                raise InputError("the train split has fewer than two images: build a larger dataset")
            heads, state = fit_heads(frozen, train, val, config)
            frozen.put(heads)
            save_weights(frozen.module, out / WEIGHTS_FILE)
            write_metrics(out, state)
            for line in state.history:
                trackers.add(line["epoch"], line)
            epoch, step = state.best_record["epoch"], state.best_record["step"]
            attempts.note(step)
    except PipelineError:
        if is_new:  # a folder without weights is no model
            shutil.rmtree(out)
        raise
    num_samples = len(train) + (len(val) if config.refit and val is not None else 0)
    return finish(out, key, replace(state, epoch=epoch, step=step), num_samples=num_samples, frozen_epochs=epoch)


def fit_heads(
    frozen: FrozenTowers, train: FeaturePairs, val: FeaturePairs | None, config: AlignConfig
) -> tuple[Heads, RunState]:
    """Train heads, and return those of the epoch with the best validation MRR@10, and the run with its history.

    Without a validation split, the last epoch is kept.
    """
    scales = _scale(train.views[0], "image"), _scale(train.texts, "text")
    train, val = train.scaled(*scales), None if val is None else val.scaled(*scales)
    heads, state = _trained(frozen.start(train, config, scales), train, val, config, config.epochs)
    best = state.best_record
    if config.refit and val is not None:
        whole = train.joined(val)
        heads, _ = _trained(frozen.start(whole, config, scales), whole, None, config, best["epoch"])
    heads.multiply(*scales)  # the heads then take the towers' own features
    score = "" if best["val_mrr@10"] is None else f", validation MRR@10 {best['val_mrr@10']:.3f}"
    logger.info("heads: kept epoch %d of %d%s", best["epoch"], config.epochs, score)
    return heads, state


def _scale(features: Features, tower: str) -> float:
    """Return the factor that makes the mean square of the features' lengths 1."""
    length = float(np.sqrt((features.astype(np.float64) ** 2).sum(axis=1).mean()))
    if not 0 < length < np.inf:
        raise InputError(f"the features of the {tower} tower are all zero or not finite: use other weights")
    return 1 / length


def _trained(
    heads: Heads, train: FeaturePairs, val: FeaturePairs | None, config: AlignConfig, num_epochs: int
) -> tuple[Heads, RunState]:
    task = HeadsTask(heads, train, val, config)
    phase = Phase(name="align", steps=num_epochs * task.num_batches(0), rate=task.rate)
    state = Runner(task, [phase]).run(validate_first=True)
    return task.best, state
