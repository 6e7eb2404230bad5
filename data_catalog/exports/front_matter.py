"""The YAML at the head of a dataset card: what Hugging Face's `datasets` and hub read of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

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
