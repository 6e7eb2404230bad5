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
from data_catalog.exports.counts import PairCounts
from data_catalog.exports.markdown import bullets, fenced_json, markdown_text, table
from data_catalog.publish import UPSTREAM
from data_catalog.schema import NATIVE
from data_catalog.sources.origins import ORIGINS
from data_catalog.storage.manifest import MARKED, SPLITS, Manifest, TestSetEntry

# Splits by our name, and by the one that everybody else uses.
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFiles:
    """The files of a split: a glob relative to the card, how many rows they have, and how many bytes."""

    pattern: str
    rows: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """One way to load a folder: files by split (by our names), and the schema of their rows if they are Parquet."""

    name: str
    splits: Mapping[str, SplitFiles] = field(default_factory=dict)
    schema: pa.Schema | None = None

    @property
    def num_rows(self) -> int:
        """Rows of all splits."""
        return sum(found.rows for found in self.splits.values())


def front_matter(*, name: str, languages: Sequence[str], configs: Sequence[DataConfig]) -> str:
    """The card's head, between its two lines of dashes.

    Args:
        name: of the dataset.
        languages: ISO 639-1 codes, the captions' language first.
        configs: ways to load the folder, the default one first; those without files are left out.
    """
    lines = ["---", f"pretty_name: {_scalar(name)}", "language:", *(f"- {_scalar(code)}" for code in languages)]
    lines += ["license: other", "license_name: by-image-and-source", "multilinguality:"]
    lines += ["- monolingual" if len(languages) == 1 else "- translation"]
    lines += ["task_categories:", "- zero-shot-image-classification", "- image-to-text", "- text-to-image"]
    lines += [
        "tags:",
        "- clip",
        "- vernaclip",
        "size_categories:",
        f"- {_size(sum(config.num_rows for config in configs))}",
    ]
    used = [config for config in configs if config.splits]
    if used:
        lines.append("configs:")
    for number, config in enumerate(used):
        lines += [f"- config_name: {config.name}", *(["  default: true"] if number == 0 else []), "  data_files:"]
        for split, found in _named(config):
            lines += [f"  - split: {split}", f"    path: {_scalar(found.pattern)}"]
    described = [config for config in used if config.schema is not None]
    if described:
        lines.append("dataset_info:")
    for config in described:
        lines += _info(config)
    return "\n".join([*lines, "---"])


def _named(config: DataConfig) -> list[tuple[str, SplitFiles]]:
    return [(SPLIT_NAMES[split], config.splits[split]) for split in SPLIT_NAMES if split in config.splits]


def _info(config: DataConfig) -> list[str]:
    assert config.schema is not None
    lines = [f"- config_name: {config.name}", "  features:"]
    for column in config.schema:
        lines += _feature(column, "  ")
    lines.append("  splits:")
    for split, found in _named(config):
        lines += [f"  - name: {split}", f"    num_bytes: {found.num_bytes}", f"    num_examples: {found.rows}"]
    size = sum(found.num_bytes for found in config.splits.values())
    return [*lines, f"  download_size: {size}", f"  dataset_size: {size}"]


def _feature(column: pa.Field, indent: str) -> list[str]:
    """A column's name and type as `datasets` spells them; a struct of bytes and path is an image."""
    lines, kind = [f"{indent}- name: {column.name}"], column.type
    if pa.types.is_struct(kind) and [inner.name for inner in kind] != ["bytes", "path"]:
        lines.append(f"{indent}  struct:")
        return lines + [line for inner in kind for line in _feature(inner, f"{indent}  ")]
    if pa.types.is_list(kind):
        return [*lines, f"{indent}  list: {_dtype(kind.value_type)}"]
    return [*lines, f"{indent}  dtype: {'image' if pa.types.is_struct(kind) else _dtype(kind)}"]


def _dtype(kind: pa.DataType) -> str:
    return {"float": "float32"}.get(str(kind), str(kind))


def _size(num_rows: int) -> str:
    return next((name for limit, name in (*_SIZES, *_LARGER) if num_rows < limit), "1B<n<10B")


def _scalar(text: Any) -> str:
    """A text as a YAML scalar: JSON's is one."""
    return json.dumps(text)


METHOD = (
    "Bianchi, F., Attanasio, G., Pisoni, R., Terragni, S., Sarti, G., Lakshmi, S. (2021). Contrastive Language-Image "
    "Pre-training for the Italian Language. arXiv:2108.08688"
)

_COCO = "Lin, T.-Y. et al. (2014). Microsoft COCO: Common Objects in Context. arXiv:1405.0312"

# By kind of source.
_UPSTREAM = {
    "wit": "Srinivasan, K. et al. (2021). WIT: Wikipedia-based Image Text Dataset for Multimodal Multilingual Machine "
    "Learning. arXiv:2103.01913",
    "mscoco": f"{_COCO}; Chen, X. et al. (2015). Microsoft COCO Captions. arXiv:1504.00325",
    "mscoco_it": "Scaiella, A., Croce, D., Basili, R. (2019). Large scale datasets for Image and Video Captioning in "
    f"Italian. IJCoL 5(2); {_COCO}",
    "cc3m": "Sharma, P. et al. (2018). Conceptual Captions: A Cleaned, Hypernymed, Image Alt-text Dataset For "
    "Automatic Image Captioning. ACL",
    "cc12m": "Changpinyo, S. et al. (2021). Conceptual 12M. arXiv:2102.08981",
    "flickr8k": "Hodosh, M., Young, P., Hockenmaier, J. (2013). Framing Image Description as a Ranking Task. JAIR 47",
    "flickr30k": "Young, P. et al. (2014). From image descriptions to visual denotations. TACL 2",
    "sbu": "Ordonez, V., Kulkarni, G., Berg, T. (2011). Im2Text: Describing Images Using 1 Million Captioned "
    "Photographs. NeurIPS 24",
}


def upstream_paper(manifest: Manifest, source: str) -> str | None:
    """The paper of a source's dataset; a source whose license the recipe states only borrows the dataset's format."""
    if "license" in manifest["sources"][source].get("rights", {}):
        return None
    return _UPSTREAM.get(manifest["settings"]["sources"][source]["kind"])


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


def card_text(manifest: Manifest, parts: CardParts) -> str:
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
        f"## What was not filtered\n\n{bullets(NOT_FILTERED)}",
        f"## Limits\n\n{bullets(LIMITS)}",
        f"## Having something removed\n\n{REMOVAL}",
        f"## Settings\n\n{SETTINGS}\n\n{fenced_json(manifest['settings'])}",
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


def _introduction(manifest: Manifest) -> str:
    target = markdown_text(manifest["target_lang"])
    removed = manifest["tombstones"]["digest"]
    taken_down = f" It obeys a list of take-downs whose digest is `{removed}`." if removed else ""
    return (
        f"Images with captions in the language `{target}`, to train and measure CLIP models by the method of "
        f"CLIP-Italian. vernaclip made them from {len(manifest['sources'])} sources. This is snapshot "
        f"`{manifest['snapshot']}`: the same inputs and settings give the same files, byte for byte.{taken_down}"
    )


def _languages(manifest: Manifest, counts: PairCounts) -> list[str]:
    target: str = manifest["target_lang"]
    others = {code for _, code in counts.languages if code and code.isascii() and code.isalpha() and len(code) <= 3}
    return [target, *sorted(others - {target})]


def _contents(parts: CardParts) -> str:
    marked = f"\n\n{MARKED_PAIRS}" if MARKED in parts.counts.splits() else ""
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


def _sources(manifest: Manifest, parts: CardParts) -> str:
    told, rows = parts.counts + parts.listed, []
    for name, entry in sorted(manifest["sources"].items()):
        stated = sum(count for (source, text), count in told.licenses.items() if source == name and text)
        images = [counts.of_source(counts.images, name) for counts in (parts.counts, parts.listed)]
        kind = manifest["settings"]["sources"][name]["kind"]
        shown = images if parts.listed.images else images[:1]
        rows.append([markdown_text(name), f"`{kind}`", markdown_text(entry["license"]), *shown, stated])
    columns = ["images", "listed"] if parts.listed.images else ["images"]
    listed = table(["source", "format", "terms", *columns, "with a license of their own"], rows)
    return f"{TERMS}\n\n{listed}"


def _withheld(withheld: Mapping[tuple[str, str], int]) -> str:
    if not withheld:
        return "None: every image of the snapshot's splits is here."
    rows = [[markdown_text(source), reason, count] for (source, reason), count in sorted(withheld.items())]
    return f"{WITHHELD}\n\n{table(['source', 'why', 'images'], rows)}"


def _making(manifest: Manifest) -> str:
    steps: dict[tuple[int, str], list[int]] = {}
    for row in manifest["funnel"]:
        total = steps.setdefault((row["step_number"], row["step"]), [0, 0, 0])
        for place, number in enumerate((row["read"], row["kept"], row["dropped"])):
            total[place] += number
    rows: list[list[object]] = [[f"`{step}`", *total] for (_, step), total in sorted(steps.items())]
    by_step = table(["step", "captions read", "kept", "dropped"], rows)
    parts = [MAKING, by_step, _guarded(manifest["test_sets"])]
    if manifest["settings"]["split"]["by"] == UPSTREAM:
        parts.append(UPSTREAM_SPLITS)
    return "\n\n".join(parts)


def _guarded(test_sets: Mapping[str, TestSetEntry]) -> str:
    if not test_sets:
        return "No test set was guarded: what a model is measured on may be in here."
    names = ", ".join(f"`{name}`" for name in sorted(test_sets))
    return f"Images and captions of these test sets were looked for, and dropped or marked: {names}."


def _translation(manifest: Manifest, counts: PairCounts) -> str:
    engine = manifest["translator"]
    told = "" if engine == NATIVE else f" Our engine's fingerprint is `{engine}`."
    rows = sorted((source, code or "", count) for (source, code), count in counts.languages.items())
    listed = table(
        ["source", "language of the source caption", "captions"],
        [[markdown_text(source), markdown_text(code) or "not stated", count] for source, code, count in rows],
    )
    text = f"Of {sum(counts.captions.values()):,} captions, machine translation made {counts.makers()}{told}"
    return f"{text} {TRANSLATION}\n\n{listed}\n\n{_origins(counts)}"


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
    return f"{ABLATIONS}\n\n" + "\n\n".join(shown)


def _columns(schema: pa.Schema) -> str:
    return table(["column", "what it holds"], [[f"`{name}`", COLUMNS.get(name, "")] for name in schema.names])


def _references(manifest: Manifest) -> list[str]:
    """The method, and the upstream datasets."""
    papers = {upstream_paper(manifest, source) for source in manifest["sources"]}
    return [METHOD, *sorted(filter(None, papers))]


TERMS = """The terms are upstream's own words about each dataset as a whole. An image may have a license of its own, in
its row's `license`, with `attribution` and `page_url`; those hold for the image, whatever the dataset says. Who passes
images or captions on is bound by both. Nobody has checked that upstream states them rightly."""

WITHHELD = """Their pixels are not passed on, since no license is known that allows it or the export was not to hold
them. Those that have an address on the web are listed with captions and address, to be fetched by whoever may."""

MAKING = """Upstream files were read, captions cleaned, translated where they were in another language, and checked;
images were fetched, decoded, turned upright, converted to RGB, resized and encoded anew; repeats were dropped, within
and across sources. `captions/` of the snapshot tells the story of every caption, those that were dropped included."""

TRANSLATION = """Nobody revised translations of ours. They carry mistakes: wrong senses, lost or invented details,
stiff wording. Rules drop those that are in the wrong language, copied, endless or that lose numbers; fluent mistakes
pass. `origins` says for each caption who made it, `translators` who translated it, `source_captions` what it was made
from, where upstream or we have that."""

MARKED_PAIRS = """Pairs that are `marked` hold something of a test set. They are in no split, and no training reads
them."""

UPSTREAM_SPLITS = """An image of which upstream states a split is in that split; all others are drawn by a hash of
their identity."""

SETTINGS = "What decided what is in the dataset; where files lay and how fast the machine was did not."

REMOVAL = """Ask whoever gave you the dataset. They remove an image, everything from a site, or everything that looks
like a picture with `vernaclip forget`, which rewrites the dataset without it, removes older snapshots and exports
that hold it, and keeps it out of later builds. If you hold a copy, remove it there as well."""

NOT_FILTERED = (
    "Nudity, violence, hate and other harmful content, in pictures or text: no classifier looked for it.",
    "Faces, number plates, addresses and other personal data in pictures: nothing was blurred.",
    "Names of people in captions: only captions that are almost nothing but names were dropped, where the recipe says "
    "so.",
    "Watermarks, logos, screenshots, advertising and text inside pictures.",
    "Whether a caption fits its picture: no model compared them.",
    "Copyright of single images, beyond what upstream states.",
    "Opt-outs that are not said over HTTP: `robots.txt` and `X-Robots-Tag` were followed as the recipe says.",
)

ABLATIONS = (
    "Models were trained with and without a filter, of equal steps, and scored on the same held-out images "
    "(`vernaclip ablate`). This says what a filter does to this dataset and these models, not what it does elsewhere."
)
LIMITS = (
    "Web datasets over-represent the English-speaking and Western world: places, people, food, holidays. Translating "
    "English captions changes the language, not the pictures nor the point of view.",
    "Captions repeat their writers' stereotypes of gender, age, ethnicity and work, and translation adds some: a "
    "language with grammatical gender needs one where English has none, and engines guess by stereotype.",
    "Which images are still on the web is no random draw: old, small and famous sites are kept unevenly.",
    "Duplicates are found by hashes and thumbnails: other crops of one picture, or frames of one film, may stay, and "
    "may be in several splits.",
    "Splits go by image, not by site or photographer.",
    "Good for training and comparing image-text models. Not good enough to decide about people with.",
)

COLUMNS = {
    "sample_id": "identity of the image, its source in front",
    "source": "which source it is from",
    "split": "train, val, test; in `datasets` val is called validation",
    "image": "the picture, JPEG, WebP or PNG, RGB, upright",
    "width": "of the picture as it is here, in pixels",
    "height": "of the picture as it is here, in pixels",
    "original_width": "of the picture as it came, in pixels",
    "original_height": "of the picture as it came, in pixels",
    "sha256": "of the bytes as they came, not of those here",
    "phash": "perceptual hash, 16 hexadecimal digits",
    "original": "the bytes as they came, where the recipe keeps them, with what they say of camera, place and author",
    "url": "where the image was on the web; empty if it was local",
    "license": "of the image, in upstream's words; empty if upstream says nothing",
    "attribution": "whom to credit, in upstream's words",
    "page_url": "a page that shows the image, or the photographer's",
    "caption_ids": "identity of each caption",
    "captions": "in the dataset's language",
    "source_captions": "each caption as upstream has it",
    "source_langs": "language of each source caption",
    "translators": "fingerprint of our engine, or whom upstream names; `native`: nobody translated",
    "origins": "who made each caption: native, human_translation, machine_translation or machine_translation_corrected",
    "scores": "mean log-probability per token of each translation",
    "leaks": "what of test sets it holds, where the recipe marks it",
}
