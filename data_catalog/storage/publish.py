"""Publish finished captions and images shard by shard, and commit their files as a snapshot."""

import shutil
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.database.catalog import examined
from data_catalog.database.lookup import LOOKUP_KIND, write_lookup
from data_catalog.errors import DamagedError, DefectError, SettingsError
from data_catalog.exports.rights import strictness
from data_catalog.fetch.outcomes import SPARE, Fetching, unpublished_outcomes
from data_catalog.fetch.reasons import image_step
from data_catalog.images.tables import groups_of, read_groups, write_rows
from data_catalog.schema import (
    IMAGES,
    KEPT,
    OUTCOMES,
    PAIRS,
    PENDING,
    SCORE,
    SCORED_PAIRS,
)
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.manifest import (
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
from data_catalog.storage.shards import (
    IMAGE_ROWS_PER_GROUP,
    TEMPORARY_PREFIX,
    digest,
    link_file,
    open_image_writer,
    save_parquet,
    sweep_temporary,
    unit_interval,
    write_named_atomically,
)
from data_catalog.storage.work import Commit

KINDS = ("pairs", "captions", "images", "spare")
WriteDocuments = Callable[[Path, Manifest], list[DocumentEntry]]
_GROUP_BYTES = 128 * 1024 * 1024
RIGHTS = ("license", "attribution", "page_url")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Split of the samples: upstream's own splits, and shares drawn by a hash of each sample's id."""

    by: str | None = None
    """Origin of the splits: "upstream" keeps those that sources state and draws the rest; "hash" (the default) draws
    all. Required if a source states splits."""
    val: float = 0.05
    """Share of images to validate on, from 0 to below 1."""
    test: float = 0.0
    """Share of images to test on, from 0 to below 1."""
    salt: str = "vernaclip"
    """Text hashed with each sample's id. Another text draws other splits."""

    def __post_init__(self) -> None:
        if self.by not in (None, UPSTREAM, "hash"):
            raise SettingsError(f'split.by must be "upstream" or "hash", got {self.by!r}')
        for name, share in (("val", self.val), ("test", self.test)):
            if not 0 <= share < 1:
                raise SettingsError(f"split.{name} must be at least 0 and below 1, got {share}")
        if self.val + self.test >= 1:
            raise SettingsError(
                "split.val and split.test together leave nothing to train on: make their sum less than 1"
            )

    def require_choice(self, stating: Sequence[str]) -> None:
        """Check that `by` is set if sources state splits, and is not "upstream" if none does.

        Args:
            stating: names of the sources that state splits.

        Raises:
            SettingsError: names the sources, and the settings to choose from.
        """
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

    Args:
        sample_id: id of the sample.
        config: section `[split]`.
        stated: splits that upstream states in the rows of the sample, in any order; the last of `SPLITS` wins.
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
    merged: Path | None = None,
) -> dict[str, int]:
    """Write the files of one shard: captions, image outcomes, spare images, and pairs by split.

    Pairs that are marked as overlapping a test set are in no split: they have a file of their own. Spare images are
    good images that no pair uses, kept so that later builds do not fetch them again.

    Args:
        captions: finished caption rows (schema `CAPTIONS`), with the outcome pending if they are to be kept.
        images: normalised images of the same shard (schema `IMAGES`).
        folder: folder to write to: `captions.parquet`, `images.parquet`, `spare.parquet`, `train.parquet`, ...
        config: section `[split]`.
        image_rows: rows of the funnel that drop captions whose images were requested.
        merged: caption rows of any shard that are published with the image named in `merged_into`.

    Returns:
        Number of rows by file. A spare file or a pair file without rows is not written.
    """
    table = keep_pending(pq.read_table(captions))
    save_parquet(table, folder / "captions.parquet")
    outcomes = _outcomes(table, images, image_rows)
    save_parquet(outcomes, folder / "images.parquet")
    rows = {"captions": table.num_rows, "images": outcomes.num_rows}
    samples = _kept_samples(table, merged, config)
    merged_rows = (row for rows in samples.values() for row in rows if row["merged_into"])
    rights = strictest_rights(table.select(["sample_id", *RIGHTS]).to_pylist(), merged_rows)
    rows["spare"] = _write_spare(outcomes, images, samples, folder / "spare.parquet")
    for split in (*SPLITS, MARKED):
        chosen = {sample_id: found for sample_id, found in samples.items() if found[0]["split"] == split}
        if chosen:
            _write_pairs(chosen, rights, images, folder / f"{split}.parquet")
            rows[split] = len(chosen)
    return {name: count for name, count in rows.items() if name != "spare" or count}


def keep_pending(table: pa.Table) -> pa.Table:
    """Set the outcome of the rows that no step rejected to `kept`."""
    outcome = table.column("outcome")
    kept = pc.if_else(pc.equal(outcome, PENDING), KEPT, outcome)
    return table.set_column(table.schema.get_field_index("outcome"), table.schema.field("outcome"), kept)


def _outcomes(captions: pa.Table, images: Path, image_rows: Sequence[str]) -> pa.Table:
    """Return rows of the schema `OUTCOMES`, one for each requested image of a shard, without pixels."""
    names = [name for name in OUTCOMES.names if name in IMAGES.names]
    came = pc.is_in(captions.column("step"), pa.array([*image_rows, None], pa.string()))
    asked = captions.filter(came).select(["sample_id", "source", "url", "path"]).to_pylist()
    samples: dict[str, dict[str, Any]] = {}
    for row in asked:  # the request used the first caption's spelling of the URL
        samples.setdefault(row["sample_id"], row)
    rows = pq.read_table(images, columns=names).to_pylist()
    for row in rows:
        canonical = row["url"]
        row |= samples[row["sample_id"]]
        row["canonical_url"] = None if canonical == row["url"] else canonical
        row["step"] = image_step(row["drop_reason"]) if row["drop_reason"] else None
    return pa.Table.from_pylist(rows, schema=OUTCOMES)


def _write_spare(outcomes: pa.Table, images: Path, published: Container[str], path: Path) -> int:
    """Write the good images from the web that no pair uses; return their number."""
    facts = {
        row["sample_id"]: row
        for row in outcomes.to_pylist()
        if row["drop_reason"] is None and row["url"] is not None and row["sample_id"] not in published
    }
    if facts:
        pictures = (
            facts[row["sample_id"]] | {"bytes": row["bytes"], "original": row["original"]}
            for row in _good_images(images, facts)
        )
        write_rows(pictures, SPARE, path)
    return len(facts)


def _kept_samples(table: pa.Table, merged: Path | None, config: SplitConfig) -> dict[str, list[dict[str, Any]]]:
    """Return kept caption rows by sample, each with its split, in shard order; rows of other samples come last."""
    own = pc.and_(pc.equal(table.column("outcome"), KEPT), pc.is_null(table.column("merged_into")))
    samples: dict[str, list[dict[str, Any]]] = {}
    for row in table.filter(own).to_pylist():
        samples.setdefault(row["sample_id"], []).append(row)
    if merged and samples:
        for row in pq.read_table(merged, filters=[("merged_into", "in", list(samples))]).to_pylist():
            samples[row["merged_into"]].append(row)
    stated: dict[str, set[str | None]] = {}
    for row in table.select(["sample_id", "upstream_split"]).to_pylist():  # dropped rows count, too
        stated.setdefault(row["sample_id"], set()).add(row["upstream_split"])
    for sample_id, rows in samples.items():
        split = MARKED if any(row["leaks"] for row in rows) else split_of(sample_id, config, stated[sample_id])
        for row in rows:
            row["split"] = split
    return samples


def strictest_rights(
    own: Iterable[Mapping[str, Any]], merged: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return license, attribution and page of each sample, from its row with the strictest license, else its first row.

    Args:
        own: caption rows of samples, dropped ones included.
        merged: rows that are published with the image named in `merged_into`. They count only if they state a license,
            since they describe another file.
    """
    stated = [(row["sample_id"], row) for row in own] + [(row["merged_into"], row) for row in merged if row["license"]]
    stated.sort(key=lambda one: (strictness(one[1]["license"]), *(one[1][name] is None for name in RIGHTS[1:])))
    return {sample_id: {name: row[name] for name in RIGHTS} for sample_id, row in reversed(stated)}


def _write_pairs(
    samples: Mapping[str, list[dict[str, Any]]], rights: Mapping[str, dict[str, Any]], images: Path, path: Path
) -> None:
    is_scored = any(SCORE in row for rows in samples.values() for row in rows)
    schema = SCORED_PAIRS if is_scored else PAIRS
    with open_image_writer(path, schema) as writer:
        good = ((image["sample_id"], image) for image in _good_images(images, samples))
        pairs = (_pair(samples[name], image) | rights[name] for name, image in good)

        def num_bytes(pair: dict[str, Any]) -> int:
            return len(pair["image"]["bytes"]) + len(pair["original"] or b"")

        for rows in groups_of(pairs, num_bytes, most_rows=IMAGE_ROWS_PER_GROUP, most_bytes=_GROUP_BYTES):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _good_images(images: Path, wanted: Container[str]) -> Iterator[dict[str, Any]]:
    for group in read_groups(images):
        for row in group:
            if row["drop_reason"] is not None or row["sample_id"] not in wanted:
                continue
            if row["bytes"] is None:
                raise DefectError(f"the good image of {row['sample_id']} has no bytes. This is a defect: report it")
            yield row


def _pair(rows: list[dict[str, Any]], image: dict[str, Any]) -> dict[str, Any]:
    """Return one published row, without its rights, from an image and its kept captions, the sample's own first."""
    first = rows[0]
    return {
        "sample_id": first["sample_id"],
        "source": first["source"],
        "split": first["split"],
        "image": {"bytes": image["bytes"], "path": None},
        **{name: image[name] for name in ("width", "height", "original_width", "original_height", "sha256")},
        "phash": image["phash"],
        "original": image["original"],
        "url": first["url"],
        "caption_ids": [row["caption_id"] for row in rows],
        "captions": [row["caption"] for row in rows],
        "source_captions": [row["source_caption"] for row in rows],
        "source_langs": [row["source_lang"] for row in rows],
        "translators": [row["translator"] for row in rows],
        "origins": [row["origin"] for row in rows],
        "scores": [row["translation_score"] for row in rows],
        "leaks": sorted({mark for row in rows for mark in row["leaks"] or ()}) or None,
        "image_text_scores": [row.get(SCORE) for row in rows],
    }


def write_snapshot(
    root: Path,
    facts: BuildFacts,
    outputs: Sequence[Commit],
    *,
    carry: Callable[[Path, Sequence[Path]], Iterable[FileEntry]],
    write_documents: WriteDocuments,
) -> Snapshot:
    """Write the files of a snapshot, check the conservation laws on them, and commit it.

    Args:
        root: root of the catalog.
        facts: the manifest's facts of the build: "dataset", "build_key", "attempt" and others.
        outputs: outputs of `publish_shard`, in shard order.
        carry: writes images to carry over for later builds, given the snapshot's folder and its files of image
            outcomes; returns their entries of the manifest.
        write_documents: writes the documents of the snapshot into its folder; returns the manifest's "documents".

    Raises:
        DefectError: a conservation law is broken; nothing is committed.
        DamagedError: a file is damaged; its step's output is removed.
    """
    dataset = facts["dataset"]
    contents = [sorted(commit.files.items()) for commit in outputs]
    # After a tombstone was lifted, the same files make another snapshot, which a later build finds up to date.
    identities = facts["tombstones"].get("identities", [])
    made_of = [facts["build_key"], facts["attempt"], contents, *([identities] if identities else [])]
    snapshot_id = digest(made_of)[:12]
    same = read_snapshot(root, dataset, snapshot_id)
    if same is not None:  # a committed snapshot is never written again
        return make_current(root, same)
    folder = snapshot_folder(root, dataset, snapshot_id)
    if folder.is_dir():
        sweep_temporary([folder, *(folder / kind for kind in ("pairs", "captions", "images", LOOKUP_KIND))])
    failpoint("snapshot.before_files", folder)
    there = {  # a file that another snapshot has is linked and takes no space
        entry["sha256"]: snapshot.folder / entry["path"]
        for snapshot in committed_snapshots(root, dataset)
        for entry in snapshot.entries()
    }
    files: dict[str, list[FileEntry]] = {kind: [] for kind in KINDS}
    for number, output in enumerate(outputs):
        for kind, entry in _placed(output, folder, number, there):
            files[kind].append(entry)
    files["spare"] += carry(folder, [folder / entry["path"] for entry in files["images"]])
    # Remove files that a killed build left and this one did not write: no manifest would list them.
    listed = {folder / entry["path"] for entries in files.values() for entry in entries}
    for path in sorted(path for kind in ("pairs", "captions", "images") for path in (folder / kind).glob("*")):
        if path not in listed:
            path.unlink()
    failpoint("snapshot.after_files", folder)
    files[LOOKUP_KIND] = [write_lookup(folder, files)]
    its_own = {"format": MANIFEST_FORMAT, "snapshot": snapshot_id, "files": files}
    manifest = cast("Manifest", {**facts, **its_own})
    snapshot = Snapshot(dataset=dataset, snapshot=snapshot_id, folder=folder, manifest=manifest)
    broken, counts = examined(snapshot)
    if broken:
        raise DefectError(
            f"the snapshot is not committed, since it breaks: {'; '.join(broken)}. This is a defect: report it"
        )
    manifest["drop_reasons"] = counts["drop_reasons"]
    manifest["documents"] = write_documents(folder, manifest)
    return make_current(root, commit_snapshot(root, manifest, is_current=False))


def _placed(output: Commit, folder: Path, number: int, there: Mapping[str, Path]) -> Iterator[tuple[str, FileEntry]]:
    """Link the published files of a shard into a snapshot's folder; yield the manifest's kind and entry of each."""
    rows = output.facts["rows"]
    for stem in ("captions", "images", "spare", *SPLITS, MARKED):
        if stem not in rows:
            continue
        kind = stem if stem in KINDS else "pairs"
        name = f"{stem}-{number:05d}-{output.files[f'{stem}.parquet'][:12]}.parquet"
        path = folder / ("images" if kind == "spare" else kind) / name
        sha256 = output.files[f"{stem}.parquet"]
        for source in (there.get(sha256), output.path(f"{stem}.parquet")):
            if source is None or not source.is_file():
                continue
            if not path.is_file():
                link_file(source, path)
                failpoint("snapshot.after_link", path)
            split = stem if kind == "pairs" else None
            entry = file_entry(path, folder, rows=rows[stem], shard=number, split=split)
            if entry["sha256"] == sha256:
                yield kind, entry
                break
            path.unlink()
        else:
            shutil.rmtree(output.folder, ignore_errors=True)
            raise DamagedError(
                f"{output.path(stem)}.parquet was damaged and is removed with its folder: run the same command again, "
                "which rebuilds it"
            )


def write_carried(
    root: Path,
    fetching: Fetching,
    folder: Path,
    published: Sequence[Path],
    *,
    is_gone: Callable[[pa.Table], list[bool]],
) -> Iterator[FileEntry]:
    """Write the images that unfinished builds of the dataset have and this one did not request; yield their entry.

    Args:
        root: root of the catalog.
        fetching: how the images were fetched.
        folder: folder of the snapshot.
        published: the snapshot's files of image outcomes.
        is_gone: returns for each row of a table of outcomes whether a take-down removes it.
    """
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY_PREFIX}carried-", dir=folder) as scratch:
        rows = unpublished_outcomes(root, fetching, published, is_gone, Path(scratch))
        first = next(rows, None)
        if first is None:
            return
        path = write_named_atomically(
            folder / "images",
            lambda found: f"spare-carried-{found[:12]}.parquet",
            lambda path: write_rows(chain([first], rows), SPARE, path),
        )
    yield file_entry(path, folder, rows=pq.read_metadata(path).num_rows)


def make_current(root: Path, snapshot: Snapshot) -> Snapshot:
    """Make a snapshot the dataset's current one, unless it has no pairs and the current one has some."""
    current = None if snapshot.num_pairs else current_snapshot(root, snapshot.dataset)
    if current is None or not current.num_pairs:
        point_to(root, snapshot.dataset, snapshot.snapshot)
    return snapshot
