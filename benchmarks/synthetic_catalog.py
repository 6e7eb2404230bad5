"""A root with millions of caption rows and no pixels: ids, addresses, steps and reasons as real sources have them.

Rows, files and manifests are written by the code that builds write them with; texts are drawn from a small pool, so
that ten million rows take about two gigabytes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CAPTIONS_PER_SAMPLE = 2
# Source: share of the shards, addresses, languages of its captions.
SOURCES: Mapping[str, tuple[float, str | None, tuple[str, ...]]] = {
    "cc12m": (0.5, "https://images{host}.example.com/photos/{n}/view-{n}.jpg?size=large", ("en",)),
    "flickr30k": (0.05, None, ("en",)),
    "mscoco": (0.15, "http://images.cocodataset.org/train2017/{n:012d}.jpg", ("en",)),
    "wit": (
        0.3,
        "https://upload.wikimedia.org/wikipedia/commons/{host:x}/{n}_Piazza_d%27Italia.jpg",
        ("en", "it", "fr"),
    ),
}
# How caption rows end, by step and reason, in promille of all; the others are kept.
ENDS: Sequence[tuple[str, str, int]] = (
    ("clean", "caption_too_short", 40),
    ("clean", "wrong_language", 25),
    ("clean", "caption_boilerplate", 15),
    ("screen", "near_duplicate_caption", 20),
    ("screen", "common_caption", 20),
    ("check", "mostly_proper_nouns", 60),
    ("check", "length_ratio", 10),
    ("check", "numbers_lost", 15),
    ("fetch", "http_404", 150),
    ("fetch", "dns", 60),
    ("fetch", "timeout", 35),
    ("normalise", "too_small", 20),
    ("normalise", "not_an_image", 15),
    ("deduplicate", "duplicate_image", 25),
    ("deduplicate", "near_duplicate_image", 20),
)
IMAGE_STEPS = ("fetch", "normalise")
POOL = 20_000
WORDS = (
    *("a", "two", "red", "old", "dog", "bridge", "in", "the"),
    *("snow", "market", "near", "river", "with", "child", "boat"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The samples of a shard: one row a sample, all its captions end alike."""

    source: str
    numbers: np.ndarray[Any, Any]
    sample_ids: pa.Array
    urls: pa.Array
    steps: pa.Array
    reasons: pa.Array


def write_catalog(root: Path, *, rows: int, shards: int, dataset: str = "synthetic") -> Any:
    """Write one snapshot of `rows` caption rows in `shards` shards, with its manifest; returns it."""
    from data_catalog.database.catalog import rebuild, recounted
    from data_catalog.database.lookup import write_lookup
    from data_catalog.schema import CAPTIONS_VERSION, OUTCOMES_VERSION, PAIRS_VERSION
    from data_catalog.storage.manifest import MANIFEST_FORMAT, Snapshot, commit_snapshot, snapshot_folder
    from flows.build.publish import face
    from flows.build.steps import STEPS

    snapshot_id = hashlib.sha256(f"{rows} {shards}".encode()).hexdigest()[:12]
    folder = snapshot_folder(root, dataset, snapshot_id)
    samples = max(1, rows // shards // CAPTIONS_PER_SAMPLE)
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(partial(write_shard, folder, samples, shards), range(shards), chunksize=8))
    files: dict[str, Any] = {
        kind: [e for shard in found for e in shard[kind]] for kind in ("pairs", "captions", "images")
    }
    files["lookup"] = [write_lookup(folder, files)]
    manifest = {
        "format": MANIFEST_FORMAT,
        "schemas": {"captions": CAPTIONS_VERSION, "pairs": PAIRS_VERSION, "images": OUTCOMES_VERSION},
        "dataset": dataset,
        "snapshot": snapshot_id,
        "build_key": snapshot_id,
        "attempt": 0,
        "tombstones": {"digest": None},
        "documents": [],
        "settings": {"target_language": "it", "shard_size": samples},
        "target_lang": "it",
        "translator": "argos-en_it-1.0",
        "sources": {name: source_entry(found, name) for name in SOURCES if name in {f["source"] for f in found}},
        "test_sets": {},
        "steps": face([step for step in STEPS if step.name != "forget"]),
        "funnel": [],
        "files": files,
    }
    made = Snapshot(dataset=dataset, snapshot=snapshot_id, folder=folder, manifest=manifest)
    snapshot = commit_snapshot(root, {**manifest, **recounted(made)})
    rebuild(root)
    return snapshot


def source_entry(found: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    selected = sum(shard["captions"][0]["rows"] for shard in found if shard["source"] == name)
    return {"selected": selected, "malformed": 0, "unselected": {}, "files": [], "license": f"as {name} says"}


def source_of(shard: int, shards: int) -> str:
    """Each source has shards of its own, in the order of the names."""
    place = (shard + 0.5) / shards
    for name, (share, _, _) in SOURCES.items():
        place -= share
        if place < 0:
            return name
    return next(reversed(SOURCES))


def write_shard(folder: Path, samples: int, shards: int, shard: int) -> dict[str, Any]:
    """Write the files of one shard; the manifest's lines by kind, and its source."""
    from data_catalog.schema import CAPTIONS, OUTCOMES, PAIRS
    from data_catalog.storage.manifest import file_entry
    from data_catalog.storage.shards import open_image_writer, save_parquet, write_named_atomically

    drawn = draw(shard, samples, source_of(shard, shards))
    captions, images = captions_of(drawn), images_of(drawn)

    def place(kind: str, stem: str, table: pa.Table, **more: Any) -> dict[str, Any]:
        def write(path: Path) -> None:
            if kind != "pairs":
                save_parquet(table, path)
                return
            with open_image_writer(path, PAIRS) as writer:
                writer.write_table(table)

        path = write_named_atomically(folder / kind, lambda found: f"{stem}-{shard:05d}-{found[:12]}.parquet", write)
        return file_entry(path, folder, rows=table.num_rows, shard=shard, **more)

    pairs = dict(pairs_of(drawn, captions, images))
    return {
        "source": drawn.source,
        "captions": [place("captions", "captions", table_of(captions, CAPTIONS))],
        "images": [place("images", "images", table_of(images, OUTCOMES))],
        "pairs": [place("pairs", split, table_of(rows, PAIRS), split=split) for split, rows in pairs.items()],
    }


def table_of(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    count = len(next(iter(columns.values())))
    arrays = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(count, f.type) for f in schema]
    return pa.table(arrays, schema=schema)


def draw(shard: int, samples: int, source: str) -> Drawn:
    rng = np.random.default_rng(shard)
    numbers = np.arange(samples, dtype=np.int64) + shard * samples
    template = SOURCES[source][1]
    urls = [template.format(n=n, host=n % 997) if template else None for n in numbers.tolist()]
    ids = [sample_id(source, n, url) for n, url in zip(numbers.tolist(), urls, strict=True)]
    bounds = np.cumsum([count for *_, count in ENDS])
    ends = np.searchsorted(bounds, rng.integers(0, 1000, samples), side="right")
    steps, reasons = (pa.array([*(end[place] for end in ENDS), None]).take(pa.array(ends)) for place in (0, 1))
    return Drawn(
        source=source,
        numbers=numbers,
        sample_ids=pa.array(ids, pa.string()),
        urls=pa.array(urls, pa.string()),
        steps=steps,
        reasons=reasons,
    )


def sample_id(source: str, number: int, url: str | None) -> str:
    if source in ("wit", "cc12m"):
        return f"{source}:{hashlib.sha1((url or '').encode(), usedforsecurity=False).hexdigest()}"
    return f"{source}:{number}"


def sentences(language: str) -> pa.Array:
    """A pool of captions."""
    rng = np.random.default_rng(7)
    words = rng.integers(0, len(WORDS), (POOL, 10)).tolist()
    return pa.array([f"{language} " + " ".join(WORDS[word] for word in line) for line in words])


POOLS = {language: sentences(language) for language in ("en", "it", "fr")}


def captions_of(drawn: Drawn) -> dict[str, pa.Array]:
    """Columns of the caption rows."""
    rng = np.random.default_rng(int(drawn.numbers[0]) + 1)
    of_sample = np.repeat(np.arange(len(drawn.numbers)), CAPTIONS_PER_SAMPLE)
    count = len(of_sample)
    sample_ids = drawn.sample_ids.take(pa.array(of_sample))
    numbers = pa.array(of_sample + drawn.numbers[0] * 7).cast(pa.string())
    which = pa.array(np.tile(np.arange(CAPTIONS_PER_SAMPLE), len(drawn.numbers))).cast(pa.string())
    languages = np.array(SOURCES[drawn.source][2])[rng.integers(0, len(SOURCES[drawn.source][2]), count)]
    texts, steps = rng.integers(0, POOL, count), drawn.steps.take(pa.array(of_sample))
    source_caption = pc.choose(
        pa.array(np.searchsorted(["en", "fr", "it"], languages)),
        *(POOLS[language].take(pa.array(texts)) for language in ("en", "fr", "it")),
    )
    translated = pc.invert(pc.is_in(steps, pa.array(["clean", "screen"])))
    translated = pc.fill_null(translated, True)
    scores = pa.array(rng.normal(-0.5, 0.2, count).astype(np.float32))

    def where_translated(values: pa.Array) -> pa.Array:
        return pc.if_else(translated, values, pa.scalar(None, values.type))

    page = None if drawn.source != "wit" else pc.binary_join_element_wise("https://en.wikipedia.org/wiki/", numbers, "")
    rights = "CC BY-SA 3.0" if drawn.source == "wit" else None
    return {
        "sample_id": sample_ids,
        "caption_id": pc.binary_join_element_wise(sample_ids, pc.binary_join_element_wise(numbers, which, ""), "#"),
        "source": pa.array([drawn.source] * count),
        "upstream_split": pa.array(["train"] * count),
        "url": drawn.urls.take(pa.array(of_sample)),
        **({} if SOURCES[drawn.source][1] else {"path": pc.binary_join_element_wise(numbers, "jpg", ".")}),
        "source_caption": source_caption,
        "source_lang": pa.array(languages),
        "clean_caption": source_caption,
        "detected_source_lang": pa.array(languages),
        "detected_source_probability": pa.array(rng.random(count, dtype=np.float32)),
        "caption": where_translated(POOLS["it"].take(pa.array(texts))),
        "target_lang": pa.array(["it"] * count),
        "origin": where_translated(pa.array(["machine_translation"] * count)),
        "translator": where_translated(pa.array(["argos-en_it-1.0"] * count)),
        "translation_score": where_translated(scores),
        "length_ratio": where_translated(pa.array(rng.normal(1.1, 0.1, count).astype(np.float32))),
        **({"page_url": page, "license": pa.array([rights] * count)} if page is not None else {}),
        "upstream_file": pa.array([f"{drawn.source}/part-{int(drawn.numbers[0]) % 40:03d}.tsv.gz"] * count),
        "upstream_line": pa.array(rng.integers(1, 10_000_000, count)),
        "outcome": pc.if_else(pc.is_null(steps), "kept", "rejected"),
        "step": steps,
        "drop_reason": drawn.reasons.take(pa.array(of_sample)),
    }


def images_of(drawn: Drawn) -> dict[str, pa.Array]:
    """Columns of the outcomes of images: of the samples of which a caption came so far."""
    asked = pc.fill_null(pc.is_in(drawn.steps, pa.array([*IMAGE_STEPS, "deduplicate", None], pa.string())), True)
    steps = drawn.steps.filter(asked)
    lost = pc.is_in(steps, pa.array(IMAGE_STEPS))
    ids, urls = drawn.sample_ids.filter(asked), drawn.urls.filter(asked)
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in ids.to_pylist()]
    came = pc.invert(pc.fill_null(pc.equal(steps, "fetch"), False))

    def where_came(values: pa.Array) -> pa.Array:
        return pc.if_else(came, values, pa.scalar(None, values.type))

    sides = {name: where_came(pa.array([512] * len(ids))) for name in ("width", "height")}
    return {
        "sample_id": ids,
        "source": pa.array([drawn.source] * len(ids)),
        "url": urls,
        "path": pc.if_else(pc.is_null(urls), ids, pa.scalar(None, pa.string())),
        "step": pc.if_else(lost, steps, pa.scalar(None, pa.string())),
        "drop_reason": pc.if_else(lost, drawn.reasons.filter(asked), pa.scalar(None, pa.string())),
        "final_url": where_came(urls),
        "num_bytes": where_came(pa.array([60_000] * len(ids))),
        "sha256": where_came(pa.array(hashes)),
        "phash": where_came(pa.array([one[:16] for one in hashes])),
        **sides,
        **{f"original_{name}": values for name, values in sides.items()},
    }


def pairs_of(
    drawn: Drawn, captions: Mapping[str, pa.Array], images: Mapping[str, pa.Array]
) -> Iterator[tuple[str, dict[str, pa.Array]]]:
    """Columns of the published pairs by split: an image of one byte each."""
    kept_rows = pc.is_null(captions["step"])
    kept = pc.is_null(drawn.steps)
    published = pc.is_in(images["sample_id"], drawn.sample_ids.filter(kept))
    ids = drawn.sample_ids.filter(kept)
    count = len(ids)
    pixels = pa.array([b"x"] * count)
    offsets = pa.array(np.arange(count + 1) * CAPTIONS_PER_SAMPLE, pa.int32())

    def lists(name: str) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, captions[name].filter(kept_rows))

    values = {
        "sample_id": ids,
        "source": pa.array([drawn.source] * count),
        "image": pa.StructArray.from_arrays([pixels, pa.nulls(count, pa.string())], ["bytes", "path"]),
        **{
            name: images[name].filter(published)
            for name in ("width", "height", "original_width", "original_height", "sha256", "phash", "url")
        },
        "caption_ids": lists("caption_id"),
        "captions": lists("caption"),
        "source_captions": lists("source_caption"),
        "source_langs": lists("source_lang"),
        "translators": lists("translator"),
        "origins": lists("origin"),
        "scores": lists("translation_score"),
    }
    is_val = np.arange(count) % 20 == 0
    for split, chosen in (("train", ~is_val), ("val", is_val)):
        if chosen.any():
            rows = {name: column.filter(pa.array(chosen)) for name, column in values.items()}
            yield split, rows | {"split": pa.array([split] * int(chosen.sum()))}
