"""Writers of exports: pairs with a verdict each, written as Parquet shards, tars, lists of links and credits."""

import csv
import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.errors import DamagedError
from data_catalog.base.plain_text import spreadsheet_text
from data_catalog.catalog.manifest import Snapshot
from data_catalog.disk.files import link_file, open_image_writer, sha256_of, write_json
from data_catalog.disk.records import file_problem
from data_catalog.exports.card import DataFiles
from data_catalog.exports.markdown import one_line
from data_catalog.exports.rights import Policy

PIXEL_COLUMNS = ("image", "original")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedShard:
    """Shard of pairs, whose sha256 was checked, with a verdict on the pixels of each row."""

    path: Path
    entry: Mapping[str, Any]  # of the manifest
    rows: pa.Table  # all columns but pixels
    reasons: Sequence[str | None]  # to withhold the pixels of a row
    is_exported: pa.Array
    is_listed: pa.Array  # without pixels, by address

    def pair_groups(self) -> Iterator[pa.Table]:
        """Yield the pairs whose pixels are exported, pixels included, one row group at a time."""
        start = 0
        with pq.ParquetFile(self.path) as source:
            for number in range(source.num_row_groups):
                rows = source.metadata.row_group(number).num_rows
                chosen = self.is_exported.slice(start, rows)
                start += rows
                if chosen.true_count:
                    yield source.read_row_group(number).filter(chosen)


def judged_shards(snapshot: Snapshot, policy: Policy, split: str) -> Iterator[JudgedShard]:
    """Yield the shards of a split in order; check the sha256 of each first."""
    for entry in snapshot.manifest["files"]["pairs"]:
        if entry["split"] != split:
            continue
        path = snapshot.folder / entry["path"]
        if (problem := file_problem(path, entry["sha256"])) is not None:
            raise DamagedError(f"{problem}. Nothing is exported; `vernaclip verify` lists all damaged files")
        names = [name for name in pq.read_schema(path).names if name not in PIXEL_COLUMNS]
        rows = pq.read_table(path, columns=names)
        asked = rows.select(["source", "license", "attribution", "page_url", "url"]).to_pylist()
        reasons = [policy.withheld_reason(row) for row in asked]
        yield JudgedShard(
            path=path,
            entry=entry,
            rows=rows,
            reasons=reasons,
            is_exported=pa.array([reason is None for reason in reasons], pa.bool_()),
            is_listed=pa.array(
                [bool(reason and row["url"]) for row, reason in zip(asked, reasons, strict=True)], pa.bool_()
            ),
        )


def sample_key(sample_id: str) -> str:
    """Return a name of a sample that is safe in any file system: 24 hexadecimal digits of its id's sha256."""
    return hashlib.sha256(sample_id.encode()).hexdigest()[:24]


# Adds the rows of a shard; all shards of a split come one after the other.
Add = Callable[[JudgedShard], None]


@contextmanager
def parquet_writer(folder: Path, files: DataFiles, *_: object) -> Iterator[Add]:
    """Write pair shards below `data/`: links to the snapshot's shards if all rows are exported, else new files."""

    def add(shard: JudgedShard) -> None:
        rows, split, sha256 = shard.is_exported.true_count, shard.entry["split"], shard.entry["sha256"]
        if not rows:
            return
        path = folder / "data" / f"{split}-{shard.entry['shard']:05d}.parquet"
        path.parent.mkdir(exist_ok=True)
        files.schema = pq.read_schema(shard.path)
        if rows == len(shard.reasons):
            link_file(shard.path, path)
        else:
            with open_image_writer(path, files.schema) as writer:
                for group in shard.pair_groups():
                    writer.write_table(group, row_group_size=group.num_rows)
            sha256 = sha256_of(path)
        _record(files, folder, path, split, rows, sha256=sha256)

    yield add


def _record(files: DataFiles, folder: Path, path: Path, split: str, rows: int, **more: Any) -> None:
    size, name = path.stat().st_size, path.relative_to(folder).as_posix()
    files.entries.append({"path": name, "split": split, "rows": rows, "bytes": size, **more})


SIZES_FILE = "sizes.json"
# Columns of pairs that are not in KEY.json, and the number of captions that have keys of their own there.
_OMITTED = (*PIXEL_COLUMNS, "leaks")
_NUMBERED = 5
# First bytes of an image by its suffix; all others are JPEG.
_STARTS = {"webp": b"RIFF", "png": b"\x89PNG"}


@contextmanager
def tar_writer(folder: Path, files: DataFiles, samples_per_shard: int, captions: str) -> Iterator[Add]:
    """Write tar shards with a fixed number of samples (`train-000000.tar` etc.) and open_clip's `sizes.json`.

    Each sample is KEY.jpg (.webp, .png), KEY.json and KEY.txt; its key is a hash. The same pairs give the same bytes.
    """
    suffixes: set[str] = set()
    tar: tarfile.TarFile | None = None

    def add(shard: JudgedShard) -> None:
        for group in shard.pair_groups():
            files.schema = group.schema
            for row in group.to_pylist():
                key = sample_key(row["sample_id"])
                if captions == "first":
                    add_sample(shard.entry["split"], row, key, row["captions"][0])
                else:
                    for number, caption in enumerate(row["captions"]):
                        add_sample(shard.entry["split"], row, f"{key}-{number:03d}", caption)

    def add_sample(split: str, row: Mapping[str, Any], key: str, caption: str) -> None:
        nonlocal tar
        if tar is None or files.entries[-1]["split"] != split or files.entries[-1]["rows"] == samples_per_shard:
            stack.close()  # the last one
            name = f"{split}-{sum(entry['split'] == split for entry in files.entries):06d}.tar"
            tar = stack.enter_context(tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT))  # noqa: SIM115
            files.entries.append({"path": name, "split": split, "rows": 0})
        files.entries[-1]["rows"] += 1
        image: bytes = row["image"]["bytes"]
        suffix = next((name for name, start in _STARTS.items() if image.startswith(start)), "jpg")
        suffixes.add(suffix)
        # KEY.json has the same keys in every sample: `caption_0` to `caption_4` repeat the first captions, null
        # if there are fewer. open_clip samples from such keys.
        values = {name: value for name, value in row.items() if name not in _OMITTED} | {"caption": caption}
        first = [*row["captions"], *[None] * _NUMBERED][:_NUMBERED]
        values |= {f"caption_{number}": text for number, text in enumerate(first)}
        text = json.dumps(values, sort_keys=True, ensure_ascii=False)
        for name, content in ((suffix, image), ("json", text.encode()), ("txt", caption.encode())):
            member = tarfile.TarInfo(f"{key}.{name}")  # time 0 and no owner, so that the bytes are reproducible
            member.size = len(content)
            tar.addfile(member, BytesIO(content))

    with ExitStack() as stack:
        yield add
    for entry in files.entries:
        entry["bytes"] = (folder / entry["path"]).stat().st_size
    write_json(folder / SIZES_FILE, {entry["path"]: entry["rows"] for entry in files.entries})
    if files.schema is not None:  # as `datasets` reads the samples
        fields = [column for column in files.schema if column.name not in _OMITTED]
        fields += [pa.field(name, pa.string()) for name in ("caption", *(f"caption_{n}" for n in range(_NUMBERED)))]
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        members = [*((suffix, image) for suffix in sorted(suffixes)), ("json", pa.struct(fields))]
        files.schema = pa.schema([*members, *((name, pa.string()) for name in ("txt", "__key__", "__url__"))])


# By format, one for each of `FORMATS`: the pattern of the files of a split, and the writer of pairs. Lists of links go
# beside the pairs of every format.
SINKS: Mapping[str, tuple[str, Callable[..., AbstractContextManager[Add]]]] = {
    "huggingface": ("data/{}-*.parquet", parquet_writer),
    "webdataset": ("{}-*.tar", tar_writer),
}

# All columns are nullable: img2dataset uses these types for its own rows, failed ones included.
LINKS = pa.schema(
    {
        "key": pa.string(),
        "url": pa.string(),
        "caption": pa.string(),  # the first of `captions`
        **dict.fromkeys(("captions", "source_captions", "source_langs"), pa.list_(pa.string())),
        **dict.fromkeys(("translators", "origins"), pa.list_(pa.string())),
        **dict.fromkeys(("sample_id", "source", "split"), pa.string()),
        **dict.fromkeys(("width", "height"), pa.int32()),  # of the original image
        "sha256": pa.string(),  # of the original bytes
        "license": pa.string(),  # the row's, or the recipe's for the source
        "attribution": pa.string(),
        "page_url": pa.string(),
    }
)
# Pages that end where the text says stay the same in a later export, and the hub stores them once. Shards with images
# are uncompressed, so that the hub finds equal images by itself: more pages would only harm.
_LINK_PAGES = {"compression": "zstd", "write_page_checksum": True, "use_content_defined_chunking": True}


@contextmanager
def link_writer(folder: Path, files: DataFiles, policy: Policy) -> Iterator[Add]:
    """List the rows whose pixels are withheld and that have a URL: `links/<split>/part-00000.parquet`.

    Each list has a folder of its own, since img2dataset reads all files of a folder.
    """
    rows_of = Counter[str]()
    writers: dict[str, pq.ParquetWriter] = {}

    def path_of(split: str) -> Path:
        return folder / "links" / split / "part-00000.parquet"

    def add(shard: JudgedShard) -> None:
        rows, split = shard.rows.filter(shard.is_listed).to_pylist(), shard.entry["split"]
        if not rows:
            return
        for row in rows:
            row |= {"key": sample_key(row["sample_id"]), "caption": row["captions"][0]}
            row |= {"width": row["original_width"], "height": row["original_height"]}
            row["license"] = policy.license(row)
        if split not in writers:
            path_of(split).parent.mkdir(parents=True)
            writers[split] = stack.enter_context(pq.ParquetWriter(path_of(split), LINKS, **_LINK_PAGES))
        writers[split].write_table(pa.Table.from_pylist(rows, schema=LINKS))
        rows_of[split] += len(rows)

    with ExitStack() as stack:
        yield add
    for split, rows in rows_of.items():
        _record(files, folder, path_of(split), split, rows)


CREDITS_FILE = "ATTRIBUTION.csv"
_CREDITS = ("key", "sample_id", "source", "split", "pixels", "license", "attribution", "page_url", "url")


@contextmanager
def credits_writer(folder: Path, policy: Policy) -> Iterator[Add]:
    """Write a line of ATTRIBUTION.csv for each image that is exported or listed."""
    with (folder / CREDITS_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_CREDITS)

        def add(shard: JudgedShard) -> None:
            rows = shard.rows.select([name for name in _CREDITS if name in shard.rows.column_names]).to_pylist()
            for row, reason in zip(rows, shard.reasons, strict=True):
                if reason is None or row["url"]:
                    row |= {"key": sample_key(row["sample_id"]), "pixels": reason or "yes"}
                    row["license"] = policy.license(row)
                    writer.writerow([spreadsheet_text(one_line(row[name] or "")) for name in _CREDITS])

        yield add
