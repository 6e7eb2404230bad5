"""Read a published dataset as a torch `Dataset` of images with their captions."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset
from PIL import Image
from torch.utils.data import Dataset

from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.catalog.history import resolve
from data_catalog.catalog.manifest import MARKED, SPLITS, Snapshot, require_snapshot
from data_catalog.catalog.roots import open_root
from data_catalog.disk.barrier import OpenSnapshot
from data_catalog.rows.image_formats import READ_FORMATS
from data_catalog.rows.schema import PAIRS
from training.data.pairs import read_rows, row_groups
from vernaclip.catalog import Catalog

# A row group holds at most 100 images and 16 MiB.
_MOST_CACHED = 4
_ITEM = ("image", "captions")
_FACTS = tuple(name for name in PAIRS.names if name not in ("image", "original"))


class Pair(NamedTuple):
    """An image with all its captions. It unpacks as `image, captions`."""

    image: Image.Image
    captions: list[str]


class PairDataset(Dataset[Pair]):
    """The pairs of one snapshot, in the order of its files. Create it with `open_dataset`.

    Items are read from disk on access, one row group at a time, and the last few row groups are cached. `DataLoader`
    workers may be forked or spawned: they receive file names, not file contents.

    Args:
        root: folder of the catalog.
        snapshot: the snapshot to read. It does not change while newer ones are built.
        splits: names of the splits to read.
    """

    def __init__(self, root: Path, snapshot: Snapshot, splits: Sequence[str]) -> None:
        self.root, self.name, self.snapshot, self.splits = root, snapshot.dataset, snapshot.snapshot, tuple(splits)
        self._open = OpenSnapshot(root, snapshot.folder)
        self._paths = [path for split in splits for path in snapshot.pair_files(split)]
        self._groups = row_groups(self._paths)
        self._ends = list(accumulate(group.num_rows for group in self._groups))
        self._cache: dict[tuple[int, Sequence[str]], pa.Table] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Pair:
        row = self._row(index, _ITEM)
        try:
            with Image.open(BytesIO(row["image"]["bytes"]), formats=READ_FORMATS) as image:
                return Pair(image.convert("RGB"), row["captions"])
        except OSError as error:
            raise DamagedError(
                f"image {index} of {self.name} does not decode ({error}): run `vernaclip verify`"
            ) from error

    def __getitems__(self, indices: Sequence[int]) -> list[Pair]:
        """Return the items of a batch for a `DataLoader`. Each row group is read only once."""
        found = {index: self[index] for index in sorted(set(indices))}
        return [found[index] for index in indices]

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cache out of the pickled state, so that worker processes start quickly."""
        return {**self.__dict__, "_cache": {}}

    def __repr__(self) -> str:
        return f"<{self.name} {self.snapshot}, {'+'.join(self.splits)}: {len(self):,} pairs>"

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the facts about a pair: all columns of `pairs` except the images, which are not read.

        >>> import vernaclip
        >>> facts = vernaclip.open_dataset("catalog", "scenes", "val").metadata(0)
        >>> facts["split"], facts["caption_ids"][0].startswith(facts["sample_id"])
        ('val', True)
        """
        return self._row(index, _FACTS)

    def arrow(self) -> pyarrow.dataset.Dataset:
        """Return the pairs as an Arrow dataset, which reads only the requested columns and rows, batch by batch.

        DuckDB, Polars and pandas can read it directly.

        >>> import duckdb, vernaclip
        >>> pairs = vernaclip.open_dataset("catalog", "scenes").arrow()
        >>> pairs.head(2, columns=["sample_id", "captions"]).num_rows
        2
        >>> duckdb.sql("SELECT max(len(captions)) FROM pairs").fetchall()[0][0] >= 1
        True

        Raises:
            DamagedError: a take-down removed the snapshot. An Arrow dataset returned earlier is not invalidated.
        """
        self._open.require_present()
        if not self._paths:
            return pyarrow.dataset.dataset(PAIRS.empty_table())
        options = pyarrow.dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
        parquet = pyarrow.dataset.ParquetFileFormat(default_fragment_scan_options=options)
        return pyarrow.dataset.dataset([str(path) for path in self._paths], schema=PAIRS, format=parquet)

    def duckdb(self) -> Catalog:
        """Return the catalog's DuckDB views, for SQL on the newest snapshots with the restrictions of `vernaclip sql`.

        >>> import vernaclip
        >>> catalog = vernaclip.open_dataset("catalog", "scenes").duckdb()
        >>> catalog.sql("SELECT step, dropped FROM funnel WHERE dropped > 0").num_rows > 0
        True
        """
        return Catalog(self.root)

    def _row(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return one row as plain Python values."""
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"index {index} is out of range: {self!r}")
        number = bisect_right(self._ends, place)
        start = self._ends[number] - self._groups[number].num_rows
        found: dict[str, Any] = self._table(number, columns).slice(place - start, 1).to_pylist()[0]
        return found

    def _table(self, number: int, columns: Sequence[str]) -> pa.Table:
        self._open.require_present()
        table = self._cache.pop((number, columns), None)
        if table is None:
            group = self._groups[number]
            try:
                table = read_rows(group, columns)
            except (DamagedError, OSError, pa.ArrowInvalid) as error:
                self._open.require_present()  # raise the clearer error if a take-down removed the file
                raise DamagedError(f"{group.path} cannot be read ({error}): run `vernaclip verify`") from error
        # Insert last, so that the dict's order is the order of last use.
        self._cache[number, columns] = table
        while len(self._cache) > _MOST_CACHED:
            del self._cache[next(iter(self._cache))]
        return table


def open_dataset(
    root: str | PathLike[str], name: str, split: str | None = None, *, snapshot: str | None = None
) -> PairDataset:
    """Open a dataset of a catalog for indexing, training or SQL.

    >>> import vernaclip
    >>> pairs = vernaclip.open_dataset("catalog", "scenes", "train")
    >>> image, captions = pairs[0]
    >>> image.mode, type(captions[0])
    ('RGB', <class 'str'>)

    Captions are lists of different lengths, so a `DataLoader` needs a `collate_fn`:

    >>> from torch.utils.data import DataLoader
    >>> loader = DataLoader(pairs, batch_size=8, shuffle=True, collate_fn=list)
    >>> len(next(iter(loader)))
    8

    Args:
        root: folder of the catalog.
        name: name of the dataset, as `vernaclip catalog` lists it.
        split: "train", "val" or "test"; or "marked", for pairs that match a test set and were set aside. None opens
            train, val and test together.
        snapshot: id of a snapshot, its first characters, or "previous". None opens the current snapshot.

    Raises:
        SettingsError: there is no such dataset, snapshot or split.
        DamagedError: a file is missing or damaged, or a take-down is unfinished.
    """
    folder = Path(root)
    open_root(folder, writes=False)
    known = (*SPLITS, MARKED)
    if split is not None and split not in known:
        raise SettingsError(f"there is no split {split!r}: name one of {', '.join(known)}")
    found = require_snapshot(folder, name) if snapshot is None else resolve(folder, [snapshot], name)[0]
    return PairDataset(folder, found, SPLITS if split is None else (split,))
