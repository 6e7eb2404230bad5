"""Lists of images without pixels, as img2dataset reads them: address, caption, rights; a Parquet file a split."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.exports.judged import JudgedShard, sample_key
from data_catalog.exports.rights import Policy

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
            "license": self._policy.licence(row),
            **{name: row[name] for name in _COPIED},
        }
