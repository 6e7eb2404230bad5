"""Collect the parallel sentences of a recipe: from files, or from the translated captions of its dataset."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.manifest import Snapshot
from data_catalog.disk.files import order_key
from data_catalog.rows.caption_keys import caption_key
from data_catalog.sources.files import check_text_file, read_lines
from flows.recipe.language_packs import column_language, language_pack, named_language_packs
from flows.recipe.recipe import Recipe
from training.data.pairs import pair_files
from training.packages.pairs import plain, read_pairs
from training.towers.trained_models import pair_hashes

if TYPE_CHECKING:
    from training.distil.distil import SentencePairs

logger = logging.getLogger(__name__)


def sentence_pairs(recipe: Recipe, snapshot: Snapshot | None) -> "SentencePairs":
    """Return the parallel sentences of `[distil]`, without those of test sets and of the dataset's val and test splits.

    `snapshot` is the recipe's dataset, if it is built.
    """
    config = recipe.distil
    if recipe.source_language == recipe.target_language:
        raise SettingsError(
            f"distil learns another language than its teacher's, but source_language and target_language are both "
            f"{recipe.target_language}: set them"
        )
    unwanted = lines_of("distil.leave_out", config.leave_out)
    for test_set in recipe.test_sets:
        unwanted += chain.from_iterable(row.captions for row in test_set.kind.read(test_set.config))
    if snapshot is not None:
        for split in ("val", "test"):
            unwanted += chain.from_iterable(row[:2] for row in _captions(snapshot, split))
    left_out = set(map(caption_key, unwanted))
    texts = dict.fromkeys(lines_of("distil.unpaired", config.unpaired))
    if config.pairs:
        found = _of_files(recipe, unwanted)
    elif snapshot is not None:
        found = _of_dataset(recipe, snapshot, left_out)
    else:
        raise InputError(
            f"distil needs parallel sentences: set distil.pairs, or build {recipe.name} with translated captions first"
        )
    return replace(found, unpaired=[text for text in texts if text and caption_key(text) not in left_out])


def _of_files(recipe: Recipe, unwanted: Sequence[str]) -> "SentencePairs":
    """Return the pairs of `distil.pairs` without those texts."""
    from training.distil.distil import SentencePairs

    config, codes, named = recipe.distil, (recipe.source_language, recipe.target_language), named_language_packs(recipe)
    checks = [column_language(language_pack(code, named)) if config.check_languages else None for code in codes]
    found = read_pairs(
        [Path(name) for name in config.pairs],
        num_held_out=config.num_held_out,
        source_check=checks[0],
        target_check=checks[1],
        codes=codes,
        leave_out=unwanted,
    )
    return SentencePairs(
        training=found.training,
        held_out=found.held_out,
        origins={config.origin: len(found.training) + len(found.held_out)},
        languages=codes,
        left_out=found.dropped,
    )


def _of_dataset(recipe: Recipe, snapshot: Snapshot, left_out: Set[str]) -> "SentencePairs":
    """Return the translated captions of the train split with their sources, without those keys of captions."""
    from training.distil.distil import SentencePairs

    rows = dict[tuple[str, str], str]()
    for caption, source, lang, origin in _captions(snapshot, "train"):
        if lang == recipe.source_language and left_out.isdisjoint(map(caption_key, (caption, source))):
            rows.setdefault((source, caption), origin)
    order = sorted(rows, key=lambda pair: (order_key(plain(pair[0])), pair))
    num_held_out = recipe.distil.num_held_out
    if len(order) < 10 * num_held_out:
        raise InputError(
            f"the train split of {recipe.name} has {len(order):,} captions translated from {recipe.source_language}, "
            f"too few to hold out {num_held_out:,}: translate more, set distil.pairs, or lower distil.num_held_out"
        )
    held_out = order[:num_held_out]
    sources = {caption_key(source) for source, _ in held_out}
    training = [pair for pair in order[num_held_out:] if caption_key(pair[0]) not in sources]
    files = pair_files(snapshot)
    return SentencePairs(
        training=training,
        held_out=held_out,
        origins=Counter(rows[pair] for pair in (*training, *held_out)),
        languages=(recipe.source_language, recipe.target_language),
        is_of_dataset=True,
        shards=files.hashes(pair_hashes(snapshot).__getitem__)["train"],
    )


def _captions(snapshot: Snapshot, split: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield caption, source caption, language of the source caption and origin of the rows of a split."""
    names = ("captions", "source_captions", "source_langs", "origins")
    for path in snapshot.pair_files(split):
        table = pq.read_table(path, columns=list(names))
        lists = [table.column(name).to_pylist() for name in names]
        for columns in zip(*lists, strict=True):
            yield from zip(*columns, strict=True)


def lines_of(setting: str, names: Sequence[str]) -> list[str]:
    """Return the lines of text files. Lines that are not UTF-8, or too long, are left out with a warning."""
    found = []
    for name in names:
        if not Path(name).is_file():
            raise InputError(f"{setting}: {name} is not a file: give a UTF-8 file with one sentence per line")
        check_text_file(Path(name), expected="UTF-8 lines of one sentence")
        lines = list(read_lines(Path(name)))
        found += [line.text.strip() for line in lines if line.trouble is None]
        if faulty := sum(line.trouble is not None for line in lines):
            logger.warning("%s: %d lines are not UTF-8 or too long, and are not used", name, faulty)
    return found
