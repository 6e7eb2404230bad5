"""The dataset card: contents, sources, terms, making, limits and unchecked properties of a dataset.

Texts from upstream are escaped. The card does not depend on the time or place of writing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.catalog.manifest import MARKED, SPLITS, UPSTREAM, Manifest
from data_catalog.exports.counts import PairCounts, totals
from data_catalog.exports.markdown import bullets, fenced_json, markdown_text, table
from data_catalog.fetch.config import IMG2DATASET, IMG2DATASET_LIMITS
from data_catalog.report.ablations import AblationTable
from data_catalog.rows.origins import ORIGINS
from data_catalog.rows.schema import NATIVE, PAIR_COLUMNS

CARD_FILE = "README.md"
# Names of the splits in `datasets`, by our names.
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}
# Size categories of the Hugging Face Hub, by their exclusive upper limits of rows.
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}
_SIZES |= {10**7: "1M<n<10M", 10**8: "10M<n<100M", 10**9: "100M<n<1B"}
NUM_EXAMPLES = 5


@dataclass(slots=True, kw_only=True)
class DataFiles:
    """Files that `datasets` loads as one configuration.

    Args:
        name: of the configuration.
        pattern: glob of the files of a split, relative to the card, with a placeholder for the split.
        entries: the files in the order of the splits, each with path, split, rows and bytes.
        schema: schema of their rows, if it is needed.
    """

    name: str = "default"
    pattern: str = ""
    entries: list[dict[str, Any]] = field(default_factory=list)
    schema: pa.Schema | None = None

    def total(self, key: str, split: str | None = None) -> int:
        """Return the sum of "rows" or "bytes" of a split, or of all."""
        return sum(entry[key] for entry in self.entries if split in (None, entry["split"]))

    @property
    def is_tars(self) -> bool:
        """Return whether `datasets` reads the files as tars."""
        return self.pattern.endswith(".tar")

    def splits(self) -> list[str]:
        """Return the splits that have files."""
        return list(dict.fromkeys(entry["split"] for entry in self.entries))


def card_text(
    manifest: Manifest,
    pairs: DataFiles,
    counts: PairCounts,
    loading: str,
    *,
    links: DataFiles | None = None,
    listed: PairCounts | None = None,
    examples: Sequence[tuple[str, str]] = (),
    withheld: Mapping[tuple[str, str], int] | None = None,
    ablations: Sequence[AblationTable] = (),
) -> str:
    """Return the whole card as Markdown with its YAML front matter.

    Args:
        manifest: manifest of the snapshot.
        pairs: files of pairs.
        counts: counts of the pairs that the folder has with pixels.
        loading: Markdown on how to load the folder.
        links: lists of images by address.
        listed: counts of the pairs that they list.
        examples: a few source captions with their captions.
        withheld: number of images that are not in the folder, by source and reason; None for the snapshot itself.
        ablations: results of ablations of the filters.
    """
    listed = listed or PairCounts()
    all_counts, papers = counts + listed, {upstream_paper(manifest, name) for name in manifest["sources"]}
    # `datasets` reads all configurations of a card with one reader, so a Parquet list beside tars cannot be one.
    configs = [files for files in (pairs, links) if files and files.entries and (files is pairs or not pairs.is_tars)]
    removed, target = manifest["tombstones"]["digest"], markdown_text(manifest["target_lang"])
    taken_down = f" A list of take-downs was applied; its digest is `{removed}`." if removed else ""
    schema = None if pairs.is_tars else pairs.schema
    examples_table = [[markdown_text(source), markdown_text(caption)] for source, caption in examples]
    columns = [[f"`{name}`", PAIR_COLUMNS.get(name, "")] for name in (schema.names if schema else ())]
    sections = {
        "How to load it": loading,
        "Contents": _contents(counts, listed),
        "Sources and terms": _sources(manifest, counts, listed),
        "Withheld images": "" if withheld is None else _withheld(withheld),
        "How it was made": _making(manifest),
        "Languages and translation": _translation(manifest, all_counts),
        "Examples": table(["source caption", "caption"], examples_table) if examples else "",
        "Columns": table(["column", "meaning"], columns) if columns else "",
        "Ablation of the filters": "\n\n".join([ABLATIONS, *map(_ablation, ablations)]) if ablations else "",
        "What was not filtered": bullets(not_filtered(manifest)),
        "Limits": bullets(LIMITS),
        "Removal requests": REMOVAL,
        "Settings": f"{SETTINGS}\n\n{fenced_json(manifest['settings'])}",
        "Citation": bullets([METHOD, *sorted(filter(None, papers))]),
    }
    introduction = (
        f"Images with captions in the language `{target}`, for training and evaluating CLIP models with the method of "
        f"CLIP-Italian. vernaclip built them from {len(manifest['sources'])} sources. This is snapshot "
        f"`{manifest['snapshot']}`: the same inputs and settings give the same files, byte for byte.{taken_down}"
    )
    texts = [_front_matter(manifest, all_counts, configs), f"# {markdown_text(manifest['dataset'])}", introduction]
    return "\n\n".join([*texts, *(f"## {title}\n\n{text}" for title, text in sections.items() if text)]) + "\n"


def not_filtered(manifest: Manifest) -> list[str]:
    """Return what no step of the build searched for."""
    texts = list(_NOT_FILTERED)
    if any(entry["step"] == "fit" for entry in manifest["steps"]):
        texts.remove(_NOT_COMPARED)
    if manifest["settings"].get("fetch", {}).get("engine") == IMG2DATASET:
        return [*texts, _ONLY_TAGS, IMG2DATASET_LIMITS]
    return [*texts, _OPT_OUTS]


def example_captions(files: Iterable[Path]) -> list[tuple[str, str]]:
    """Return a few source captions with their captions, from the first shard that has any."""
    for path in files:
        with pq.ParquetFile(path) as shard:
            rows = next(shard.iter_batches(NUM_EXAMPLES, columns=["source_captions", "captions"]), None)
        if rows is not None and rows.num_rows:
            return [(row["source_captions"][0], row["captions"][0]) for row in rows.to_pylist()]
    return []


def _front_matter(manifest: Manifest, counts: PairCounts, configs: Sequence[DataFiles]) -> str:
    from huggingface_hub import DatasetCardData

    target = manifest["target_lang"]
    codes = {code for _, code in counts.languages if code and code.isascii() and code.isalpha()}
    languages = [target, *sorted({code for code in codes if len(code) <= 3} - {target})]
    num_rows = sum(config.total("rows") for config in configs)
    data = DatasetCardData(
        pretty_name=manifest["dataset"],
        language=languages,
        license="other",
        license_name="by-image-and-source",
        multilinguality=["monolingual" if len(languages) == 1 else "translation"],
        task_categories=["zero-shot-image-classification", "image-to-text", "text-to-image"],
        tags=["clip", "vernaclip"],
        size_categories=[next((name for limit, name in _SIZES.items() if num_rows < limit), "1B<n<10B")],
        configs=[_files(config) | ({"default": True} if config is configs[0] else {}) for config in configs] or None,
        dataset_info=[_info(config, config.schema) for config in configs if config.schema is not None] or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _files(config: DataFiles) -> dict[str, Any]:
    files = [{"split": SPLIT_NAMES[split], "path": config.pattern.format(split)} for split in config.splits()]
    return {"config_name": config.name, "data_files": files}


def _info(config: DataFiles, schema: pa.Schema) -> dict[str, Any]:
    numbers = {"num_bytes": "bytes", "num_examples": "rows"}
    splits = [
        {"name": SPLIT_NAMES[split], **{name: config.total(key, split) for name, key in numbers.items()}}
        for split in config.splits()
    ]
    sizes = dict.fromkeys(("download_size", "dataset_size"), config.total("bytes"))
    return {"config_name": config.name, "features": [_feature(column) for column in schema], "splits": splits, **sizes}


def _feature(column: pa.Field) -> dict[str, Any]:
    """Return a column's name and type as `datasets` spells them; a struct of bytes and path is an image."""
    kind, is_list = column.type, pa.types.is_list(column.type)
    if not pa.types.is_struct(kind):
        name = str(kind.value_type if is_list else kind)
        return {"name": column.name, "list" if is_list else "dtype": "float32" if name == "float" else name}
    if [inner.name for inner in kind] == ["bytes", "path"]:
        return {"name": column.name, "dtype": "image"}
    return {"name": column.name, "struct": [_feature(inner) for inner in kind]}


def _contents(counts: PairCounts, listed: PairCounts) -> str:
    here = f"Images / captions, by source and split.\n\n{_by_split(counts)}" if counts.images else ""
    texts = [here or "There are no images with pixels."]
    if listed.images:
        texts.append(f"Images listed by address, without pixels.\n\n{_by_split(listed)}")
    if MARKED in counts.splits():
        texts.append(MARKED_PAIRS)
    return "\n\n".join(texts)


def _by_split(counts: PairCounts) -> str:
    images, captions = totals(counts.images, 1), totals(counts.captions, 1)
    splits = [split for split in (*SPLITS, MARKED) if split in images]
    rows = [
        [markdown_text(source)]
        + [f"{counts.images[source, split]:,} / {counts.captions[source, split]:,}" for split in splits]
        for source in sorted(totals(counts.images, 0))
    ]
    return table(
        ["source", *splits], [*rows, ["all", *(f"{images[split]:,} / {captions[split]:,}" for split in splits)]]
    )


def _sources(manifest: Manifest, counts: PairCounts, listed: PairCounts) -> str:
    shown = {"images": counts} | ({"listed": listed} if listed.images else {})
    licenses = (counts + listed).licenses
    stated = totals(Counter({key: count for key, count in licenses.items() if key[1]}), 0)
    rows = [
        [markdown_text(name), f"`{manifest['settings']['sources'][name]['kind']}`", markdown_text(entry["license"])]
        + [f"{counts.of_source(counts.images, name):,}" for counts in shown.values()]
        + [f"{stated[name]:,}"]
        for name, entry in sorted(manifest["sources"].items())
    ]
    return f"{TERMS}\n\n{table(['source', 'format', 'terms', *shown, 'with their own license'], rows)}"


def _withheld(withheld: Mapping[tuple[str, str], int]) -> str:
    if not withheld:
        return "None: the folder has every image of the snapshot's splits."
    rows = [[markdown_text(source), reason, count] for (source, reason), count in sorted(withheld.items())]
    return f"{WITHHELD}\n\n{table(['source', 'reason', 'images'], rows)}"


def _making(manifest: Manifest) -> str:
    steps: dict[tuple[int, str], Counter[str]] = {}
    for row in manifest["funnel"]:
        total = steps.setdefault((row["step_number"], row["step"]), Counter())
        total.update(read=row["read"], kept=row["kept"], dropped=row["dropped"])
    names = ("read", "kept", "dropped")
    rows = [[f"`{step}`", *(total[name] for name in names)] for (_, step), total in sorted(steps.items())]
    sets = ", ".join(f"`{name}`" for name in sorted(manifest["test_sets"]))
    guarded = (
        f"Images and captions of these test sets were searched for, and dropped or marked: {sets}."
        if sets
        else "There was no leak guard: the dataset may contain images and captions of test sets."
    )
    parts = [MAKING, table(["step", "captions read", "kept", "dropped"], rows), guarded]
    return "\n\n".join([*parts, *([UPSTREAM_SPLITS] if manifest["settings"]["split"]["by"] == UPSTREAM else [])])


def _translation(manifest: Manifest, counts: PairCounts) -> str:
    engine = manifest["translator"]
    fingerprint = "" if engine == NATIVE else f" The fingerprint of the build's engine is `{engine}`."
    languages = sorted((source, code or "", count) for (source, code), count in counts.languages.items())
    makers = sorted(
        (source, ORIGINS[origin], translator or "not stated", count)
        for (source, origin, translator), count in counts.origins.items()
    )
    by_language = table(
        ["source", "language of the source caption", "captions"],
        [[markdown_text(source), markdown_text(code) or "not stated", count] for source, code, count in languages],
    )
    by_maker = table(
        ["source", "origin of the captions", "translator", "captions"],
        [[*map(markdown_text, row[:3]), row[3]] for row in makers],
    )
    made = f"Of {counts.captions.total():,} captions, machine translation made {counts.makers()}"
    return f"{made}{fingerprint} {TRANSLATION}\n\n{by_language}\n\n{by_maker}"


def _ablation(found: AblationTable) -> str:
    rows = [[markdown_text(cell) for cell in row] for row in found.rows]
    return f"{table(found.columns, rows)}\n\n{bullets(map(markdown_text, found.notes))}"


METHOD = (
    "Bianchi, F., Attanasio, G., Pisoni, R., Terragni, S., Sarti, G., Lakshmi, S. (2021). Contrastive Language-Image "
    "Pre-training for the Italian Language. arXiv:2108.08688"
)

_COCO = "Lin, T.-Y. et al. (2014). Microsoft COCO: Common Objects in Context. arXiv:1405.0312"

# Papers to cite, by kind of source.
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
    """Return the paper of a source's dataset; None if the recipe states a license.

    Such a source has its own images in the file format of that dataset.
    """
    if "license" in manifest["sources"][source].get("rights", {}):
        return None
    return _UPSTREAM.get(manifest["settings"]["sources"][source]["kind"])


LOAD_PAIRS = """```python
from datasets import load_dataset

pairs = load_dataset("FOLDER", split="train")
pairs[0]["image"], pairs[0]["captions"]
```

`croissant.json` describes the same files for `mlcroissant`. Any Parquet reader can read them, too."""

TERMS = """The terms of each dataset are quoted from upstream. An image may have its own license: `license`,
`attribution` and `page_url` of its row. That license applies to the image, whatever the terms of the dataset say. If
you redistribute images or captions, both apply to you. Nobody has checked upstream's statements."""

WITHHELD = """Their pixels are not included, either because no license is known that allows it or because the export
was made without pixels. Images with an address on the web are listed with captions and address, so that users who have
the right can fetch them."""

MAKING = """The build read upstream files, cleaned the captions, translated those in another language, and checked
them. It fetched the images, decoded them, turned them upright, converted them to RGB, resized and re-encoded them. It
dropped duplicates within and across sources. `captions/` of the snapshot has a row for every caption, dropped ones
included."""

TRANSLATION = """Nobody has revised the build's own translations. They contain errors: wrong senses, lost or invented
details, stiff wording. Checks drop captions that are in the wrong language, copied, repetitive or that lose numbers;
fluent errors remain. `origins` states for each caption who wrote it, `translators` who translated it, and
`source_captions` its original, where it is known."""

MARKED_PAIRS = """Pairs that are `marked` overlap a test set. They are in no split, and training does not read
them."""

UPSTREAM_SPLITS = """An image for which upstream states a split is in that split. All others are assigned by a hash of
their id."""

SETTINGS = "These settings decided the contents of the dataset. Paths of files and the speed of the machine did not."

REMOVAL = """Ask the provider of the dataset. `vernaclip forget` removes an image, everything from a site, or everything
similar to a picture: it rewrites the dataset without it, removes older snapshots and exports that contain it, and
keeps it out of later builds. If you have a copy of the dataset, remove it there, too."""

_NOT_COMPARED = "Agreement of caption and image: no model compared them."
_NOT_FILTERED = (
    "Nudity, violence, hate and other harmful content, in images or text: no classifier searched for it.",
    "Faces, number plates, addresses and other personal data in images: nothing was blurred.",
    "Names of people in captions: only captions that consist almost entirely of names were dropped, if the recipe "
    "enables that check.",
    "Watermarks, logos, screenshots, advertising and text inside images.",
    _NOT_COMPARED,
    "Copyright of single images, beyond upstream's statements.",
)
_OPT_OUTS = "Opt-outs outside HTTP: `robots.txt` and `X-Robots-Tag` were followed as the recipe sets."
_ONLY_TAGS = "Opt-outs outside HTTP, and `robots.txt`: of all opt-outs, `X-Robots-Tag` was followed as the recipe sets."

ABLATIONS = (
    "Models were trained with and without a filter, for the same number of steps, and scored on the same held-out "
    "images (`vernaclip ablate`). The results hold for this dataset and these models, and may differ elsewhere."
)
LIMITS = (
    "Web datasets over-represent the English-speaking and Western world: places, people, food, holidays. Translating "
    "English captions changes the language, but neither the images nor the point of view.",
    "Captions repeat their writers' stereotypes of gender, age, ethnicity and work, and translation adds some: where "
    "English has no grammatical gender and the target language needs one, engines guess by stereotype.",
    "Images that are still on the web are not a random sample: they survive unevenly on old, small and famous sites.",
    "Duplicates are found by hashes and thumbnails: other crops of one image, or frames of one film, may remain, and "
    "may be in several splits.",
    "Splits are by image, not by site or photographer.",
    "The dataset is suitable for training and comparing image-text models. It is not suitable for decisions about "
    "people.",
)
