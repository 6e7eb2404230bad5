"""The training loop: token batches, warm-up then cosine, label smoothing, and a look at held-out pairs on the way.

Imports torch: import this module inside functions only.
"""

import logging
import math
import random
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data_catalog.progress import Progress
from translation.train.config import TrainPackageConfig
from translation.train.model import TranslationModel
from translation.train.vocabulary import END_ID, START_ID

logger = logging.getLogger(__name__)

TokenPair = tuple[list[int], list[int]]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
IGNORED = -100  # label of padding
MAX_GRADIENT_NORM = 1.0


def train_model(
    model: TranslationModel, training: Sequence[TokenPair], held_out: Sequence[TokenPair], config: TrainPackageConfig
) -> float:
    """Train `model` in place for `config.num_steps` steps.

    Args:
        training: pairs of source and target token ids, without start and end tokens.
        held_out: the same, never trained on.

    Returns:
        Mean cross-entropy per token on the held-out pairs, in nats.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, config))
    batches = endless_batches(training, config.batch_tokens, random.Random(config.seed))
    loss_sum, loss_count = 0.0, 0
    with Progress("train translation", total=config.num_steps, unit="steps") as progress:
        for step in range(1, config.num_steps + 1):
            loss_sum += train_step(model, next(batches), optimizer, config.label_smoothing)
            loss_count += 1
            schedule.step()
            progress.advance(1, loss=f"{loss_sum / loss_count:.3f}")
            if step % config.validate_every_steps == 0 or step == config.num_steps:
                held_out_loss = validation_loss(model, held_out, config.batch_tokens)
                logger.info(
                    "step %s: training loss %.4f, held-out loss %.4f", step, loss_sum / loss_count, held_out_loss
                )
                loss_sum, loss_count = 0.0, 0
    return held_out_loss


def train_step(
    model: TranslationModel, batch: Batch, optimizer: torch.optim.Optimizer, label_smoothing: float
) -> float:
    """One update; returns the loss, smoothing included."""
    model.train()
    source, source_lengths, target, labels = batch
    logits = model(source, source_lengths, target)
    loss = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing
    )
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
        for group in grouped(sorted(pairs, key=_width), batch_tokens):
            source, source_lengths, target, labels = to_batch(group)
            logits = model(source, source_lengths, target)
            total += F.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            ).item()
            count += int((labels != IGNORED).sum())
    return total / count


def lr_factor(step: int, config: TrainPackageConfig) -> float:
    """Share of the peak learning rate at a step (from 0): linear warm-up, then half a cosine down to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * done))


def endless_batches(pairs: Sequence[TokenPair], batch_tokens: int, rng: random.Random) -> Iterator[Batch]:
    """Batches of pairs of like length, in random order, epoch after epoch."""
    while True:
        # A random key within equal widths, so that an epoch's batches differ from the last one's.
        ordered = sorted(((_width(pair), rng.random(), pair) for pair in pairs), key=lambda item: item[:2])
        groups = list(grouped([pair for _, _, pair in ordered], batch_tokens))
        rng.shuffle(groups)
        yield from map(to_batch, groups)


def grouped(pairs: Sequence[TokenPair], batch_tokens: int) -> Iterator[list[TokenPair]]:
    """Consecutive groups whose padded size (rows times widest row) stays within `batch_tokens`, one pair at least."""
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
    """Source ids, source lengths, target ids behind the start token, and labels that end in the end token."""
    source = _padded([source for source, _ in pairs], 0)
    source_lengths = torch.tensor([len(source) for source, _ in pairs])
    target = _padded([[START_ID, *target] for _, target in pairs], 0)
    labels = _padded([[*target, END_ID] for _, target in pairs], IGNORED)
    return source, source_lengths, target, labels


def _padded(rows: list[list[int]], filler: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def _width(pair: TokenPair) -> int:
    return max(len(pair[0]), len(pair[1]) + 1)
