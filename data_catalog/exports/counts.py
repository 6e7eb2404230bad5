"""What published pairs hold, counted: images and captions by source and split, licences, languages, who translated."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.schema import NATIVE

COUNTED_COLUMNS = ("source", "split", "license", "source_langs", "translators")


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Counts of published pairs.

    `images` and `captions` go by source and split, `licences` by source and the row's text, `languages` and
    `translators` by source.
    """

    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    captions: Counter[tuple[str, str]] = field(default_factory=Counter)
    licences: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    languages: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    translators: Counter[tuple[str, str | None]] = field(default_factory=Counter)

    def add(self, table: pa.Table) -> None:
        """Count more pairs; the table has `COUNTED_COLUMNS`, and may have others."""
        if not table.num_rows:
            return
        lengths = pc.list_value_length(table.column("translators"))
        counted = table.select(["source", "split", "license"]).append_column("num_captions", lengths)
        for row in _groups(counted, ["source", "split"], [("num_captions", "sum"), ([], "count_all")]):
            self.images[row["source"], row["split"]] += row["count_all"]
            self.captions[row["source"], row["split"]] += row["num_captions_sum"]
        for row in _groups(counted, ["source", "license"], [([], "count_all")]):
            self.licences[row["source"], row["license"]] += row["count_all"]
        for name, counts in (("source_langs", self.languages), ("translators", self.translators)):
            flat = _flattened(table, name)
            for row in _groups(flat, ["source", name], [([], "count_all")]):
                counts[row["source"], row[name]] += row["count_all"]

    def __add__(self, other: "PairCounts") -> "PairCounts":
        """The counts of both."""
        return PairCounts(
            images=self.images + other.images,
            captions=self.captions + other.captions,
            licences=self.licences + other.licences,
            languages=self.languages + other.languages,
            translators=self.translators + other.translators,
        )

    def splits(self) -> dict[str, int]:
        """Images by split."""
        found: Counter[str] = Counter()
        for (_, split), count in self.images.items():
            found[split] += count
        return dict(found)

    def sources(self) -> list[str]:
        """The sources that have images, sorted."""
        return sorted({source for source, _ in self.images})

    def of_source(self, counts: Counter[tuple[str, str]], source: str) -> int:
        """The sum of one source's counts over the splits."""
        return sum(count for (name, _), count in counts.items() if name == source)

    def native_captions(self) -> int:
        """Captions that nobody translated."""
        return sum(count for (_, translator), count in self.translators.items() if translator == NATIVE)


def count_pairs(files: Iterable[Path]) -> PairCounts:
    """Counts of the pairs of some shards; pixels are not read."""
    counts = PairCounts()
    for path in files:
        counts.add(pq.read_table(path, columns=list(COUNTED_COLUMNS)))
    return counts


def _groups(table: pa.Table, keys: Sequence[str], wanted: Sequence[tuple[object, str]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.group_by(list(keys), use_threads=False).aggregate(list(wanted)).to_pylist()
    return rows


def _flattened(table: pa.Table, name: str) -> pa.Table:
    """The source and one item of a list column, a row an item."""
    column = table.column(name).combine_chunks()
    parents = pc.list_parent_indices(column)
    return pa.table({"source": table.column("source").take(parents), name: pc.list_flatten(column)})
