"""Counts of published pairs: images and captions by source and split, licenses, languages, origins."""

from collections import Counter
from collections.abc import Iterable, Iterator
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

    def add(self, pairs: pa.Table) -> None:
        """Add the counts of more pairs; the table has `COUNTED_COLUMNS` and may have others."""
        if not pairs.num_rows:
            return
        lists = {name: pairs.column(name).combine_chunks() for name in ("source_langs", "origins", "translators")}
        lengths = pc.list_value_length(lists["translators"])
        # One row for each item of the lists, which are parallel.
        sources = pairs.column("source").take(pc.list_parent_indices(lists["translators"]))
        made = pa.table({"source": sources, **{name: pc.list_flatten(column) for name, column in lists.items()}})
        images = pairs.select(["source", "split", "license"]).append_column("captions", lengths)
        for key, count, captions in _groups(images, ["source", "split"], ("captions", "sum")):
            self.images[key] += count
            self.captions[key] += captions
        for counts, table, names in (
            (self.licenses, images, ["source", "license"]),
            (self.languages, made, ["source", "source_langs"]),
            (self.origins, made, ["source", "origins", "translators"]),
        ):
            for key, count in _groups(table, names):
                counts[key] += count

    def __add__(self, other: "PairCounts") -> "PairCounts":
        """Return the sum of two counts."""
        return PairCounts(
            images=self.images + other.images,
            captions=self.captions + other.captions,
            licenses=self.licenses + other.licenses,
            languages=self.languages + other.languages,
            origins=self.origins + other.origins,
        )

    def splits(self) -> dict[str, int]:
        """Return the number of images by split."""
        found: Counter[str] = Counter()
        for (_, split), count in self.images.items():
            found[split] += count
        return dict(found)

    def sources(self) -> list[str]:
        """Return the sources that have images, sorted."""
        return sorted({source for source, _ in self.images})

    def of_source(self, counts: Counter[tuple[str, str]], source: str) -> int:
        """Return the sum of one source's counts over the splits."""
        return sum(count for (name, _), count in counts.items() if name == source)

    def of_origin(self, *origins: str) -> int:
        """Return the number of captions with one of the given origins."""
        return sum(count for (_, origin, _), count in self.origins.items() if origin in origins)

    def machine_translated(self) -> int:
        """Return the number of machine-translated captions, including those that people corrected."""
        return self.of_origin(MACHINE_TRANSLATION, CORRECTED)

    def makers(self) -> str:
        """Return the numbers of machine and human translations, to follow "machine translation made" in a sentence."""
        num_captions, by_machine = sum(self.origins.values()), self.machine_translated()
        corrected, by_people = map(self.of_origin, (CORRECTED, HUMAN_TRANSLATION))
        share = f"{by_machine / num_captions:.1%}" if num_captions else "0.0%"
        more = f", of which people corrected {corrected:,}" if corrected else ""
        people = f" People translated {by_people:,}." if by_people else ""
        return f"{by_machine:,} ({share}){more}.{people}"


def count_pairs(files: Iterable[Path]) -> PairCounts:
    """Count the pairs of some shards without reading pixels."""
    counts = PairCounts()
    for path in files:
        with pq.ParquetFile(path) as shard:
            counts.add(shard.read(columns=list(COUNTED_COLUMNS)))
    return counts


def _groups(table: pa.Table, names: list[str], *more: tuple[str, str]) -> Iterator[tuple[Any, ...]]:
    """Yield the key of each group of rows, its number of rows, and the other aggregates."""
    found = table.group_by(names, use_threads=False).aggregate([([], "count_all"), *more])
    columns = [found.column(name).to_pylist() for name in ("count_all", *("_".join(each) for each in more))]
    keys = zip(*(found.column(name).to_pylist() for name in names), strict=True)
    return zip(keys, *columns, strict=True)
