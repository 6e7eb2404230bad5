"""The dataset card: what a dataset is, how it was made, of what, under which terms, and what nobody checked.

Every text that comes from upstream is escaped. Nothing in it depends on when or where it was written.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.ablations import AblationTable
from data_catalog.exports import card_texts
from data_catalog.exports.counts import PairCounts
from data_catalog.exports.front_matter import DataConfig, front_matter
from data_catalog.exports.markdown import bullets, fenced, table
from data_catalog.exports.references import METHOD, upstream_paper
from data_catalog.exports.texts import markdown_text
from data_catalog.publish import UPSTREAM
from data_catalog.schema import NATIVE
from data_catalog.sources.origins import ORIGINS
from data_catalog.storage.manifest import MARKED, SPLITS

NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CardParts:
    """What the card of one folder says beside what its manifest does.

    Args:
        counts: of the pairs that the folder holds with their pixels.
        listed: of those that it lists by address.
        configs: ways to load the folder, the default one first.
        schema: of the rows of pairs, for the table of columns; None where there are none.
        examples: a few source captions and captions.
        loading: Markdown that says how the folder is read.
        withheld: how many images are not in it, by source and why; None where it is the snapshot itself.
        ablations: what was found of the filters.
    """

    counts: PairCounts
    configs: Sequence[DataConfig]
    loading: str
    listed: PairCounts = field(default_factory=PairCounts)
    schema: pa.Schema | None = None
    examples: Sequence[tuple[str, str]] = ()
    withheld: Mapping[tuple[str, str], int] | None = None
    ablations: Sequence[AblationTable] = ()


def card_text(manifest: Mapping[str, Any], parts: CardParts) -> str:
    """The whole card, as Markdown with its YAML head."""
    told = parts.counts + parts.listed
    head = front_matter(name=manifest["dataset"], languages=_languages(manifest, told), configs=parts.configs)
    sections = [
        f"# {markdown_text(manifest['dataset'])}",
        _introduction(manifest),
        f"## How to read it\n\n{parts.loading}",
        f"## What is in it\n\n{_contents(parts)}",
        f"## Sources and terms\n\n{_sources(manifest, parts)}",
        *([f"## Images that are not here\n\n{_withheld(parts.withheld)}"] if parts.withheld is not None else []),
        f"## How it was made\n\n{_making(manifest)}",
        f"## Languages and translation\n\n{_translation(manifest, told)}",
        *([f"## Examples\n\n{_examples(parts.examples)}"] if parts.examples else []),
        *([f"## Columns\n\n{_columns(parts.schema)}"] if parts.schema is not None else []),
        *([f"## Which filters help\n\n{_ablations(parts.ablations)}"] if parts.ablations else []),
        f"## What was not filtered\n\n{bullets(card_texts.NOT_FILTERED)}",
        f"## Limits\n\n{bullets(card_texts.LIMITS)}",
        f"## Having something removed\n\n{card_texts.REMOVAL}",
        f"## Settings\n\n{card_texts.SETTINGS}\n\n{fenced(_json(manifest['settings']), 'json')}",
        f"## What to cite\n\n{bullets(_references(manifest))}",
    ]
    return f"{head}\n\n" + "\n\n".join(sections) + "\n"


def example_captions(files: Iterable[Path]) -> list[tuple[str, str]]:
    """A few source captions with what became of them, from the first shard that has any."""
    for path in files:
        with pq.ParquetFile(path) as shard:
            rows = next(shard.iter_batches(NUM_EXAMPLES, columns=["source_captions", "captions"]), None)
        if rows is not None and rows.num_rows:
            found = rows.to_pylist()
            return [(row["source_captions"][0], row["captions"][0]) for row in found]
    return []


def _introduction(manifest: Mapping[str, Any]) -> str:
    target = markdown_text(manifest["target_lang"])
    removed = manifest["tombstones"]["digest"]
    taken_down = f" It obeys a list of take-downs whose digest is `{removed}`." if removed else ""
    return (
        f"Images with captions in the language `{target}`, to train and measure CLIP models by the method of "
        f"CLIP-Italian. vernaclip made them from {len(manifest['sources'])} sources. This is snapshot "
        f"`{manifest['snapshot']}`: the same inputs and settings give the same files, byte for byte.{taken_down}"
    )


def _languages(manifest: Mapping[str, Any], counts: PairCounts) -> list[str]:
    target: str = manifest["target_lang"]
    others = {code for _, code in counts.languages if code and code.isascii() and code.isalpha() and len(code) <= 3}
    return [target, *sorted(others - {target})]


def _contents(parts: CardParts) -> str:
    marked = f"\n\n{card_texts.MARKED_PAIRS}" if MARKED in parts.counts.splits() else ""
    here = f"Images / captions, by source and split.\n\n{_by_split(parts.counts)}" if parts.counts.images else ""
    listed = f"Listed by address, without pixels.\n\n{_by_split(parts.listed)}" if parts.listed.images else ""
    return "\n\n".join(filter(None, (here or "No image with its pixels.", listed))) + marked


def _by_split(counts: PairCounts) -> str:
    splits = [split for split in (*SPLITS, MARKED) if split in counts.splits()]
    rows: list[list[object]] = [
        [markdown_text(source), *(_pair_of_counts(counts, source, split) for split in splits)]
        for source in counts.sources()
    ]
    total = [f"{images:,} / {_captions(counts, split):,}" for split, images in _in_order(counts, splits)]
    return table(["source", *splits], [*rows, ["all", *total]])


def _pair_of_counts(counts: PairCounts, source: str, split: str) -> str:
    return f"{counts.images[source, split]:,} / {counts.captions[source, split]:,}"


def _captions(counts: PairCounts, split: str) -> int:
    return sum(count for (_, name), count in counts.captions.items() if name == split)


def _in_order(counts: PairCounts, splits: Sequence[str]) -> list[tuple[str, int]]:
    found = counts.splits()
    return [(split, found[split]) for split in splits]


def _sources(manifest: Mapping[str, Any], parts: CardParts) -> str:
    told, rows = parts.counts + parts.listed, []
    for name, entry in sorted(manifest["sources"].items()):
        stated = sum(count for (source, text), count in told.licences.items() if source == name and text)
        images = [counts.of_source(counts.images, name) for counts in (parts.counts, parts.listed)]
        kind = manifest["settings"]["sources"][name]["kind"]
        shown = images if parts.listed.images else images[:1]
        rows.append([markdown_text(name), f"`{kind}`", markdown_text(entry["licence"]), *shown, stated])
    columns = ["images", "listed"] if parts.listed.images else ["images"]
    listed = table(["source", "format", "terms", *columns, "with a licence of their own"], rows)
    return f"{card_texts.TERMS}\n\n{listed}"


def _withheld(withheld: Mapping[tuple[str, str], int]) -> str:
    if not withheld:
        return "None: every image of the snapshot's splits is here."
    rows = [[markdown_text(source), reason, count] for (source, reason), count in sorted(withheld.items())]
    return f"{card_texts.WITHHELD}\n\n{table(['source', 'why', 'images'], rows)}"


def _making(manifest: Mapping[str, Any]) -> str:
    steps: dict[tuple[int, str], list[int]] = {}
    for row in manifest["funnel"]:
        total = steps.setdefault((row["step_number"], row["step"]), [0, 0, 0])
        for place, name in enumerate(("read", "kept", "dropped")):
            total[place] += row[name]
    rows: list[list[object]] = [[f"`{step}`", *total] for (_, step), total in sorted(steps.items())]
    by_step = table(["step", "captions read", "kept", "dropped"], rows)
    parts = [card_texts.MAKING, by_step, _guarded(manifest["test_sets"])]
    if manifest["settings"]["split"]["by"] == UPSTREAM:
        parts.append(card_texts.UPSTREAM_SPLITS)
    return "\n\n".join(parts)


def _guarded(test_sets: Mapping[str, Any]) -> str:
    if not test_sets:
        return "No test set was guarded: what a model is measured on may be in here."
    names = ", ".join(f"`{name}`" for name in sorted(test_sets))
    return f"Images and captions of these test sets were looked for, and dropped or marked: {names}."


def _translation(manifest: Mapping[str, Any], counts: PairCounts) -> str:
    engine = manifest["translator"]
    told = "" if engine == NATIVE else f" Our engine's fingerprint is `{engine}`."
    rows = sorted((source, code or "", count) for (source, code), count in counts.languages.items())
    listed = table(
        ["source", "language of the source caption", "captions"],
        [[markdown_text(source), markdown_text(code) or "not stated", count] for source, code, count in rows],
    )
    text = f"Of {sum(counts.captions.values()):,} captions, machine translation made {counts.makers()}{told}"
    return f"{text} {card_texts.TRANSLATION}\n\n{listed}\n\n{_origins(counts)}"


def _origins(counts: PairCounts) -> str:
    rows: list[tuple[str, str, str, int]] = [
        (source, ORIGINS[origin], translator or "nobody says", count)
        for (source, origin, translator), count in counts.origins.items()
    ]
    return table(
        ["source", "who made the captions", "translator", "captions"],
        [[*map(markdown_text, row[:3]), row[3]] for row in sorted(rows)],
    )


def _examples(examples: Sequence[tuple[str, str]]) -> str:
    rows = [[markdown_text(source), markdown_text(caption)] for source, caption in examples]
    return table(["source caption", "caption"], rows)


def _ablations(ablations: Sequence[AblationTable]) -> str:
    shown = []
    for found in ablations:
        rows = [[markdown_text(cell) for cell in row] for row in found.rows]
        shown.append(f"{table(found.columns, rows)}\n\n{bullets(map(markdown_text, found.notes))}")
    return f"{card_texts.ABLATIONS}\n\n" + "\n\n".join(shown)


def _columns(schema: pa.Schema) -> str:
    return table(
        ["column", "what it holds"], [[f"`{name}`", card_texts.COLUMNS.get(name, "")] for name in schema.names]
    )


def _references(manifest: Mapping[str, Any]) -> list[str]:
    """The method, and the upstream datasets."""
    papers = {upstream_paper(manifest, source) for source in manifest["sources"]}
    return [METHOD, *sorted(filter(None, papers))]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True)
