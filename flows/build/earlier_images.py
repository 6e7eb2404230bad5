"""What earlier builds of a root fetched and kept, so that a build that asks for other images asks for those alone."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.fetch.fetch import FetchConfig
from data_catalog.images.tables import Row
from data_catalog.settings import what
from data_catalog.storage.shards import sha256_of
from data_catalog.storage.work import WorkStore
from flows.build.step_outputs import FETCH, SHARD, VERSIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierImages:
    """Images of the web that were asked for under the same settings: as they came, failures too.

    Local images are read again from where they lie: it costs little, and they may have changed.

    Args:
        files: step outputs, schema `RAW_IMAGES`.
        places: by `sample_id`, which of them has it.
    """

    files: tuple[Path, ...]
    places: Mapping[str, int]

    def of(self, requests: pa.Table) -> list[str]:
        """Samples among `requests` that were asked of the web before."""
        rows = requests.select(["sample_id", "path"]).to_pylist()
        return [row["sample_id"] for row in rows if row["path"] is None and row["sample_id"] in self.places]

    def merged_rows(self, sample_ids: Sequence[str], there: Sequence[str], asked: Path) -> Iterator[Row]:
        """Rows of the schema `RAW_IMAGES` in the order of `sample_ids`: of those `there`, and of those `asked`."""
        with ExitStack() as opened:
            readers = {number: opened.enter_context(_reader(self.files[number])) for number in self._files_of(there)}
            new, is_there = opened.enter_context(_reader(asked)), frozenset(there)
            for sample_id in sample_ids:
                reader = readers[self.places[sample_id]] if sample_id in is_there else new
                yield reader.row(sample_id)

    def _files_of(self, sample_ids: Sequence[str]) -> set[int]:
        return {self.places[sample_id] for sample_id in sample_ids}


class _RowReader:
    """Rows of one file by sample, one row group in memory: quick where they are asked for in the file's order."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        self._groups = {
            sample_id: number
            for number in range(file.num_row_groups)
            for sample_id in file.read_row_group(number, columns=["sample_id"]).column("sample_id").to_pylist()
        }
        self._number, self._rows = -1, dict[str, Row]()

    def row(self, sample_id: str) -> Row:
        number = self._groups[sample_id]
        if number != self._number:
            rows: list[Row] = self._file.read_row_group(number).to_pylist()
            self._number, self._rows = number, {row["sample_id"]: row for row in rows}
        return self._rows[sample_id]


@contextmanager
def _reader(path: Path) -> Iterator[_RowReader]:
    with pq.ParquetFile(path) as file:
        yield _RowReader(file)


def earlier_images(work: WorkStore, config: FetchConfig) -> EarlierImages:
    """All that builds of this root fetched with these settings and that is there and whole; what is damaged is not."""
    files: list[Path] = []
    places: dict[str, int] = {}
    has_bytes: set[str] = set()  # of which an image came once, that one is taken, whatever came of it another time
    settings = what(config)
    for folder in sorted((work.folder / FETCH).glob("*")):
        commit = work.peek(FETCH, folder.name)
        if commit is None or commit["key"]["version"] != VERSIONS[FETCH] or commit["key"]["settings"] != settings:
            continue
        path = folder / SHARD
        if sha256_of(path) == commit["files"][SHARD]:
            table = pq.read_table(path, columns=["sample_id", "drop_reason"])
            rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
            came = [sample_id for sample_id, reason in rows if reason is None]
            places |= {sample_id: len(files) for sample_id, _ in rows if sample_id not in places}
            places |= {sample_id: len(files) for sample_id in came if sample_id not in has_bytes}
            has_bytes.update(came)
            files.append(path)
    return EarlierImages(files=tuple(files), places=places)
