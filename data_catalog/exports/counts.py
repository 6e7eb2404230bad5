"""What published pairs hold, counted: images and captions by source and split, licenses, languages, makers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.sources.origins import CORRECTED, HUMAN_TRANSLATION, MACHINE_TRANSLATION

COUNTED_COLUMNS = ("source", "split", "license", "source_langs", "translators", "origins")


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Counts of published pairs.

    `images` and `captions` go by source and split, `licenses` by source and the row's text, `languages` by source,
    `origins` by source, origin and translator.
    """

    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    captions: Counter[tuple[str, str]] = field(default_factory=Counter)
    licenses: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    languages: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    origins: Counter[tuple[str, str, str | None]] = field(default_factory=Counter)

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
            self.licenses[row["source"], row["license"]] += row["count_all"]
        for row in _groups(_flattened(table, "source_langs"), ["source", "source_langs"], [([], "count_all")]):
            self.languages[row["source"], row["source_langs"]] += row["count_all"]
        made = ["source", "origins", "translators"]
        for row in _groups(_flattened(table, *made[1:]), made, [([], "count_all")]):
            self.origins[row["source"], row["origins"], row["translators"]] += row["count_all"]

    def __add__(self, other: "PairCounts") -> "PairCounts":
        """The counts of both."""
        return PairCounts(
            images=self.images + other.images,
            captions=self.captions + other.captions,
            licenses=self.licenses + other.licenses,
            languages=self.languages + other.languages,
            origins=self.origins + other.origins,
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

    def of_origin(self, *origins: str) -> int:
        """Return how many captions have one of some origins."""
        return sum(count for (_, origin, _), count in self.origins.items() if origin in origins)

    def machine_translated(self) -> int:
        """Return how many captions a machine translated, those that people corrected afterwards among them."""
        return self.of_origin(MACHINE_TRANSLATION, CORRECTED)

    def makers(self) -> str:
        """Return how many of the captions machines and people translated, behind "machine translation made"."""
        num_captions, by_machine = sum(self.origins.values()), self.machine_translated()
        corrected, by_people = map(self.of_origin, (CORRECTED, HUMAN_TRANSLATION))
        share = f"{by_machine / num_captions:.1%}" if num_captions else "0.0%"
        more = f", of which people corrected {corrected:,}" if corrected else ""
        people = f" People translated {by_people:,}." if by_people else ""
        return f"{by_machine:,} ({share}){more}.{people}"


def count_pairs(files: Iterable[Path]) -> PairCounts:
    """Counts of the pairs of some shards; pixels are not read."""
    counts = PairCounts()
    for path in files:
        with pq.ParquetFile(path) as shard:
            counts.add(shard.read(columns=list(COUNTED_COLUMNS)))
    return counts


def _groups(table: pa.Table, keys: Sequence[str], wanted: Sequence[tuple[object, str]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.group_by(list(keys), use_threads=False).aggregate(list(wanted)).to_pylist()
    return rows


def _flattened(table: pa.Table, *names: str) -> pa.Table:
    """The source and one item of each of some parallel list columns, a row an item."""
    columns = {name: table.column(name).combine_chunks() for name in names}
    parents = pc.list_parent_indices(columns[names[0]])
    items = {name: pc.list_flatten(column) for name, column in columns.items()}
    return pa.table({"source": table.column("source").take(parents), **items})
