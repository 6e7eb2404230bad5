"""Speed of `vernaclip mt train`, compared with a plain PyTorch loop over the same network.

python benchmarks/package_training.py [--quick]

The network is that of the preset `small` with 8,000 pieces. Batches consist of token ids with the lengths of Multi30k's
captions. The plain loop scores every position, padding included, and uses `torch.nn.functional.cross_entropy`.
"""

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from harness import in_turn, judge, medians, options_of, print_table

from training.packages.config import PRESETS, TrainPackageConfig
from training.packages.network import TranslationModel
from training.packages.task import IGNORED, MAX_GRADIENT_NORM, Batch, epoch_batches, to_batch, update

SEED = 1
NUM_PIECES, NUM_PAIRS = 8000, 4000
MEAN_PIECES, SPREAD_PIECES = 15, 5  # in a caption of Multi30k, English or German
ROUNDS, QUICK_ROUNDS = 7, 5
STEPS, QUICK_STEPS = 20, 4
GOAL_RATIO = 1.15  # for bf16, as in docs/translation.md; plain PyTorch computes in fp32

CONFIG = TrainPackageConfig(**PRESETS["small"])  # type: ignore[arg-type]
Step = Callable[[TranslationModel, Batch, torch.optim.Optimizer], float]


def plain_step(model: TranslationModel, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
    """Make one update as in PyTorch's tutorials; return the loss."""
    model.train()
    source, source_lengths, target, labels = batch
    logits = model(source, source_lengths, target)
    loss = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=CONFIG.label_smoothing
    )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    return loss.item()


STEPS_BY_NAME: dict[str, Step] = {
    "plain PyTorch, fp32": plain_step,
    "mt train, fp32": lambda model, batch, optimizer: update(model, batch, optimizer, CONFIG),
    "mt train, bf16": lambda model, batch, optimizer: update(
        model, batch, optimizer, replace(CONFIG, precision="bf16")
    ),
}


def batches(count: int) -> list[Batch]:
    """Return batches of random pieces with realistic lengths."""
    rng = random.Random(SEED)
    lengths = [max(4, round(rng.gauss(MEAN_PIECES, SPREAD_PIECES))) for _ in range(2 * NUM_PAIRS)]
    texts = [[rng.randrange(3, NUM_PIECES) for _ in range(length)] for length in lengths]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    groups = epoch_batches(pairs, CONFIG.batch_tokens, seed=SEED, epoch=0)
    return [to_batch(groups[number % len(groups)]) for number in range(count)]


def tokens_per_second(step: Step, work: Sequence[Batch]) -> float:
    """Return target tokens a second, from a new network, after one warm-up step."""
    torch.manual_seed(SEED)
    model = TranslationModel(replace(CONFIG, vocabulary_size=NUM_PIECES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG.lr, fused=True)
    step(model, work[0], optimizer)
    started = time.perf_counter()
    for batch in work[1:]:
        step(model, batch, optimizer)
    seconds = time.perf_counter() - started
    return sum(int((labels != IGNORED).sum()) for *_, labels in work[1:]) / seconds


def main() -> int:
    """Run the rounds, print the table and the claim."""
    quick = options_of(__doc__).parse_args().quick
    work = batches(1 + (QUICK_STEPS if quick else STEPS))
    runs = {name: partial(tokens_per_second, step, work) for name, step in STEPS_BY_NAME.items()}
    found = medians(in_turn(runs, QUICK_ROUNDS if quick else ROUNDS))
    plain, _, ours = found.values()
    times = {name: f"{rate / plain:.2f}" for name, rate in found.items()}
    print_table([{"steps": name, "target tokens/s": round(found[name]), "times plain": times[name]} for name in found])
    return judge({"training-ratio-to-plain": ours / plain}, {"training-ratio-to-plain": (">=", GOAL_RATIO)})


if __name__ == "__main__":
    sys.exit(main())
