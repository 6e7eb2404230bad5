"""Publish finished captions and images shard by shard, and commit the files of a snapshot."""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from annotated_types import Interval

from data_catalog.base.errors import DefectError, SettingsError
from data_catalog.catalog.duckdb_file import broken_laws, recounted
from data_catalog.catalog.manifest import (
    MANIFEST_FORMAT,
    MARKED,
    SPLITS,
    UPSTREAM,
    BuildFacts,
    DocumentEntry,
    FileEntry,
    Manifest,
    Snapshot,
    commit_snapshot,
    committed_snapshots,
    current_snapshot,
    file_entry,
    point_to,
    read_snapshot,
    snapshot_folder,
)
from data_catalog.catalog.work import Commit, damaged_output
from data_catalog.disk.failpoints import failpoint
from data_catalog.disk.files import (
    IMAGE_ROWS_PER_GROUP,
    TEMPORARY_PREFIX,
    digest,
    link_file,
    open_image_writer,
    save_parquet,
    unit_interval,
    write_named_atomically,
)
from data_catalog.disk.row_groups import IMAGE_COLUMNS, Row, groups_of, read_groups, write_rows
from data_catalog.exports.rights import strictness
from data_catalog.fetch.outcomes import SPARE, Fetching, unpublished_outcomes
from data_catalog.rows.fetch_reasons import image_step
from data_catalog.rows.schema import IMAGES, KEPT, OUTCOMES, PAIRS, PENDING, SCORE, SCORED_PAIRS

KINDS = ("pairs", "captions", "images", "spare")
RIGHTS = ("license", "attribution", "page_url")
Files = dict[str, list[FileEntry]]  # entries of a manifest, by kind
WriteDocuments = Callable[[Path, Manifest], list[DocumentEntry]]
_GROUP_BYTES = 128 * 1024 * 1024
# The parallel lists of a pair, and the column of caption rows that each is made from.
_LISTS = {
    "caption_ids": "caption_id",
    "captions": "caption",
    "source_captions": "source_caption",
    "source_langs": "source_lang",
    "translators": "translator",
    "origins": "origin",
    "scores": "translation_score",
    "image_text_scores": SCORE,
}
_OF_IMAGE = ("width", "height", "original_width", "original_height", "sha256", "phash", "original")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Split of the samples: upstream's own splits, and shares drawn by a hash of each sample's id."""

    by: Literal["upstream", "hash"] | None = None
    """Origin of the splits: "upstream" keeps those that sources state and draws the rest; "hash" (the default) draws
    all. Required if a source states splits."""
    val: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    """Share of images to validate on."""
    test: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of images to test on."""
    salt: str = "vernaclip"
    """Text hashed with each sample's id. Another text draws other splits."""

    def __post_init__(self) -> None:
        if not self.val + self.test < 1:
            raise SettingsError(
                f"split.val {self.val} and split.test {self.test} leave nothing to train on: lower one of them"
            )

    def require_choice(self, stating: Sequence[str]) -> None:
        """Check that `by` is set if some sources, given by name, state splits, and is not "upstream" if none does."""
        if stating and self.by is None:
            names = f"sources {', '.join(stating)} state" if len(stating) > 1 else f"source {stating[0]} states"
            raise SettingsError(f'{names} splits: set [split] by = "upstream" to keep them, or "hash" to ignore them')
        if self.by == UPSTREAM and not stating:
            raise SettingsError(
                'split.by is "upstream", and no source states splits: name their column (split_column), put their '
                'lists beside the captions, or set split.by = "hash"'
            )


def split_of(sample_id: str, config: SplitConfig, stated: Iterable[str | None] = ()) -> str:
    """Return the split of a sample; the same id, stated splits, shares and salt always give the same split.

    Of the splits that upstream states in the rows of the sample, the last of `SPLITS` wins.
    """
    if config.by == UPSTREAM and (kept := [split for split in stated if split is not None]):
        return max(kept, key=SPLITS.index)
    position = unit_interval(sample_id, config.salt)
    if position < config.test:
        return "test"
    return "val" if position < config.test + config.val else "train"


def publish_shard(
    captions: Path,
    images: Path,
    folder: Path,
    *,
    config: SplitConfig,
    image_rows: Sequence[str],
) -> dict[str, int]:
    """Write the files of one shard into a folder; return the number of rows of each, by its name without suffix.

    They are `captions`, `images` (outcomes) and, if they have rows, `spare` (good images that no pair uses, kept for
    later builds) and the pairs of each split; marked pairs are in no split, but in a file of their own.

    Captions (schema `CAPTIONS`) that are to be kept have the outcome pending, images the schema `IMAGES`. `image_rows`
    are the rows of the funnel that drop captions whose images were requested.
    """
    table = pq.read_table(captions)
    place, outcome = table.schema.get_field_index("outcome"), table.column("outcome")
    outcome = pc.if_else(pc.equal(outcome, PENDING), KEPT, outcome)
    table = table.set_column(place, table.schema.field(place), outcome)
    save_parquet(table, folder / "captions.parquet")
    outcomes = _outcomes(table, images, image_rows)
    save_parquet(outcomes, folder / "images.parquet")
    rows = {"captions": table.num_rows, "images": outcomes.num_rows}
    samples = _kept_rows(table)
    spare = {
        row["sample_id"]: row
        for row in outcomes.to_pylist()
        if row["drop_reason"] is None and row["url"] is not None and row["sample_id"] not in samples
    }
    if spare:
        good = ((image, spare[image["sample_id"]]) for image in _good_images(images, spare))
        pictures = (row | {name: image[name] for name in IMAGE_COLUMNS} for image, row in good)
        write_rows(pictures, SPARE, folder / "spare.parquet")
        rows["spare"] = len(spare)
    rights = strictest_rights(table.select(["sample_id", *RIGHTS]).to_pylist())
    stated = defaultdict[str, set[str | None]](set)
    for row in table.select(["sample_id", "upstream_split"]).to_pylist():  # dropped rows count, too
        stated[row["sample_id"]].add(row["upstream_split"])
    by_split = defaultdict[str, dict[str, list[Row]]](dict)
    for name, kept in samples.items():
        split = MARKED if any(row["leaks"] for row in kept) else split_of(name, config, stated[name])
        by_split[split][name] = kept
    schema = SCORED_PAIRS if SCORE in table.schema.names else PAIRS
    for split, chosen in by_split.items():
        pairs = (pair_row(chosen[image["sample_id"]], image, split=split) for image in _good_images(images, chosen))
        _write_pairs((pair | rights[pair["sample_id"]] for pair in pairs), schema, folder / f"{split}.parquet")
        rows[split] = len(chosen)
    return rows


def _outcomes(captions: pa.Table, images: Path, image_rows: Sequence[str]) -> pa.Table:
    """Return rows of the schema `OUTCOMES`, one for each requested image of a shard."""
    came = pc.is_in(captions.column("step"), pa.array([*image_rows, None], pa.string()))
    asked = captions.filter(came).select(["sample_id", "source", "url", "path"]).to_pylist()
    samples = {row["sample_id"]: row for row in reversed(asked)}  # the request used the first caption's URL
    rows = pq.read_table(images, columns=[name for name in OUTCOMES.names if name in IMAGES.names]).to_pylist()
    for row in rows:
        canonical = row["url"]
        row |= samples[row["sample_id"]]
        if row["path"] is not None:  # a stated URL has no outcome, since nobody asked for it
            row["url"] = None
        row["canonical_url"] = None if canonical == row["url"] else canonical
        row["step"] = image_step(row["drop_reason"]) if row["drop_reason"] else None
    return pa.Table.from_pylist(rows, schema=OUTCOMES)


def _kept_rows(table: pa.Table) -> dict[str, list[Row]]:
    """Return kept caption rows by sample, in shard order."""
    samples: dict[str, list[Row]] = {}
    for row in table.filter(pc.equal(table.column("outcome"), KEPT)).to_pylist():
        samples.setdefault(row["sample_id"], []).append(row)
    return samples


def strictest_rights(own: Iterable[Row], merged: Iterable[Row] = ()) -> dict[str, Row]:
    """Return license, attribution and page of each sample, from its row with the strictest license, else its first row.

    Rows that an older build `merged` into the image named in `merged_into` count only if they state a license, since
    they describe another file. Dropped rows of the sample's own count, too.
    """
    stated = [(row["sample_id"], row) for row in own] + [(row["merged_into"], row) for row in merged if row["license"]]
    stated.sort(key=lambda one: (strictness(one[1]["license"]), *(one[1][name] is None for name in RIGHTS[1:])))
    return {sample_id: {name: row[name] for name in RIGHTS} for sample_id, row in reversed(stated)}


def _good_images(images: Path, wanted: Container[str]) -> Iterator[Row]:
    for row in chain.from_iterable(read_groups(images)):
        if row["drop_reason"] is None and row["sample_id"] in wanted:
            if row["bytes"] is None:
                raise DefectError(f"the good image of {row['sample_id']} has no bytes. This is a defect: report it")
            yield row


def pair_row(rows: Sequence[Row], image: Row, *, split: str) -> Row:
    """Return one published row, without its rights, from an image and its kept captions, the sample's own first."""
    return {
        **{name: rows[0][name] for name in ("sample_id", "source", "url")},
        "split": split,
        "image": {"bytes": image["bytes"], "path": None},
        **{name: image[name] for name in _OF_IMAGE},
        "leaks": sorted({mark for row in rows for mark in row["leaks"] or ()}) or None,
        **{name: [row.get(column) for row in rows] for name, column in _LISTS.items()},
    }


def _write_pairs(pairs: Iterable[Row], schema: pa.Schema, path: Path) -> None:
    def num_bytes(pair: Row) -> int:
        return len(pair["image"]["bytes"]) + len(pair["original"] or b"")

    with open_image_writer(path, schema) as writer:
        for rows in groups_of(pairs, num_bytes, most_rows=IMAGE_ROWS_PER_GROUP, most_bytes=_GROUP_BYTES):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def write_snapshot(
    root: Path,
    facts: BuildFacts,
    outputs: Sequence[Commit],
    *,
    carry: Callable[[Path, Sequence[Path]], Iterable[FileEntry]],
    write_documents: WriteDocuments,
) -> Snapshot:
    """Write the files of a build's snapshot, and commit it, unless it is there.

    `outputs` are those of `publish_shard`, in shard order. `carry` writes images to carry over for later builds, given
    the snapshot's folder and its files of image outcomes, and returns their entries of the manifest.
    """
    dataset = facts["dataset"]
    contents = [sorted(output.files.items()) for output in outputs]
    # After a tombstone was lifted, the same files make another snapshot, which a later build finds up to date.
    identities = facts["tombstones"].get("identities", [])
    snapshot_id = digest([facts["build_key"], facts["attempt"], contents, *([identities] if identities else [])])[:12]
    same = read_snapshot(root, dataset, snapshot_id)
    if same is not None:  # a committed snapshot is never written again
        return make_current(root, same)
    folder = snapshot_folder(root, dataset, snapshot_id)
    if folder.is_dir():  # a killed build left it
        shutil.rmtree(folder)
    failpoint("snapshot.before_files", folder)
    there = {  # a file that another snapshot has is linked and takes no space
        entry["sha256"]: snapshot.folder / entry["path"]
        for snapshot in committed_snapshots(root, dataset)
        for entry in snapshot.entries()
    }
    files: Files = {kind: [] for kind in KINDS}
    for number, output in enumerate(outputs):
        for stem in ("captions", "images", "spare", *SPLITS, MARKED):
            if stem in output.facts["rows"]:
                kind = stem if stem in KINDS else "pairs"
                files[kind].append(_linked(output, stem, folder, number, there))
    files["spare"] += carry(folder, [folder / entry["path"] for entry in files["images"]])
    failpoint("snapshot.after_files", folder)
    manifest = cast("Manifest", {**facts, "format": MANIFEST_FORMAT, "snapshot": snapshot_id, "files": files})
    return make_current(root, commit(root, manifest, write_documents=write_documents))


def _linked(output: Commit, stem: str, folder: Path, number: int, there: Mapping[str, Path]) -> FileEntry:
    """Link a published file of a shard into a snapshot's folder; return the manifest's entry of it."""
    own = output.path(f"{stem}.parquet")
    sha256 = output.files[own.name]
    place = {"captions": "captions", "images": "images", "spare": "images"}.get(stem, "pairs")
    path = folder / place / f"{stem}-{number:05d}-{sha256[:12]}.parquet"
    for source in (there.get(sha256), own):
        if source is not None and source.is_file():
            link_file(source, path)
            failpoint("snapshot.after_link", path)
            split = {"split": stem} if place == "pairs" else {}
            entry = file_entry(path, folder, rows=output.facts["rows"][stem], shard=number, **split)
            if entry["sha256"] == sha256:
                return entry
            path.unlink()
    raise damaged_output(own)


def write_carried(
    root: Path,
    fetching: Fetching,
    folder: Path,
    published: Sequence[Path],
    *,
    is_gone: Callable[[pa.Table], list[bool]],
) -> Iterator[FileEntry]:
    """Write the images that unfinished builds of the dataset have and this one did not request; yield their entry.

    `published` are the snapshot's files of image outcomes; `is_gone` returns which rows of a table a take-down removes.
    """
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY_PREFIX}carried-", dir=folder) as scratch:
        rows = unpublished_outcomes(root, fetching, published, is_gone, Path(scratch))
        first = next(rows, None)
        if first is not None:
            path = write_named_atomically(
                folder / "images",
                lambda found: f"spare-carried-{found[:12]}.parquet",
                lambda path: write_rows(chain([first], rows), SPARE, path),
            )
            yield file_entry(path, folder, rows=pq.read_metadata(path).num_rows)


def commit(root: Path, manifest: Manifest, *, write_documents: WriteDocuments) -> Snapshot:
    """Check the laws on the files of a snapshot, write its documents and its manifest: builds and take-downs end here.

    A take-down counts its funnel on its own rows, since no step counted them.
    """
    dataset, snapshot_id = manifest["dataset"], manifest["snapshot"]
    folder = snapshot_folder(root, dataset, snapshot_id)
    snapshot = Snapshot(dataset=dataset, snapshot=snapshot_id, folder=folder, manifest=manifest)
    counts = recounted(snapshot)
    if "forget_of" in manifest:
        manifest["funnel"] = counts["funnel"]
    broken = broken_laws(snapshot)
    if broken:
        raise DefectError(
            f"the snapshot is not committed, since it breaks: {'; '.join(broken)}. This is a defect: report it"
        )
    manifest["drop_reasons"] = counts["drop_reasons"]
    manifest["documents"] = write_documents(folder, manifest)
    return commit_snapshot(root, manifest, is_current=False)


def make_current(root: Path, snapshot: Snapshot) -> Snapshot:
    """Make a snapshot the dataset's current one, unless it has no pairs and the current one has some."""
    current = None if snapshot.num_pairs else current_snapshot(root, snapshot.dataset)
    if current is None or not current.num_pairs:
        point_to(root, snapshot.dataset, snapshot.snapshot)
    return snapshot
