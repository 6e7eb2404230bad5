"""Translations as the rows of a build, with what the checks make of them: for the benchmarks of the checks."""

import dataclasses
import gzip
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from cleaning.checks import CheckConfig, CleanConfig, apply_rules, translation_measure
from data_catalog.schema import CAPTIONS, PENDING
from data_catalog.stages import apply_measure
from flows.recipe.language_packs import language_pack

FOLDER = Path(__file__).resolve().parent
LABELLED = FOLDER / "data" / "labelled_translations.tsv"
MULTI30K = FOLDER.parents[1] / "shared" / "data" / "multi30k"

GOOD = "good"
# Names are no captions to the pipeline, however well they are translated: that check judges no translation.
DEFAULTS = CheckConfig(proper_noun_check=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A caption and a translation of it, with what is known of that."""

    source: str
    target: str
    lang: str
    label: str = ""
    score: float | None = None


class Judged:
    """Examples of one language as rows, their columns filled; `reasons` judges them under any settings."""

    def __init__(self, examples: Sequence[Example], *, listed: bool = True) -> None:
        self.examples = examples
        pack = language_pack(examples[0].lang)
        self.pack = pack if listed else dataclasses.replace(pack, shared_words=())
        measure = translation_measure(self.pack)
        self.table = apply_measure(_rows(examples), measure, source="clean_caption", target="caption")

    def reasons(self, config: CheckConfig) -> list[str | None]:
        """Per example, why it is dropped, or None."""
        table = apply_rules(self.table, config.rules(self.pack), step="check")
        found: list[str | None] = table.column("drop_reason").to_pylist()
        return found


def _rows(examples: Sequence[Example]) -> pa.Table:
    columns = {
        "clean_caption": [example.source for example in examples],
        "caption": [example.target for example in examples],
        "translation_score": [example.score for example in examples],
        "source_lang": ["en"] * len(examples),
        "target_lang": [example.lang for example in examples],
        "outcome": [PENDING] * len(examples),
    }
    empty = [None] * len(examples)
    fields = [field.with_nullable(True) for field in CAPTIONS]
    return pa.table({field.name: pa.array(columns.get(field.name, empty), field.type) for field in fields})


def labelled_examples() -> list[Example]:
    """The labelled set without those of which the source would be dropped before it is translated."""
    _, *lines = LABELLED.read_text(encoding="utf-8").splitlines()
    cells = (line.split("\t") for line in lines)
    examples = [Example(source=s, target=t, lang=lang, label=label) for s, t, lang, label, _ in cells]
    judged = apply_rules(_rows(examples), CleanConfig().rules(language_pack("en")), step="clean")
    dropped = [reason is not None for reason in judged.column("drop_reason").to_pylist()]
    kept = [example for example, drop in zip(examples, dropped, strict=True) if not drop]
    counts = Counter(example.label for example in kept)
    print(f"{len(examples)} labelled translations; {sum(dropped)} of them have sources that no build would translate;")
    print(f"of the rest, {counts[GOOD]} are good and {len(kept) - counts[GOOD]} bad.\n")
    return kept


def by_language(examples: Sequence[Example], *, listed: bool = True) -> list[Judged]:
    """One table of rows per language."""
    languages = sorted({example.lang for example in examples})
    parts = [[example for example in examples if example.lang == lang] for lang in languages]
    return [Judged(part, listed=listed) for part in parts]


def human_examples(lang: str, at_most: int) -> list[Example]:
    """Multi30k's captions and their human translations, or none where they are not at hand."""
    texts = {}
    for code in ("en", lang):
        paths = [MULTI30K / f"{part}.{code}.gz" for part in ("train", "val")]
        if not all(path.exists() for path in paths):
            return []
        texts[code] = [line for path in paths for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    pairs = list(zip(texts["en"], texts[lang], strict=True))
    return [Example(source=s, target=t, lang=lang) for s, t in random.Random(0).sample(pairs, min(at_most, len(pairs)))]


def read_translations(path: Path, lang: str) -> list[Example]:
    """Lines of source, tab, target and, perhaps, tab, score."""
    cells = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return [Example(source=c[0], target=c[1], lang=lang, score=float(c[2]) if len(c) > 2 else None) for c in cells]
