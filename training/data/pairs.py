"""Pair shards as training reads them: which files, their captions, the order of an epoch, and leaks between splits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.errors import DamagedError, InputError, SettingsError
from data_catalog.storage.shards import sha256_of

Integers = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Places = Integers

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFiles:
    """The pair shards of each split, in order: always an explicit list, never what a folder happens to hold."""

    train: tuple[Path, ...]
    val: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()

    def of(self, split: str) -> tuple[Path, ...]:
        """Files of one split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def hashes(self, sha256: Callable[[Path], str] = sha256_of) -> dict[str, list[str]]:
        """sha256 of every file, by split."""
        return {split: [sha256(path) for path in self.of(split)] for split in SPLITS}


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A piece of a pair shard that is read at once: its file, its number there, its number of samples."""

    path: Path
    number: int
    num_rows: int


def row_groups(paths: Sequence[Path]) -> list[RowGroup]:
    """All row groups of pair shards, in order.

    Raises:
        DamagedError: a file is missing or is no Parquet.
    """
    groups = []
    for path in paths:
        metadata = _open(path).metadata
        groups += [RowGroup(path, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
    return groups


def read_rows(group: RowGroup, columns: Sequence[str]) -> pa.Table:
    """Columns of one row group; `image` comes as structs of `bytes` and `path`."""
    return _open(group.path).read_row_group(group.number, columns=list(columns))


def read_captions(paths: Sequence[Path]) -> pa.ChunkedArray:
    """Captions of every sample, one list a sample, in the order of the files.

    Raises:
        DamagedError: a sample has no caption.
    """
    column = _read_column(paths, "captions", pa.list_(pa.string()))
    if any(len(captions) == 0 for captions in column):
        raise DamagedError("a pair shard holds a sample without captions: build the dataset again")
    return column


def _read_column(paths: Sequence[Path], column: str, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    chunks: list[Any] = []
    for path in paths:
        chunks += _open(path).read(columns=[column]).column(column).chunks
    return pa.chunked_array(chunks, type=None if chunks else kind or pa.string())


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise DamagedError(f"{path} cannot be read as a pair shard ({error}): run `vernaclip verify`") from error


def refuse_leaks(files: PairFiles) -> None:
    """Make sure that no image is in two splits, by identity or by the bytes it came from.

    Raises:
        InputError: one is; a training set that contains a test image is refused.
    """
    for column in ("sample_id", "sha256"):
        seen: dict[Any, str] = {}
        for split in SPLITS:
            for value in _read_column(files.of(split), column).to_pylist():
                first = seen.setdefault(value, split)
                if first != split:
                    raise InputError(
                        f"{column} {value} is in both the {first} and the {split} split: "
                        f"a training set that contains a test image is refused, so build the dataset again"
                    )


def seen_in_training(images: Sequence[Path], trained_on: Sequence[Path]) -> dict[int, str]:
    """Places of images that were trained on too, by identity or by the bytes they came from, and how that is known.

    Args:
        images: pair shards.
        trained_on: likewise.
    """
    found: dict[int, str] = {}
    for column, what in (("sha256", "the same bytes as one"), ("sample_id", "the same sample as one")):
        seen = set(_read_column(trained_on, column).to_pylist())
        own = enumerate(_read_column(images, column).to_pylist())
        found |= {place: f"{what} that was trained on" for place, value in own if value in seen}
    return found


def refuse_a_lone_image(files: PairFiles) -> None:
    """Make sure that there is something to validate on, if anything.

    Raises:
        SettingsError: the val split is of one image: it would always be found, and the first epoch's weights be kept.
    """
    if sum(group.num_rows for group in row_groups(files.val)) == 1:
        raise SettingsError(
            "the val split has one image, which has no other to be told from: hold out more, by a higher split.val or, "
            'where split.by is "upstream", by stating val of more images'
        )


def split_to_score(files: PairFiles, asked: str) -> str:
    """Return the split whose images are scored: the one that is asked for, or test where it has images, else val.

    Raises:
        SettingsError: it has none.
    """
    for split in [asked] if asked else ["test", "val"]:
        if any(group.num_rows for group in row_groups(files.of(split))):
            return split
    none = f"the {asked} split has no images" if asked else "neither the test nor the val split has images"
    raise SettingsError(
        f"{none}, so that there is nothing to score on: set split.{asked or 'val'} higher and build again, or name "
        'another split by evaluate.split; where split.by is "upstream", shares draw only from images without a stated '
        'split, so state it of more images, or say "hash"'
    )


def epoch_order(sizes: Sequence[int], *, seed: int, epoch: int, window: int) -> list[Places]:
    """The shuffled order of one epoch, in windows that fit in memory.

    Row groups are shuffled, then gathered into windows of at least `window` samples, and samples are shuffled inside
    each window: a data set that fits into one window is shuffled wholly. Depends on the arguments only.

    Args:
        sizes: number of samples of each row group.

    Returns:
        Windows, each an int64 array of shape (samples, 2) of row groups and rows within them; together they hold each
        sample once.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    windows: list[list[int]] = [[]]
    for group in generator.permutation(len(sizes)).tolist():
        if sum(sizes[index] for index in windows[-1]) >= window:
            windows.append([])
        windows[-1].append(group)
    return [generator.permutation(_places(groups, sizes)) for groups in windows]


def _places(groups: Sequence[int], sizes: Sequence[int]) -> Places:
    counts = [sizes[group] for group in groups]
    rows = [np.arange(count, dtype=np.int64) for count in counts]
    return np.stack([np.repeat(np.array(groups, dtype=np.int64), counts), np.concatenate(rows)], axis=1)


def batches_of(windows: Sequence[Places], batch_size: int) -> Iterator[Places]:
    """Full batches, in order, across the borders of windows; the rest at the end is left out."""
    rest = np.empty((0, 2), dtype=np.int64)
    for window in windows:
        places = np.concatenate([rest, window])
        full = len(places) - len(places) % batch_size
        for start in range(0, full, batch_size):
            yield places[start : start + batch_size]
        rest = places[full:]


def caption_draws(num_samples: int, *, seed: int, epoch: int) -> Floats:
    """One number in [0, 1) a sample: which of its captions this epoch takes. Depends on the arguments only."""
    return np.random.Generator(np.random.Philox(key=[seed + (1 << 32), epoch])).random(num_samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """All captions of a split, in the order of its samples.

    Args:
        starts: index of each sample's first caption.
        counts: of each sample's captions.
    """

    flat: pa.ChunkedArray
    starts: Integers
    counts: Integers

    @classmethod
    def of(cls, lists: pa.ChunkedArray) -> "Captions":
        """From one list a sample, none of them empty."""
        counts = pc.list_value_length(lists).to_numpy().astype(np.int64)
        starts = np.cumsum(counts) - counts
        # In one piece, and with 64 bits for places in it: taking from many pieces copies them all.
        flat = pc.list_flatten(lists).cast(pa.large_string()).combine_chunks()
        return cls(flat=flat, starts=starts, counts=counts)

    def __len__(self) -> int:
        """Samples."""
        return len(self.starts)

    def chosen(self, draws: Floats) -> Integers:
        """Index of the caption that a number in [0, 1) stands for, for each sample."""
        return self.starts + (draws * self.counts).astype(np.int64)

    def texts(self, indices: Integers) -> list[str]:
        """Captions by index."""
        return [str(text) for text in self.flat.take(pa.array(indices)).to_pylist()]
