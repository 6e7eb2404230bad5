"""Counts of published pairs: images and captions by source and split, licenses, languages, origins."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.rows.origins import CORRECTED, HUMAN_TRANSLATION, MACHINE_TRANSLATION

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

    def add(self, pairs: pa.Table) -> None:
        """Add the counts of more pairs; the table has `COUNTED_COLUMNS` and may have others."""
        if not pairs.num_rows:
            return
        lists = {name: pairs.column(name).combine_chunks() for name in ("source_langs", "origins", "translators")}
        captions = pc.list_value_length(lists["translators"])
        images = pairs.select(["source", "split", "license"]).append_column("captions", captions)
        # One row for each item of the lists, which are parallel.
        sources = pairs.column("source").take(pc.list_parent_indices(lists["translators"]))
        made = pa.table({"source": sources, **{name: pc.list_flatten(column) for name, column in lists.items()}})
        _add(self.images, images, ["source", "split"])
        _add(self.captions, images, ["source", "split"], weight="captions")
        _add(self.licenses, images, ["source", "license"])
        _add(self.languages, made, ["source", "source_langs"])
        _add(self.origins, made, ["source", "origins", "translators"])

    def __add__(self, other: "PairCounts") -> "PairCounts":
        """Return the sum of two counts."""
        return PairCounts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def splits(self) -> dict[str, int]:
        """Return the number of images by split."""
        return dict(totals(self.images, 1))

    def of_source(self, counts: Counter[tuple[str, str]], source: str) -> int:
        """Return the sum of one source's counts over the splits."""
        return totals(counts, 0)[source]

    def machine_translated(self) -> int:
        """Return the number of machine-translated captions, including those that people corrected."""
        by_origin = totals(self.origins, 1)
        return by_origin[MACHINE_TRANSLATION] + by_origin[CORRECTED]

    def makers(self) -> str:
        """Return the numbers of machine and human translations, to follow "machine translation made" in a sentence."""
        by_origin, num_captions, by_machine = totals(self.origins, 1), self.origins.total(), self.machine_translated()
        share = f"{by_machine / num_captions:.1%}" if num_captions else "0.0%"
        corrected, by_people = by_origin[CORRECTED], by_origin[HUMAN_TRANSLATION]
        more = f", of which people corrected {corrected:,}" if corrected else ""
        people = f" People translated {by_people:,}." if by_people else ""
        return f"{by_machine:,} ({share}){more}.{people}"


def totals(counts: Counter[Any], place: int) -> Counter[str]:
    """Return the sums of counts by the item of their keys at `place`."""
    found: Counter[str] = Counter()
    for key, count in counts.items():
        found[key[place]] += count
    return found


def count_pairs(files: Iterable[Path]) -> PairCounts:
    """Count the pairs of some shards without reading pixels."""
    counts = PairCounts()
    for path in files:
        with pq.ParquetFile(path) as shard:
            counts.add(shard.read(columns=list(COUNTED_COLUMNS)))
    return counts


def _add(counts: Counter[Any], table: pa.Table, names: list[str], *, weight: str | None = None) -> None:
    """Add for each group of rows their number, or the sum of a column."""
    aggregate = ([], "count_all") if weight is None else (weight, "sum")
    found = table.group_by(names, use_threads=False).aggregate([aggregate])
    sums = found.column("count_all" if weight is None else f"{weight}_sum").to_pylist()
    for *key, count in zip(*(found.column(name).to_pylist() for name in names), sums, strict=True):
        counts[tuple(key)] += count
