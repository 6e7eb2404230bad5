"""Collect the parallel sentences of a recipe: from files, or from the translated captions of its dataset."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import nullcontext
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
from flows.recipe.settings import errors_of
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
    config, named = recipe.distil, recipe.distil.pairs
    files = named if isinstance(named, Mapping) else {recipe.target_language: named}
    if recipe.source_language in files or recipe.target_language not in files:
        raise SettingsError(
            f"distil learns other languages than its teacher's: pairs are in {', '.join(files)}, source_language is "
            f"{recipe.source_language} and target_language {recipe.target_language}. Set source_language to that of "
            "the teacher, and target_language to one of the others"
        )
    unwanted = lines_of("distil.leave_out", config.leave_out)
    for test_set in recipe.test_sets:
        unwanted += chain.from_iterable(row.captions for row in test_set.kind.read(test_set.config))
    if snapshot is not None:
        for split in ("val", "test"):
            unwanted += chain.from_iterable(row[:2] for row in _captions(snapshot, split))
    left_out = set(map(caption_key, unwanted))
    texts = dict.fromkeys(lines_of("distil.unpaired", config.unpaired))
    if any(files.values()):
        found = _of_files(recipe, files, unwanted)
    elif snapshot is not None:
        found = [_of_dataset(recipe, snapshot, left_out)]
    else:
        raise InputError(
            f"distil needs parallel sentences: set distil.pairs, or build {recipe.name} with translated captions first"
        )
    if config.source or (config.source is None and len(found) > 1):
        found.append(_of_source(found, recipe.source_language, config.num_held_out))
    return replace(
        found[0],
        unpaired=[text for text in texts if text and caption_key(text) not in left_out],
        left_out=sum((Counter(each.left_out) for each in found), Counter()),
        others=found[1:],
    )


def _of_files(recipe: Recipe, files: Mapping[str, Sequence[str]], unwanted: Sequence[str]) -> "list[SentencePairs]":
    """Return the pairs of each language without those texts, and without sources that another language holds out."""
    from training.distil.distil import SentencePairs

    config, source, named = recipe.distil, recipe.source_language, named_language_packs(recipe)
    checks = {
        code: column_language(language_pack(code, named)) if config.check_languages else None
        for code in (source, *files)
    }
    read = {}
    for code, names in files.items():
        with errors_of(f"distil.pairs.{code}") if len(files) > 1 else nullcontext():
            read[code] = read_pairs(
                [Path(name) for name in names],
                num_held_out=config.num_held_out,
                source_check=checks[source],
                target_check=checks[code],
                codes=(source, code),
                leave_out=unwanted,
            )
    kept_out = {code: set[str]().union(*(read[other].kept_out for other in read if other != code)) for code in read}
    found = []
    for code, each in read.items():
        training = [pair for pair in each.training if caption_key(pair[0]) not in kept_out[code]]
        num_held_out = len(each.training) - len(training)
        found.append(
            SentencePairs(
                training=training,
                held_out=each.held_out,
                origins={config.origin: len(training) + len(each.held_out)},
                languages=(source, code),
                left_out=Counter(each.dropped) + Counter(held_out=num_held_out),
            )
        )
    return found


def _of_source(lessons: "Sequence[SentencePairs]", code: str, num_held_out: int) -> "SentencePairs":
    """Return each source sentence as the translation of itself; some of those that are held out are held out."""
    from training.distil.distil import SentencePairs

    training = dict.fromkeys(source for each in lessons for source, _ in each.training)
    held_out = dict.fromkeys(source for each in lessons for source, _ in each.held_out)
    queries = sorted(held_out, key=lambda text: (order_key(plain(text)), text))[:num_held_out]
    return SentencePairs(
        training=[(text, text) for text in training],
        held_out=[(text, text) for text in queries],
        origins={},
        languages=(code, code),
    )


def _of_dataset(recipe: Recipe, snapshot: Snapshot, left_out: Set[str]) -> "SentencePairs":
    """Return the translated captions of the train split with their sources, without those keys of captions."""
    from training.distil.distil import SentencePairs

    rows = dict[tuple[str, str], str]()
    for caption, source, lang, origin in _captions(snapshot, "train"):
        if lang == recipe.source_language and left_out.isdisjoint(map(caption_key, (caption, source))):
            rows.setdefault((source, caption), origin)
    order = sorted(rows, key=lambda pair: (order_key(plain(pair[0])), pair))
    num_held_out = min(recipe.distil.num_held_out, len(order) // 10)
    if num_held_out < 2:
        raise InputError(
            f"the train split of {recipe.name} has {len(order):,} captions translated from {recipe.source_language}, "
            "too few to hold out a tenth: translate more, or set distil.pairs"
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
