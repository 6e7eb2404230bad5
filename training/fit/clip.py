"""Train a CLIP model on pair shards: first the projections, then all weights. Keep the best weights by validation MRR.

Losses, models and the tokenizer's wrapper come from open_clip, optimizers from torch and timm.
"""

import logging
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_catalog.base.language_pack import Sides
from data_catalog.base.precision import with_precision
from data_catalog.disk.files import sha256_of
from data_catalog.report.drawing import COLOURS, write_png
from training.config import TrainConfig
from training.data.batches import Batch, held_out_batches
from training.data.pairs import PairFiles, refuse_leaks, require_several_validation_images
from training.fit.inputs import EpochOrder, PhaseInputs
from training.fit.losses import Encoders, backward, contrastive_loss, joined, pieces_of, unit_features
from training.fit.optimisation import choose_trained, make_optimizer, optimizer_step
from training.fit.setup import LOSS_PLOT_FILE, Setup, model_and_key
from training.runs.attempts import WEIGHTS_FILE, Result, claim, key_of_folder
from training.runs.processes import (
    all_cores,
    broadcast_buffers,
    chosen_device,
    deterministic_torch,
    process_group,
    process_rank,
    require_same_in_all,
    seed_process,
)
from training.runs.runner import Phase, Runner, RunState, cosine, finish
from training.scores.metrics import reciprocal_ranks, text_to_image_ranks
from training.towers.backbones import backbone_features, projected
from training.towers.model import load_weights, save_weights

logger = logging.getLogger(__name__)

CUTOFF = 10  # of the reciprocal ranks that choose the epoch
GALLERY = 1000  # maximum number of images; the scores of a finished model use whole splits


def train(
    files: PairFiles,
    config: TrainConfig,
    out: Path,
    *,
    sha256: Callable[[Path], str] = sha256_of,
    sides: Sides | None = None,
) -> Result:
    """Train a model into a folder, resume an interrupted run, or return the result of a finished one.

    The folder gets `model.safetensors` (the best weights), `open_clip_config.json`, the tokenizer's two files,
    `run.json`, `metrics.jsonl` (one line per epoch), `loss.png`, `effort.json`, and `result.json` at the end. Until
    then it also has the resume state in `last/`. Trackers (`train.log`) have folders of their own there. Processes that
    `torchrun` started train together into one folder, which all of them must be able to access.

    `sha256` may look up hashes that are already known. `sides` are the words for left and right of mirrored images.
    """
    hashes, device = files.hashes(sha256), chosen_device(config.device)
    config = with_precision(
        config, device.type, has_begun=lambda each: key_of_folder(out) == model_and_key(each, hashes, sides)[1]
    )
    plan, key = model_and_key(config, hashes, sides)
    with process_group(device):
        require_same_in_all("key (settings, `auto` precision, weights to start from, or data)", key)
        learned = [*hashes["train"], *plan.learned()]
        finished = claim(out, key, config.what() | plan.distilled(), plan.borrowed(), learned)
        if finished:
            logger.info("%s is already trained", out)
            return finished
        refuse_leaks(files)
        require_several_validation_images(files)
        with deterministic_torch(seed=config.seed, num_threads=config.num_threads, device=device) as num_threads:
            setup = Setup(files, config, out, plan=plan, num_threads=num_threads, sides=sides)
            with closing(setup.split.images):
                return _run(setup, key)


def _run(setup: Setup, key: str) -> Result:
    config, out, task = setup.config, setup.out, ClipTask(setup)
    phases, every = phases_of(config, task.num_batches(0)), config.checkpoint_every_steps
    runner = Runner(task, phases, folder=out, key=key, checkpoint_every=every, log=config.log)
    state = runner.state
    if process_rank() > 0:
        seed_process(config.seed, process_rank(), state.step)
    require_same_in_all("resume state", (state.epoch, state.step))
    runner.run()
    if process_rank() == 0:
        write_png(out / LOSS_PLOT_FILE, partial(_draw_losses, state.history, state.best_record), size=(8, 4.5))
    frozen_epochs = state.phase_start // task.num_batches(0)
    return finish(out, key, state, num_samples=len(setup.split.captions), frozen_epochs=frozen_epochs)


def phases_of(config: TrainConfig, steps_per_epoch: int) -> list[Phase]:
    """Return the phases of a run: the one with frozen towers, if any, and the one in which all weights train.

    If they are counted in epochs, the second one starts from the best weights of the first.
    """

    def phase(name: str, steps: int, patience: float) -> Phase:
        return Phase(
            name=name,
            steps=steps,
            rate=cosine(config.lr, warmup=config.warmup_steps or round(config.warmup_ratio * steps), total=steps),
            patience=math.inf if config.steps else patience,
            from_best=not config.steps,
        )

    frozen, whole = config.frozen_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if config.steps:
        frozen, whole = config.frozen_steps, config.steps - config.frozen_steps
    last = phase("train", whole, config.patience or math.inf)
    return [phase("train projections", frozen, config.patience or 1), last] if config.frozen_epochs else [last]


class ClipTask:
    """Training of both towers by a contrastive loss over the pairs of a batch."""

    remedy = "Lower train.lr, raise train.warmup_steps, or set train.precision to fp32"

    def __init__(self, setup: Setup) -> None:
        self._setup, self._config, self._module = setup, setup.config, setup.module
        self._order = EpochOrder(len(setup.split.captions)) if setup.config.hard_batches else None
        self._held_out: list[torch.Tensor] = []  # features of the frozen image tower, batch by batch
        self._state = RunState()
        self.device = setup.device
        self.optimizer = make_optimizer(setup.module, setup.config)
        order: dict[str, torch.nn.Module] = {"order": self._order} if self._order else {}
        self.modules: Mapping[str, torch.nn.Module] = {"model": setup.module, **order}

    @property
    def _is_frozen(self) -> bool:
        return self._state.phase == 0 and self._config.frozen_epochs > 0

    def begin(self, state: RunState) -> None:
        """Choose what trains in a phase, and compute the features of frozen towers."""
        self._state = state
        self._set_mode()  # before anything else, so that frozen towers keep their batch statistics
        first_epoch = state.phase_start // self.num_batches(0)
        self._inputs = PhaseInputs(self._setup, frozen=self._is_frozen, first_epoch=first_epoch, order=self._order)
        self._inputs.fill(state.epoch)

    def _set_mode(self) -> None:
        keep_statistics = self._config.keep_batch_statistics and self._setup.is_pretrained
        choose_trained(self._module, self._config, frozen=self._is_frozen, keep_statistics=keep_statistics)

    def num_batches(self, epoch: int) -> int:
        """Return the number of full batches of the train split."""
        return len(self._setup.split.captions) // self._setup.batch_size

    def batches(self, epoch: int, places: range) -> Generator[Batch]:
        """Set the modules to training, and yield these batches of an epoch."""
        self._set_mode()
        yield from self._inputs.batches(epoch, places)

    def step(self, batch: Batch, lr: float) -> dict[str, float]:
        """Take one optimizer step, and return the loss."""
        whole = backward(self._module, self._inputs.encoders, self._moved(batch), self._config)
        if not math.isfinite(loss := whole.item()):
            raise FloatingPointError(f"the loss is {loss}")
        optimizer_step(self.optimizer, self._module, lr=lr, config=self._config)
        return {"loss": loss}

    def _moved(self, batch: Batch) -> Batch:
        return batch.map(lambda part: part.to(self.device))

    def validate(self) -> tuple[float | None, dict[str, Any]]:
        """Score the current weights on the validation split, with one caption per image, in fp32."""
        broadcast_buffers(self._module)
        self._module.eval()
        measured = {
            "frozen": self._is_frozen,
            "samples_seen": self._state.step * self._setup.batch_size,
            "logit_scale": float(self._module.logit_scale.exp().item()),
            **self._measured(),
        }
        return None if self._config.steps else score_of(measured, self._config.select), measured

    @torch.no_grad()
    def _measured(self) -> dict[str, Any]:
        """Return loss, recall and MRR on the validation split; None without such a split."""
        setup, features, losses = self._setup, list[Batch](), list[tuple[float, int]]()
        encoders, frozen = Encoders.whole(self._module), self._inputs.frozen_image
        if frozen is not None:
            encoders = replace(encoders, image=projected(frozen.tower, frozen.projection))
        batches = held_out_batches(
            setup.files.val,
            setup.tokenizer,
            preprocessing=setup.preprocessing,
            batch_size=setup.batch_size,
            num_threads=setup.num_threads,
        )
        for number, batch in enumerate(map(self._moved, batches)):
            if frozen is not None:
                if number == len(self._held_out):
                    pieces = torch.split(batch.images, self._config.microbatch or setup.batch_size)
                    with all_cores():
                        self._held_out.append(torch.cat([backbone_features(frozen, piece) for piece in pieces]))
                batch = replace(batch, images=self._held_out[number])
            found = joined([unit_features(encoders, piece) for piece in pieces_of(batch, self._config.microbatch)])
            loss = float(contrastive_loss(self._module, found, loss=self._config.loss).item())
            losses.append((loss, len(found.images)))
            if len(features) * setup.batch_size < GALLERY:
                features.append(found)
        if not losses:
            return {"val_loss": None, "val_recall@1": None, "val_mrr@10": None, "val_gallery": 0}
        loss = sum(loss * count for loss, count in losses) / sum(count for _, count in losses)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the validation loss is {loss}")
        gallery = joined(features).map(lambda part: part[:GALLERY].cpu())
        images, texts = gallery.images.numpy(), gallery.texts.numpy()
        ranks = text_to_image_ranks(texts, images, np.arange(len(images)))
        return {
            "val_loss": loss,
            "val_recall@1": float((ranks == 1).mean()),
            "val_mrr@10": float(reciprocal_ranks(ranks, CUTOFF).mean()),
            "val_gallery": len(images),
        }

    def keep(self) -> None:
        """Write the current weights as the best."""
        save_weights(self._module, self._setup.out / WEIGHTS_FILE)

    def restore(self) -> None:
        """Load the best weights."""
        load_weights(self._module, self._setup.out / WEIGHTS_FILE)


def score_of(measured: Mapping[str, Any], select: str) -> float | None:
    """Return the score of a validation by "loss" or "mrr", where higher is better; None without a validation split."""
    if measured["val_loss"] is None:
        return None
    return -float(measured["val_loss"]) if select == "loss" else float(measured["val_mrr@10"])


def _draw_losses(history: Sequence[Mapping[str, Any]], best: Mapping[str, Any], figure: Any) -> None:
    """Draw the loss of each epoch."""
    axes = figure.add_subplot(xlabel="step", ylabel="contrastive loss")
    steps = [line["step"] for line in history]
    axes.plot(steps, [line["train_loss"] for line in history], ".-", color=COLOURS["first"], label="train")
    validated = [line for line in history if line["val_loss"] is not None]
    if validated:
        points = [line["step"] for line in validated], [line["val_loss"] for line in validated]
        axes.plot(*points, ".-", color=COLOURS["second"], label="validation")
        circle = {"markersize": 9, "fillstyle": "none", "color": "black"}
        label = f"kept: epoch {best['epoch']}, {best['val_loss']:.3f}"
        axes.plot([best["step"]], [best["val_loss"]], "o", label=label, **circle)
    frozen = [line["step"] for line in history if line["frozen"]]
    if frozen and frozen[-1] != steps[-1]:
        axes.axvline(frozen[-1], linestyle="--", color=COLOURS["soft"], label="towers unfrozen")
    axes.grid(color=COLOURS["line"], linewidth=0.6)
    axes.legend(frameon=False)
