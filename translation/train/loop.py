"""The training loop: warm-up then cosine, averaged weights, a validation every so often and a state to resume from.

Imports torch: import this module inside functions only.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from data_catalog.errors import SettingsError
from data_catalog.progress import Progress
from translation.train.batches import IGNORED, Batch, TokenPair, epoch_batches, grouped, to_batch, width
from translation.train.config import TrainPackageConfig
from translation.train.loss import smoothed_cross_entropy
from translation.train.model import TranslationModel
from translation.train.state import CurvePoint, TrainState, load_state, save_state, save_weights

logger = logging.getLogger(__name__)

MAX_GRADIENT_NORM = 1.0
ADAM_BETAS = (0.9, 0.98)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScores:
    """BLEU and chrF in [0, 100] of the held-out pairs, and their translations."""

    bleu: float
    chrf: float
    texts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where a training keeps itself.

    Args:
        state: to resume from.
        best: weights of the best validation.
        key: what the training is made of.
    """

    state: Path
    best: Path
    key: str


@dataclass(slots=True, kw_only=True)
class _Clock:
    """Seconds of wall clock and processor since it was made, to be added to a state's."""

    wall: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)

    def add_to(self, state: TrainState) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        state.seconds += wall - self.wall
        state.cpu_seconds += cpu - self.cpu
        self.wall, self.cpu = wall, cpu


def train_model(
    model: TranslationModel,
    training: Sequence[TokenPair],
    held_out: Sequence[TokenPair],
    config: TrainPackageConfig,
    *,
    files: Files,
    score: Callable[[TranslationModel], HeldOutScores],
    report: Callable[[TrainState, Sequence[str]], None],
) -> TrainState:
    """Train `model` in place until `config.num_steps`, or until chrF has long ceased to rise.

    A killed training goes on from its last validation and ends with the same weights, bit for bit.

    Args:
        training: pairs of source and target token ids, without start and end tokens.
        held_out: the same, never trained on.
        score: translates the held-out pairs with a network, as it would be packed.
        report: is told the state and the translations after each validation.

    Returns:
        The curve; the weights of its best point are in `files.best`.

    Raises:
        SettingsError: the loss has ceased to be a number.
    """
    average = AveragedModel(model, avg_fn=_averaging(config.average_decay))
    averaged = cast(TranslationModel, average.module)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=ADAM_BETAS, weight_decay=config.weight_decay, fused=True
    )
    networks = {"model": model, "average": average}
    state = load_state(files.state, key=files.key, networks=networks, optimizer=optimizer)
    if state.step:
        logger.info("going on after step %d of %d", state.step, config.num_steps)
    clock = _Clock()
    num_threads = torch.get_num_threads()
    loss_sum, loss_count = 0.0, 0
    batches = epoch_batches(training, config.batch_tokens, seed=config.seed, epoch=state.epoch)
    with Progress("train translation", total=config.num_steps, unit="steps", initial=state.step) as progress:
        while not _finished(state, config):
            if state.batch == len(batches):
                state.epoch, state.batch = state.epoch + 1, 0
                batches = epoch_batches(training, config.batch_tokens, seed=config.seed, epoch=state.epoch)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * lr_factor(state.step, config)
            loss = train_step(model, to_batch(batches[state.batch]), optimizer, config)
            if not math.isfinite(loss):
                raise _diverged(state, files)
            loss_sum += loss
            average.update_parameters(model)
            loss_count += 1
            state.step, state.batch = state.step + 1, state.batch + 1
            progress.advance(1, loss=f"{loss_sum / loss_count:.3f}")
            if state.step % config.validate_every_steps == 0 or state.step == config.num_steps:
                scores = score(averaged)
                # CTranslate2 has set OpenMP's threads for itself, and the order of torch's sums depends on them.
                torch.set_num_threads(num_threads)
                held_out_loss = validation_loss(averaged, held_out, config.batch_tokens)
                clock.add_to(state)
                _note(state, loss_sum / loss_count, held_out_loss, scores)
                loss_sum, loss_count = 0.0, 0
                # The best weights first: a kill between the two repeats the validation and writes the same again.
                if state.stale_validations() == 0:
                    save_weights(averaged, files.best)
                save_state(files.state, key=files.key, networks=networks, optimizer=optimizer, state=state)
                report(state, scores.texts)
    return state


def train_step(
    model: TranslationModel, batch: Batch, optimizer: torch.optim.Optimizer, config: TrainPackageConfig
) -> float:
    """One update; returns the loss per token, smoothing included."""
    model.train()
    source, source_lengths, target, labels = batch
    real = labels != IGNORED
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        logits = model.logits(model.states(source, source_lengths, target)[real])
    loss = smoothed_cross_entropy(logits, labels[real], config.label_smoothing)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    return loss.item()


def validation_loss(model: TranslationModel, pairs: Sequence[TokenPair], batch_tokens: int) -> float:
    """Mean cross-entropy per target token, in nats, without smoothing and dropout."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for group in grouped(sorted(pairs, key=width), batch_tokens):
            source, source_lengths, target, labels = to_batch(group)
            real = labels != IGNORED
            logits = model.logits(model.states(source, source_lengths, target)[real])
            total += smoothed_cross_entropy(logits, labels[real], 0.0).item() * int(real.sum())
            count += int(real.sum())
    return total / count


def lr_factor(step: int, config: TrainPackageConfig) -> float:
    """Share of the peak learning rate at a step (from 0): linear warm-up, then half a cosine down to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _averaging(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    def average(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        # A short memory at first, or the untrained weights would stay in the average for long.
        kept = min(decay, (1 + int(num_averaged)) / (10 + int(num_averaged)))
        return torch.lerp(averaged, current, 1 - kept)

    return average


def _finished(state: TrainState, config: TrainPackageConfig) -> bool:
    if state.step >= config.num_steps:
        return True
    return 0 < config.early_stop <= state.stale_validations()


def _diverged(state: TrainState, files: Files) -> SettingsError:
    return SettingsError(
        f"training has diverged, the loss of step {state.step + 1} is no number: remove {files.state.parent} and train "
        "anew with a lower lr or more warmup_steps"
    )


def _note(state: TrainState, train_loss: float, held_out_loss: float, scores: HeldOutScores) -> None:
    state.curve.append(
        CurvePoint(
            step=state.step,
            epoch=state.epoch,
            seconds=round(state.seconds, 1),
            cpu_seconds=round(state.cpu_seconds, 1),
            train_loss=train_loss,
            held_out_loss=held_out_loss,
            bleu=scores.bleu,
            chrf=scores.chrf,
        )
    )
    logger.info(
        "step %d, %.0f s: training loss %.3f, held-out loss %.3f, BLEU %.2f, chrF %.2f",
        *(state.step, state.seconds, train_loss, held_out_loss, scores.bleu, scores.chrf),
    )
