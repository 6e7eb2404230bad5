"""Where images that tombstones mean are seen below a root, and what else they are known by: bytes and addresses."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.errors import ConfigError
from data_catalog.sources.urls import address_key
from data_catalog.storage.manifest import Snapshot, committed_snapshots, datasets_folder
from data_catalog.take_down.matching import COLUMNS, LINE_COLUMNS, Matcher
from data_catalog.take_down.rows import of_samples
from data_catalog.tombstones import Tombstone, Tombstones


@dataclass(slots=True)
class Found:
    """What a tombstone's images are known by.

    Args:
        images: sha256 of good images, as they came.
        addresses: see `data_catalog.tombstones.address_key`; those alone that the tombstone itself does not tell.
        samples: of images that have no address.
    """

    images: set[str] = field(default_factory=set)
    addresses: set[str] = field(default_factory=set)
    samples: set[str] = field(default_factory=set)


def all_snapshots(root: Path) -> Iterator[Snapshot]:
    """Every committed snapshot of a root, by dataset and id. Raises `ConfigError` where a manifest is damaged."""
    for folder in sorted(path for path in datasets_folder(root).glob("*") if path.is_dir()):
        yield from committed_snapshots(root, folder.name)


def samples_in(files: Iterable[Path], matcher: Matcher) -> dict[str, int]:
    """The samples in some Parquet files that are meant, with the number of a tombstone each."""
    found: dict[str, int] = {}
    for path in files:
        for sample_id, number in matcher.samples(_read(path)).items():
            found.setdefault(sample_id, number)
    return found


def lines_in(files: Iterable[Path], matcher: Matcher) -> list[str]:
    """The `sample_id` of unread lines in some files of caption rows that name what is meant."""
    names = ["sample_id", "step", *LINE_COLUMNS]
    tables = (_read(path, names) for path in files if set(names) <= set(_schema(path).names))
    return [sample_id for table in tables for sample_id in matcher.lines(table)]


def is_concerned(files: Sequence[Path], matcher: Matcher) -> bool:
    """Whether files hold anything of what is meant."""
    return bool(samples_in(files, matcher) or lines_in(files, matcher))


def files_of(snapshot: Snapshot) -> list[Path]:
    """The files of a snapshot that tell samples."""
    return [*snapshot.caption_files(), *snapshot.image_files(), *snapshot.all_pair_files()]


def work_files(work: Path) -> list[Path]:
    """The step outputs that have a row a sample, committed ones alone."""
    found = sorted(path for path in work.glob("*/*/*.parquet") if not path.parent.name.startswith("."))
    return [path for path in found if "sample_id" in _schema(path).names]


def with_sightings(root: Path, tombstones: Tombstones) -> Tombstones:
    """Tombstones that know the bytes and addresses of all their images that a root has, and of byte-equal copies.

    Copies may be copied again at other addresses, so it is looked until nothing new is found.
    """
    while True:
        grown = tombstones
        for dataset, files in _places(root):
            matcher = Matcher(tombstones if dataset is None else tombstones.of(dataset))
            grown = _with_found(grown, matcher, _known_by(files, matcher))
        if grown == tombstones:
            return tombstones
        tombstones = grown


def _places(root: Path) -> Iterator[tuple[str | None, Sequence[Path]]]:
    """Files that are looked through together: each snapshot's, and the step outputs, which are of any dataset."""
    for snapshot in all_snapshots(root):
        yield snapshot.dataset, files_of(snapshot)
    yield None, work_files(root / "work")


def _known_by(files: Sequence[Path], matcher: Matcher) -> dict[int, Found]:
    samples = samples_in(files, matcher)
    found: dict[int, Found] = {}
    for path in files if samples else ():
        table = _read(path)
        table = table.filter(of_samples(table, samples))
        numbers = [samples[sample_id] for sample_id in table.column("sample_id").to_pylist()]
        if "sha256" in table.schema.names:
            _add_images(found, numbers, table)
        if "url" in table.schema.names:
            _add_addresses(found, numbers, table.column("url").combine_chunks(), matcher)
            _add_samples(found, table, samples)
    return found


def _add_images(found: dict[int, Found], numbers: Sequence[int], table: pa.Table) -> None:
    hashes = table.column("sha256").to_pylist()
    # Of files that are no good images the bytes say nothing: one web page stands for many that are gone.
    reasons = table.column("drop_reason").to_pylist() if "drop_reason" in table.schema.names else [None] * len(hashes)
    for number, sha256, reason in zip(numbers, hashes, reasons, strict=True):
        if sha256 is not None and reason is None:
            found.setdefault(number, Found()).images.add(sha256)


def _add_addresses(found: dict[int, Found], numbers: Sequence[int], urls: pa.Array, matcher: Matcher) -> None:
    untold = np.flatnonzero((matcher.by_url(urls) < 0) & pc.is_valid(urls).to_numpy(zero_copy_only=False))
    for row, url in zip(untold.tolist(), urls.take(pa.array(untold)).to_pylist(), strict=True):
        found.setdefault(numbers[row], Found()).addresses.add(address_key(url))


def _add_samples(found: dict[int, Found], table: pa.Table, samples: Mapping[str, int]) -> None:
    """Local images: what is written of their captions before they are decoded tells nothing else of them."""
    local = table.filter(pc.is_null(table.column("url")))
    for sample_id in local.column("sample_id").unique().to_pylist():
        found.setdefault(samples[sample_id], Found()).samples.add(sample_id)


def _with_found(tombstones: Tombstones, matcher: Matcher, found: dict[int, Found]) -> Tombstones:
    by_identity = {matcher.tombstones.tombstones[number].identity: known for number, known in found.items()}

    def grown(one: Tombstone) -> Tombstone:
        known = by_identity.get(one.identity, Found())
        return one.with_found(known.images, known.addresses, known.samples)

    return replace(tombstones, tombstones=tuple(grown(one) for one in tombstones.tombstones))


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path) from error


def _read(path: Path, columns: Sequence[str] = COLUMNS) -> pa.Table:
    """Some columns, by default those that tell whether a row is meant, of those that the file has."""
    names = _schema(path).names
    try:
        return pq.read_table(path, columns=[name for name in columns if name in names])
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is missing or damaged, so that nobody knows whether it holds what is to be forgotten: remove the "
        f"folder {path.parents[1] if path.parent.name in ('captions', 'images', 'pairs') else path.parent} and run "
        "the same command again"
    )
