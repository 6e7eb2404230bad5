"""Overview of a root: its datasets, from their manifests and the files beside the snapshots."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.base.plain_text import cell_text, plain_table
from data_catalog.catalog.manifest import (
    EXPORT_RECORD,
    EXPORTS,
    MARKED,
    REPORT_FILE,
    SPLITS,
    FunnelCount,
    Manifest,
    Snapshot,
    snapshot_names,
)
from data_catalog.disk.records import read_checksummed
from data_catalog.rows.schema import NATIVE

# Number of drop reasons to show, the most frequent first.
MOST_REASONS = 5
_MEGABYTE = 1_000_000
# A source is nearly lost at a step that drops this share of the rows that it reads, if these are not too few.
_HEAVY_LOSS = 0.9
_FEWEST_READ = 50
_ADVICE = {
    "low_translation_score": ". The translator may not know such captions: see docs/translation.md#train-a-package"
}


def overview(root: Path, snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return facts of the current snapshot of every dataset, as JSON values."""
    return [_facts(root, snapshot) for snapshot in snapshots]


def _facts(root: Path, snapshot: Snapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    pairs = manifest["files"]["pairs"]
    report = snapshot.folder.parent / REPORT_FILE
    sources = []
    for source, facts in sorted(manifest["sources"].items()):
        rows = (row for row in manifest["funnel"] if row["source"] == source)
        steps = sorted(rows, key=lambda row: row["step_number"])
        counts = {"captions": steps[0]["read"] if steps else 0, "kept": steps[-1]["kept"] if steps else 0}
        sources.append({"source": source, **counts, "license": facts["license"]})
    exports = []
    for record in sorted((root / EXPORTS / snapshot.dataset).glob(f"*/{EXPORT_RECORD}")):
        found = read_checksummed(record, remedy="remove its folder and export again")
        exports.append({"format": found["format"], "snapshot": found["snapshot"], "folder": str(record.parent)})
    return {
        "dataset": snapshot.dataset,
        "snapshot": snapshot.snapshot,
        "folder": str(snapshot.folder),
        "target_lang": manifest["target_lang"],
        "translator": manifest["translator"],
        "pairs": {split: sum(e["rows"] for e in pairs if e["split"] == split) for split in (*SPLITS, MARKED)},
        "bytes": {kind: sum(e["bytes"] for e in entries) for kind, entries in sorted(manifest["files"].items())},
        "sources": sources,
        "drop_reasons": ranked_reasons(snapshot),
        "report": str(report) if report.is_file() else None,
        "exports": exports,
        "other_snapshots": [name for name in snapshot_names(root, snapshot.dataset) if name != snapshot.snapshot],
    }


def ranked_reasons(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return how many rows each reason dropped, over all sources, the most frequent first."""
    totals: Counter[tuple[str, str]] = Counter()
    for row in snapshot.manifest["drop_reasons"]:
        totals[row["step"], row["drop_reason"]] += row["dropped"]
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return [{"step": step, "drop_reason": reason, "dropped": count} for (step, reason), count in ranked]


def heavy_losses(manifest: Manifest) -> list[str]:
    """Return a sentence for each step that dropped nearly all captions of some sources, in the order of the steps."""
    lost: dict[str, list[FunnelCount]] = {}
    for row in sorted(manifest["funnel"], key=lambda row: (row["step_number"], row["source"])):
        if row["read"] >= _FEWEST_READ and row["dropped"] >= _HEAVY_LOSS * row["read"]:
            lost.setdefault(row["step"], []).append(row)
    sentences = []
    for step, rows in lost.items():
        sources = [row["source"] for row in rows]
        reasons: Counter[str] = Counter()
        for count in manifest.get("drop_reasons", []):
            if count["step"] == step and count["source"] in sources:
                reasons[count["drop_reason"]] += count["dropped"]
        read, dropped = sum(row["read"] for row in rows), sum(row["dropped"] for row in rows)
        share = f"all {read:,}" if dropped == read else f"{dropped:,} of {read:,}"
        text = f"{step} dropped {share} captions of {', '.join(sources)}"
        for reason, number in reasons.most_common(1):
            text += f", {'all' if number == dropped else 'most'} as {reason}{_ADVICE.get(reason, '')}"
        sentences.append(text)
    return sentences


def overview_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the facts of one dataset as lines of text."""
    sources, pairs = facts["sources"], {split: count for split, count in facts["pairs"].items() if count}
    rows, kept = (sum(source[name] for source in sources) for name in ("captions", "kept"))
    size = ", ".join(f"{kind} {count / _MEGABYTE:,.1f} MB" for kind, count in facts["bytes"].items() if count)
    engine = "" if facts["translator"] == NATIVE else f", translated by {facts['translator']}"
    yield f"{facts['dataset']}  snapshot {facts['snapshot']}, in {facts['target_lang']}{engine}"
    yield f"  captions  {rows:,}, of which {kept:,} are kept ({_share(kept, rows)})"
    splits = ", ".join(f"{count:,} {split}" for split, count in pairs.items())
    yield f"  images    {sum(pairs.values()):,}" + (f": {splits}" if pairs else "")
    yield f"  files     {size}"
    shares = [{**source, "share": _share(source["kept"], source["captions"])} for source in sources]
    names = ("source", "captions", "kept", "share", "license")
    table = plain_table([{name: row[name] for name in names} for row in shares])
    yield from ("", *(f"  {line}" for line in table.split("\n")), "")
    if facts["drop_reasons"]:
        first = facts["drop_reasons"][:MOST_REASONS]
        yield "  dropped   " + ", ".join(
            f"{cell_text(row['drop_reason'])} {row['dropped']:,} ({row['step']})" for row in first
        )
    yield f"  report    {facts['report'] or 'none'}"
    for export in facts["exports"]:
        is_old = export["snapshot"] != facts["snapshot"]
        yield f"  export    {export['format']}: {export['folder']}" + (f" (of {export['snapshot']})" if is_old else "")
    if facts["other_snapshots"]:
        yield f"  older     {', '.join(facts['other_snapshots'])}"
    yield f"  folder    {facts['folder']}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
