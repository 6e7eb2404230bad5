"""Record of a sample: all that a snapshot contains of one image and its captions, found by id, address or hash.

A record has JSON values. Its text follows each caption from its upstream line through every step, then its image.
"""

import json
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from data_catalog.base.plain_text import cell_text, deciding_settings_text
from data_catalog.catalog.connections import SHARDS, RunQuery, snapshot_queries
from data_catalog.catalog.manifest import FETCH_LOGS, MARKED, Snapshot
from data_catalog.disk.files import read_columns
from data_catalog.rows.fetch_reasons import is_retryable
from data_catalog.rows.schema import KEPT
from data_catalog.rows.urls import canonical_url, is_web_url

Row = dict[str, Any]
# Name of the added column with a row's file in the snapshot.
FILE = "file"
MOST_HINTS = 3
MOST_CHARACTERS = 200  # of an unknown id in the error's text
_MOST_RUNS = 20
_WIDTH = 116
_NAMED_CAPTIONS = """
    SELECT sample_id, caption_id AS name, url, filename FROM captions
    WHERE list_contains($names, sample_id) OR list_contains($names, caption_id) OR regexp_matches(url, $like)
"""
_NAMED_IMAGES = """
    SELECT sample_id, sha256 AS name, final_url AS url, filename FROM image_outcomes
    WHERE list_contains($names, sha256) OR regexp_matches(final_url, $like)
"""
_BEGIN_WITH = """
    SELECT DISTINCT sample_id FROM (SELECT sample_id, substr(sample_id, instr(sample_id, ':') + 1) AS key FROM captions)
    WHERE starts_with(sample_id, $text) OR starts_with(key, $text) OR starts_with(key, nullif(ltrim($text, '0'), ''))
    ORDER BY sample_id LIMIT $most
"""


def find_sample_records(snapshot: Snapshot, identity: str) -> list[Row]:
    """Return the records of the samples that match an id, an address or a hash, in the order of their shards.

    It is a `sample_id`, a `caption_id`, an image's address in any spelling, before or after redirects, or the sha256 of
    its original bytes.
    """
    with snapshot_queries(snapshot) as ask:
        [samples] = _samples(ask, [identity.strip()]).values()
        return list(_records(snapshot, ask, samples)) if samples else []


def _samples(ask: RunQuery, texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the ids of the samples that each text names, each with a file of its shard."""
    addresses = {text: canonical_url(text) for text in texts if is_web_url(text)}
    hashes = {text: text.lower() for text in texts if re.fullmatch("[0-9a-fA-F]{64}", text)}
    names = {text: hashes.get(text, text) for text in texts}
    like = "|".join(map(_like, addresses.values())) or None
    found: dict[str, dict[str, str]] = {text: {} for text in texts}
    for sql in (_NAMED_CAPTIONS, _NAMED_IMAGES) if addresses or hashes else (_NAMED_CAPTIONS,):
        for row in ask(sql, names=[*map(_escaped, names.values())], like=like).to_pylist():
            address = canonical_url(row["url"]) if addresses and row["url"] is not None else None
            for text in texts:
                is_meant = names[text] in (row["sample_id"], row["name"])
                if address == addresses[text] if text in addresses else is_meant:
                    found[text][row["sample_id"]] = row["filename"]
    return found


def _escaped(text: str) -> str:
    """Return a text for DuckDB, which takes no lone surrogates: a browser may send them."""
    return text.encode(errors="backslashreplace").decode()


def _like(address: str) -> str:
    """Return a regular expression that all spellings of a canonical address match, and few others.

    After the host they have the same letters and digits, unless some are escaped, or line ends or dots go.
    """
    place = re.sub("^[^/]*//[^/?#]*|%..", " ", address)
    runs = re.findall("[A-Za-z0-9]{1,100}", place)
    between = "(?:[^A-Za-z0-9]|%..)*"
    end = f"{between}(?:#.*)?$" if len(runs) <= _MOST_RUNS else ""
    begin = between.join(["", *runs[:_MOST_RUNS]])
    return rf"(?s:^[^/\\]*[/\\]+[^/\\?#]*{begin}{end})|%3[0-9]|%[4-7]|[\t\n\r]|[/\\]\."


def _records(snapshot: Snapshot, ask: RunQuery, samples: Mapping[str, str]) -> Iterator[Row]:
    manifest, folder = snapshot.manifest, snapshot.folder.absolute()
    files = {str(folder / entry["path"]): entry for _, kind in SHARDS.values() for entry in manifest["files"][kind]}
    wanted = {files[place]["shard"] for place in samples.values()}
    settings = manifest["settings"]
    steps = [
        {
            **{name: dict(entry)[name] for name in ("step", "meaning", "columns", "image_columns")},
            "rules": {section: settings[section] for section in entry["rules"] if section in settings},
        }
        for entry in manifest["steps"]
    ]

    def rows(view: str, names: Iterable[str], columns: str = "*", *, everywhere: bool = False) -> dict[str, list[Row]]:
        sql = f"SELECT {columns} FROM {view} WHERE sample_id IN (SELECT unnest($names))"
        given = {"names": list(names)}
        if not everywhere:  # DuckDB opens only the files that are named
            sql += " AND list_contains($places, filename)"
            given["places"] = [path for path, entry in files.items() if entry["shard"] in wanted]
        found = defaultdict(list)
        for row in ask(sql, **given).to_pylist():
            place = Path(row.pop("filename")).relative_to(folder).as_posix()
            found[row["sample_id"]].append({**row, FILE: place})
        return found

    def explained(row: Row) -> Row:
        step, reason = row["step"], row["drop_reason"]
        if not reason:
            return {**row, "meaning": None, "decided_by": {}}
        return {**row, "meaning": snapshot.meaning(step, reason), "decided_by": snapshot.decided_by(step, reason)}

    captions, images = rows("captions", samples), rows("image_outcomes", samples)
    merged = {name: {row["merged_into"] for row in found} - {None} for name, found in captions.items()}
    published_with = set().union(*merged.values())  # in any shard
    names = published_with.union(samples)
    pairs = rows("pairs", names, "* EXCLUDE (image, original)", everywhere=bool(published_with))
    places = {name: files[place]["shard"] for name, place in samples.items()}
    for sample_id in sorted(captions, key=lambda name: (places[name], name)):
        own = captions[sample_id]
        source, ids = own[0]["source"], {row["caption_id"] for row in own}
        facts = {name: value for name, value in manifest["sources"][source].items() if name != "rights"}
        others = [name for row in pairs.get(sample_id, []) for name in row["caption_ids"] if name not in ids]
        yield {
            "dataset": snapshot.dataset,
            "snapshot": snapshot.snapshot,
            "sample_id": sample_id,
            "source": {"name": source, **facts},
            "steps": steps,
            "captions": [explained(row) for row in own],
            "image": next((explained(row) for row in images.get(sample_id, [])), None),
            "requests": _requests(snapshot, places[sample_id], sample_id),
            "pairs": [row for name in (sample_id, *sorted(merged[sample_id])) for row in pairs.get(name, [])],
            "captions_of_others": others,
        }


def _requests(snapshot: Snapshot, shard: int, sample_id: str) -> list[Row]:
    """Return a sample's rows of the fetch logs that still exist, oldest first."""
    logs = (snapshot.folder.parent / FETCH_LOGS).glob(f"{shard:05d}-*.parquet")
    in_order = sorted(logs, key=lambda path: (path.stat().st_mtime_ns, path.name))
    is_its = pc.field("sample_id") == sample_id
    return [row for path in in_order for row in read_columns(path, None).filter(is_its).to_pylist()]


def not_found_text(snapshots: Sequence[Snapshot], identity: str) -> str:
    """Return one sentence for an id that matches nothing, with similar ids or an example."""
    identity, near, examples = identity.strip(), dict[str, None](), list[str]()
    for snapshot in snapshots:
        with snapshot_queries(snapshot) as ask:
            near |= dict.fromkeys(_near(ask, identity))
            examples += ask("SELECT sample_id FROM captions LIMIT 1").column(0).to_pylist()
    places = ", ".join(f"{found.dataset} {found.snapshot}" for found in snapshots)
    shown = identity if len(identity) <= MOST_CHARACTERS else f"{identity[:MOST_CHARACTERS]}..."
    text = f"there is no '{cell_text(shown)}' in {places}"
    if near:
        return f"{text}: did you mean {' or '.join(map(cell_text, list(near)[:MOST_HINTS]))}?"
    looks = f" (a sample_id looks like {cell_text(examples[0])})" if examples else ""
    sources = [source for found in snapshots for source in found.manifest["sources"].values()]
    unselected = sum(sum(source["unselected"].values()) for source in sources)
    counted = f". {unselected:,} upstream rows were not selected: they are only counted" if unselected else ""
    return f"{text}: give a sample_id, a caption_id, an image's URL or the sha256 of its bytes{looks}{counted}"


def _near(ask: RunQuery, identity: str) -> Iterator[str]:
    """Yield existing ids similar to an unknown one: with another scheme or none, and without their source or end."""
    rest = identity.partition("://")[2] if is_web_url(identity) else identity
    if "." in rest or "/" in rest:  # may be an address; its search reads all addresses
        spellings = [f"{scheme}://{place}" for scheme in ("https", "http") for place in (rest, rest.partition("?")[0])]
        yield from (text for text, found in _samples(ask, spellings).items() if found)
    text = _escaped(identity.partition("#")[0].removesuffix(".jpg"))
    if len(text) > 2 and not is_web_url(identity):
        yield from ask(_BEGIN_WITH, text=text, most=MOST_HINTS).column(0).to_pylist()


def record_lines(record: Row, *, identity: str, all_rules: bool = False) -> Iterator[str]:
    """Yield a sample's record as lines of plain text, safe for a terminal.

    If the `identity` that the user gave is a caption's, the other captions get a line each. Settings are shown of the
    step that rejected something, or, with `all_rules`, of every step.
    """
    captions, source = record["captions"], record["source"]
    kept = sum(row["outcome"] == KEPT for row in captions)
    yield f"{cell_text(record['sample_id'])}  in dataset {record['dataset']}, snapshot {record['snapshot']}"
    counted = f"{len(captions)}, of which {kept} {'is' if kept == 1 else 'are'} kept"
    yield from _facts("  ", {"source": source["name"], "license of the source": source["license"], "captions": counted})
    named = [row for row in captions if row["caption_id"] == identity] or captions
    for row in named:
        yield from ("", _caption_head(row))
        yield from _passage(record, row, "columns", all_rules)
        yield f"  = {_end(record, row)}"
    yield ""
    if len(named) < len(captions):
        yield from (*(_caption_head(row) for row in captions if row not in named), "")
    yield from _image(record, all_rules)


def _caption_head(row: Row) -> str:
    end = "kept" if row["outcome"] == KEPT else f"rejected by {cell_text(row['step'])}"
    return f"caption {cell_text(row['caption_id'])}: {end}"


def _passage(record: Row, row: Row, columns: str, all_rules: bool) -> Iterator[str]:
    """Yield what each step filled in a caption's or an image's row, up to the step that rejected it."""
    for number, step in enumerate(record["steps"], start=1):
        if columns == "image_columns" and not step[columns]:
            continue
        rejects, verdict, names = step["step"] == row["step"], "passed", list(step[columns])
        if rejects:
            settings = deciding_settings_text(row["decided_by"])
            verdict = f"REJECTED, {cell_text(row['drop_reason'])}" + (f" ({settings})" if settings else "")
            names += ["meaning", "detail"]
        yield f"  {number} {step['step']}: {verdict}"
        yield from _facts("      ", {name: row.get(name) for name in names})
        for section, values in step["rules"].items() if rejects or all_rules else ():
            chosen = values.get(row["source"], {}) if section == "sources" else values
            rules = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in sorted(chosen.items())]
            yield from _facts("      ", {f"rules of {section}": rules})
        if rejects:
            return


def _end(record: Row, row: Row) -> str:
    """Return the final state of a caption and its file."""
    if row["outcome"] != KEPT:
        return f"not published; the row is in {row[FILE]}"
    published_with = row["merged_into"] or record["sample_id"]
    pair = next((pair for pair in record["pairs"] if pair["sample_id"] == published_with), None)
    if pair is None:
        return f"kept; the row is in {row[FILE]}"
    of_other = f" with the image of {cell_text(published_with)}" if row["merged_into"] else ""
    marked = " (it overlaps a test set: in no split)" if pair["split"] == MARKED else ""
    return f"published{of_other}: split {pair['split']}{marked}, in {pair[FILE]}; the row is in {row[FILE]}"


def _image(record: Row, all_rules: bool) -> Iterator[str]:
    image = record["image"]
    if image is None:
        yield "image: never requested, since no caption reached that step"
        yield from _facts("  ", {name: record["captions"][0][name] for name in ("url", "path")})
        return
    yield f"image {cell_text(image['url'] or image['path'])}: {_image_end(record)}"
    yield from _passage(record, image, "image_columns", all_rules)
    yield from (line for row in record["requests"] for line in _facts("  ", {"requested": _request(row)}))
    again = "yes: vernaclip build RECIPE --retry-failed" if is_retryable(image["drop_reason"]) else "no, this is final"
    retry = {"can be tried again": again} if image["step"] else {}
    yield from _facts("  ", {**retry, "captions of others": record["captions_of_others"]})


def _request(row: Row) -> str:
    began = f"first at {row['asked_at']:%Y-%m-%d %H:%M:%S} UTC, " if row["asked_at"] else ""
    seconds = f"{row['asking_s'] or 0:.1f} s in requests and {row['waiting_s'] or 0:.1f} s between them"
    tries = "1 try" if row["tries"] == 1 else f"{row['tries']} tries"
    return f"{tries}, {began}{seconds}: {row['drop_reason'] or 'received'}"


def _image_end(record: Row) -> str:
    """Return the final state of a sample's image."""
    if record["image"]["step"]:
        return f"lost by {cell_text(record['image']['step'])}"
    for pair in record["pairs"]:
        if pair["sample_id"] == record["sample_id"]:
            return f"published, split {pair['split']}, {pair['width']} x {pair['height']} pixels, in {pair[FILE]}"
    merged = sorted({row["merged_into"] for row in record["captions"] if row["merged_into"]})
    captions = f"its captions are with {', '.join(map(cell_text, merged))}" if merged else "no caption is left"
    return f"good, and not published: {captions}"


def _facts(indent: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield names and values, one a line, without null values; long lines are wrapped."""
    lines = textwrap.TextWrapper(_WIDTH, indent, f"{indent}  ", break_on_hyphens=False, break_long_words=False)
    for name, value in facts.items():
        if value is not None and value != []:
            yield from lines.wrap(f"{name}: {_value(value)}")


def _value(value: object) -> str:
    if isinstance(value, Mapping):  # the value first, its properties in brackets
        first, *others = map(_value, value.values())
        return f"{first} ({', '.join(others)})" if others else first
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    # Without thousands separators, since users copy line numbers.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else cell_text(value)
