"""Writers of exports: pairs with a verdict each, written as Parquet shards, tars, lists of links and credits."""

import csv
import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.errors import DamagedError
from data_catalog.base.plain_text import spreadsheet_text
from data_catalog.catalog.manifest import Snapshot
from data_catalog.disk.files import link_file, open_image_writer, sha256_of, write_json
from data_catalog.disk.records import file_problem
from data_catalog.exports.card import LOAD_PAIRS, DataFiles
from data_catalog.exports.markdown import one_line
from data_catalog.exports.rights import Policy

PIXEL_COLUMNS = ("image", "original")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedShard:
    """Shard of pairs, whose sha256 was checked, with a verdict on the pixels of each row.

    Args:
        path: path of the shard.
        entry: its entry of the manifest.
        rows: all columns but pixels.
        reasons: for each row, the reason to withhold its pixels, or None.
        is_exported: for each row, whether its pixels are exported.
        is_listed: for each row, whether its pixels are withheld, and it is listed by its address.
    """

    path: Path
    entry: Mapping[str, Any]
    rows: pa.Table
    reasons: Sequence[str | None]
    is_exported: pa.Array
    is_listed: pa.Array

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
        problem = file_problem(path, entry["sha256"])
        if problem is not None:
            raise DamagedError(f"{problem}. Nothing is exported; `vernaclip verify` lists all damaged files")
        names = [name for name in pq.read_schema(path).names if name not in PIXEL_COLUMNS]
        rows = pq.read_table(path, columns=names)
        asked = rows.select(["source", "license", "attribution", "page_url", "url"]).to_pylist()
        reasons = [policy.withheld_reason(row) for row in asked]
        listed = [bool(reason and row["url"]) for row, reason in zip(asked, reasons, strict=True)]
        exported = pa.array([reason is None for reason in reasons], pa.bool_())
        yield JudgedShard(
            path=path,
            entry=entry,
            rows=rows,
            reasons=reasons,
            is_exported=exported,
            is_listed=pa.array(listed, pa.bool_()),
        )


def sample_key(sample_id: str) -> str:
    """Return a name of a sample that is safe in any file system: 24 hexadecimal digits of its id's sha256."""
    return hashlib.sha256(sample_id.encode()).hexdigest()[:24]


FIRST, EVERY = "first", "every"
CAPTIONS = (FIRST, EVERY)


class PairSink:
    """Format without pixels, and the base class of the writers of pairs in the others.

    Args:
        folder: folder to write into.
        samples_per_shard: samples of every tar shard of a split but its last.
        captions: of tars. `FIRST`: one sample an image, whose text is its first caption; `EVERY`: one for each caption.
    """

    LOADING: ClassVar = ""  # Markdown for the card on how to load the pairs
    PATTERN: ClassVar = ""  # of the files of a split

    def __init__(self, folder: Path, *, samples_per_shard: int, captions: str) -> None:
        self.files = DataFiles(pattern=self.PATTERN)
        self._folder, self._samples_per_shard, self._captions = folder, samples_per_shard, captions

    def add(self, shard: JudgedShard) -> None:
        """Write the pairs of a shard whose pixels are exported; all shards of a split come one after the other."""

    def end(self) -> None:
        """Finish all files."""

    def _record(self, path: Path, split: str, rows: int, **more: Any) -> None:
        size, name = path.stat().st_size, path.relative_to(self._folder).as_posix()
        self.files.entries.append({"path": name, "split": split, "rows": rows, "bytes": size, **more})


class ParquetSink(PairSink):
    """Writer of pair shards below `data/`: links to the snapshot's shards if all rows are exported, else new files."""

    LOADING = LOAD_PAIRS
    PATTERN = "data/{}-*.parquet"

    def add(self, shard: JudgedShard) -> None:
        """Link a shard, or write the part of it that is exported."""
        rows, split = shard.is_exported.true_count, shard.entry["split"]
        if not rows:
            return
        path = self._folder / "data" / f"{split}-{shard.entry['shard']:05d}.parquet"
        path.parent.mkdir(exist_ok=True)
        self.files.schema = pq.read_schema(shard.path)
        if rows == len(shard.reasons):
            link_file(shard.path, path)
            found = shard.entry["sha256"]
        else:
            with open_image_writer(path, self.files.schema) as writer:
                for group in shard.pair_groups():
                    writer.write_table(group, row_group_size=group.num_rows)
            found = sha256_of(path)
        self._record(path, split, rows, sha256=found)


SIZES_FILE = "sizes.json"
# Columns of pairs that are not in KEY.json, and the number of captions that have keys of their own there.
_OMITTED = (*PIXEL_COLUMNS, "leaks")
_NUMBERED = 5
# First bytes of an image by its suffix; all others are JPEG.
_STARTS = {"webp": b"RIFF", "png": b"\x89PNG"}


class TarSink(PairSink):
    """Writer of tar shards with a fixed number of samples (`train-000000.tar` etc.) and of open_clip's `sizes.json`.

    Each sample is KEY.jpg (.webp, .png), KEY.json and KEY.txt; its key is a hash. The same pairs give the same bytes.
    """

    LOADING = """```python
import webdataset

pairs = webdataset.WebDataset("FOLDER/train-000000.tar", shardshuffle=False).decode("pil")
```

Each sample is `KEY.jpg` (or `.webp`, `.png`), `KEY.json` and `KEY.txt`. open_clip's trainer reads
`FOLDER/train-{000000..N}.tar` (`--dataset-type webdataset --train-data ...`), and reads the number of samples from
`sizes.json`. `KEY.txt` is one caption. `KEY.json` has all of them in `captions`, and the first five as `caption_0` to
`caption_4`, from which newer versions of open_clip sample with `--json-text-key` and `--json-text-key-probs`.

`datasets.load_dataset("FOLDER")` reads them, too."""
    PATTERN = "{}-*.tar"

    def __init__(self, folder: Path, *, samples_per_shard: int, captions: str) -> None:
        super().__init__(folder, samples_per_shard=samples_per_shard, captions=captions)
        self._tar: tarfile.TarFile | None = None
        self._split, self._shards, self._rows = "", Counter[str](), 0  # of the open shard: its split, its rows
        self._suffixes: set[str] = set()

    def add(self, shard: JudgedShard) -> None:
        """Write the samples of a shard."""
        for group in shard.pair_groups():
            self.files.schema = group.schema
            for row in group.to_pylist():
                key = sample_key(row["sample_id"])
                if self._captions == FIRST:
                    self._add_sample(shard.entry["split"], row, key, row["captions"][0])
                else:
                    for number, caption in enumerate(row["captions"]):
                        self._add_sample(shard.entry["split"], row, f"{key}-{number:03d}", caption)

    def _add_sample(self, split: str, row: Mapping[str, Any], key: str, caption: str) -> None:
        """Write a sample into the current shard of its split, or a new one."""
        if self._tar is None or self._split != split or self._rows == self._samples_per_shard:
            self._close()
            path = self._folder / f"{split}-{self._shards[split]:06d}.tar"
            self._tar, self._split = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT), split  # noqa: SIM115
            self._shards[split] += 1
        self._rows += 1
        image: bytes = row["image"]["bytes"]
        suffix = next((name for name, start in _STARTS.items() if image.startswith(start)), "jpg")
        self._suffixes.add(suffix)
        # KEY.json has the same keys in every sample: `caption_0` to `caption_4` repeat the first captions, null
        # if there are fewer. open_clip samples from such keys.
        values = {name: value for name, value in row.items() if name not in _OMITTED} | {"caption": caption}
        first = [*row["captions"], *[None] * _NUMBERED][:_NUMBERED]
        values |= {f"caption_{number}": text for number, text in enumerate(first)}
        text = json.dumps(values, sort_keys=True, ensure_ascii=False)
        for name, content in ((suffix, image), ("json", text.encode()), ("txt", caption.encode())):
            member = tarfile.TarInfo(f"{key}.{name}")  # time 0 and no owner, so that the bytes are reproducible
            member.size = len(content)
            self._tar.addfile(member, BytesIO(content))

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._record(Path(str(self._tar.name)), self._split, self._rows)
        self._rows = 0

    def end(self) -> None:
        """Close the last shard, write the sizes, and find the schema of samples in `datasets`."""
        self._close()
        write_json(self._folder / SIZES_FILE, {entry["path"]: entry["rows"] for entry in self.files.entries})
        if self.files.schema is not None:
            image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            fields = [column for column in self.files.schema if column.name not in _OMITTED]
            fields += [pa.field(name, pa.string()) for name in ("caption", *(f"caption_{n}" for n in range(_NUMBERED)))]
            names = [*((suffix, image) for suffix in sorted(self._suffixes)), ("json", pa.struct(fields))]
            self.files.schema = pa.schema([*names, *((name, pa.string()) for name in ("txt", "__key__", "__url__"))])


# Writers of pairs by format, one for each of `FORMATS`; lists of links go beside the pairs of every format.
SINKS: Mapping[str, type[PairSink]] = {"huggingface": ParquetSink, "webdataset": TarSink, "urls": PairSink}

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


class LinkWriter:
    """Writer of lists below `links/`, one for each split with rows: `<split>/part-00000.parquet`.

    Each list has a folder of its own, since img2dataset reads all files of a folder.
    """

    LOADING: ClassVar = """`links/SPLIT/` lists images by address, without pixels, for img2dataset:

```
img2dataset --url_list FOLDER/links/train --input_format parquet --url_col url --caption_col caption \\
  --save_additional_columns '["sample_id","license","attribution","page_url"]' \\
  --output_folder OUT --output_format webdataset
```

`sha256` is the hash of the original bytes, so `--verify_hash '["sha256","sha256"]'` detects images that have changed.
Images of Wikimedia were fetched in another size, so their hashes always differ.

`datasets.load_dataset("parquet", data_dir="FOLDER/links")` reads the lists, too."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self.files = DataFiles(name="links", pattern="links/{}/*.parquet", schema=LINKS)
        self._folder, self._policy = folder, policy
        self._rows: Counter[str] = Counter()
        self._writers: dict[str, pq.ParquetWriter] = {}

    def add(self, shard: JudgedShard) -> None:
        """List the rows whose pixels are withheld and that have a URL."""
        rows, split = shard.rows.filter(shard.is_listed).to_pylist(), shard.entry["split"]
        if not rows:
            return
        for row in rows:
            row |= {"key": sample_key(row["sample_id"]), "caption": row["captions"][0]}
            row |= {"width": row["original_width"], "height": row["original_height"]}
            row["license"] = self._policy.license(row)
        if split not in self._writers:
            path = self._path(split)
            path.parent.mkdir(parents=True)
            # Pages that end where the text says stay the same in a later export, and the hub stores them once. Shards
            # with images are uncompressed, so that the hub finds equal images by itself: more pages would only harm.
            options = {"write_page_checksum": True, "use_content_defined_chunking": True}
            self._writers[split] = pq.ParquetWriter(path, LINKS, compression="zstd", **options)
        self._writers[split].write_table(pa.Table.from_pylist(rows, schema=LINKS))
        self._rows[split] += len(rows)

    def _path(self, split: str) -> Path:
        return self._folder / "links" / split / "part-00000.parquet"

    def end(self) -> None:
        """Finish all files."""
        for split, writer in self._writers.items():
            writer.close()
            size = self._path(split).stat().st_size
            self.files.entries.append({"split": split, "rows": self._rows[split], "bytes": size})


CREDITS_FILE = "ATTRIBUTION.csv"
_CREDITS = ("key", "sample_id", "source", "split", "pixels", "license", "attribution", "page_url", "url")


@contextmanager
def credits_writer(folder: Path, policy: Policy) -> Iterator[Callable[[JudgedShard], None]]:
    """Open ATTRIBUTION.csv in a folder; yield a function that adds a line for each image that is exported or listed."""
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
