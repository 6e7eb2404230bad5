"""Everything that the page of a snapshot shows, gathered from its files, its manifest and the run log."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_catalog.ablations import AblationTable, ablations_of
from data_catalog.fetch.diagnosis import Diagnosis
from data_catalog.schema import NATIVE
from data_catalog.sources.origins import ORIGINS
from data_catalog.storage.manifest import MARKED, SPLITS, Snapshot
from flows.report import captions, images
from flows.report.questions import Questions

Rows = list[dict[str, Any]]


def settings(manifest: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What was asked for: by section, names and values as a recipe has them."""
    sections: dict[str, dict[str, str]] = {}
    for section, values in sorted(manifest["settings"].items()):
        if isinstance(values, Mapping):
            sections[section] = dict(_flat(values))
        else:
            sections.setdefault("", {})[section] = _value(values)
    return {name: values for name, values in sorted(sections.items()) if values}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", _value(value)))
    return found


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def files(snapshot: Snapshot) -> Rows:
    """Number, rows and bytes of a snapshot's files by what they hold; pairs by split."""
    counts: dict[str, Counter[str]] = {}
    documents = {"documents": snapshot.manifest.get("documents", [])}
    for kind, entries in [*sorted(snapshot.manifest["files"].items()), *documents.items()]:
        for entry in entries:
            name = f"{kind}, {entry['split']}" if "split" in entry else kind
            counts.setdefault(name, Counter()).update(files=1, rows=entry.get("rows", 0), bytes=entry["bytes"])
    return [{"what": name, **count} for name, count in counts.items()]


def runs_of(snapshot: Snapshot, runs: Sequence[Mapping[str, Any]]) -> Rows:
    """Lines of the run log that came to this snapshot and did something, the latest first."""
    mine = [run for run in runs if run.get("snapshot") == snapshot.snapshot and run.get("num_steps")]
    return [dict(run) for run in reversed(mine)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """Captions by source and step.

    Args:
        steps: in order, without those that read nothing of any source.
        read: captions that were selected, by source.
        kept: captions that each step kept, by source and step.
        dropped: captions that each step dropped, by source and step.
    """

    steps: tuple[str, ...]
    read: Mapping[str, int]
    kept: Mapping[str, Mapping[str, int]]
    dropped: Mapping[str, Mapping[str, int]]

    @property
    def num_read(self) -> int:
        """Captions of all sources."""
        return sum(self.read.values())

    @property
    def published(self) -> dict[str, int]:
        """Captions that came through, by source."""
        return {source: by_step[self.steps[-1]] for source, by_step in self.kept.items()}

    @property
    def num_published(self) -> int:
        """Captions of all sources that came through."""
        return sum(self.published.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What the page shows, section by section; see the functions that gather each part."""

    snapshot: Snapshot
    funnel: Funnel
    counts: images.Counts
    languages: Rows
    found_languages: Rows
    lengths: Mapping[str, Mapping[str, Mapping[int, int]]]
    dropped: Sequence[captions.DroppedFor]
    engines: Sequence[captions.Engine]
    scores: captions.Scores | None
    file_sizes: Mapping[int, int]
    formats: Rows
    gallery: Sequence[images.Picture]
    diagnosis: Diagnosis
    hosts: Sequence[images.Host]
    lost_images: Rows
    duplicates: Rows
    merged: Mapping[str, int]
    twins: Sequence[images.Twins]
    leaks: Rows
    settings: Mapping[str, Mapping[str, str]]
    files: Rows
    runs: Rows
    ablations: Sequence[AblationTable] = ()

    @property
    def split_names(self) -> list[str]:
        """Splits that have images, in the usual order."""
        found = {row["split"] for row in self.counts.splits}
        return [split for split in (*SPLITS, MARKED) if split in found]

    @property
    def by_source(self) -> dict[str, dict[str, Any]]:
        """Published images and captions of each source, and images of each of its splits."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.counts.splits:
            one = found.setdefault(row["source"], {"num_images": 0, "num_captions": 0, "splits": {}})
            one["num_images"] += row["num_images"]
            one["num_captions"] += row["num_captions"]
            one["splits"][row["split"]] = row["num_images"]
        return found

    @property
    def ours(self) -> list[captions.Engine]:
        """What was translated while the dataset was built."""
        engine = self.snapshot.manifest["translator"]
        return [found for found in self.engines if found.facts["translator"] == engine != NATIVE]

    @property
    def makers(self) -> dict[str, int]:
        """How many kept captions upstream had in the dataset's language, by who made them."""
        found: Counter[str] = Counter()
        for engine in self.engines:
            if engine not in self.ours:
                found[ORIGINS[engine.facts["origin"]]] += engine.facts["num_kept"]
        return dict(found.most_common())

    @property
    def num_images(self) -> int:
        """Published images."""
        return sum(row["num_images"] for row in self.counts.splits)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files of the snapshot that hold rows."""
        return sum(row["bytes"] for row in self.files)


def gather(snapshot: Snapshot, runs: Sequence[Mapping[str, Any]], *, num_examples: int) -> Contents:
    """Read a snapshot for its page.

    Args:
        snapshot: of any size: questions count or sample while they read, in bounded memory.
        runs: lines of the dataset's run log.
        num_examples: captions shown for each reason, and translations for each part of an engine's scores.
    """
    with Questions(snapshot) as ask:
        funnel = read_funnel(snapshot.manifest)
        engines = captions.engines(ask, num_examples=num_examples)
        languages, found_languages = captions.languages(ask)
        diagnosis, hosts = images.downloads(ask)
        return Contents(
            snapshot=snapshot,
            funnel=funnel,
            counts=images.counts(ask),
            languages=languages,
            found_languages=found_languages,
            lengths=captions.lengths(ask),
            dropped=captions.dropped_for(ask, snapshot, num_examples=num_examples),
            engines=engines,
            scores=captions.scores(ask, engines),
            file_sizes={row["value"]: row["num_images"] for row in ask.rows(images.BYTES)},
            formats=ask.rows(images.FORMATS),
            gallery=images.gallery(ask),
            diagnosis=diagnosis,
            hosts=hosts,
            lost_images=ask.rows(images.LOST),
            duplicates=ask.rows(images.DUPLICATES),
            merged=ask.rows(images.MERGED)[0],
            twins=images.twins(ask),
            leaks=ask.rows(images.LEAKS),
            settings=settings(snapshot.manifest),
            files=files(snapshot),
            runs=runs_of(snapshot, runs),
            ablations=ablations_of(snapshot),
        )


def read_funnel(manifest: Mapping[str, Any]) -> Funnel:
    """The funnel of a manifest, by source and step."""
    rows = sorted(manifest["funnel"], key=lambda row: row["step_number"])
    steps = dict.fromkeys(row["step"] for row in rows)
    sources = sorted({row["source"] for row in rows})
    found = {(row["source"], row["step"]): row for row in rows}
    first = next(iter(steps), "")
    return Funnel(
        steps=tuple(steps),
        read={source: found[source, first]["read"] for source in sources},
        kept={source: {step: found[source, step]["kept"] for step in steps} for source in sources},
        dropped={source: {step: found[source, step]["dropped"] for step in steps} for source in sources},
    )
