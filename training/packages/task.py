"""The training of a translation network: batches by length, one update, averaged weights, and their validation."""

import math
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError
from data_catalog.disk.files import save_tensors
from training.packages.config import TrainPackageConfig
from training.packages.network import END_ID, START_ID, TranslationModel
from training.runs.runner import Task

WEIGHTS_FILE = "best.safetensors"
MAX_GRADIENT_NORM = 1.0
ADAM_BETAS = (0.9, 0.98)
IGNORED = -100  # label of padding

TokenPair = tuple[list[int], list[int]]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScores:
    """SacreBLEU's BLEU and chrF of the held-out pairs, 0 to 100, and their translations."""

    bleu: float
    chrf: float
    texts: Sequence[str]


class TranslationTask(Task[Batch]):
    """The training of a network on pairs of token ids, without start and end tokens.

    `folder` gets the averaged weights with the best chrF on the held-out pairs. `score` translates these with a network
    as it would be packed, and so quantized, and scores them.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        model: TranslationModel,
        training: Sequence[TokenPair],
        held_out: Sequence[TokenPair],
        *,
        folder: Path,
        score: Callable[[TranslationModel], HeldOutScores],
    ) -> None:
        config = model.config
        self.config, self.model = config, model
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, betas=ADAM_BETAS, weight_decay=config.weight_decay, fused=True
        )
        average = AveragedModel(model, avg_fn=partial(_averaged, decay=config.average_decay))
        self.modules = {"model": model, "average": average}
        self.remedy = "Train again into another --out, with a lower lr or more warmup_steps"
        self.texts: Sequence[str] = ()  # translations of the last validation
        self._average, self._averaged = average, cast(TranslationModel, average.module)
        self._training, self._held_out, self._weights, self._score = training, held_out, folder / WEIGHTS_FILE, score
        self._epoch, self._groups = -1, list[list[TokenPair]]()

    def num_batches(self, epoch: int) -> int:
        """Return the number of batches of an epoch."""
        return len(self._batches(epoch))

    def batches(self, epoch: int, places: range) -> Generator[Batch]:
        """Yield these batches of an epoch."""
        self.model.train()
        for place in places:
            yield to_batch(self._batches(epoch)[place])

    def _batches(self, epoch: int) -> list[list[TokenPair]]:
        if epoch != self._epoch:
            size, seed = self.config.batch_tokens, self.config.seed
            self._epoch, self._groups = epoch, epoch_batches(self._training, size, seed=seed, epoch=epoch)
        return self._groups

    def step(self, batch: Batch, lr: float) -> dict[str, float]:
        """Make one update, and add the weights to their average."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = update(self.model, batch, self.optimizer, self.config)
        self._average.update_parameters(self.model)
        return {"loss": loss}

    def validate(self) -> tuple[float, dict[str, float]]:
        """Score the averaged weights by the held-out pairs, translated greedily; the loss is per token, in nats."""
        num_threads = torch.get_num_threads()
        scores = self._score(self._averaged)
        # CTranslate2 has changed the number of OpenMP's threads, on which the order of torch's sums depends.
        torch.set_num_threads(num_threads)
        self.texts = scores.texts
        self._averaged.eval()
        total, count = 0.0, 0
        for group in grouped(sorted(self._held_out, key=_width), self.config.batch_tokens):
            source, source_lengths, target, labels = to_batch(group)
            real = labels != IGNORED
            with torch.no_grad():
                logits = self._averaged(source, source_lengths, target, real)
            total += smoothed_cross_entropy(logits, labels[real], 0.0).item() * int(real.sum())
            count += int(real.sum())
        return scores.chrf, {"val_loss": total / count, "val_bleu": scores.bleu, "val_chrf": scores.chrf}

    def keep(self) -> None:
        """Write the averaged weights."""
        save_tensors(self._averaged.state_dict(), self._weights, {"format": "pt"})

    def restore(self) -> None:
        """Load the best weights into the network."""
        load_weights(self.model, self._weights)


def load_weights(model: TranslationModel, path: Path) -> None:
    """Load weights into the network, strictly."""
    with about(path, kind=DamagedError, remedy="restore the training's folder from a copy"):
        model.load_state_dict(load_file(path), strict=True)


def _averaged(averaged: Tensor, current: Tensor, num_averaged: Tensor | int, *, decay: float) -> Tensor:
    # The decay is small at first, otherwise the untrained weights would stay in the average for long.
    kept = min(decay, (1 + int(num_averaged)) / (10 + int(num_averaged)))
    return torch.lerp(averaged, current, 1 - kept)


def learning_rate(step: int, config: TrainPackageConfig) -> float:
    """Return the learning rate at a step (from 0): linear warm-up, then half a cosine to 0."""
    if step < config.warmup_steps:
        return config.lr * ((step + 1) / config.warmup_steps)
    done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def update(
    model: TranslationModel, batch: Batch, optimizer: torch.optim.Optimizer, config: TrainPackageConfig
) -> float:
    """Make one update; return the loss per token, label smoothing included, in nats."""
    source, source_lengths, target, labels = batch
    real = labels != IGNORED
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        logits = model(source, source_lengths, target, real)
    loss = smoothed_cross_entropy(logits, labels[real], config.label_smoothing)
    if not loss.isfinite():
        raise FloatingPointError(f"the loss is {loss.item()}")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    if not norm.isfinite():
        raise FloatingPointError(f"the gradient's norm is {norm.item()}")
    optimizer.step()
    return loss.item()


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Cross-entropy with label smoothing in one buffer of (tokens, vocabulary), where torch's own takes four."""

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
    """Return torch's `cross_entropy` of logits (rows, pieces), float32 or bfloat16, and labels (rows)."""
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
