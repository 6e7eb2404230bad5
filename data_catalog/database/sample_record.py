"""Record of a sample: all that a snapshot contains of one image and its captions, found by id, address or hash.

The text follows each caption from its upstream line through every step, then its image.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.database.lookup import LOOKUP_KIND, shards_with
from data_catalog.fetch.reasons import is_retryable
from data_catalog.plain_text import cell_text, deciding_settings_text
from data_catalog.schema import KEPT, PAIRS
from data_catalog.sources.urls import canonical_url, is_web_url
from data_catalog.storage.manifest import FETCH_LOGS, MARKED, Snapshot
from data_catalog.storage.shards import column_names, read_columns

Row = dict[str, Any]
# Name of the added column with a row's file in the snapshot.
FILE = "file"
_PIXELS = ("image", "original")
_SHA256 = re.compile("[0-9a-fA-F]{64}")
# In larger snapshots ids are not searched by prefix, since that would take too long.
MOST_ROWS_READ = 1_000_000
MOST_HINTS = 3
MOST_CHARACTERS = 200  # of an unknown id in the error's text
_WIDTH = 116


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """Record of one sample in a snapshot.

    Args:
        snapshot: the snapshot.
        sample_id: id of the sample.
        shard: number of its shard.
        captions: its rows of the schema `CAPTIONS`, each with its `FILE`.
        image: outcome of its image, schema `OUTCOMES`; None: it was never requested.
        pairs: published rows by `sample_id`, without pixels and with their `FILE`: the sample's own, and those that its
            captions are merged into.
        captions_of_others: ids of other samples' captions that are published with its image.
        requests: rows of the fetch log (schema `FETCH_LOG`), if the log still exists.
    """

    snapshot: Snapshot
    sample_id: str
    shard: int
    captions: list[Row]
    image: Row | None
    pairs: dict[str, Row]
    captions_of_others: list[str]
    requests: list[Row]


def find_sample_records(snapshot: Snapshot, identity: str) -> list[SampleRecord]:
    """Return the records of the samples that match an id, an address or a hash; empty if none matches.

    Args:
        snapshot: the snapshot.
        identity: a `sample_id`, a `caption_id`, an image's address in any spelling, before or after redirects, or
            the sha256 of its original bytes.
    """
    return [_sample_record(snapshot, shard, sample_id) for shard, sample_id in find_samples(snapshot, identity)]


def find_samples(snapshot: Snapshot, identity: str) -> list[tuple[int, str]]:
    """Return the shard and `sample_id` of the samples that match an id, an address or a hash; empty if none matches."""
    identity = identity.strip()
    if _SHA256.fullmatch(identity):
        identity = identity.lower()
    address = canonical_url(identity) if is_web_url(identity) else None
    # A caption's id is its sample's id, "#" and a suffix; the sample's own key may contain "#", too.
    ends = [place for place, char in enumerate(identity) if char == "#"] if address is None else []
    shards = _shards_with(snapshot, [identity, *(identity[:end] for end in ends)])
    return [
        (shard, sample_id)
        for shard in shards
        for sample_id in sorted(set(_matches(snapshot, shard, identity, address)))
    ]


def _shards_with(snapshot: Snapshot, texts: Sequence[str]) -> list[int]:
    """Return the shards that may have any of the given ids or addresses."""
    lookups = snapshot.manifest["files"][LOOKUP_KIND]
    return sorted({shard for entry in lookups for shard in shards_with(snapshot.folder / entry["path"], texts)})


def _files(snapshot: Snapshot, kind: str, shard: int) -> list[Path]:
    return [
        snapshot.folder / entry["path"] for entry in snapshot.manifest["files"][kind] if entry.get("shard") == shard
    ]


def _matches(snapshot: Snapshot, shard: int, identity: str, address: str | None) -> Iterator[str]:
    """Yield the `sample_id`s of a shard that match an identity or, if there is one, an address."""
    for kind, name, url in (("captions", "caption_id", "url"), ("images", "sha256", "final_url")):
        for path in _files(snapshot, kind, shard):
            table = read_columns(path, ["sample_id", name, url])
            columns = [table.column(column).to_pylist() for column in ("sample_id", name, url)]
            for sample_id, other, place in zip(*columns, strict=True):
                if address is None:
                    is_meant = identity in (sample_id, other)
                else:
                    is_meant = place is not None and (place == identity or canonical_url(place) == address)
                if is_meant:
                    yield sample_id


def _sample_record(snapshot: Snapshot, shard: int, sample_id: str) -> SampleRecord:
    captions = _rows(snapshot, "captions", shard, sample_id)
    images = _rows(snapshot, "images", shard, sample_id)
    pairs: dict[str, Row] = {}
    for name in dict.fromkeys([sample_id, *sorted({row["merged_into"] for row in captions if row["merged_into"]})]):
        shards = [shard] if name == sample_id else _shards_with(snapshot, [name])
        for row in [row for number in shards for row in _rows(snapshot, "pairs", number, name)][:1]:
            pairs[name] = {column: row.get(column) for column in (*PAIRS.names, FILE) if column not in _PIXELS}
    own = {row["caption_id"] for row in captions}
    published = pairs[sample_id]["caption_ids"] if sample_id in pairs else []
    logs = (snapshot.folder.parent / FETCH_LOGS).glob(f"{shard:05d}-*.parquet")
    in_order = sorted(logs, key=lambda path: (path.stat().st_mtime_ns, path.name))
    return SampleRecord(
        snapshot=snapshot,
        sample_id=sample_id,
        shard=shard,
        captions=captions,
        image=images[0] if images else None,
        pairs=pairs,
        captions_of_others=[name for name in published if name not in own],
        requests=[row for path in in_order for row in _rows_of(read_columns(path, None), sample_id)],
    )


def _rows(snapshot: Snapshot, kind: str, shard: int, sample_id: str) -> list[Row]:
    """Return a sample's rows in the files of a kind, with `FILE` and without pixels."""
    found = []
    for path in _files(snapshot, kind, shard):
        names = [name for name in column_names(path) if name not in _PIXELS]
        place = path.relative_to(snapshot.folder).as_posix()
        found += [{**row, FILE: place} for row in _rows_of(read_columns(path, names), sample_id)]
    return found


def _rows_of(table: pa.Table, sample_id: str) -> list[Row]:
    rows: list[Row] = table.filter(pc.equal(table.column("sample_id"), sample_id)).to_pylist()
    return rows


def not_found_text(snapshots: Sequence[Snapshot], identity: str) -> str:
    """Return one sentence for an id that matches nothing, with similar ids or an example."""
    places = ", ".join(f"{found.dataset} {found.snapshot}" for found in snapshots)
    shown = identity if len(identity) <= MOST_CHARACTERS else f"{identity[:MOST_CHARACTERS]}..."
    text = f"there is no '{cell_text(shown)}' in {places}"
    found = (sample_id for snapshot in snapshots for sample_id in _near(snapshot, identity.strip()))
    near = list(dict.fromkeys(found))[:MOST_HINTS]
    if near:
        return f"{text}: did you mean {' or '.join(cell_text(name) for name in near)}?"
    examples = [name for name in map(_example_id, snapshots) if name is not None]
    looks = f" (a sample_id looks like {cell_text(examples[0])})" if examples else ""
    sources = [source for found in snapshots for source in found.manifest["sources"].values()]
    unselected = sum(sum(source["unselected"].values()) for source in sources)
    counted = f". {unselected:,} upstream rows were not selected: they are only counted" if unselected else ""
    return f"{text}: give a sample_id, a caption_id, an image's URL or the sha256 of its bytes{looks}{counted}"


def _near(snapshot: Snapshot, identity: str) -> Iterator[str]:
    """Yield existing ids similar to an unknown one: with a source's name, without their end, with another scheme."""
    is_small = sum(entry["rows"] for entry in snapshot.manifest["files"]["captions"]) <= MOST_ROWS_READ
    for other in dict.fromkeys(_spellings(snapshot, identity)):
        if other not in ("", identity) and find_samples(snapshot, other):
            yield other
    if is_small and len(identity) > 2 and not is_web_url(identity):
        # Samples whose id, or whose key after the source's name, begins with the text.
        texts = {identity, *(f"{source}:{identity}" for source in snapshot.manifest["sources"])}
        for path in snapshot.caption_files():
            ids = read_columns(path, ["sample_id"]).column(0).unique()
            for text in sorted(texts):
                yield from ids.filter(pc.starts_with(ids, text)).to_pylist()


def _spellings(snapshot: Snapshot, identity: str) -> Iterator[str]:
    if is_web_url(identity):
        scheme, _, rest = identity.partition("://")
        other = "http" if scheme.lower() == "https" else "https"
        yield f"{other}://{rest}"
        yield identity.partition("#")[0].partition("?")[0]
        return
    yield f"https://{identity}"
    yield f"http://{identity}"
    yield identity.partition("#")[0].rpartition(" ")[2]
    for source in snapshot.manifest["sources"]:
        key = identity.removesuffix(".jpg")
        yield f"{source}:{key}"
        yield f"{source}:{key.lstrip('0')}"


def _example_id(snapshot: Snapshot) -> str | None:
    """Return the first id of a snapshot as an example; None if it has no rows."""
    for entry in snapshot.manifest["files"]["captions"]:
        if entry["rows"]:
            ids = read_columns(snapshot.folder / entry["path"], ["sample_id"])
            return str(ids.column("sample_id")[0])
    return None


def record_lines(record: SampleRecord, *, identity: str, all_rules: bool = False) -> Iterator[str]:
    """Yield a sample's record as lines of plain text, safe for a terminal.

    Args:
        record: the record.
        identity: the id that the user gave; if it is a caption's, the other captions get a line each.
        all_rules: show the settings of every step, and not only of those that rejected something.
    """
    snapshot = record.snapshot
    yield f"{cell_text(record.sample_id)}  in dataset {snapshot.dataset}, snapshot {snapshot.snapshot}"
    source = record.captions[0]["source"]
    kept = sum(row["outcome"] == KEPT for row in record.captions)
    license = snapshot.manifest["sources"][source]["license"]
    captions = f"{len(record.captions)}, of which {kept} {'is' if kept == 1 else 'are'} kept"
    yield from _facts("  ", {"source": source, "license of the source": license, "captions": captions})
    named = [row for row in record.captions if row["caption_id"] == identity]
    for row in named or record.captions:
        yield ""
        yield from _caption(record, row, all_rules=all_rules)
    yield ""
    if named and len(record.captions) > len(named):
        yield from (_caption_head(row) for row in record.captions if row not in named)
        yield ""
    yield from _image(record, all_rules=all_rules)


def _caption_head(row: Mapping[str, Any]) -> str:
    end = "kept" if row["outcome"] == KEPT else f"rejected by {cell_text(row['step'])}"
    return f"caption {cell_text(row['caption_id'])}: {end}"


def _caption(record: SampleRecord, row: Mapping[str, Any], *, all_rules: bool) -> Iterator[str]:
    yield _caption_head(row)
    columns = record.snapshot.columns()
    for number, step in enumerate(_passed(record, row), start=1):
        rejects = step == row["step"]
        yield f"  {number} {step}: {_verdict(record, row) if rejects else 'passed'}"
        yield from _facts("      ", {name: row.get(name) for name in columns.get(step, ())})
        if rejects:
            yield from _facts("      ", {"meaning": _meaning(record, row), "detail": row["detail"]})
        if rejects or all_rules:
            yield from _rules("      ", record, step, row)
    yield f"  = {_end(record, row)}"


def _passed(record: SampleRecord, row: Mapping[str, Any]) -> list[str]:
    """Return the steps that a row reached; all steps if it is kept."""
    steps = record.snapshot.steps
    if row["step"] is None:
        return steps
    # A step that is missing in the funnel is shown nevertheless.
    return [*steps[: steps.index(row["step"])], row["step"]] if row["step"] in steps else [row["step"]]


def _verdict(record: SampleRecord, row: Mapping[str, Any]) -> str:
    settings = deciding_settings_text(record.snapshot.decided_by(row["step"], row["drop_reason"]))
    return f"REJECTED, {cell_text(row['drop_reason'])}" + (f" ({settings})" if settings else "")


def _end(record: SampleRecord, row: Mapping[str, Any]) -> str:
    """Return the final state of a caption and its file."""
    if row["outcome"] != KEPT:
        return f"not published; the row is in {row[FILE]}"
    pair = record.pairs.get(row["merged_into"] or record.sample_id)
    if pair is None:
        return f"kept; the row is in {row[FILE]}"
    of_other = f" with the image of {cell_text(row['merged_into'])}" if row["merged_into"] else ""
    marked = " (it overlaps a test set: in no split)" if pair["split"] == MARKED else ""
    return f"published{of_other}: split {pair['split']}{marked}, in {pair[FILE]}; the row is in {row[FILE]}"


def _image(record: SampleRecord, *, all_rules: bool) -> Iterator[str]:
    image, first = record.image, record.captions[0]
    if image is None:
        yield "image: never requested, since no caption reached that step"
        yield from _facts("  ", {"url": first["url"], "path": first["path"]})
        return
    yield f"image {cell_text(image['url'] or image['path'])}: {_image_end(record)}"
    for step, names in record.snapshot.columns("image_columns").items():
        if step == "normalise" and image["step"] == "fetch":
            return
        rejects = image["step"] == step
        yield f"  {step}: {_verdict(record, image) if rejects else 'good'}"
        yield from _facts("      ", {name: image.get(name) for name in names})
        for row in record.requests if step == "fetch" else ():
            seconds = f"{row['asking_s'] or 0:.1f} s in requests and {row['waiting_s'] or 0:.1f} s between them"
            tries = f"{row['tries']} {'try' if row['tries'] == 1 else 'tries'}"
            began = f"first at {row['asked_at']:%Y-%m-%d %H:%M:%S} UTC, " if row["asked_at"] else ""
            outcome = row["drop_reason"] or "received"
            yield from _facts("      ", {"requested": f"{tries}, {began}{seconds}: {outcome}"})
        if rejects:
            is_final = not is_retryable(image["drop_reason"])
            again = "no, this is final" if is_final else "yes: vernaclip build RECIPE --retry-failed"
            meaning = _meaning(record, image)
            yield from _facts("      ", {"meaning": meaning, "detail": image["detail"], "can be tried again": again})
        if rejects or all_rules:
            yield from _rules("      ", record, step, first)
    if record.captions_of_others:
        yield from _facts("  ", {"captions of others": record.captions_of_others})


def _image_end(record: SampleRecord) -> str:
    """Return the final state of a sample's image."""
    image, pair = record.image, record.pairs.get(record.sample_id)
    if image is not None and image["step"]:
        return f"lost by {cell_text(image['step'])}"
    if pair is not None:
        return f"published, split {pair['split']}, {pair['width']} x {pair['height']} pixels, in {pair[FILE]}"
    merged = sorted({row["merged_into"] for row in record.captions if row["merged_into"]})
    if merged:
        return f"good, and not published: its captions are with {', '.join(map(cell_text, merged))}"
    return "good, and not published: no caption is left"


def _rules(indent: str, record: SampleRecord, step: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings that a step applied."""
    for section, values in record.snapshot.rules(step).items():
        if section == "sources":
            values = values.get(row["source"], {})
        settings = ", ".join(f"{name} = {_setting(value)}" for name, value in sorted(values.items()))
        yield from _facts(indent, {f"rules of {section}": settings or None})


def _setting(value: object) -> str:
    """Return a setting's value as text: lists in brackets, tables in braces, and an empty text as `""`."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name} = {_setting(item)}' for name, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{_value(value)}]"
    return _value(value) or '""'


def _facts(indent: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield names and values, one a line, without null values; long lines are wrapped."""
    for name, value in facts.items():
        if value is None or value == []:
            continue
        label = f"{name}: "
        yield from textwrap.wrap(
            f"{label}{_value(value)}",
            width=_WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "  ",
            break_on_hyphens=False,
            break_long_words=False,
        )


def _value(value: object) -> str:
    if isinstance(value, Mapping):  # the value first, its properties in brackets
        first, *others = map(_value, value.values())
        return f"{first} ({', '.join(others)})" if others else first
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # without thousands separators, since users copy line numbers
    return cell_text(value)


def record_values(record: SampleRecord) -> dict[str, Any]:
    """Return a sample's record as JSON values: all that the text shows, and every column."""
    snapshot, source = record.snapshot, record.captions[0]["source"]
    facts = snapshot.manifest["sources"][source]

    def explained(row: Row) -> dict[str, Any]:
        reason = row["drop_reason"]
        settings = snapshot.decided_by(row["step"], reason) if reason else {}
        return {**row, "meaning": _meaning(record, row), "decided_by": settings}

    return {
        "dataset": snapshot.dataset,
        "snapshot": snapshot.snapshot,
        "sample_id": record.sample_id,
        "source": {"name": source, **{name: value for name, value in facts.items() if name != "rights"}},
        "steps": [
            {"step": step, "meaning": snapshot.meaning(step), "rules": snapshot.rules(step)} for step in snapshot.steps
        ],
        "captions": [explained(row) for row in record.captions],
        "image": None if record.image is None else explained(record.image),
        "requests": record.requests,
        "pairs": list(record.pairs.values()),
        "captions_of_others": record.captions_of_others,
    }


def _meaning(record: SampleRecord, row: Mapping[str, Any]) -> str | None:
    return record.snapshot.meaning(row["step"], row["drop_reason"]) if row["drop_reason"] else None
