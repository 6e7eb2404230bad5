"""The pairs of an export, each with a verdict, and what takes them: Parquet shards, tars, lists of links, credits."""

import csv
import hashlib
import json
import tarfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import DamagedError
from data_catalog.exports.card import DataConfig, SplitFiles
from data_catalog.exports.markdown import sheet_cell
from data_catalog.exports.rights import Policy
from data_catalog.storage.integrity import file_problem
from data_catalog.storage.manifest import Snapshot
from data_catalog.storage.shards import link_file, open_image_writer, sha256_of, write_json

PIXEL_COLUMNS = ("image", "original")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedShard:
    """One shard of pairs.

    Args:
        path: of the shard, whose bytes are as they were written.
        entry: its line in the manifest.
        rows: all columns but pixels.
        reasons: for each row why its pixels stay away, or None.
    """

    path: Path
    entry: Mapping[str, Any]
    rows: pa.Table
    reasons: Sequence[str | None]

    @property
    def goes_along(self) -> pa.Array:
        """Return for each row whether its pixels go along."""
        return pa.array([reason is None for reason in self.reasons], pa.bool_())

    @property
    def is_listed(self) -> pa.Array:
        """Return for each row whether it is listed by its address, since its pixels stay away."""
        urls = self.rows.column("url").to_pylist()
        return pa.array([bool(reason and url) for reason, url in zip(self.reasons, urls, strict=True)], pa.bool_())

    def pair_groups(self) -> Iterator[pa.Table]:
        """Yield the pairs whose pixels go along, with them, a row group at a time."""
        goes_along, start = self.goes_along, 0
        with pq.ParquetFile(self.path) as source:
            for number in range(source.num_row_groups):
                rows = source.metadata.row_group(number).num_rows
                chosen = goes_along.slice(start, rows)
                start += rows
                if chosen.true_count:
                    yield source.read_row_group(number).filter(chosen)


def judged_shards(snapshot: Snapshot, policy: Policy, split: str) -> Iterator[JudgedShard]:
    """Yield the shards of a split in order, each held against its sha256 first.

    Raises:
        DamagedError: a shard is not what was written.
    """
    for entry in snapshot.manifest["files"]["pairs"]:
        if entry["split"] != split:
            continue
        path = snapshot.folder / entry["path"]
        problem = file_problem(path, entry["sha256"])
        if problem is not None:
            raise DamagedError(f"{problem}: nothing is exported; `vernaclip verify` lists all that is damaged")
        names = [name for name in pq.read_schema(path).names if name not in PIXEL_COLUMNS]
        rows = pq.read_table(path, columns=names)
        asked = rows.select(["source", "license", "attribution", "page_url"]).to_pylist()
        yield JudgedShard(path=path, entry=entry, rows=rows, reasons=[policy.why_not(row) for row in asked])


def sample_key(sample_id: str) -> str:
    """Return a name for a sample that is safe anywhere: 24 hexadecimal digits of its identity's sha256."""
    return hashlib.sha256(sample_id.encode()).hexdigest()[:24]


class PairSink(ABC):
    """What takes the pairs of an export, and writes them in its format below a folder.

    `entries` are its pair shards in Parquet, with path, sha256 and bytes: the card takes columns and examples from
    them, and the metadata describe them.
    """

    def __init__(self, folder: Path) -> None:
        self.entries: list[dict[str, Any]] = []
        self._folder = folder
        self._rows: Counter[str] = Counter()  # by split

    @abstractmethod
    def add(self, shard: JudgedShard) -> None:
        """Write those pairs of a shard that go along; all of a split come one after the other."""

    @abstractmethod
    def end(self) -> DataConfig:
        """Finish all files; return them by split, and how `datasets` loads them."""


class ParquetSink(PairSink):
    """Pair shards below `data/`: the snapshot's own, linked, where all rows go along; others written anew."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.schema: pa.Schema | None = None

    def add(self, shard: JudgedShard) -> None:
        """Link a shard, write the part of it that goes along, or pass it over."""
        rows = shard.goes_along.true_count
        if not rows:
            return
        split = shard.entry["split"]
        path = self._folder / "data" / f"{split}-{shard.entry['shard']:05d}.parquet"
        path.parent.mkdir(exist_ok=True)
        self.schema = pq.read_schema(shard.path)
        if rows == len(shard.reasons):
            link_file(shard.path, path)
            found = shard.entry["sha256"]
        else:
            with open_image_writer(path, self.schema) as writer:
                for group in shard.pair_groups():
                    writer.write_table(group, row_group_size=group.num_rows)
            found = sha256_of(path)
        name = path.relative_to(self._folder).as_posix()
        self.entries.append({"path": name, "sha256": found, "bytes": path.stat().st_size})
        self._rows[split] += rows

    def end(self) -> DataConfig:
        """Return what was written, by split."""
        splits = _split_files(self._folder, "data/{}-*.parquet", self._rows)
        return DataConfig(name="default", splits=splits, schema=self.schema)


FIRST, EVERY = "first", "every"
CAPTIONS = (FIRST, EVERY)
SIZES_FILE = "sizes.json"
# Columns of pairs that KEY.json has not, and how many captions it has under keys of their own.
_NOT_TOLD = (*PIXEL_COLUMNS, "leaks")
_NUMBERED = 5
# What the bytes of an image start with, by what its file is called; all others are JPEG.
_STARTS = {"webp": b"RIFF", "png": b"\x89PNG"}


class TarSink(PairSink):
    """Tar shards of a fixed number of samples: `train-000000.tar` and so on, and `sizes.json`, which open_clip reads.

    Each sample is KEY.jpg (.webp, .png), KEY.json and KEY.txt; its key is a hash. The same pairs give the same bytes.

    Args:
        folder: to write into.
        samples_per_shard: of all shards of a split but its last.
        captions: `FIRST`: an image is one sample, whose text is its first caption; `EVERY`: one for each caption.
    """

    def __init__(self, folder: Path, *, samples_per_shard: int, captions: str) -> None:
        super().__init__(folder)
        self._sizes: dict[str, int] = {}
        self._samples_per_shard = samples_per_shard
        self._captions = captions
        self._suffixes: set[str] = set()
        self._pairs: pa.Schema | None = None
        self._tar: tarfile.TarFile | None = None

    def add(self, shard: JudgedShard) -> None:
        """Write the samples of a shard."""
        for group in shard.pair_groups():
            self._pairs = group.schema
            for row in group.to_pylist():
                key = sample_key(row["sample_id"])
                if self._captions == FIRST:
                    self._add_sample(shard.entry["split"], row, key, row["captions"][0])
                else:
                    for number, caption in enumerate(row["captions"]):
                        self._add_sample(shard.entry["split"], row, f"{key}-{number:03d}", caption)

    def _add_sample(self, split: str, row: Mapping[str, Any], key: str, caption: str) -> None:
        """Write a sample into the last shard of its split, or a new one; all of a split come one after the other."""
        number, place = divmod(self._rows[split], self._samples_per_shard)
        self._rows[split] += 1
        name = f"{split}-{number:06d}.tar"
        if place == 0 or self._tar is None:
            self._close()
            self._tar = tarfile.open(self._folder / name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - see _close
        self._sizes[name] = place + 1
        image: bytes = row["image"]["bytes"]
        suffix = next((name for name, start in _STARTS.items() if image.startswith(start)), "jpg")
        self._suffixes.add(suffix)
        # KEY.json has the same keys in every sample: `caption_0` to `caption_4` are the first captions again, null
        # where there are fewer. open_clip draws from such keys.
        told = {name: value for name, value in row.items() if name not in _NOT_TOLD} | {"caption": caption}
        first = [*row["captions"], *[None] * _NUMBERED][:_NUMBERED]
        told |= {f"caption_{number}": text for number, text in enumerate(first)}
        text = json.dumps(told, sort_keys=True, ensure_ascii=False)
        for name, content in ((suffix, image), ("json", text.encode()), ("txt", caption.encode())):
            member = tarfile.TarInfo(f"{key}.{name}")  # its time is 0 and its owner nobody
            member.size = len(content)
            self._tar.addfile(member, BytesIO(content))

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
        self._tar = None

    def end(self) -> DataConfig:
        """Close the last shard and write the sizes; return what samples are made of, as `datasets` loads them."""
        self._close()
        write_json(self._folder / SIZES_FILE, self._sizes)
        splits = _split_files(self._folder, "{}-*.tar", self._rows)
        if self._pairs is None:
            return DataConfig(name="default", splits=splits)
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        told = [column for column in self._pairs if column.name not in _NOT_TOLD]
        told += [pa.field(name, pa.string()) for name in ("caption", *(f"caption_{n}" for n in range(_NUMBERED)))]
        names = [*((suffix, image) for suffix in sorted(self._suffixes)), ("json", pa.struct(told))]
        schema = pa.schema([*names, *((name, pa.string()) for name in ("txt", "__key__", "__url__"))])
        return DataConfig(name="default", splits=splits, schema=schema)


def _split_files(folder: Path, pattern: str, rows: Mapping[str, int]) -> dict[str, SplitFiles]:
    """Return the files of each split that has rows, by a glob below `folder` with a place for the split's name."""
    found = {split: sum(path.stat().st_size for path in folder.glob(pattern.format(split))) for split in rows}
    return {
        split: SplitFiles(pattern=pattern.format(split), rows=rows[split], num_bytes=size)
        for split, size in found.items()
    }


# Nothing is declared to be there always: img2dataset takes the types of its own rows, failed ones too, from here.
LINKS = pa.schema(
    {
        "key": pa.string(),
        "url": pa.string(),
        "caption": pa.string(),  # the first of `captions`
        "captions": pa.list_(pa.string()),
        "source_captions": pa.list_(pa.string()),
        "source_langs": pa.list_(pa.string()),
        "translators": pa.list_(pa.string()),
        "origins": pa.list_(pa.string()),
        "sample_id": pa.string(),
        "source": pa.string(),
        "split": pa.string(),
        "width": pa.int32(),  # of the image as it came
        "height": pa.int32(),
        "sha256": pa.string(),  # of its bytes as they came
        "license": pa.string(),  # of the row, or what the recipe says of the source
        "attribution": pa.string(),
        "page_url": pa.string(),
    }
)
_ROWS_PER_GROUP = 50_000


class LinkWriter:
    """Writes lists below `links/`, one a split that has rows: `<split>/part-00000.parquet`.

    A list has a folder of its own since img2dataset reads all files of one.
    """

    def __init__(self, folder: Path, policy: Policy) -> None:
        self._folder, self._policy = folder, policy
        self._rows: Counter[str] = Counter()
        self._held: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, shard: JudgedShard) -> None:
        """List the rows whose pixels stay away and that have a URL."""
        listed = shard.rows.filter(shard.is_listed)
        needed = [name for name in listed.column_names if name in {*LINKS.names, "original_width", "original_height"}]
        for row in listed.select(needed).to_pylist():
            row |= {"key": sample_key(row["sample_id"]), "caption": row["captions"][0]}
            row |= {"width": row["original_width"], "height": row["original_height"]}
            row["license"] = self._policy.license(row)
            self._held.append({name: row[name] for name in LINKS.names})
        if len(self._held) >= _ROWS_PER_GROUP:
            self._flush(shard.entry["split"])

    def end_split(self, split: str) -> None:
        """Finish the file of a split, if there is one."""
        self._flush(split)
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _flush(self, split: str) -> None:
        if not self._held:
            return
        if self._writer is None:
            path = self._folder / "links" / split / "part-00000.parquet"
            path.parent.mkdir(parents=True)
            self._writer = pq.ParquetWriter(path, LINKS, compression="zstd", write_page_checksum=True)
        self._writer.write_table(pa.Table.from_pylist(self._held, schema=LINKS))
        self._rows[split] += len(self._held)
        self._held = []

    def config(self) -> DataConfig:
        """Return what was written, by split."""
        return DataConfig(
            name="links", splits=_split_files(self._folder, "links/{}/*.parquet", self._rows), schema=LINKS
        )


CREDITS_FILE = "ATTRIBUTION.csv"
_CREDITS = ("key", "sample_id", "source", "split", "pixels", "license", "attribution", "page_url", "url")


@contextmanager
def credits_writer(folder: Path, policy: Policy) -> Iterator[Callable[[JudgedShard], None]]:
    """Open ATTRIBUTION.csv in a folder; yield what adds a line for each image that goes along or is listed."""
    with (folder / CREDITS_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_CREDITS)

        def add(shard: JudgedShard) -> None:
            rows = shard.rows.select([name for name in _CREDITS if name in shard.rows.column_names]).to_pylist()
            for row, reason in zip(rows, shard.reasons, strict=True):
                if reason is None or row["url"]:
                    row |= {"key": sample_key(row["sample_id"]), "pixels": reason or "yes"}
                    row["license"] = policy.license(row)
                    writer.writerow([sheet_cell(row[name]) for name in _CREDITS])

        yield add
