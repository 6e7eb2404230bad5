"""The training loop: warm-up then cosine, averaged weights, validations at intervals and a state to resume from.

The order of pairs and the batches follow from the seed and the epoch, so the resume state contains none of them.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from data_catalog.base.errors import SettingsError
from data_catalog.base.progress import Progress
from data_catalog.disk.files import save_tensors
from data_catalog.disk.resume import load_resume_state, save_resume_state
from translation.train.config import TrainPackageConfig
from translation.train.model import END_ID, START_ID, TranslationModel

logger = logging.getLogger(__name__)

STATE_FILE = "state.safetensors"
WEIGHTS_FILE = "best.safetensors"
MAX_GRADIENT_NORM = 1.0
ADAM_BETAS = (0.9, 0.98)
IGNORED = -100  # label of padding

TokenPair = tuple[list[int], list[int]]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The scores of one validation.

    Args:
        step: number of updates.
        epoch: number of finished epochs.
        seconds: time of training and validation up to here, over all resumes.
        cpu_seconds: CPU time of the same, over all threads.
        train_loss: mean over the steps since the last point, label smoothing included, in nats per token.
        held_out_loss: loss of the averaged weights, without label smoothing, in nats per token.
        bleu: sacreBLEU's BLEU of the held-out pairs, translated greedily by the averaged weights as they would be
            packed.
        chrf: sacreBLEU's chrF of the same translations.
    """

    step: int
    epoch: int
    seconds: float
    cpu_seconds: float
    train_loss: float
    held_out_loss: float
    bleu: float
    chrf: float


@dataclass(slots=True, kw_only=True)
class TrainState:
    """The progress of a training.

    Args:
        step: updates done.
        epoch: epochs finished.
        batch: batches done in the current epoch.
        seconds: time of training and validation, over all resumes.
        cpu_seconds: CPU time of the same, over all threads.
        curve: one point for each validation.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    curve: list[CurvePoint] = field(default_factory=list)

    @property
    def best(self) -> CurvePoint:
        """Return the validation with the highest chrF, the first one among equals."""
        return max(self.curve, key=lambda point: point.chrf)

    def add_point(self, train_loss: float, held_out_loss: float, scores: "HeldOutScores") -> None:
        """Add a validation to the curve."""
        self.curve.append(
            CurvePoint(
                step=self.step,
                epoch=self.epoch,
                seconds=round(self.seconds, 1),
                cpu_seconds=round(self.cpu_seconds, 1),
                train_loss=train_loss,
                held_out_loss=held_out_loss,
                bleu=scores.bleu,
                chrf=scores.chrf,
            )
        )

    def stale_validations(self) -> int:
        """Return the number of validations since the best one."""
        return len(self.curve) - 1 - self.curve.index(self.best) if self.curve else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScores:
    """BLEU and chrF in [0, 100] of the held-out pairs, and their translations."""

    bleu: float
    chrf: float
    texts: Sequence[str]


def train_model(
    model: TranslationModel,
    training: Sequence[TokenPair],
    held_out: Sequence[TokenPair],
    *,
    folder: Path,
    key: str,
    score: Callable[[TranslationModel], HeldOutScores],
    report: Callable[[TrainState, Sequence[str]], None],
) -> TrainState:
    """Train `model` in place until `num_steps`, or until chrF has not risen for `early_stop` validations.

    After a kill, training resumes from its last validation and ends with the same weights, bit for bit.

    Args:
        model: the network, with the settings of the training.
        training: pairs of source and target token ids, without start and end tokens.
        held_out: pairs in the same form, never trained on.
        folder: stores the state to resume from, and the weights of the best validation.
        key: hash of all that decides the training.
        score: translates the held-out pairs with a network, as it would be packed, and scores them.
        report: is called with the state and the translations after each validation.

    Returns:
        The final state; the weights of its best point are in `WEIGHTS_FILE` of the folder.

    Raises:
        SettingsError: the loss is no longer a finite number.
    """
    config = model.config
    average = AveragedModel(model, avg_fn=partial(_averaged, decay=config.average_decay))
    averaged = cast(TranslationModel, average.module)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=ADAM_BETAS, weight_decay=config.weight_decay, fused=True
    )
    modules = {"model": model, "average": average}
    resumed = load_resume_state(
        folder / STATE_FILE,
        key=key,
        modules=modules,
        optimizer=optimizer,
        set_generators=lambda states: torch.set_rng_state(states["cpu"]),
        progress_of=_state_of,
    )
    if resumed:
        logger.info("resuming after step %d of %d", resumed.step, config.num_steps)
    state = resumed or TrainState()
    wall, cpu = time.monotonic(), time.process_time()
    num_threads = torch.get_num_threads()
    losses: list[float] = []  # since the last validation
    batches = epoch_batches(training, config.batch_tokens, seed=config.seed, epoch=state.epoch)
    with Progress("train translation", total=config.num_steps, unit="steps", initial=state.step) as progress:
        while state.step < config.num_steps and not 0 < config.early_stop <= state.stale_validations():
            if state.batch == len(batches):
                state.epoch, state.batch = state.epoch + 1, 0
                batches = epoch_batches(training, config.batch_tokens, seed=config.seed, epoch=state.epoch)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * lr_factor(state.step, config)
            losses.append(train_step(model, to_batch(batches[state.batch]), optimizer, config))
            if not math.isfinite(losses[-1]):
                raise SettingsError(
                    f"training has diverged, the loss of step {state.step + 1} is not a finite number. Remove {folder} "
                    "and train again with a lower lr or more warmup_steps"
                )
            average.update_parameters(model)
            state.step, state.batch = state.step + 1, state.batch + 1
            train_loss = sum(losses) / len(losses)
            progress.advance(1, loss=f"{train_loss:.3f}")
            if state.step % config.validate_every_steps and state.step < config.num_steps:
                continue
            scores = score(averaged)
            # CTranslate2 has changed the number of OpenMP's threads, on which the order of torch's sums depends.
            torch.set_num_threads(num_threads)
            held_out_loss = validation_loss(averaged, held_out, config.batch_tokens)
            state.seconds += time.monotonic() - wall
            state.cpu_seconds += time.process_time() - cpu
            wall, cpu = time.monotonic(), time.process_time()
            state.add_point(train_loss, held_out_loss, scores)
            progress.say(
                "step %d, %.0f s: training loss %.3f, held-out loss %.3f, BLEU %.2f, chrF %.2f",
                *(state.step, state.seconds, train_loss, held_out_loss, scores.bleu, scores.chrf),
            )
            losses.clear()
            # The best weights come first: after a kill between the two, the validation runs again and writes the same.
            if state.stale_validations() == 0:
                save_tensors(averaged.state_dict(), folder / WEIGHTS_FILE, {"format": "pt"})
            save_resume_state(
                folder / STATE_FILE,
                key=key,
                modules=modules,
                optimizer=optimizer,
                generators={"cpu": torch.get_rng_state()},
                progress=asdict(state),
            )
            report(state, scores.texts)
    return state


def _averaged(averaged: Tensor, current: Tensor, num_averaged: Tensor | int, *, decay: float) -> Tensor:
    # The decay is small at first, otherwise the untrained weights would stay in the average for long.
    kept = min(decay, (1 + int(num_averaged)) / (10 + int(num_averaged)))
    return torch.lerp(averaged, current, 1 - kept)


def _state_of(progress: dict[str, Any]) -> TrainState:
    return TrainState(**{**progress, "curve": [CurvePoint(**point) for point in progress["curve"]]})


def train_step(
    model: TranslationModel, batch: Batch, optimizer: torch.optim.Optimizer, config: TrainPackageConfig
) -> float:
    """Make one update; return the loss per token, label smoothing included, in nats."""
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
    """Return the mean cross-entropy per target token, in nats, without label smoothing and dropout."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for group in grouped(sorted(pairs, key=_width), batch_tokens):
            source, source_lengths, target, labels = to_batch(group)
            real = labels != IGNORED
            logits = model.logits(model.states(source, source_lengths, target)[real])
            total += smoothed_cross_entropy(logits, labels[real], 0.0).item() * int(real.sum())
            count += int(real.sum())
    return total / count


def lr_factor(step: int, config: TrainPackageConfig) -> float:
    """Return the learning rate at a step (from 0) as a share of the peak: linear warm-up, then half a cosine to 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * done))


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Cross-entropy with label smoothing in a single buffer.

    torch's own takes four passes over (tokens, vocabulary) and as many buffers. Most of a small model's time is spent
    there.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        rows, pieces = logits.shape
        scores = logits.float()
        log_sums = scores.logsumexp(dim=1)
        of_labels = scores.gather(1, labels.unsqueeze(1)).squeeze(1)
        loss = log_sums - (1 - label_smoothing) * of_labels - label_smoothing * scores.mean(dim=1)
        # The gradient: probabilities minus the smoothed target, divided by the number of rows.
        gradient = scores.sub_(log_sums.unsqueeze(1)).exp_() if scores is not logits else scores.softmax(dim=1)
        gradient.sub_(label_smoothing / pieces)
        gradient[torch.arange(rows), labels] -= 1 - label_smoothing
        ctx.save_for_backward(gradient.div_(rows).to(logits.dtype))
        return loss.mean()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None, None


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy over rows; the label has `1 - label_smoothing`, the rest is spread over all pieces.

    It equals `torch.nn.functional.cross_entropy(logits, labels, label_smoothing=...)`.

    Args:
        logits: (rows, pieces), float32 or bfloat16.
        labels: (rows), ids.
        label_smoothing: share of the probability that is spread, from 0 to below 1.
    """
    return _SmoothedCrossEntropy.apply(logits, labels, label_smoothing)  # type: ignore[no-any-return, no-untyped-call]


def epoch_batches(pairs: Sequence[TokenPair], batch_tokens: int, *, seed: int, epoch: int) -> list[list[TokenPair]]:
    """Return the batches of one epoch: pairs of similar length together, batches in random order."""
    rng = random.Random(f"{seed} {epoch}")
    # Equal widths are shuffled, so that batches differ between epochs.
    ordered = sorted(((_width(pair), rng.random(), pair) for pair in pairs), key=lambda item: item[:2])
    groups = list(grouped([pair for _, _, pair in ordered], batch_tokens))
    rng.shuffle(groups)
    return groups


def grouped(pairs: Sequence[TokenPair], batch_tokens: int) -> Iterator[list[TokenPair]]:
    """Yield consecutive groups whose padded size (rows times longest row) is within `batch_tokens`, or of one pair."""
    group: list[TokenPair] = []
    for pair in pairs:
        widest = max([_width(pair), *(_width(other) for other in group[-1:])])
        if group and widest * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def to_batch(pairs: Sequence[TokenPair]) -> Batch:
    """Return source ids, source lengths, target ids after the start token, and labels that end with the end token."""
    source = _padded([source for source, _ in pairs], 0)
    source_lengths = torch.tensor([len(source) for source, _ in pairs])
    target = _padded([[START_ID, *target] for _, target in pairs], 0)
    labels = _padded([[*target, END_ID] for _, target in pairs], IGNORED)
    return source, source_lengths, target, labels


def _width(pair: TokenPair) -> int:
    """Return the number of positions that a pair takes in a batch."""
    return max(len(pair[0]), len(pair[1]) + 1)


def _padded(rows: list[list[int]], filler: int) -> Tensor:
    widest = max(len(row) for row in rows)
    return torch.tensor([row + [filler] * (widest - len(row)) for row in rows])
