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
    """Counts of published pairs."""

    images: Counter[tuple[str, str]] = field(default_factory=Counter)  # by source and split
    captions: Counter[tuple[str, str]] = field(default_factory=Counter)  # by source and split
    licenses: Counter[tuple[str, str | None]] = field(default_factory=Counter)  # of images, by source and text
    languages: Counter[tuple[str, str | None]] = field(default_factory=Counter)  # of source captions, by source
    origins: Counter[tuple[str, str, str | None]] = field(default_factory=Counter)  # by source, origin, translator

    def add(self, pairs: pa.Table) -> None:
        """Add the counts of more pairs; the table has `COUNTED_COLUMNS` and may have others."""
        pairs = pairs.select(list(COUNTED_COLUMNS)).combine_chunks()
        source, split, license = (pairs.column(name).to_pylist() for name in COUNTED_COLUMNS[:3])
        self.images.update(zip(source, split, strict=True))
        self.licenses.update(zip(source, license, strict=True))
        # One row for each item of the lists, which are parallel.
        langs, translators, origins = (pairs.column(name).combine_chunks() for name in COUNTED_COLUMNS[3:])
        owners = pairs.select(["source", "split"]).take(pc.list_parent_indices(origins))
        source, split = (column.to_pylist() for column in owners.columns)
        langs, translators, origins = (pc.list_flatten(lists).to_pylist() for lists in (langs, translators, origins))
        self.captions.update(zip(source, split, strict=True))
        self.languages.update(zip(source, langs, strict=True))
        self.origins.update(zip(source, origins, translators, strict=True))

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
        by_origin, by_machine = totals(self.origins, 1), self.machine_translated()
        corrected, by_people = by_origin[CORRECTED], by_origin[HUMAN_TRANSLATION]
        share = by_machine / max(1, self.origins.total())
        more = f", of which people corrected {corrected:,}" if corrected else ""
        people = f" People translated {by_people:,}." if by_people else ""
        return f"{by_machine:,} ({share:.1%}){more}.{people}"


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
