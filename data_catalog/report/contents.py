"""The contents of the report: what its template shows of a snapshot, by the names that the template uses."""

import base64
import functools
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import chain, groupby, zip_longest
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from data_catalog.base.plain_text import deciding_settings_text
from data_catalog.catalog.connections import snapshot_queries
from data_catalog.catalog.manifest import Manifest, Snapshot
from data_catalog.catalog.overview import heavy_losses
from data_catalog.fetch.config import IMG2DATASET, IMG2DATASET_LIMITS
from data_catalog.rows.fetch_reasons import Diagnosis, diagnose
from data_catalog.rows.origins import HAS_ORIGINAL, ORIGINS

if TYPE_CHECKING:
    from PIL.Image import Image

Rows = list[dict[str, Any]]
Ask = Callable[..., Rows]

# Queries whose results are tables of the page. Rows after the first ones are summed up in one.
_TABLES = (
    *("published", "lengths", "languages", "detected", "engines", "sides", "formats", "hosts", "lost_images"),
    *("duplicates", "leaks", "licenses", "fit"),
)
_MAX_ROWS = 20
_MAX_FILES = 20  # upstream files of each source
_MERGED = "the captions are published with a duplicate of their image, so none is lost"
_UNSELECTED = {"limit": "beyond its limit", "caption_kind": "of another kind of captions"}
_SIDE, _QUALITY = 160, 60
# Formats of published images. Other files are not decoded.
_FORMATS = ("JPEG", "PNG", "WEBP")


@functools.cache
def _queries() -> dict[str, tuple[str, str]]:
    """Return the line on what is found and the SQL of each query of `report.sql`, by name."""
    _, *parts = (files("data_catalog.report") / "report.sql").read_text(encoding="utf-8").split("\n-- name: ")
    named = (part.split("\n", 2) for part in parts)
    return {name: (line.removeprefix("-- "), sql.replace("HAS_ORIGINAL", HAS_ORIGINAL)) for name, line, sql in named}


def downloads_of(snapshot: Snapshot) -> Diagnosis:
    """Return the outcomes of a snapshot's images that were requested from the web."""
    engine = snapshot.manifest["settings"].get("fetch", {}).get("engine")
    with snapshot_queries(snapshot) as query:
        return diagnose(query(_queries()["asked"][1]), *([IMG2DATASET_LIMITS] if engine == IMG2DATASET else []))


def gather(snapshot: Snapshot, runs: Sequence[Mapping[str, Any]], *, num_examples: int) -> dict[str, Any]:
    """Return the contents of the report on a snapshot, by the names that the template uses.

    Queries aggregate or sample while they read, so that memory stays bounded for a snapshot of any size. `runs` are the
    lines of the dataset's run log. `num_examples` captions are shown for each reason, and as many translations for each
    part of an engine's scores.
    """
    manifest = snapshot.manifest
    # Runs that did steps and ended with this snapshot, the latest first.
    ours = [run for run in reversed(runs) if run.get("snapshot") == snapshot.snapshot and run.get("num_steps")]
    diagnosis = downloads_of(snapshot)
    with snapshot_queries(snapshot) as query:

        def ask(name: str, **parameters: Any) -> Rows:
            rows: Rows = query(_queries()[name][1], **parameters).to_pylist()
            return rows

        tables = {name: (_queries()[name][0], _shortened(ask(name))) for name in _TABLES}
        for row in tables["lost_images"][1] + tables["duplicates"][1]:
            step, reason = row["Step"], row["Reason"]
            row["Meaning"] = _MERGED if reason == "merged" else reason and snapshot.meaning(step, reason)
        for row in tables["engines"][1]:
            row["Origin"] = ORIGINS.get(row["Origin"])
        tables |= _manifest_tables(manifest, ours) | {"outcomes": _outcomes(diagnosis), "funnel": _funnel(manifest)}
        return {
            "runs": ours,
            "tables": tables,
            "num_images": sum(entry["rows"] for entry in manifest["files"]["pairs"]),
            "num_bytes": sum(entry["bytes"] for entries in manifest["files"].values() for entry in entries),
            "settings": dict(_settings(manifest["settings"])),
            "warnings": heavy_losses(manifest),
            "findings": diagnosis.findings,
            "reasons": _reasons(snapshot, ask("reasons", num_examples=num_examples), num_examples),
            "translations": ask("translations", num_examples=num_examples) if num_examples else [],
            "pictures": _pictures(ask, manifest, [row["sample_id"] for row in ask("gallery")]),
            "judged": _judged(ask, manifest) if "fit" in snapshot.steps else None,
            "duplicate_examples": _duplicate_examples(ask, manifest),
        }


def _shortened(rows: Rows) -> Rows:
    """Return the first rows of a table, and one with the sums of the others."""
    others = rows[_MAX_ROWS:]
    if not others:
        return rows
    first = next(iter(rows[0]))
    summed = {name: sum(row[name] or 0 for row in others) for name, value in rows[0].items() if isinstance(value, int)}
    return [*rows[:_MAX_ROWS], {**dict.fromkeys(rows[0]), **summed, first: f"{len(others):,} more"}]


def _funnel(manifest: Manifest) -> tuple[str, Rows]:
    """Return for each source, and for all, the captions read, dropped by each step of those that it read, and kept."""
    counts = sorted(manifest["funnel"], key=itemgetter("step_number"))
    rows = []
    for source in (*sorted({count["source"] for count in counts}), None):
        steps: dict[str, list[int]] = {}
        for count in counts:
            if source in (count["source"], None):
                dropped, seen = steps.get(count["step"], (0, 0))
                steps[count["step"]] = [dropped + count["dropped"], seen + count["read"]]
        read = next(iter(steps.values()), (0, 0))[1]
        kept = read - sum(dropped for dropped, _ in steps.values())
        share = kept / read if read else None
        rows.append({"Source": source or "All", "Read": read, **steps, "Kept": kept, "Share": share})
    return "Captions that each step drops, and their share of those that it reads.", rows


def _manifest_tables(manifest: Manifest, runs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, Rows]]:
    """Return the tables of what the manifest and the run log say, each with its caption."""
    sources = sorted(manifest["sources"].items())
    unselected = [
        {"Source": name, "Rows": count, "Why": _UNSELECTED.get(why, f"of another {why}")}
        for name, entry in sources
        for why, count in sorted(entry["unselected"].items())
        if count
    ]
    upstream: Rows = []
    for name, entry in sources:
        named: Rows = [{"Source": name, "File": each["name"], "sha256": each["sha256"]} for each in entry["files"]]
        more = [{"Source": name, "File": f"and {len(named) - _MAX_FILES:,} more", "sha256": None}]
        upstream += named[:_MAX_FILES] + more * (len(named) > _MAX_FILES)
    kinds: dict[str, Counter[str]] = {}
    written: list[tuple[str, Any]] = [
        *((kind, file) for kind, found in sorted(manifest["files"].items()) for file in found),
        *(("documents", document) for document in manifest["documents"]),
    ]
    for kind, file in written:
        name = f"{kind}, {file['split']}" if "split" in file else kind
        kinds.setdefault(name, Counter()).update(Files=1, Rows=file.get("rows", 0), Size=file["bytes"])
    times = runs[0].get("seconds_by_step") or {} if runs else {}
    steps = sorted(times.items(), key=lambda item: (-item[1], item[0]))
    return {
        "sources": (
            "Licenses as upstream states them. No lawyer has checked them.",
            [{"Source": name, "License": entry["license"]} for name, entry in sources],
        ),
        "unselected": ("Rows that the recipe does not select, which are not counted above.", unselected),
        "runs": (
            "Runs that ended with this snapshot, the latest first.",
            [{"Ended": run["time"], "Steps done": run["num_steps"], "Duration": run["seconds"]} for run in runs[:10]],
        ),
        "step_times": (
            "Time of the latest run by step. Steps run in parallel, so their sum may exceed the duration of the run. "
            "Steps of earlier runs are not included.",
            [{"Step": step, "Duration": time, "Share": time / sum(times.values())} for step, time in steps],
        ),
        "files": (
            "Files. manifest.json has the sha256 of each; vernaclip verify checks them.",
            [{"Content": name, **count} for name, count in kinds.items()],
        ),
        "upstream_files": ("Upstream files.", upstream),
    }


def _outcomes(diagnosis: Diagnosis) -> tuple[str, Rows]:
    total = sum(diagnosis.counts.values())
    rows = [
        {"Outcome": row["what"], "Images": row["images"], "Share": row["images"] / total} for row in diagnosis.rows()
    ]
    return "Outcomes of the images that were requested from the web.", rows


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield all settings by path, as JSON."""
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False)


def _reasons(snapshot: Snapshot, rows: Rows, num_examples: int) -> Rows:
    """Return the drop reasons in the order of the steps, the most frequent of each step first, with examples."""
    num_read = sum(count["read"] for count in snapshot.manifest["funnel"] if count["step_number"] == 1)
    sources = sorted({count["source"] for count in snapshot.manifest["funnel"]})
    groups: dict[tuple[str, str], Rows] = {}
    for row in rows:
        groups.setdefault((row["step"], row["reason"]), []).append(row)
    found = []
    for (step, reason), parts in groups.items():
        dropped = {part["source"]: part["dropped"] for part in parts}
        count = sum(dropped.values())
        # One example of each source in turn, so that all sources are shown.
        turns = chain.from_iterable(zip_longest(*(part["examples"] for part in parts)))
        row = {
            "Step": step,
            "Reason": reason,
            "Captions": count,
            "Share of all read": count / num_read,
            **{source: dropped.get(source) for source in sources},
            "Decided by": deciding_settings_text(snapshot.decided_by(step, reason)),
        }
        examples = [example for example in turns if example is not None][:num_examples]
        found.append({"row": row, "meaning": snapshot.meaning(step, reason), "examples": examples})
    place = {step: number for number, step in enumerate(snapshot.steps)}
    return sorted(found, key=lambda each: (place.get(each["row"]["Step"], len(place)), -each["row"]["Captions"]))


def _judged(ask: Ask, manifest: Manifest) -> dict[str, Rows]:
    """Return the captions that fit their images worst and best, with their pictures, by the end of the scores."""
    rows = ask("judged")
    shown = {row["sample_id"]: row["thumbnail"] for row in _pictures(ask, manifest, {row["sample_id"] for row in rows})}
    rows = [{**row, "thumbnail": shown.get(row["sample_id"])} for row in rows]
    return {side: list(group) for side, group in groupby(rows, key=itemgetter("side"))}


def _duplicate_examples(ask: Ask, manifest: Manifest) -> Rows:
    """Return examples of dropped or merged duplicates, each with the image that it duplicates."""
    rows = ask("duplicate_examples")
    names = {name for row in rows for name in (row["gone"], row["stays"])}
    shown = {row["sample_id"]: _enlarged(row["thumbnail"]) for row in ask("thumbnails", sample_ids=sorted(names))}
    shown |= {row["sample_id"]: row["thumbnail"] for row in _pictures(ask, manifest, names)}
    return [{**row, "pictures": [shown.get(row["gone"]), shown.get(row["stays"])]} for row in rows]


def _pictures(ask: Ask, manifest: Manifest, sample_ids: Collection[str]) -> Rows:
    """Return those of some images that are published, with their thumbnails; read only files that have any."""
    chosen = {"sample_ids": sorted(sample_ids)}
    paths = [row["filename"] for row in ask("places", **chosen)] if sample_ids else []
    found = ask("pictures", files=paths, language=manifest["target_lang"], **chosen) if paths else []
    return [{**row, "thumbnail": _thumbnail(row.pop("data"))} for row in found]


def _thumbnail(data: bytes | None) -> dict[str, Any] | None:
    """Return a published image, at most `_SIDE` pixels wide and high; None if it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data or b""), formats=_FORMATS) as image:
            image.thumbnail((_SIDE, _SIDE))
            return _encoded(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow's errors for broken files
        return None


def _enlarged(pixels: bytes | None) -> dict[str, Any] | None:
    """Return an enlarged picture of an image's thumbnail of 8 x 8 pixels; None if there is none."""
    from PIL import Image

    if pixels is None or len(pixels) != 192:
        return None
    small = Image.frombytes("RGB", (8, 8), pixels)
    return _encoded(small.resize((_SIDE // 2, _SIDE // 2), Image.Resampling.BICUBIC))


def _encoded(image: "Image") -> dict[str, Any]:
    """Return a picture as a `data:` URL, and its size in pixels."""
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=_QUALITY, method=4)
    address = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return {"address": address, "width": image.width, "height": image.height}
