"""Order the samples of an epoch so that batches hold near misses: groups of images whose captions are nearly alike.

Captions are compared by their features from the model as it is at the start of the epoch. Near misses are captions of
other images, so that a model cannot tell them from true ones by their wording alone, as it can with negatives that
nobody would write (https://arxiv.org/abs/2306.14610).
"""

from collections.abc import Hashable, Sequence

import numpy as np
import torch

from training.data.pairs import Integers

_SEEDS = 64  # groups whose candidates are found at a time
_CANDIDATES = 8  # nearest captions that are looked at for each place in a group


class EpochOrder(torch.nn.Module):
    """The order of an epoch's samples. It is a buffer, so that the resume state has it."""

    samples: torch.Tensor

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.register_buffer("samples", torch.arange(num_samples))


def near_misses(
    features: torch.Tensor, wordings: Sequence[Hashable], size: int, draws: np.random.Generator
) -> Integers:
    """Return an order of captions, each index once, in which groups of near misses follow each other.

    The first free caption and its nearest free ones, with different wordings, form a group. The groups are then
    shuffled, so that the last ones, whose captions have no near neighbours left, are in no particular place.

    Args:
        features: unit rows, shape (captions, dim).
        wordings: captions with the same wording fit each other's images, so they are never in the same group.
        size: maximum number of captions in a group.
        draws: generator that shuffles the groups.
    """
    is_free = np.ones(len(features), dtype=bool)
    groups: list[list[int]] = []
    while is_free.any():
        free = np.flatnonzero(is_free)
        seeds = free[:_SEEDS]
        similar = features[seeds] @ features[free].T
        nearest = free[similar.topk(min(size * _CANDIDATES, len(free))).indices.numpy()]
        for seed, candidates in zip(seeds.tolist(), nearest.tolist(), strict=True):
            if not is_free[seed]:
                continue
            group = {wordings[seed]: seed}
            for other in candidates:
                if len(group) < size and is_free[other]:
                    group.setdefault(wordings[other], other)
            is_free[list(group.values())] = False
            groups.append(list(group.values()))
    shuffled = [index for number in draws.permutation(len(groups)) for index in groups[number]]
    return np.array(shuffled, dtype=np.int64)
