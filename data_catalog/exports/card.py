"""The dataset card: contents, sources, terms, making, limits and unchecked properties of a dataset.

Texts from upstream are escaped. The card does not depend on the time or place of writing.
"""

import functools
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.catalog.manifest import MARKED, SPLITS, Manifest
from data_catalog.exports.counts import PairCounts, totals
from data_catalog.exports.markdown import fenced_json, markdown_text, table, template
from data_catalog.fetch.config import IMG2DATASET, IMG2DATASET_LIMITS
from data_catalog.rows.origins import ORIGINS
from data_catalog.rows.schema import PAIR_COLUMNS

CARD_FILE = "README.md"
# Names of the splits in `datasets`, by our names.
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}
# Size categories of the Hugging Face Hub, by their exclusive upper limits of rows.
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}
_SIZES |= {10**7: "1M<n<10M", 10**8: "10M<n<100M", 10**9: "100M<n<1B"}
NUM_EXAMPLES = 5
METHOD = (
    "Bianchi, F., Attanasio, G., Pisoni, R., Terragni, S., Sarti, G., Lakshmi, S. (2021). Contrastive Language-Image "
    "Pre-training for the Italian Language. arXiv:2108.08688"
)


@dataclass(slots=True, kw_only=True)
class DataFiles:
    """Files that `datasets` loads as one configuration."""

    name: str = "default"
    pattern: str = ""  # of the files of a split, relative to the card, with a placeholder for the split
    entries: list[dict[str, Any]] = field(default_factory=list)  # in the order of the splits: split, rows, bytes ...
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
    *,
    links: DataFiles | None = None,
    listed: PairCounts | None = None,
    examples: Sequence[tuple[str, str]] = (),
    withheld: Mapping[tuple[str, str], int] | None = None,
) -> str:
    """Return the whole card as Markdown with its YAML front matter.

    `counts` are of the pairs with pixels, `listed` of those in `links`. `withheld` has the numbers of images that are
    in neither, by source and reason; None for the snapshot itself.
    """
    links, listed = links or DataFiles(), listed or PairCounts()
    everything = counts + listed
    # `datasets` reads all configurations of a card with one reader, so a Parquet list beside tars cannot be one.
    configs = [files for files in (pairs, links) if files.entries and (files is pairs or not pairs.is_tars)]
    steps: dict[tuple[int, str], Counter[str]] = {}
    for row in manifest["funnel"]:
        step = steps.setdefault((row["step_number"], row["step"]), Counter())
        step.update(read=row["read"], kept=row["kept"], dropped=row["dropped"])
    names = pairs.schema.names if pairs.schema is not None and not pairs.is_tars else ()
    origins = [
        (source, ORIGINS[how], who or "not stated", num) for (source, how, who), num in everything.origins.items()
    ]
    papers = {upstream_paper(manifest, name) for name in manifest["sources"]}
    text: str = template("card.md").render(
        head=_front_matter(manifest, everything, configs),
        manifest=manifest,
        pairs=pairs,
        links=links,
        by_split=_by_split,
        counts=counts,
        listed=listed,
        everything=everything,
        sources=sorted(manifest["sources"].items()),
        licensed=totals(Counter({key: count for key, count in everything.licenses.items() if key[1]}), 0),
        withheld=withheld,
        steps=[(name, step) for (_, name), step in sorted(steps.items())],
        languages=sorted((source, code or "", num) for (source, code), num in everything.languages.items()),
        origins=sorted(origins),
        examples=examples,
        columns={name: PAIR_COLUMNS.get(name, "") for name in names},
        prose=prose(),
        not_filtered=not_filtered(manifest),
        settings=fenced_json(manifest["settings"]),
        papers=[METHOD, *sorted(filter(None, papers))],
    )
    return text


def _by_split(counts: PairCounts) -> str:
    images, captions = totals(counts.images, 1), totals(counts.captions, 1)
    splits = [split for split in (*SPLITS, MARKED) if split in images]
    rows = [
        [markdown_text(source)]
        + [f"{counts.images[source, split]:,} / {counts.captions[source, split]:,}" for split in splits]
        for source in sorted(totals(counts.images, 0))
    ]
    rows.append(["all", *(f"{images[split]:,} / {captions[split]:,}" for split in splits)])
    return table(["source", *splits], rows)


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
    return data.to_yaml()


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


@functools.cache
def prose() -> dict[str, Any]:
    """Return the texts that do not depend on the snapshot."""
    return tomllib.loads((resources.files("data_catalog.exports") / "prose.toml").read_text(encoding="utf-8"))


def upstream_paper(manifest: Manifest, source: str) -> str | None:
    """Return the paper of a source's dataset; None if the recipe states a license.

    Such a source has its own images in the file format of that dataset.
    """
    if "license" in manifest["sources"][source].get("rights", {}):
        return None
    paper: str | None = prose()["papers"].get(manifest["settings"]["sources"][source]["kind"])
    return paper


def not_filtered(manifest: Manifest) -> list[str]:
    """Return what no step of the build searched for."""
    texts = [*prose()["not_filtered"]]
    if any(entry["step"] == "fit" for entry in manifest["steps"]):
        texts = [text for text in texts if not text.startswith("Agreement of caption and image")]
    if manifest["settings"].get("fetch", {}).get("engine") == IMG2DATASET:
        return [*texts, prose()["only_tags"], IMG2DATASET_LIMITS]
    return [*texts, prose()["opt_outs"]]
