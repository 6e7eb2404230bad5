"""Token batches: pairs of like length within a budget of padded positions, in an order that a seed and an epoch fix.

Imports torch: import this module inside functions only.
"""

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from translation.train.vocabulary import END_ID, START_ID

TokenPair = tuple[list[int], list[int]]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
IGNORED = -100  # label of padding


def epoch_batches(pairs: Sequence[TokenPair], batch_tokens: int, *, seed: int, epoch: int) -> list[list[TokenPair]]:
    """The batches of one epoch: pairs of like length together, batches in random order."""
    rng = random.Random(f"{seed} {epoch}")
    # A random key within equal widths, so that an epoch's batches differ from the last one's.
    ordered = sorted(((width(pair), rng.random(), pair) for pair in pairs), key=lambda item: item[:2])
    groups = list(grouped([pair for _, _, pair in ordered], batch_tokens))
    rng.shuffle(groups)
    return groups


def grouped(pairs: Sequence[TokenPair], batch_tokens: int) -> Iterator[list[TokenPair]]:
    """Consecutive groups whose padded size (rows times widest row) stays within `batch_tokens`, one pair at least."""
    group: list[TokenPair] = []
    for pair in pairs:
        widest = max([width(pair), *(width(other) for other in group[-1:])])
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


def width(pair: TokenPair) -> int:
    """Positions that a pair takes in a batch."""
    return max(len(pair[0]), len(pair[1]) + 1)


def _padded(rows: list[list[int]], filler: int) -> Tensor:
    widest = max(len(row) for row in rows)
    return torch.tensor([row + [filler] * (widest - len(row)) for row in rows])
