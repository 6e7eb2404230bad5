"""Train a CLIP model on pair shards: first the projections, then all weights. Keep the best weights by validation MRR.

Losses, models and the tokenizer's wrapper come from open_clip, optimizers from torch and timm. The loop is our own, so
that a resumed run continues bit for bit from its last resume state.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from torch.nn import functional as F

from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.base.precision import with_precision
from data_catalog.base.progress import Progress
from data_catalog.disk.files import sha256_of, write_bytes, write_json
from data_catalog.report.drawing import COLOURS, write_png
from training.changes import ChangeRules
from training.config import TrainConfig
from training.data.batches import Batch, Prefetched, held_out_batches
from training.data.pairs import PairFiles, read_captions, refuse_leaks, require_several_validation_images
from training.fit.hard_negatives import HARD_LOSS, VAL_PREFERRED, held_out_changes
from training.fit.inputs import PhaseInputs, frozen_image_part
from training.fit.losses import Encoders, backward, contrastive_loss, joined, unit_features_in_pieces
from training.fit.optimisation import choose_trained, learning_rate, optimizer_step
from training.fit.run import (
    LOSS_PLOT_FILE,
    METRICS_FILE,
    STATE_FILE,
    Run,
    RunState,
    claim_folder,
    closing_run,
    key_of_folder,
    model_and_key,
    refuse_uneven_shares,
    save_run,
    start_run,
)
from training.processes import (
    all_cores,
    barrier,
    broadcast,
    broadcast_buffers,
    chosen_device,
    deterministic_torch,
    process_group,
    process_rank,
    require_same_in_all,
)
from training.scores.metrics import reciprocal_ranks, text_to_image_ranks
from training.towers.backbones import backbone_features, projected
from training.towers.model import WEIGHTS_FILE
from training.towers.model_files import REMEDY, load_weights, read_object, save_weights
from training.towers.trained_models import RESULT_FILE

logger = logging.getLogger(__name__)

CUTOFF = 10  # of the reciprocal ranks that choose the epoch
GALLERY = 1000  # maximum number of images; the scores of a finished model use whole splits


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """The result of a finished run.

    Args:
        key: hash of everything that decides the weights.
        model_sha256: sha256 of `model.safetensors`.
        num_samples: images of the train split.
        epochs: epochs trained, including those with frozen towers.
        frozen_epochs: epochs trained with frozen towers.
        steps: optimizer steps.
        best_epoch: epoch of the kept weights, 1-based. It is the last one if `train.steps` is set.
        best_val_loss: validation loss of those weights. None without a validation split, where the last epoch is kept.
        best_val_mrr: validation MRR@10 of those weights, from captions to images. None likewise.
    """

    key: str
    model_sha256: str
    num_samples: int
    epochs: int
    frozen_epochs: int
    steps: int
    best_epoch: int
    best_val_loss: float | None
    best_val_mrr: float | None = None


def read_result(path: Path) -> TrainResult:
    """Read the `result.json` of a finished run.

    Raises:
        DamagedError: the file is missing or damaged.
    """
    values, kinds = read_object(path), get_type_hints(TrainResult)
    try:
        for name, value in values.items():
            # accept an int for a float, as in a file edited by hand
            kind = kinds[name] | int if float in (kinds[name], *get_args(kinds[name])) else kinds[name]
            if isinstance(value, bool) or not isinstance(value, kind):
                raise TypeError(f"{name} is {value!r}")
        return TrainResult(**values)
    except (TypeError, KeyError) as error:
        raise DamagedError(f"{path} is damaged ({error}): {REMEDY}") from error


def train(
    files: PairFiles,
    config: TrainConfig,
    out: Path,
    *,
    sha256: Callable[[Path], str] = sha256_of,
    rules: ChangeRules | None = None,
) -> TrainResult:
    """Train a model into a folder, resume an interrupted run, or return the result of a finished one.

    The folder gets `model.safetensors` (the best weights), `open_clip_config.json`, the tokenizer's two files,
    `run.json`, `metrics.jsonl` (one line per epoch), `loss.png`, `effort.json`, and `result.json` at the end. Until
    then it also has the resume state in `last/`. Trackers (`train.log`) have folders of their own there. Processes that
    `torchrun` started train together into one folder, which all of them must be able to access.

    Args:
        files: pair shards by split.
        config: settings of the run.
        out: the model folder.
        sha256: returns the sha256 of a file; pass a lookup if hashes are already known.
        rules: rules by which captions of the language change, for `train.hard_negatives`.

    Raises:
        SettingsError: there are no rules for `train.hard_negatives`, the validation split has a single image, the
            folder contains another run, the processes have different settings or data, or the loss is not finite. The
            best weights and the last resume state are kept.
        InputError: splits overlap, there are too few images, or another process ended.
        DamagedError: a shard or the resume state cannot be read, or the weights of a finished run are missing.
    """
    hashes, device = files.hashes(sha256), chosen_device(config.device)
    config = with_precision(
        config, device.type, has_begun=lambda each: key_of_folder(out) == model_and_key(each, hashes, rules)[1]
    )
    plan, key = model_and_key(config, hashes, rules)
    refuse_uneven_shares(config)
    with process_group(device):
        require_same_in_all("key (settings, `auto` precision, weights to start from, or data)", key)
        if process_rank() == 0:
            learned = [*hashes["train"], *plan.learned()]
            settings = config.what() | plan.distilled()
            claim_folder(out, key, settings, plan.borrowed(), learned)
        barrier()
        if (out / RESULT_FILE).is_file():
            if not (out / WEIGHTS_FILE).is_file():
                raise DamagedError(
                    f"{out} is trained, but its {WEIGHTS_FILE} is missing: remove the folder to train it again"
                )
            logger.info("%s is already trained", out)
            if process_rank() == 0:
                _remove_resume_state(out)
            return read_result(out / RESULT_FILE)
        refuse_leaks(files)
        require_several_validation_images(files)
        with deterministic_torch(seed=config.seed, num_threads=config.num_threads, device=device) as num_threads:
            run = start_run(files, config, out, key=key, plan=plan, num_threads=num_threads, rules=rules)
            with closing_run(run):
                require_same_in_all("resume state", (run.state.epoch, run.state.step))
                _run_phases(run)
        if process_rank() == 0:
            result = TrainResult(
                key=run.key,
                model_sha256=sha256_of(run.out / WEIGHTS_FILE),
                num_samples=len(run.split.captions),
                epochs=run.state.epoch,
                frozen_epochs=run.state.phase_epoch,
                steps=run.state.step,
                best_epoch=run.state.best_epoch,
                best_val_loss=run.state.best_val_loss,
                best_val_mrr=run.state.best_val_mrr,
            )
            write_json(out / RESULT_FILE, asdict(result))  # this file marks the run as finished
            _remove_resume_state(out)
        barrier()
        return read_result(out / RESULT_FILE)


def _remove_resume_state(out: Path) -> None:
    shutil.rmtree((out / STATE_FILE).parent, ignore_errors=True)


def _run_phases(run: Run) -> None:
    """Run the remaining phases: the one with frozen towers, then the one in which all weights train."""
    config, state, steps = run.config, run.state, run.config.steps
    if state.is_frozen:
        total = config.frozen_steps if steps else config.frozen_epochs * run.steps_per_epoch
        _train_phase(run, "train projections", total, patience=math.inf if steps else config.patience or 1)
        # The second phase starts with a fresh optimizer state. If it runs by epochs, it starts from the best weights.
        if not steps:
            load_weights(run.module, run.out / WEIGHTS_FILE)
        run.optimizer.state.clear()
        state.is_frozen, state.stale_epochs = False, 0
        state.phase_epoch, state.phase_step = state.epoch, state.step
        save_run(run)
    total = steps - state.phase_step if steps else config.epochs * run.steps_per_epoch
    _train_phase(run, "train", total, patience=math.inf if steps else config.patience or config.epochs)


def _train_phase(run: Run, name: str, total: int, *, patience: float) -> None:
    """Train up to `total` steps. Stop early after `patience` epochs without a better validation result."""
    state = run.state
    _set_mode(run)  # before anything else, so that frozen towers keep their batch statistics
    inputs = PhaseInputs(run)
    if run.num_left(total):
        inputs.fill(state.epoch)  # which takes longer than an epoch, so its time is no part of the progress
    with Progress(name, total=total, unit="steps", initial=state.step - state.phase_step) as progress:
        while (run.num_left(total) or run.is_epoch_over(total)) and state.stale_epochs < patience:
            _set_mode(run)
            inputs.prepare(state.epoch)
            pace = _train_epoch(run, inputs, progress, total)
            if run.is_epoch_over(total):
                _end_epoch(run, pace, progress)
    if process_rank() == 0 and state.history:
        _write_loss_plot(state.history, state.best_epoch, run.out / LOSS_PLOT_FILE)


def _set_mode(run: Run) -> None:
    choose_trained(
        run.module,
        frozen=run.state.is_frozen,
        fixed_scale=run.config.logit_scale > 0,
        lock_image=run.config.lock_image,
        freeze_image=run.config.freeze_image,
        keep_statistics=run.config.keep_batch_statistics and run.is_pretrained,
    )


def _train_epoch(run: Run, inputs: PhaseInputs, progress: Progress, total: int) -> str:
    """Train the remaining steps of an epoch, and return their speed as text."""
    state, config = run.state, run.config
    first, started = state.step, time.monotonic()
    warmup = config.warmup_steps or round(config.warmup_ratio * total)
    batches_left = inputs.batches(state.epoch, skip=first - state.epoch * run.steps_per_epoch)
    prefetched = Prefetched(islice(batches_left, run.num_left(total)))
    with prefetched as batches:
        for batch in batches:
            lr = learning_rate(state.step - state.phase_step, lr=config.lr, warmup=warmup, total=total)
            loss = _train_step(run, inputs.encoders, batch, lr)
            state.step += 1
            run.trackers.add(state.step, {"loss": loss, "lr": lr})
            progress.advance(1, epoch=state.epoch + 1, loss=f"{loss:.3f}")
            if state.step % config.checkpoint_every_steps == 0:
                save_run(run)
    seconds = time.monotonic() - started
    rate = (state.step - first) * run.batch_size / seconds
    return f"{rate:,.0f} samples/s, {prefetched.waited_s / seconds:.1%} of the time spent waiting for data"


def _train_step(run: Run, encoders: Encoders, batch: Batch, lr: float) -> float:
    """Take one optimizer step, and return the loss."""
    config, state = run.config, run.state
    losses = backward(run.module, encoders, batch.map(lambda part: part.to(run.device)), config)
    loss = float(losses.whole.item())
    try:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        optimizer_step(run.optimizer, run.module, lr=lr, config=config)
    except FloatingPointError as error:
        raise _diverged(run, state.step + 1, str(error)) from error
    state.loss_sum += loss
    for kind, (total, count) in zip(config.hard_negatives, losses.by_kind.T.tolist(), strict=True):
        before = state.hard_sums.get(kind, [0.0, 0])
        state.hard_sums[kind] = [before[0] + total, before[1] + count]
    return loss


def _diverged(run: Run, step: int, what: str) -> SettingsError:
    best = run.state.best_epoch
    kept = f"The weights of epoch {best} are in {run.out / WEIGHTS_FILE}" if best else "No epoch was finished"
    return SettingsError(
        f"training stopped at step {step} of epoch {run.state.epoch + 1} because {what}. {kept}. "
        "Lower train.lr, raise train.warmup_steps, or set train.precision to fp32"
    )


@dataclass(frozen=True, slots=True)
class Validation:
    """Results on the validation split, with one caption per image, in fp32.

    Args:
        loss: mean contrastive loss, with the training batch size.
        recall: share of captions whose image ranks first in the gallery. Captions that fit several images are included.
        mrr: mean reciprocal rank of the images, at most `CUTOFF`.
        gallery: number of images in the gallery.
        preferred: share of the gallery's captions that their images prefer to a changed one, by kind of hard negative.
    """

    loss: float
    recall: float
    mrr: float
    gallery: int
    preferred: Mapping[str, float]

    @property
    def score(self) -> float:
        """Return the MRR or, with hard negatives, its mean with the mean of `preferred`.

        By the MRR alone, an epoch that has not learnt what hard negatives teach could be kept.
        """
        return (self.mrr + float(np.mean([*self.preferred.values()]))) / 2 if self.preferred else self.mrr

    def is_better(self, state: RunState, select: str) -> bool:
        """Return whether this is the best result of a run so far, by "mrr" or "loss"."""
        if state.best_val_loss is None or state.best_val_score is None:
            return True
        return self.loss < state.best_val_loss if select == "loss" else self.score > state.best_val_score


def validate(run: Run) -> Validation | None:
    """Score the current weights of a run. Return None if it has no validation split."""
    run.module.eval()
    encoders, losses, frozen = Encoders.whole(run.module), [], frozen_image_part(run)
    if frozen is not None:
        encoders = replace(encoders, image=projected(frozen.tower, frozen.projection))
    features: list[Batch] = []
    batches = held_out_batches(
        run.files.val,
        run.tokenizer,
        preprocessing=run.preprocessing,
        batch_size=run.batch_size,
        num_threads=run.num_threads,
    )
    with torch.no_grad():
        for number, batch in enumerate(batches):
            inputs = batch.map(lambda part: part.to(run.device))
            if frozen is not None:
                if number == len(run.held_out):
                    pieces = torch.split(inputs.images, run.config.microbatch or run.batch_size)
                    with all_cores():
                        run.held_out.append(torch.cat([backbone_features(frozen, piece) for piece in pieces]))
                inputs = replace(inputs, images=run.held_out[number])
            found = unit_features_in_pieces(encoders, inputs, size=run.config.microbatch)
            losses.append((float(contrastive_loss(run.module, found, loss=run.config.loss).item()), len(batch.images)))
            if len(features) * run.batch_size < GALLERY:
                features.append(found)
    if not losses:
        return None
    gallery = joined(features).map(lambda part: part[:GALLERY].cpu())
    image_features, text_features = gallery.images.numpy(), gallery.texts.numpy()
    ranks = text_to_image_ranks(text_features, image_features, np.arange(len(image_features)))
    return Validation(
        loss=sum(loss * count for loss, count in losses) / sum(count for _, count in losses),
        recall=float((ranks == 1).mean()),
        mrr=float(reciprocal_ranks(ranks, CUTOFF).mean()),
        gallery=len(image_features),
        preferred=preferred_captions(run, gallery),
    )


def preferred_captions(run: Run, gallery: Batch) -> dict[str, float]:
    """Return the share of a gallery's captions that their images prefer to a changed one, by kind; chance is 0.5.

    Args:
        run: the training run.
        gallery: features of the first validation images and of their first captions.
    """
    if run.rules is None:
        return {}
    captions = read_captions(run.files.val).slice(0, len(gallery.images)).to_pylist()
    found = held_out_changes(captions, run.rules, kinds=run.config.hard_negatives, seed=run.config.seed)
    preferred = {}
    for kind, changes in found.items():
        places, texts = [place for place, _ in changes], [text for _, text in changes]
        parts = []
        for start in range(0, len(texts), run.batch_size):
            ids = run.tokenizer(texts[start : start + run.batch_size]).to(run.device)
            with torch.no_grad():
                parts.append(F.normalize(run.module.encode_text(ids).float(), dim=-1).cpu())
        if parts:
            gaps = (gallery.images[places] * (gallery.texts[places] - torch.cat(parts))).sum(dim=-1)
            preferred[kind] = float((gaps > 0).float().mean())
    return preferred


def _end_epoch(run: Run, pace: str, progress: Progress) -> None:
    """Validate, save the weights if they are the best, and write metrics and the resume state."""
    state = run.state
    broadcast_buffers(run.module)
    val = broadcast(validate(run))
    if val is not None and not math.isfinite(val.loss):
        raise _diverged(run, state.step, f"the validation loss is {val.loss}")
    state.stale_epochs += 1
    is_best = run.config.steps > 0 or val is None or val.is_better(state, run.config.select)
    if is_best:
        state.best_epoch, state.stale_epochs = state.epoch + 1, 0
        state.best_val_loss, state.best_val_mrr = (val.loss, val.mrr) if val else (None, None)
        state.best_val_score = val.score if val else None
    state.history.append(
        {
            "epoch": state.epoch + 1,
            "frozen": state.is_frozen,
            "step": state.step,
            "samples_seen": state.step * run.batch_size,
            "train_loss": state.loss_sum / (state.step - state.epoch * run.steps_per_epoch),
            "val_loss": val.loss if val else None,
            "val_recall@1": val.recall if val else None,
            "val_mrr@10": val.mrr if val else None,
            "val_gallery": val.gallery if val else 0,
            "logit_scale": float(run.module.logit_scale.exp().item()),
            **{HARD_LOSS + kind: total / count if count else None for kind, (total, count) in state.hard_sums.items()},
            **{VAL_PREFERRED + kind: share for kind, share in (val.preferred if val else {}).items()},
        }
    )
    run.trackers.add(state.step, state.history[-1])
    state.epoch, state.loss_sum, state.hard_sums = state.epoch + 1, 0.0, {}
    if process_rank() == 0:
        if is_best:
            save_weights(run.module, run.out / WEIGHTS_FILE)
        lines = "".join(json.dumps(line) + "\n" for line in state.history)
        write_bytes(run.out / METRICS_FILE, lines.encode())
        save_run(run)
    last = state.history[-1]
    drawn = {kind: last.get(HARD_LOSS + kind) for kind in run.config.hard_negatives}
    hard = "".join(f", {kind} {loss:.2f}" for kind, loss in drawn.items() if loss is not None)
    held_out = f", validation loss {val.loss:.3f}, MRR@10 of {val.gallery:,} {val.mrr:.3f}" if val else ""
    log = progress.say if val else logger.debug  # without a validation, the line of progress says enough
    log("epoch %d: train loss %.3f%s%s, %s", state.epoch, last["train_loss"], held_out, hard, pace)
    barrier()


def _write_loss_plot(history: Sequence[Mapping[str, Any]], best_epoch: int, path: Path) -> None:
    """Draw the loss of each epoch as a PNG, from at least one line of `metrics.jsonl`."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot(xlabel="step", ylabel="contrastive loss")
        steps = [line["step"] for line in history]
        axes.plot(steps, [line["train_loss"] for line in history], ".-", color=COLOURS["first"], label="train")
        validated = [line for line in history if line["val_loss"] is not None]
        if validated:
            points = [line["step"] for line in validated], [line["val_loss"] for line in validated]
            axes.plot(*points, ".-", color=COLOURS["second"], label="validation")
            best = history[best_epoch - 1]
            label = f"kept: epoch {best_epoch}, {best['val_loss']:.3f}"
            axes.plot(
                [best["step"]], [best["val_loss"]], "o", markersize=9, fillstyle="none", color="black", label=label
            )
        frozen = [line["step"] for line in history if line["frozen"]]
        if frozen and frozen[-1] != steps[-1]:
            axes.axvline(frozen[-1], linestyle="--", color=COLOURS["soft"], label="towers unfrozen")
        axes.grid(color=COLOURS["line"], linewidth=0.6)
        axes.legend(frameon=False)

    write_png(path, draw, size=(8, 4.5))
