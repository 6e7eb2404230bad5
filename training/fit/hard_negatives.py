"""Draw a changed caption for each caption of a batch: the hard negatives of `train.hard_negatives`.

Most captions can be changed in several things, and most models soon tell one colour from another. So kinds are drawn in
proportion to the squares of their losses in the epoch before: what is not learnt yet comes most often. Apart from
these, the draws depend only on the seed, the step and the caption's place in the batch, as those of augmentations do.

An anchor is another caption of the image that names the old or the new thing; roles and exchanged colours have none. It
chooses too. If only images chose, positions might never be learnt: while texts ignore "left" and "right", images get no
gradient from them, and texts get none while images ignore where things are. That "A left of B" is "B right of A" can be
learnt from texts alone.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter

import numpy as np
import torch

from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import ChangeWords
from training.changes import Change, ChangeRules
from training.config import TrainConfig
from training.data.batches import BatchPlan, TrainSplit
from training.data.pairs import Floats
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
DRAWS_VERSION = 4  # raise it when the same rules and settings would give other draws
# Prefixes of a kind in the metrics of an epoch.
HARD_LOSS = "hard_loss_"
VAL_PREFERRED = "val_preferred_"
MOST_READ = 50_000  # captions whose words are looked at, or whose changes are kept
_LEAST_SHARE = 0.1  # of the most needed kind; so what is learnt comes back now and then


def require_rules(config: TrainConfig, rules: ChangeRules | None) -> None:
    """Refuse rules that lack what `train.hard_negatives` or the augmentation "mirror" needs: nothing would change."""
    if not config.needs_rules:
        return
    words = rules.words if rules else ChangeWords()
    wanted = {kind: ("train.hard_negatives", WORDS[kind]) for kind in config.hard_negatives}
    if "mirror" in config.augmentations:
        wanted = {"mirror": ("train.augment", "sides"), **wanted}
    for name, (setting, table) in wanted.items():
        if not attrgetter(table)(words):
            raise SettingsError(
                f"{setting} has {name}, but the language pack has no changes.{table}: add these words "
                f"(docs/languages.md), or leave {name} out"
            )


def needs(kinds: Sequence[str], losses: Mapping[str, float | None]) -> Floats:
    """Return how often to draw each kind, relative to the others, by the squares of their losses in the epoch before.

    A kind without a loss, of which no caption was drawn, counts as the one with the largest loss.
    """
    known = {kind: loss for kind in kinds if (loss := losses.get(kind)) is not None}
    largest = max(known.values(), default=0.0) or 1.0
    return np.array([max((known.get(kind, largest) / largest) ** 2, _LEAST_SHARE) for kind in kinds])


class ChangedInputs:
    """Read the changed captions of batches. What the rules say of a caption is computed once for many epochs."""

    def __init__(self, split: TrainSplit, config: TrainConfig, tokenizer: Tokenize, rules: ChangeRules) -> None:
        self._split, self._config, self._tokenizer = split, config, tokenizer
        self._changes, self._says = lru_cache(MOST_READ)(rules.changes), lru_cache(MOST_READ)(rules.says)

    def read(
        self, plan: BatchPlan, *, losses: Mapping[str, float | None] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return a batch's changed captions, their kinds and their anchors; see `Batch`.

        Kinds are drawn by their mean losses in the epoch before; without those, equally often.
        """
        kinds = self._config.hard_negatives
        draws = np.random.Generator(np.random.Philox(key=[self._config.seed + (4 << 32), plan.step]))
        drawn = draws.random((plan.first + len(plan.samples), len(kinds) + 2))[plan.first :]
        # In the order of these, each kind comes first with a probability in proportion to its need.
        drawn[:, :-2] = -np.log1p(-drawn[:, :-2]) / needs(kinds, losses or {})
        captions = self._split.texts(plan)
        changed, found, anchors = list(captions), [-1] * len(captions), [""] * len(captions)
        for row, caption in enumerate(captions):
            others = self._split.all_texts(plan, row)
            change = changed_caption(caption, others, self._changes, self._says, kinds=kinds, drawn=drawn[row, :-1])
            if change is not None:
                changed[row], found[row] = change.caption, kinds.index(change.kind)
                about = [o for o in others if change.is_about(self._says(o)) and wording(o) != wording(caption)]
                anchors[row] = about[int(drawn[row, -1] * len(about))] if about else ""
        ids = self._tokenizer([*changed, *anchors])  # of one length
        ids[[len(changed) + row for row, anchor in enumerate(anchors) if not anchor]] = 0
        return ids[: len(changed)], torch.tensor(found), ids[len(changed) :]


def held_out_changes(
    captions: Sequence[Sequence[str]], rules: ChangeRules, *, kinds: Sequence[str], seed: int
) -> dict[str, list[tuple[int, str]]]:
    """Return for each kind the images whose first caption can be changed, each with a changed caption.

    The seed decides which of the possible changes are taken, so that they are the same in each epoch.
    """
    draws = np.random.default_rng(seed).random((len(captions), 2))
    return {
        kind: [
            (place, change.caption)
            for place, (texts, drawn) in enumerate(zip(captions, draws, strict=True))
            if (change := changed_caption(texts[0], texts, rules.changes, rules.says, kinds=(kind,), drawn=drawn))
        ]
        for kind in kinds
    }


def changed_caption(
    caption: str, others: Collection[str], changes: Changes, says: Says, *, kinds: Sequence[str], drawn: Floats
) -> Change | None:
    """Return a change of a caption in one thing, or None if the rules cannot change it.

    `others` are all captions of its image. None of them is returned, whatever its case and punctuation, nor a change
    that one of them confirms: it says the new word, such as "blue", and not the old one. `changes` and `says` are those
    of `ChangeRules`. `drawn` has a number for each kind, of which the smallest that the rules can make is taken, and
    one in [0, 1) that selects the change.
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
                return change
    return None
