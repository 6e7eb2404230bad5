"""Draw a changed caption for each caption of a batch: the hard negatives of `train.hard_negatives`.

The draws depend only on the seed, the step and the caption's place in the batch, as those of augmentations do.
"""

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from operator import attrgetter

import numpy as np
import torch

from data_catalog.errors import SettingsError
from training.changes import Change, ChangeRules
from training.config import TrainConfig
from training.data.batches import BatchPlan, TrainSplit
from training.data.pairs import Captions, Floats
from training.scores.evaluation import wording
from training.towers.tokenizer import Tokenize

Changes = Callable[[str, tuple[str, ...]], tuple[Change, ...]]
Says = Callable[[str], frozenset[tuple[str, str]]]

# Words of `[changes]` that each kind of change needs.
WORDS = {
    "position": "positions",
    "colour": "colours",
    "count": "numbers",
    "noun": "nouns",
    "negation": "negations",
    "roles": "roles.agents",
    "exchanged": "colours",
}
_MOST_READ = 50_000  # captions whose words are looked at


def require_rules(config: TrainConfig, rules: ChangeRules | None) -> None:
    """Raise if the rules lack what `train.hard_negatives` needs.

    Raises:
        SettingsError: there are no rules, or none for one of the kinds.
    """
    if config.hard_negatives and rules is None:
        raise SettingsError(
            "train.hard_negatives needs the rules of a language pack's [changes] (docs/languages.md): pass them, or "
            "leave the setting empty"
        )
    for kind in config.hard_negatives:
        if not attrgetter(WORDS[kind])(rules and rules.words):
            raise SettingsError(
                f"train.hard_negatives has {kind}, but the language pack has no changes.{WORDS[kind]}: add these words "
                f"(docs/languages.md), or leave {kind} out"
            )


def rules_within(rules: ChangeRules, captions: Captions) -> ChangeRules:
    """Return the rules that change captions only into words that captions of the split have.

    So no word gives changed captions away. At most `_MOST_READ` captions, evenly spread, are read.
    """
    every = -(-len(captions.flat) // _MOST_READ)
    return rules.within(captions.texts(np.arange(0, len(captions.flat), every)))


def changed_inputs(
    split: TrainSplit, config: TrainConfig, tokenizer: Tokenize, rules: ChangeRules
) -> Callable[[BatchPlan], tuple[torch.Tensor, torch.Tensor]]:
    """Return a function that reads a batch's changed captions: token ids, and which captions have one; see `Batch`."""
    # A caption comes again in each epoch, and with each other caption of its image.
    changes, says = lru_cache(_MOST_READ)(rules.changes), lru_cache(_MOST_READ)(rules.says)

    def read(plan: BatchPlan) -> tuple[torch.Tensor, torch.Tensor]:
        draws = np.random.Generator(np.random.Philox(key=[config.seed + (4 << 32), plan.step]))
        drawn = draws.random((plan.first + len(plan.samples), len(config.hard_negatives) + 1))[plan.first :]
        captions = split.captions.texts(plan.captions)
        found = [
            changed_caption(
                caption, split.captions.of_sample(sample), changes, says, kinds=config.hard_negatives, drawn=numbers
            )
            for caption, sample, numbers in zip(captions, plan.samples.tolist(), drawn, strict=True)
        ]
        ids = tokenizer([changed or caption for changed, caption in zip(found, captions, strict=True)])
        return ids, torch.tensor([changed is not None for changed in found])

    return read


def changed_caption(
    caption: str, others: Collection[str], changes: Changes, says: Says, *, kinds: Sequence[str], drawn: Floats
) -> str | None:
    """Return a caption changed in one thing, or None if the rules cannot change it.

    Args:
        caption: the caption.
        others: all captions of its image. None of them is returned, whatever its case and punctuation, nor a change
            that one of them confirms: it says the new word, such as "blue", and not the old one. Positions are not
            compared in this way.
        changes: returns the result of `ChangeRules.changes`, which may be cached.
        says: returns the result of `ChangeRules.says`, which may be cached.
        kinds: kinds of changes. The first one of a random order that the rules can make is taken.
        drawn: numbers in [0, 1): one for each kind, which order them, and one that selects the change.
    """
    is_true = {wording(other) for other in (caption, *others)}
    for place in np.argsort(drawn[:-1]).tolist():
        possible = changes(caption, (kinds[place],))
        # Most changes are false, so the drawn one is looked at first.
        first = int(drawn[-1] * len(possible))
        for change in (*possible[first:], *possible[:first]):
            # An image of two things is often described from both sides, so "right" does not refute "left".
            is_confirmed = change.kind != "position" and change.is_confirmed_by(map(says, others))
            if wording(change.caption) not in is_true and not is_confirmed:
                return change.caption
    return None
