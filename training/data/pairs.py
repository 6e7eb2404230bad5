"""Read pair shards for training: their files, captions, the order of an epoch, and leaks between splits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.catalog.manifest import SPLITS, Snapshot
from data_catalog.disk.files import sha256_of
from training.config import HELD_OUT

Integers = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFiles:
    """The pair shards of each split, in order. Always an explicit list, never the content of a folder."""

    train: tuple[Path, ...]
    val: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()

    def of(self, split: str) -> tuple[Path, ...]:
        """Return the files of a split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def hashes(self, sha256: Callable[[Path], str] = sha256_of) -> dict[str, list[str]]:
        """Return the sha256 of every file, by split."""
        return {split: [sha256(path) for path in self.of(split)] for split in SPLITS}


def pair_files(snapshot: Snapshot) -> PairFiles:
    """Return the pair shards of a snapshot by split."""
    return PairFiles(**{split: snapshot.pair_files(split) for split in SPLITS})


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group of a pair shard, the unit of reading: its file, its number in the file, and its number of samples."""

    path: Path
    number: int
    num_rows: int


def row_groups(paths: Sequence[Path]) -> list[RowGroup]:
    """Return all row groups of pair shards, in order."""
    groups = []
    for path in paths:
        metadata = _open(path).metadata
        groups += [RowGroup(path, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
    return groups


def read_rows(group: RowGroup, columns: Sequence[str]) -> pa.Table:
    """Read columns of one row group. The column `image` contains structs of `bytes` and `path`."""
    return _open(group.path).read_row_group(group.number, columns=list(columns))


def read_captions(paths: Sequence[Path]) -> pa.ChunkedArray:
    """Return one list of captions per sample, none of them empty, in the order of the files."""
    column = _read_column(paths, "captions", pa.list_(pa.string()))
    if pc.min(pc.list_value_length(column)).as_py() == 0:  # the sample would get a caption of the next one
        raise DamagedError("a pair shard contains a sample without captions: build the dataset again")
    return column


def _read_column(paths: Sequence[Path], column: str, kind: pa.DataType) -> pa.ChunkedArray:
    chunks = [chunk for path in paths for chunk in _open(path).read(columns=[column]).column(column).chunks]
    return pa.chunked_array(chunks, type=None if chunks else kind)


def _open(path: Path) -> pq.ParquetFile:
    with about(f"{path} cannot be read as a pair shard", kind=DamagedError, remedy="run `vernaclip verify`"):
        return pq.ParquetFile(path, page_checksum_verification=True)


def _identities(paths: Sequence[Path], column: str) -> list[str]:
    found: list[str] = _read_column(paths, column, pa.string()).to_pylist()
    return found


def refuse_leaks(files: PairFiles) -> None:
    """Refuse splits that share an image, by its id or its original bytes, so that training could see a test image."""
    for column in ("sample_id", "sha256"):
        seen: dict[str, str] = {}
        for split in SPLITS:
            for value in _identities(files.of(split), column):
                first = seen.setdefault(value, split)
                if first != split:
                    raise InputError(
                        f"{column} {value} is in both the {first} and the {split} split. "
                        f"Training sets must not contain test images: build the dataset again"
                    )


def seen_in_training(images: Sequence[Path], trained_on: Sequence[Path]) -> dict[int, str]:
    """Return the places of images that were also trained on, by id or by original bytes, each with the reason."""
    found: dict[int, str] = {}
    for column, what in (("sha256", "the same bytes"), ("sample_id", "the same sample")):
        seen = set(_identities(trained_on, column))
        own = enumerate(_identities(images, column))
        found |= {place: f"{what} as one that was trained on" for place, value in own if value in seen}
    return found


def require_several_validation_images(files: PairFiles) -> None:
    """Refuse a validation split of one image: that is always found, so the first epoch would be kept."""
    if sum(group.num_rows for group in row_groups(files.val)) == 1:
        raise SettingsError(
            "the val split has one image, and validation needs at least two. Hold out more images with a higher "
            'split.val or, if split.by is "upstream", assign val to more images'
        )


def split_to_score(files: PairFiles, requested: str) -> str:
    """Return the split to score: the requested one, or if that is "", test if it has images, otherwise val."""
    for split in [requested] if requested else HELD_OUT:
        if any(group.num_rows for group in row_groups(files.of(split))):
            return split
    none = f"the {requested} split has no images" if requested else "neither the test nor the val split has images"
    raise SettingsError(
        f"{none}, so there is nothing to score on. Set split.{requested or 'val'} higher and build again, or choose "
        'another split with evaluate.split. If split.by is "upstream", shares draw only from images without a '
        'stated split: state a split for more images, or set split.by to "hash"'
    )


def epoch_order(sizes: Sequence[int], *, seed: int, epoch: int, window: int) -> list[Integers]:
    """Return the shuffled samples of one epoch, in windows that fit in memory. Together they contain each once.

    Row groups of these sizes are shuffled and gathered into windows of at least `window` samples. Samples are then
    shuffled inside each window, so a dataset that fits into one window is shuffled completely. The order depends only
    on the arguments.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    windows: list[list[int]] = [[]]
    for group in generator.permutation(len(sizes)).tolist():
        if sum(sizes[index] for index in windows[-1]) >= window:
            windows.append([])
        windows[-1].append(group)
    ends = np.cumsum(sizes)
    samples = [[np.arange(ends[group] - sizes[group], ends[group]) for group in groups] for groups in windows]
    return [generator.permutation(np.concatenate(parts)) for parts in samples]


def batches_of(windows: Sequence[Integers], batch_size: int) -> Iterator[Integers]:
    """Yield full batches in order, also across window borders. Samples left over at the end are dropped."""
    rest = np.empty(0, dtype=np.int64)
    for window in windows:
        samples = np.concatenate([rest, window])
        full = len(samples) - len(samples) % batch_size
        yield from samples[:full].reshape(-1, batch_size)
        rest = samples[full:]


@dataclass(frozen=True, slots=True)
class Captions:
    """The captions of a split, in the order of its samples."""

    flat: pa.ChunkedArray  # all captions, one after another
    starts: Integers  # index of each sample's first caption
    counts: Integers  # number of each sample's captions

    @classmethod
    def of(cls, lists: pa.ChunkedArray) -> "Captions":
        """Create the captions from one list per sample, none of them empty."""
        counts = pc.list_value_length(lists).to_numpy().astype(np.int64)
        # Combine into one chunk with 64-bit offsets: taking from many chunks copies them all.
        flat = pc.list_flatten(lists).cast(pa.large_string()).combine_chunks()
        return cls(flat, np.cumsum(counts) - counts, counts)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.starts)

    def drawn(self, *, seed: int, epoch: int) -> Integers:
        """Return the index of one random caption per sample, which depends only on the arguments."""
        draws = np.random.Generator(np.random.Philox(key=[seed + (1 << 32), epoch])).random(len(self))
        return self.starts + (draws * self.counts).astype(np.int64)

    def of_sample(self, sample: int) -> list[str]:
        """Return all captions of a sample."""
        return [str(text) for text in self.flat.slice(self.starts[sample], self.counts[sample]).to_pylist()]

    def texts(self, indices: Integers) -> list[str]:
        """Return captions by index."""
        return [str(text) for text in self.flat.take(pa.array(indices)).to_pylist()]
