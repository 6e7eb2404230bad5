"""Translations as recorded facts: what an engine once said of a caption is never asked again.

One Parquet file per chunk in a folder per engine fingerprint; files appear whole or not at all. One process writes.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.errors import ConfigError
from data_catalog.shards import digest, write_parquet
from translation.engine import Translation

logger = logging.getLogger(__name__)

MEMORY = pa.schema(
    [
        pa.field("source_caption", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("repetitive", pa.bool_(), nullable=False),
    ]
)


class TranslationMemory:
    """All recorded translations of one engine; they are read once, about 150 bytes a caption, and kept in Arrow.

    Args:
        folder: holds the memories of all engines.
        fingerprint: of the engine, see `Translator.fingerprint`.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.folder = folder / fingerprint.replace(":", "-")
        self._loaded: pa.Table | None = None

    def known(self, captions: Iterable[str]) -> dict[str, Translation]:
        """The recorded translations of those of the captions that have one."""
        rows = self._rows_of(captions).to_pylist()
        # Where files disagree, which one writer never lets happen, the first by name holds.
        return {
            row["source_caption"]: Translation(
                text=row["caption"], score=row["score"], truncated=row["truncated"], repetitive=row["repetitive"]
            )
            for row in reversed(rows)
        }

    def missing(self, captions: Iterable[str]) -> list[str]:
        """The distinct captions without a recorded translation, in the order given."""
        distinct = list(dict.fromkeys(captions))
        known = set(self._rows_of(distinct).column("source_caption").to_pylist())
        return [caption for caption in distinct if caption not in known]

    def record(self, chunk_key: str, captions: Sequence[str], translations: Sequence[Translation]) -> None:
        """Write a chunk's translations for good; captions that have one already keep it.

        Args:
            chunk_key: names the chunk, usable in a file name; the same chunk may be recorded again without effect.
        """
        new = set(self.missing(captions))
        rows = {caption: found for caption, found in zip(captions, translations, strict=True) if caption in new}
        if not rows:
            return
        table = _table(rows)
        loaded = self._table()
        write_parquet(table, self.folder / f"{chunk_key}-{digest(list(rows))[:12]}.parquet")
        self._loaded = pa.concat_tables([loaded, table])

    def _rows_of(self, captions: Iterable[str]) -> pa.Table:
        table = self._table()
        wanted = pa.array(list(captions), pa.string())
        return table.filter(pc.is_in(table.column("source_caption"), value_set=wanted))

    def _table(self) -> pa.Table:
        if self._loaded is None:
            files = sorted(self.folder.glob("*.parquet"))
            self._loaded = pa.concat_tables([_read(file) for file in files] or [MEMORY.empty_table()])
            logger.debug("%d recorded translations in %s", self._loaded.num_rows, self.folder)
        return self._loaded


def _table(rows: dict[str, Translation]) -> pa.Table:
    found = rows.values()
    columns = [
        list(rows),
        [item.text for item in found],
        [item.score for item in found],
        [item.truncated for item in found],
        [item.repetitive for item in found],
    ]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, MEMORY, strict=True)], MEMORY)


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=MEMORY, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"the translation memory {path} is damaged ({error}): remove it, and its captions are translated again"
        ) from error
