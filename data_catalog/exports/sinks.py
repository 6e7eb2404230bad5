"""The pairs of an export, each with a verdict, and what takes them: Parquet shards, tars, lists of links, or counts."""

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import DamagedError
from data_catalog.exports.card import DataConfig, SplitFiles
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
        """A Boolean for each row: whether its pixels go along."""
        return pa.array([reason is None for reason in self.reasons], pa.bool_())

    @property
    def is_listed(self) -> pa.Array:
        """A Boolean for each row: whether it has an address by which it is listed, since its pixels stay away."""
        urls = self.rows.column("url").to_pylist()
        return pa.array([bool(reason and url) for reason, url in zip(self.reasons, urls, strict=True)], pa.bool_())


def judged_shards(snapshot: Snapshot, policy: Policy, split: str) -> Iterator[JudgedShard]:
    """The shards of a split in order, each held against its sha256 first.

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


def pair_groups(shard: JudgedShard) -> Iterator[pa.Table]:
    """The pairs whose pixels go along, with them, a row group at a time."""
    goes_along, start = shard.goes_along, 0
    with pq.ParquetFile(shard.path) as source:
        for number in range(source.num_row_groups):
            rows = source.metadata.row_group(number).num_rows
            chosen = goes_along.slice(start, rows)
            start += rows
            if chosen.true_count:
                yield source.read_row_group(number).filter(chosen)


def sample_key(sample_id: str) -> str:
    """A name for a sample that is safe anywhere: 24 hexadecimal digits of its identity's sha256."""
    return hashlib.sha256(sample_id.encode()).hexdigest()[:24]


# Nothing is declared to be there always: img2dataset takes the types of its own rows, failed ones too, from here.
LINKS = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),  # the first of `captions`
        pa.field("captions", pa.list_(pa.string())),
        pa.field("source_captions", pa.list_(pa.string())),
        pa.field("source_langs", pa.list_(pa.string())),
        pa.field("translators", pa.list_(pa.string())),
        pa.field("origins", pa.list_(pa.string())),
        pa.field("sample_id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("split", pa.string()),
        pa.field("width", pa.int32()),  # of the image as it came
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),  # of its bytes as they came
        pa.field("license", pa.string()),  # of the row, or what the recipe says of the source
        pa.field("attribution", pa.string()),
        pa.field("page_url", pa.string()),
    ]
)
# Columns of pairs that go into a list as they are, and those that others are made of.
_COPIED = (
    *("url", "captions", "source_captions", "source_langs", "translators", "sample_id", "source", "split", "sha256"),
    *("origins", "attribution", "page_url"),
)
_NEEDED = [*_COPIED, "original_width", "original_height", "license"]
_ROWS_PER_GROUP = 50_000


class LinkWriter:
    """Writes lists below a folder, one a split that has rows: `<split>/part-00000.parquet`.

    A list has a folder of its own since img2dataset reads all files of one.
    """

    def __init__(self, folder: Path, policy: Policy, split: str) -> None:
        self.split = split
        self.path = folder / split / "part-00000.parquet"
        self.rows = 0
        self._policy = policy
        self._held: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, shard: JudgedShard) -> None:
        """List the rows whose pixels stay away and that have a URL."""
        rows = shard.rows.select(_NEEDED).filter(shard.is_listed).to_pylist()
        self._held += [self._link(row) for row in rows]
        if len(self._held) >= _ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Finish the file, if there is one."""
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        if not self._held:
            return
        if self._writer is None:
            self.path.parent.mkdir(parents=True)
            self._writer = pq.ParquetWriter(self.path, LINKS, compression="zstd", write_page_checksum=True)
        self._writer.write_table(pa.Table.from_pylist(self._held, schema=LINKS))
        self.rows += len(self._held)
        self._held = []

    def _link(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "key": sample_key(row["sample_id"]),
            "caption": row["captions"][0],
            "width": row["original_width"],
            "height": row["original_height"],
            "license": self._policy.license(row),
            **{name: row[name] for name in _COPIED},
        }


FIRST, EVERY = "first", "every"
CAPTIONS = (FIRST, EVERY)
SIZES_FILE = "sizes.json"
# Columns of pairs that KEY.json has not, and how many captions it has under keys of their own.
_NOT_TOLD = ("image", "original", "leaks")
_NUMBERED = 5
# What the bytes of an image start with, by what its file is called; all others are JPEG.
_STARTS = {"webp": b"RIFF", "png": b"\x89PNG"}


class Sink(Protocol):
    """Takes the shards of one split after the other, and says in the end how what it wrote is loaded."""

    hashes: dict[str, str]  # sha256 of files that it knows, by path in the folder

    def add(self, shard: JudgedShard) -> None:
        """Take the pairs of a shard whose pixels go along."""

    def end(self) -> None:
        """Finish all files."""

    def config(self) -> DataConfig:
        """What was written, by split."""


class ParquetSink:
    """Pair shards below `data/`: the snapshot's own, linked, where all rows go along; others written anew."""

    def __init__(self, folder: Path) -> None:
        self.hashes: dict[str, str] = {}
        self.entries: list[dict[str, Any]] = []
        self.schema: pa.Schema | None = None
        self._folder = folder

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
                for group in pair_groups(shard):
                    writer.write_table(group, row_group_size=group.num_rows)
            found = sha256_of(path)
        name = path.relative_to(self._folder).as_posix()
        self.hashes[name] = found
        size = path.stat().st_size
        self.entries.append({"path": name, "sha256": found, "bytes": size, "split": split, "rows": rows})

    def end(self) -> None:
        """Nothing is left to do."""

    def config(self) -> DataConfig:
        """What was written, by split."""
        rows, sizes = Counter[str](), Counter[str]()
        for entry in self.entries:
            rows[entry["split"]] += entry["rows"]
            sizes[entry["split"]] += entry["bytes"]
        splits = {
            split: SplitFiles(pattern=f"data/{split}-*.parquet", rows=rows[split], num_bytes=sizes[split])
            for split in rows
        }
        return DataConfig(name="default", splits=splits, schema=self.schema)


class TarSink:
    """Tar shards of a fixed number of samples: `train-000000.tar` and so on, and `sizes.json`, which open_clip reads.

    Each sample is KEY.jpg (.webp, .png), KEY.json and KEY.txt; its key is a hash. The same pairs give the same bytes.

    Args:
        folder: to write into.
        samples_per_shard: of all shards of a split but its last.
        captions: `FIRST`: an image is one sample, whose text is its first caption; `EVERY`: one for each caption.
    """

    def __init__(self, folder: Path, *, samples_per_shard: int, captions: str) -> None:
        self.hashes: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self._folder = folder
        self._samples_per_shard = samples_per_shard
        self._captions = captions
        self._splits: Counter[str] = Counter()  # samples so far
        self._suffixes: set[str] = set()
        self._schema: pa.Schema | None = None
        self._tar: tarfile.TarFile | None = None
        self._path = folder

    def add(self, shard: JudgedShard) -> None:
        """Write the samples of a shard."""
        split = shard.entry["split"]
        for group in pair_groups(shard):
            self._schema = group.schema
            for row in group.to_pylist():
                for key, caption in self._samples(row):
                    self._add_sample(self._tar_for_next(split), row, key, caption)

    def end(self) -> None:
        """Close the last shard and write the sizes."""
        self._close()
        write_json(self._folder / SIZES_FILE, self.sizes)

    def config(self) -> DataConfig:
        """What was written, by split."""
        splits = {}
        for split, rows in self._splits.items():
            size = sum((self._folder / name).stat().st_size for name in self.sizes if name.startswith(f"{split}-"))
            splits[split] = SplitFiles(pattern=f"{split}-*.tar", rows=rows, num_bytes=size)
        schema = None if self._schema is None else _sample_schema(self._schema, self._suffixes)
        return DataConfig(name="default", splits=splits, schema=schema)

    def _samples(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        key = sample_key(row["sample_id"])
        if self._captions == FIRST:
            yield key, row["captions"][0]
        else:
            yield from ((f"{key}-{number:03d}", caption) for number, caption in enumerate(row["captions"]))

    def _tar_for_next(self, split: str) -> tarfile.TarFile:
        """The shard that the next sample of a split goes into; samples of a split come one after the other."""
        number, place = divmod(self._splits[split], self._samples_per_shard)
        self._splits[split] += 1
        if place == 0 or self._tar is None:
            self._close()
            self._path = self._folder / f"{split}-{number:06d}.tar"
            self._tar = tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by _close
        self.sizes[self._path.name] = place + 1
        return self._tar

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
        self._tar = None

    def _add_sample(self, tar: tarfile.TarFile, row: Mapping[str, Any], key: str, caption: str) -> None:
        image: bytes = row["image"]["bytes"]
        told = json.dumps(_told(row, caption), sort_keys=True, ensure_ascii=False)
        suffix = next((name for name, start in _STARTS.items() if image.startswith(start)), "jpg")
        self._suffixes.add(suffix)
        for name, content in ((suffix, image), ("json", told.encode()), ("txt", caption.encode())):
            member = tarfile.TarInfo(f"{key}.{name}")  # its time is 0 and its owner nobody
            member.size = len(content)
            tar.addfile(member, BytesIO(content))


def _told(row: Mapping[str, Any], caption: str) -> dict[str, Any]:
    """What KEY.json says, with the same keys in every sample: `caption`, all `captions`, and the row's other columns.

    `caption_0` to `caption_4` are the first captions again, null where there are fewer: open_clip draws from such keys.
    """
    told = {name: value for name, value in row.items() if name not in _NOT_TOLD}
    captions = [*row["captions"], *[None] * _NUMBERED]
    return {**told, "caption": caption, **{f"caption_{number}": captions[number] for number in range(_NUMBERED)}}


def _sample_schema(pairs: pa.Schema, suffixes: Iterable[str]) -> pa.Schema:
    """What a tar's samples are made of, as `datasets` loads them."""
    image = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    told = [column for column in pairs if column.name not in _NOT_TOLD]
    told += [pa.field(name, pa.string()) for name in ("caption", *(f"caption_{n}" for n in range(_NUMBERED)))]
    names = [*((suffix, image) for suffix in sorted(suffixes)), ("json", pa.struct(told))]
    return pa.schema([*names, *((name, pa.string()) for name in ("txt", "__key__", "__url__"))])


class NoPixels:
    """For exports that only list images."""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}

    def add(self, shard: JudgedShard) -> None:
        """Nothing is taken."""

    def end(self) -> None:
        """Nothing is left to do."""

    def config(self) -> DataConfig:
        """Nothing was written."""
        return DataConfig(name="default")
