"""What a root holds, at a glance: by its manifests, and by what lies beside the snapshots."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.plain_text import cell_text, plain_table
from data_catalog.schema import NATIVE
from data_catalog.storage.integrity import read_checksummed
from data_catalog.storage.manifest import MARKED, SPLITS, Manifest, Snapshot, snapshot_names
from data_catalog.storage.verify import EXPORT_RECORD, EXPORTS

REPORT_FILE = "report.html"
# How many of the most frequent reasons are told.
MOST_REASONS = 5
_MEGABYTE = 1_000_000


def overview(root: Path, snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Facts of the newest snapshot of every dataset, as JSON values."""
    return [_facts(root, snapshot) for snapshot in snapshots]


def _facts(root: Path, snapshot: Snapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    pairs = manifest["files"]["pairs"]
    report = snapshot.folder.parent / REPORT_FILE
    return {
        "dataset": snapshot.dataset,
        "snapshot": snapshot.snapshot,
        "folder": str(snapshot.folder),
        "target_lang": manifest["target_lang"],
        "translator": manifest["translator"],
        "pairs": {split: sum(e["rows"] for e in pairs if e["split"] == split) for split in (*SPLITS, MARKED)},
        "bytes": {kind: sum(e["bytes"] for e in entries) for kind, entries in sorted(manifest["files"].items())},
        "sources": [_source(manifest, source) for source in sorted(manifest["sources"])],
        "drop_reasons": ranked_reasons(snapshot),
        "report": str(report) if report.is_file() else None,
        "exports": list(_exports(root, snapshot)),
        "other_snapshots": [name for name in snapshot_names(root, snapshot.dataset) if name != snapshot.snapshot],
    }


def ranked_reasons(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return how many rows each reason dropped of all sources together, the most frequent first."""
    totals: Counter[tuple[str, str]] = Counter()
    for row in snapshot.manifest["drop_reasons"]:
        totals[row["step"], row["drop_reason"]] += row["dropped"]
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return [{"step": step, "drop_reason": reason, "dropped": count} for (step, reason), count in ranked]


def _source(manifest: Manifest, source: str) -> dict[str, Any]:
    steps = sorted((row for row in manifest["funnel"] if row["source"] == source), key=lambda row: row["step_number"])
    facts = manifest["sources"][source]
    return {
        "source": source,
        "captions": steps[0]["read"] if steps else 0,
        "kept": steps[-1]["kept"] if steps else 0,
        "license": facts.get("license"),
    }


def _exports(root: Path, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """The exports of a dataset, and of which of its snapshots they are."""
    for record in sorted((root / EXPORTS / snapshot.dataset).glob(f"*/{EXPORT_RECORD}")):
        found = read_checksummed(record, remedy="remove its folder and export again")
        yield {"format": found["format"], "snapshot": found["snapshot"], "folder": str(record.parent)}


def overview_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts of one dataset as lines of text."""
    rows, kept = (sum(source[name] for source in facts["sources"]) for name in ("captions", "kept"))
    pairs = {split: count for split, count in facts["pairs"].items() if count}
    size = ", ".join(f"{kind} {count / _MEGABYTE:,.1f} MB" for kind, count in facts["bytes"].items() if count)
    engine = "" if facts["translator"] == NATIVE else f", translated by {facts['translator']}"
    yield f"{facts['dataset']}  snapshot {facts['snapshot']}, in {facts['target_lang']}{engine}"
    yield f"  captions  {rows:,}, of which {kept:,} are kept ({_share(kept, rows)})"
    yield f"  images    {sum(pairs.values()):,}" + (f": {_counts(pairs)}" if pairs else "")
    yield f"  files     {size}"
    yield from ("", *(f"  {line}" for line in plain_table(_source_rows(facts["sources"])).split("\n")), "")
    if facts["drop_reasons"]:
        yield "  dropped   " + ", ".join(_reason(row) for row in facts["drop_reasons"][:MOST_REASONS])
    yield f"  report    {facts['report'] or 'none'}"
    for export in facts["exports"]:
        is_old = export["snapshot"] != facts["snapshot"]
        yield f"  export    {export['format']}: {export['folder']}" + (f" (of {export['snapshot']})" if is_old else "")
    if facts["other_snapshots"]:
        yield f"  older     {', '.join(facts['other_snapshots'])}"
    yield f"  folder    {facts['folder']}"


def _source_rows(sources: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "source": source["source"],
            "captions": source["captions"],
            "kept": source["kept"],
            "share": _share(source["kept"], source["captions"]),
            "license": source["license"],
        }
        for source in sources
    ]


def _reason(row: Mapping[str, Any]) -> str:
    return f"{cell_text(row['drop_reason'])} {row['dropped']:,} ({row['step']})"


def _counts(pairs: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in pairs.items())


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
