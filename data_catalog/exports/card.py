"""The dataset card: what a dataset is, how it was made, of what, under which terms, and what nobody checked.

Every text that comes from upstream is escaped. Nothing in it depends on when or where it was written.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.exports.counts import PairCounts
from data_catalog.exports.markdown import bullets, fenced_json, markdown_text, table
from data_catalog.report.ablations import AblationTable
from data_catalog.schema import NATIVE
from data_catalog.sources.origins import ORIGINS
from data_catalog.storage.manifest import MARKED, SPLITS, Manifest
from data_catalog.storage.publish import UPSTREAM

CARD_FILE = "README.md"
# Splits by our name, and by the one that everybody else uses.
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}
# The hub's words for sizes, each by the number of rows that is too many for it.
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}
_SIZES |= {10**7: "1M<n<10M", 10**8: "10M<n<100M", 10**9: "100M<n<1B"}
NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFiles:
    """The files of a split: a glob relative to the card, how many rows they have, and how many bytes."""

    pattern: str
    rows: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """One way to load a folder: files by split (by our names), and the schema of their rows if `datasets` needs it."""

    name: str
    splits: Mapping[str, SplitFiles] = field(default_factory=dict)
    schema: pa.Schema | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardParts:
    """What the card of one folder says beside what its manifest does.

    Args:
        counts: of the pairs that the folder holds with their pixels.
        listed: of those that it lists by address.
        configs: ways to load the folder, the default one first; those without files are left out.
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
    """Return the whole card, as Markdown with its YAML head."""
    told, papers = parts.counts + parts.listed, {upstream_paper(manifest, source) for source in manifest["sources"]}
    removed, target = manifest["tombstones"]["digest"], markdown_text(manifest["target_lang"])
    taken_down = f" It obeys a list of take-downs whose digest is `{removed}`." if removed else ""
    examples = [[markdown_text(source), markdown_text(caption)] for source, caption in parts.examples]
    columns = [[f"`{name}`", COLUMNS.get(name, "")] for name in (parts.schema.names if parts.schema else ())]
    sections = {
        "How to read it": parts.loading,
        "What is in it": _contents(parts),
        "Sources and terms": _sources(manifest, parts),
        "Images that are not here": "" if parts.withheld is None else _withheld(parts.withheld),
        "How it was made": _making(manifest),
        "Languages and translation": _translation(manifest, told),
        "Examples": table(["source caption", "caption"], examples) if examples else "",
        "Columns": table(["column", "what it holds"], columns) if columns else "",
        "Which filters help": "\n\n".join([ABLATIONS, *map(_ablation, parts.ablations)]) if parts.ablations else "",
        "What was not filtered": bullets(NOT_FILTERED),
        "Limits": bullets(LIMITS),
        "Having something removed": REMOVAL,
        "Settings": f"{SETTINGS}\n\n{fenced_json(manifest['settings'])}",
        "What to cite": bullets([METHOD, *sorted(filter(None, papers))]),
    }
    introduction = (
        f"Images with captions in the language `{target}`, to train and measure CLIP models by the method of "
        f"CLIP-Italian. vernaclip made them from {len(manifest['sources'])} sources. This is snapshot "
        f"`{manifest['snapshot']}`: the same inputs and settings give the same files, byte for byte.{taken_down}"
    )
    texts = [_front_matter(manifest, told, parts.configs), f"# {markdown_text(manifest['dataset'])}", introduction]
    return "\n\n".join([*texts, *(f"## {title}\n\n{text}" for title, text in sections.items() if text)]) + "\n"


def example_captions(files: Iterable[Path]) -> list[tuple[str, str]]:
    """Return a few source captions with what became of them, from the first shard that has any."""
    for path in files:
        with pq.ParquetFile(path) as shard:
            rows = next(shard.iter_batches(NUM_EXAMPLES, columns=["source_captions", "captions"]), None)
        if rows is not None and rows.num_rows:
            return [(row["source_captions"][0], row["captions"][0]) for row in rows.to_pylist()]
    return []


def _front_matter(manifest: Manifest, told: PairCounts, configs: Sequence[DataConfig]) -> str:
    """Return the card's head, between its two lines of dashes; texts are quoted as JSON has it, which YAML reads."""
    target, used = manifest["target_lang"], [config for config in configs if config.splits]
    codes = {code for _, code in told.languages if code and code.isascii() and code.isalpha()}
    languages = [target, *sorted({code for code in codes if len(code) <= 3} - {target})]
    num_rows = sum(found.rows for config in used for found in config.splits.values())
    lines = ["---", f"pretty_name: {json.dumps(manifest['dataset'])}"]
    lines += ["language:", *(f"- {json.dumps(code)}" for code in languages)]
    lines += ["license: other", "license_name: by-image-and-source"]
    lines += ["multilinguality:", "- monolingual" if len(languages) == 1 else "- translation"]
    lines += ["task_categories:", "- zero-shot-image-classification", "- image-to-text", "- text-to-image"]
    lines += ["tags:", "- clip", "- vernaclip", "size_categories:"]
    lines += [f"- {next((name for limit, name in _SIZES.items() if num_rows < limit), '1B<n<10B')}"]
    lines += ["configs:"] if used else []
    for config in used:
        lines += [f"- config_name: {config.name}", *(["  default: true"] if config is used[0] else []), "  data_files:"]
        for split, found in config.splits.items():
            lines += [f"  - split: {SPLIT_NAMES[split]}", f"    path: {json.dumps(found.pattern)}"]
    lines += ["dataset_info:"] if any(config.schema is not None for config in used) else []
    for config in used:
        if config.schema is not None:
            lines += [f"- config_name: {config.name}", "  features:"]
            lines += [line for column in config.schema for line in _feature(column, "  ")]
            lines.append("  splits:")
            for split, found in config.splits.items():
                lines += [f"  - name: {SPLIT_NAMES[split]}", f"    num_bytes: {found.num_bytes}"]
                lines.append(f"    num_examples: {found.rows}")
            size = sum(found.num_bytes for found in config.splits.values())
            lines += [f"  download_size: {size}", f"  dataset_size: {size}"]
    return "\n".join([*lines, "---"])


def _feature(column: pa.Field, indent: str) -> list[str]:
    """Return a column's name and type as `datasets` spells them; a struct of bytes and path is an image."""
    lines, kind = [f"{indent}- name: {column.name}"], column.type
    is_struct, is_list = pa.types.is_struct(kind), pa.types.is_list(kind)
    if is_struct and [inner.name for inner in kind] != ["bytes", "path"]:
        lines.append(f"{indent}  struct:")
        return lines + [line for inner in kind for line in _feature(inner, f"{indent}  ")]
    name = "image" if is_struct else str(kind.value_type if is_list else kind)
    return [*lines, f"{indent}  {'list' if is_list else 'dtype'}: {'float32' if name == 'float' else name}"]


def _contents(parts: CardParts) -> str:
    marked = f"\n\n{MARKED_PAIRS}" if MARKED in parts.counts.splits() else ""
    here = f"Images / captions, by source and split.\n\n{_by_split(parts.counts)}" if parts.counts.images else ""
    listed = f"Listed by address, without pixels.\n\n{_by_split(parts.listed)}" if parts.listed.images else ""
    return "\n\n".join(filter(None, (here or "No image with its pixels.", listed))) + marked


def _by_split(counts: PairCounts) -> str:
    images, captions = counts.splits(), Counter[str]()
    for (_, split), count in counts.captions.items():
        captions[split] += count
    splits = [split for split in (*SPLITS, MARKED) if split in images]
    rows = [
        [markdown_text(source)]
        + [f"{counts.images[source, split]:,} / {counts.captions[source, split]:,}" for split in splits]
        for source in counts.sources()
    ]
    return table(
        ["source", *splits], [*rows, ["all", *(f"{images[split]:,} / {captions[split]:,}" for split in splits)]]
    )


def _sources(manifest: Manifest, parts: CardParts) -> str:
    stated: Counter[str] = Counter()
    for (source, license), count in (parts.counts + parts.listed).licenses.items():
        stated[source] += count if license else 0
    shown = {"images": parts.counts} | ({"listed": parts.listed} if parts.listed.images else {})
    rows = [
        [markdown_text(name), f"`{manifest['settings']['sources'][name]['kind']}`", markdown_text(entry["license"])]
        + [f"{counts.of_source(counts.images, name):,}" for counts in shown.values()]
        + [f"{stated[name]:,}"]
        for name, entry in sorted(manifest["sources"].items())
    ]
    return f"{TERMS}\n\n{table(['source', 'format', 'terms', *shown, 'with a license of their own'], rows)}"


def _withheld(withheld: Mapping[tuple[str, str], int]) -> str:
    if not withheld:
        return "None: every image of the snapshot's splits is here."
    rows = [[markdown_text(source), reason, count] for (source, reason), count in sorted(withheld.items())]
    return f"{WITHHELD}\n\n{table(['source', 'why', 'images'], rows)}"


def _making(manifest: Manifest) -> str:
    steps: dict[tuple[int, str], Counter[str]] = {}
    for row in manifest["funnel"]:
        total = steps.setdefault((row["step_number"], row["step"]), Counter())
        total.update(read=row["read"], kept=row["kept"], dropped=row["dropped"])
    names = ("read", "kept", "dropped")
    rows = [[f"`{step}`", *(total[name] for name in names)] for (_, step), total in sorted(steps.items())]
    sets = ", ".join(f"`{name}`" for name in sorted(manifest["test_sets"]))
    guarded = (
        f"Images and captions of these test sets were looked for, and dropped or marked: {sets}."
        if sets
        else "No test set was guarded: what a model is measured on may be in here."
    )
    parts = [MAKING, table(["step", "captions read", "kept", "dropped"], rows), guarded]
    return "\n\n".join([*parts, *([UPSTREAM_SPLITS] if manifest["settings"]["split"]["by"] == UPSTREAM else [])])


def _translation(manifest: Manifest, counts: PairCounts) -> str:
    engine = manifest["translator"]
    told = "" if engine == NATIVE else f" Our engine's fingerprint is `{engine}`."
    languages = sorted((source, code or "", count) for (source, code), count in counts.languages.items())
    makers = sorted(
        (source, ORIGINS[origin], translator or "nobody says", count)
        for (source, origin, translator), count in counts.origins.items()
    )
    by_language = table(
        ["source", "language of the source caption", "captions"],
        [[markdown_text(source), markdown_text(code) or "not stated", count] for source, code, count in languages],
    )
    by_maker = table(
        ["source", "who made the captions", "translator", "captions"],
        [[*map(markdown_text, row[:3]), row[3]] for row in makers],
    )
    text = f"Of {counts.captions.total():,} captions, machine translation made {counts.makers()}{told} {TRANSLATION}"
    return f"{text}\n\n{by_language}\n\n{by_maker}"


def _ablation(found: AblationTable) -> str:
    rows = [[markdown_text(cell) for cell in row] for row in found.rows]
    return f"{table(found.columns, rows)}\n\n{bullets(map(markdown_text, found.notes))}"


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
    """Return the paper of a source's dataset; one whose license the recipe states only borrows the format."""
    if "license" in manifest["sources"][source].get("rights", {}):
        return None
    return _UPSTREAM.get(manifest["settings"]["sources"][source]["kind"])


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
